"""Apps and servers for the tests of the HTTP side: real Starlette, real uvicorn; the engine side is only a scope."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import uvicorn

from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet, new_manager
from vllm_enhance.scope import Decision, RequestScope, current_scope
from vllm_enhance.server.middleware import EnhanceMiddleware
from vllm_enhance.settings import Settings, SettingsTable
from vllm_enhance.types import InvalidationScope, Source

SSE = "text/event-stream"
HIT = Decision(Source.MEMORY, age=59.7, ttl=3540.9)
SIMILAR = Decision(Source.SIMILAR, age=10.0, similarity=0.97314)
MISS = Decision(Source.ENGINE, stored=True)
JOINED = Decision(Source.JOINED)


def scope_now() -> RequestScope:
    """The scope as the engine client would read it."""
    scope = current_scope.get()
    assert scope is not None
    return scope


def client_of(app: Any, **middleware: Any) -> httpx.AsyncClient:
    """A client that talks to ``app`` behind the middleware, in process."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(EnhanceMiddleware(app, **middleware), raise_app_exceptions=False),
        base_url="http://test",
    )


@contextlib.asynccontextmanager
async def serve(app: Any, *, spec_version: str | None = None, http: str = "auto") -> AsyncIterator[str]:
    """A real uvicorn on loopback.

    Args:
        spec_version: what the application shall be told; uvicorn itself says 2.3.
        http: ``h11`` or ``httptools``.
    """

    async def told(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if spec_version is not None and scope["type"] == "http":
            scope = {**scope, "asgi": {**scope["asgi"], "spec_version": spec_version}}
        await app(scope, receive, send)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(told, log_level="critical", lifespan="off", http=http, ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.005)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await task


class Raw:
    """The middleware driven message by message, with nothing between.

    Attributes:
        sent: messages as the server got them.
        faults: labels that were counted.
    """

    def __init__(self, app: Callable[..., Any], **middleware: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox.put_nowait({"type": "http.request", "body": b"{}", "more_body": False})
        self._middleware = EnhanceMiddleware(app, count_fault=self.faults.append, **middleware)

    async def __call__(self, path: str = "/v1/completions", **scope: Any) -> list[dict[str, Any]]:
        base = {"type": "http", "method": "POST", "path": path, "headers": [], "asgi": {"spec_version": "2.4"}}
        await self._middleware({**base, **scope}, self.inbox.get, self.send)
        return self.sent

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(bytes(message.get("body", b"")) for message in self.sent[1:])


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def chunk(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def enhance_tasks() -> list[asyncio.Task[Any]]:
    """Tasks of the gate that still run."""
    return [task for task in asyncio.all_tasks() if "_drain_for_callback" in repr(task)]


class RecordingControl:
    """An engine side for route tests: answers from what it was given, and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.settings = Settings(SettingsTable(), {}, {})
        self.metrics = Metrics(registry=_registry())
        self.plugins = PluginSet(new_manager())
        self.answers: Mapping[str, Any] = answers
        self.asked: list[Any] = []
        self.started = 0

    async def start(self) -> None:
        self.started += 1

    async def health(self) -> Mapping[str, Any]:
        return await self._answer("health", {"status": "healthy", "components": []})

    async def stats(self) -> Mapping[str, Any]:
        return await self._answer("stats", {})

    def config(self) -> Mapping[str, Any]:
        return {"settings": self.settings.shown()}

    async def explain(self, request_id: str) -> Mapping[str, Any] | None:
        return self.answers.get("explain", {}).get(request_id)

    async def recent(self, limit: int) -> Mapping[str, Any]:
        return {"requests": list(self.answers.get("explain", {}).values())[:limit], "top": []}

    async def invalidate(self, scope: InvalidationScope) -> Mapping[str, Any]:
        self.asked.append(scope)
        return await self._answer("invalidate", {"removed": 3})

    async def feedback(self, request_id: str, verdict: str) -> Mapping[str, Any]:
        if request_id not in self.answers.get("explain", {}):
            raise LookupError(request_id)
        self.asked.append((request_id, verdict))
        return {"request_id": request_id, "verdict": verdict}

    async def _answer(self, what: str, default: Any) -> Any:
        answer = self.answers.get(what, default)
        return await answer() if callable(answer) else answer


def _registry() -> Any:
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()
