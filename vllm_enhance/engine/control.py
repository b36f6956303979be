"""What the HTTP routes and the command line ask of a running engine client."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from vllm_enhance.engine.nearest import nearest_request
from vllm_enhance.engine.runtime import Runtime
from vllm_enhance.engine.state import STATE
from vllm_enhance.explain import top_entries
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet
from vllm_enhance.settings import Settings
from vllm_enhance.types import HealthReport, InvalidationScope, Source

__all__ = ["Control"]

logger = logging.getLogger("vllm_enhance")

MAX_COUNTED = 10_000
TOP = 20
RANK = {"healthy": 0, "degraded": 1, "unhealthy": 2}


class Control:
    """A view on one process' :class:`~vllm_enhance.engine.runtime.Runtime`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def settings(self) -> Settings:
        return self._runtime.settings

    @property
    def metrics(self) -> Metrics:
        return self._runtime.metrics

    @property
    def plugins(self) -> PluginSet:
        return self._runtime.plugins

    async def start(self) -> None:
        """Start the hooks before the first request."""
        await self._runtime.start()

    def config(self) -> dict[str, Any]:
        """Settings in force (secrets masked), hook packages, patches, engine identity."""
        plugins = self.plugins
        return {
            "settings": self.settings.shown(),
            "sources": self.settings.sources,
            "hooks": [{"name": each.name, "from": each.source, "hooks": list(each.hooks)} for each in plugins.loaded],
            "broken_hooks": plugins.broken,
            "patches": sorted(STATE.applied),
            "identity": self._runtime.identity.hex(),
            "api_process": list(self._runtime.api_process),
        }

    async def health(self) -> dict[str, Any]:
        """State of each component and the worst of them, from real looks."""
        runtime = self._runtime
        reports = [
            HealthReport("engine", "unhealthy" if runtime.client.errored else "healthy"),
            HealthReport(
                "plugin", "healthy" if runtime.active else "degraded", "" if runtime.active else "stood aside"
            ),
        ]
        for name, reason in self.plugins.broken.items():
            reports.append(HealthReport(name, "degraded", reason))
        for name, result in (await runtime.dispatcher.gather("health")).items():
            found = list(result) if isinstance(result, Sequence) else [result]
            reports += [r for r in found if isinstance(r, HealthReport)] or [
                HealthReport(name, "degraded", "no report")
            ]
        worst = max((RANK.get(report.status, 1) for report in reports), default=0)
        return {
            "status": next(name for name, rank in RANK.items() if rank == worst),
            "components": [{"component": r.component, "status": r.status, "detail": r.detail} for r in reports],
        }

    async def stats(self) -> dict[str, Any]:
        """Numbers of this API server process, those of the hook packages under ``hooks``."""
        return {**self.numbers(), "hooks": await self._runtime.dispatcher.gather("stats")}

    def numbers(self) -> dict[str, Any]:
        """The core's numbers."""
        runtime, metrics = self._runtime, self.metrics
        counts = metrics.snapshot().get("vllm_enhance_requests", {})
        by_source: dict[str, int] = {}
        for labels, value in counts.items():
            source = labels.split("|")[0]
            by_source[source] = by_source.get(source, 0) + int(value)
        served = sum(by_source.get(source.value, 0) for source in Source)
        hits = served - by_source.get(Source.ENGINE.value, 0)
        return {
            "requests": by_source,
            "served": served,
            "hit_rate": hits / served if served else 0.0,
            "saved_tokens": int(metrics.value("vllm_enhance_saved_tokens")),
            "saved_engine_seconds": metrics.value("vllm_enhance_saved_engine_seconds"),
            "active_requests": runtime.table.num_readers,
            "inflight_generations": len(runtime.table),
            "engine_unfinished": runtime.queue_depth(),
            "llm_running": not runtime.client.errored,
            "enabled": runtime.active,
            "faults": {k: int(v) for k, v in metrics.snapshot().get("vllm_enhance_faults", {}).items()},
            "invalidations": runtime.epoch.bumps,
            "uptime_seconds": runtime.clock() - runtime.started_at,
            "api_process": list(runtime.api_process),
        }

    def explain(self, request_id: str) -> dict[str, Any] | None:
        """Why a recent request hit or missed; ids as in responses, with or without what vLLM adds to them."""
        log = self._runtime.explain
        found = log.read(request_id)
        if found is None:
            found = next((e for e in log if e["request_id"].startswith((f"{request_id}-", f"{request_id}_"))), None)
        if found is not None and found.get("key") and found.get("source") == Source.ENGINE.value:
            found["nearest"] = nearest_request(log, found)
        return found

    def recent(self, limit: int) -> dict[str, Any]:
        """The latest requests, newest first, and the questions asked most often among those remembered."""
        log = self._runtime.explain
        return {
            "requests": log.recent(limit),
            "top": top_entries(log.recent(MAX_COUNTED), TOP),
            "remembered": len(log),
            "api_process": list(self._runtime.api_process),
        }

    async def invalidate(self, scope: InvalidationScope) -> dict[str, Any]:
        """Forget what ``scope`` names, in this process' memory and in the shared store."""
        runtime = self._runtime
        counts: dict[str, int] = {}
        for name, count in (await runtime.dispatcher.gather("invalidate", scope=scope)).items():
            if isinstance(count, int):
                counts[name] = count
        if not scope.dry_run:
            # Not a new epoch: that is this host's own, and hosts on one store would share no keys any more.
            runtime.table.close_all()
            self.metrics.count("vllm_enhance_invalidations", 1, "operator")
            logger.info("forgotten by the operator: scope %s, %d answers", scope.kind, sum(counts.values()))
        return {"scope": scope.kind, "dry_run": scope.dry_run, "removed": sum(counts.values()), "by_hook": counts}

    async def feedback(self, request_id: str, verdict: str) -> dict[str, Any]:
        """Take a verdict on an answer: a wrong one is forgotten.

        Raises:
            LookupError: no such request is remembered.
        """
        entry = self.explain(request_id)
        if entry is None:
            raise LookupError(request_id)
        removed, learned = 0, 0
        if entry.get("key"):
            key = bytes.fromhex(entry["key"])
            if verdict == "wrong":
                self._runtime.pins.pin(key)
                removed = (await self.invalidate(InvalidationScope("key", entry["key"])))["removed"]
            told = await self._runtime.dispatcher.gather("feedback", key=key, verdict=verdict)
            learned = sum(count for count in told.values() if isinstance(count, int))
        logger.info("feedback: %s for key %s; %d forgotten", verdict, str(entry.get("key"))[:16], removed)
        return {"request_id": entry["request_id"], "verdict": verdict, "removed": removed, "learned": learned}
