"""What the HTTP routes and the command line ask of a running engine client."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_enhance.engine.nearest import nearest_request
from vllm_enhance.engine.state import STATE
from vllm_enhance.explain import merged_recent, top_entries
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet
from vllm_enhance.settings import Settings
from vllm_enhance.types import HealthReport, InvalidationScope, Source

if TYPE_CHECKING:
    from vllm_enhance.engine.runtime import Runtime

__all__ = ["Control"]

logger = logging.getLogger("vllm_enhance")

MAX_COUNTED = 10_000
TOP = 20
VERDICT_DEADLINE = 2.0
"""Seconds for a verdict in the process that served the request: it may wait for the shared store."""

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

    async def explain(self, request_id: str) -> dict[str, Any] | None:
        """Why a recent request hit or missed, whichever API server process of this server has served it.

        Args:
            request_id: as in the response, with or without what vLLM adds to it.
        """
        return (await self._find(request_id))[1]

    async def recent(self, limit: int) -> dict[str, Any]:
        """The latest requests, newest first, and the questions asked most often among those remembered.

        Of all API server processes of this server, as far as they answer.
        """
        runtime, own = self._runtime, self._recent(limit)
        answers = await runtime.peers.ask({"ask": "recent", "limit": limit})
        if answers:
            try:
                own |= merged_recent([own, *(answer for _, answer in answers)], limit, TOP)
            except Exception as error:
                runtime.peers.failed("nonsense", error)
        return own

    async def answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer another API server process of this server, from what this one remembers.

        Raises:
            ValueError: there is no such question.
        """
        match question:
            case {"ask": "explain", "request_id": str(request_id)}:
                return self._remembered(request_id) or {}
            case {"ask": "recent", "limit": int(limit)}:
                return self._recent(limit)
            case {"ask": "feedback", "request_id": str(request_id), "verdict": str(verdict)}:
                entry = self._remembered(request_id)
                return {} if entry is None else await self._take(entry, verdict)
            case {"ask": "pin", "key": str(key)}:
                self._runtime.pins.pin(bytes.fromhex(key))
                return {}
        raise ValueError("no such question")

    def _remembered(self, request_id: str) -> dict[str, Any] | None:
        """A request of this process."""
        log = self._runtime.explain
        found = log.read(request_id)
        if found is None:
            found = next((e for e in log if e["request_id"].startswith((f"{request_id}-", f"{request_id}_"))), None)
        if found is not None and found.get("key") and found.get("source") == Source.ENGINE.value:
            found["nearest"] = nearest_request(log, found)
        return found

    def _recent(self, limit: int) -> dict[str, Any]:
        log = self._runtime.explain
        return {
            "requests": log.recent(limit),
            "top": top_entries(log.recent(MAX_COUNTED), TOP),
            "remembered": len(log),
            "api_process": list(self._runtime.api_process),
        }

    async def _find(self, request_id: str) -> tuple[Path | None, dict[str, Any] | None]:
        """A request's explanation, and the other process that has served it, if it was another."""
        found, peers = self._remembered(request_id), self._runtime.peers
        if found is None:
            for peer, answer in await peers.ask({"ask": "explain", "request_id": request_id}):
                try:
                    bytes.fromhex(answer.get("key") or "")
                    if answer["request_id"].startswith(request_id):
                        return peer, answer
                except Exception as error:
                    peers.failed("nonsense", error)
        return None, found

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

        The process that has served it takes it, for only there hooks know what they answered.

        Raises:
            LookupError: no such request is remembered.
        """
        peer, entry = await self._find(request_id)
        if entry is None:
            raise LookupError(request_id)
        if peer is not None:
            question = {"ask": "feedback", "request_id": entry["request_id"], "verdict": verdict}
            for _, taken in await self._runtime.peers.ask(question, (peer,), VERDICT_DEADLINE):
                return taken
            # It hangs or has just ended. Taken here, the verdict still reaches every other process and the store.
        return await self._take(entry, verdict)

    async def _take(self, entry: Mapping[str, Any], verdict: str) -> dict[str, Any]:
        removed, learned = 0, 0
        if entry.get("key"):
            key = bytes.fromhex(entry["key"])
            if verdict == "wrong":
                self._runtime.pins.pin(key)
                await self._runtime.peers.ask({"ask": "pin", "key": entry["key"]})
                removed = (await self.invalidate(InvalidationScope("key", entry["key"])))["removed"]
            told = await self._runtime.dispatcher.gather("feedback", key=key, verdict=verdict)
            learned = sum(count for count in told.values() if isinstance(count, int))
        logger.info("feedback: %s for key %s; %d forgotten", verdict, str(entry.get("key"))[:16], removed)
        return {"request_id": entry["request_id"], "verdict": verdict, "removed": removed, "learned": learned}
