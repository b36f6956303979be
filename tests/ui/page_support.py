"""A server with our routes and page on real books: explain log, metrics, hook packages. Only the engine is missing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import prometheus_client
import uvicorn
from fastapi import FastAPI

from vllm_enhance.context import HookContext
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.explain import ExplainLog, top_entries
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import load_plugins
from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.server.endpoint import EnhanceEndpoint
from vllm_enhance.settings import resolve
from vllm_enhance.types import HealthReport, InvalidationScope, Outcome, RequestContext, Source

KEY = "page-test-key"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


class Books:
    """An ``EngineControl`` without an engine: every number comes from the product's own parts."""

    def __init__(self) -> None:
        self.plugins = load_plugins(["cache"])
        self.settings = resolve(self.plugins.settings_table(), {}, {"ENHANCE_LOG_PROMPTS": "on"})
        self.metrics = Metrics()
        self.log = ExplainLog(1000)
        self.dispatcher = Dispatcher(self.plugins.manager, self.metrics)
        self.enabled = True
        self.verdicts: list[tuple[str, str]] = []

    async def start(self) -> None:
        context = HookContext(settings=self.settings, metrics=self.metrics, model="tiny")
        await self.dispatcher.startup(context, self.plugins.drop)

    def config(self) -> Mapping[str, Any]:
        return {"settings": self.settings.shown(), "sources": self.settings.sources}

    async def health(self) -> Mapping[str, Any]:
        reports = [HealthReport("engine")]
        for found in (await self.dispatcher.gather("health")).values():
            reports += found
        reports.append(HealthReport("store", "degraded", "redis://cache:6379 does not answer; the breaker is open"))
        return {
            "status": "degraded",
            "components": [{"component": r.component, "status": r.status, "detail": r.detail} for r in reports],
        }

    async def stats(self) -> Mapping[str, Any]:
        return {
            "enabled": self.enabled,
            "api_process": [0, 1],
            "hit_rate": 0.5,
            "hooks": await self.dispatcher.gather("stats"),
        }

    async def explain(self, request_id: str) -> Mapping[str, Any] | None:
        found = self.log.read(request_id)
        if found is not None and found.get("source") == "engine":
            found["nearest"] = {"request_id": "chatcmpl-other", "differs_in": ["temperature", "prompt"]}
        return found

    async def recent(self, limit: int) -> Mapping[str, Any]:
        return {"requests": self.log.recent(limit), "top": top_entries(self.log.recent(1000), 20)}

    async def invalidate(self, scope: InvalidationScope) -> Mapping[str, Any]:
        counts = await self.dispatcher.gather("invalidate", scope=scope)
        return {"removed": sum(counts.values())}

    async def feedback(self, request_id: str, verdict: str) -> Mapping[str, Any]:
        found = await self.explain(request_id)
        if found is None:
            raise LookupError(request_id)
        self.verdicts.append((request_id, verdict))
        return {"verdict": verdict, **await self.invalidate(InvalidationScope("key", found["key"]))}

    def emptied(self) -> Books:
        """Itself, with nothing remembered."""
        self.log = ExplainLog(1000)
        self.verdicts.clear()
        return self

    def serve(self, number: int, source: Source, question: str = "What is a cache?", **facts: Any) -> None:
        """Book one request, as the engine client would."""
        key = bytes([number % 7]) * 32
        tokens = 40 + number % 30
        record = GenerationRecord(
            RECORD_VERSION, (ChoiceRecord(pack_token_ids(range(tokens)), "x" * tokens, "stop"),), 12, time.time(), 0.8
        )
        context = RequestContext(f"chatcmpl-{number:08x}", list(range(12)), None, model="tiny", key=key)
        asyncio.run(self.dispatcher.pre_request(context, lambda *_: None))
        seconds = 0.004 + 0.001 * (number % 5) if source is not Source.ENGINE else 0.7 + 0.05 * (number % 9)
        self.metrics.count("vllm_enhance_requests", 1, source.value, facts.get("reason") or "")
        if source is not Source.ENGINE:
            self.metrics.observe("vllm_enhance_replay_seconds", seconds)
            self.metrics.count("vllm_enhance_saved_tokens", tokens)
            self.metrics.count("vllm_enhance_saved_engine_seconds", 0.8)
        else:
            ENGINE_SECONDS.observe(seconds)
        self.log.write(
            context.request_id,
            **{
                "at": time.time(),
                "model": "tiny",
                "source": source.value,
                "reason": None,
                "age": 35.0 if source is not Source.ENGINE else None,
                "similarity": 0.973 if source is Source.SIMILAR else None,
                "key": key.hex(),
                "prompt_tokens": 12,
                "tenant": "",
                "notes": [("similarity", "nearest 0.913, below 0.95")] if source is Source.ENGINE else [],
                "decided_seconds": 0.00004,
                "seconds": seconds,
                "output_tokens": tokens,
                "question": question,
                **facts,
            },
        )
        self.dispatcher.post_output(context, record, Outcome(source, source is Source.ENGINE, seconds=seconds))


@functools.cache
def shared_books() -> Books:
    """One per process: Prometheus keeps one set of metrics per process."""
    return Books()


ENGINE_SECONDS = prometheus_client.Histogram("vllm:e2e_request_latency_seconds", "As vLLM's own.")


class Client:
    """What vLLM hands to endpoint plugins."""

    def __init__(self, control: Books) -> None:
        self.enhance_control = control


@contextlib.contextmanager
def serving(books: Books, *, key: str | None, prefix: str = "") -> Iterator[str]:
    """A real uvicorn with our endpoint plugin, inside vLLM's own authentication; its address.

    Args:
        prefix: path under which a proxy would serve the API.
    """
    app = FastAPI()
    endpoint = EnhanceEndpoint(books.settings)
    endpoint.attach_router(app)
    if key is not None:
        from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

        app.add_middleware(AuthenticationMiddleware, tokens=[key])
    outer = app
    if prefix:
        outer = FastAPI()
        outer.mount(prefix, app)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(outer, log_level="critical", lifespan="off", ws="none"))

        async def main() -> None:
            await endpoint.init_state(Client(books), app.state, None)  # type: ignore[arg-type]
            await server.serve(sockets=[listener])
            await books.dispatcher.shutdown()

        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started and thread.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
        finally:
            server.should_exit = True
            thread.join(20)
