"""The ASGI middleware around vLLM's generation routes.

It runs inside vLLM's authentication (it is added from ``attach_router``; see ``endpoint``), so a caller without a key
never reaches it. It reads headers, never bodies, and what it costs a request is counted in microseconds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from vllm_enhance.directives import NO_DIRECTIVES, Directives, parse_cache_control
from vllm_enhance.errors import DirectiveError, RequestRejected
from vllm_enhance.scope import RequestScope, current_scope
from vllm_enhance.server.arrivals import Arrivals
from vllm_enhance.server.gate import Message, ResponseGate, Send
from vllm_enhance.server.refusal import refusal_messages
from vllm_enhance.server.tenant import TenantRule
from vllm_enhance.throttle import Throttle

__all__ = ["BODY_BYTES", "GUARDED", "EnhanceMiddleware"]

logger = logging.getLogger("vllm_enhance")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
FaultCounter = Callable[[str], None]

GUARDED = ("/v1", "/v2", "/inference", "/cohere")
"""Same as ``GUARDED_PREFIX`` of ``vllm/entrypoints/serve/middleware/authenticate.py``."""

OWN = "/v1/enhance"
BODY_BYTES = 4 * 1024 * 1024
"""Longer request bodies are not kept: one empty chunk stands for them, which is no JSON."""

BYPASS = Directives(no_store=True, no_cache=True)
ALLOWED = "Cache-Control may hold no-store, no-cache, only-if-cached and max-age=SECONDS"


class EnhanceMiddleware:
    """Opens a :class:`RequestScope` for each generation request, and lets the response tell what became of it.

    Args:
        app: the next ASGI application.
        tenant: what separates callers.
        header_wait: seconds that a stream's headers may be held for the decision.
        count_fault: told where a fault of ours happened.
    """

    def __init__(
        self,
        app: Application,
        tenant: TenantRule | None = None,
        header_wait: float = 2.0,
        count_fault: FaultCounter | None = None,
    ) -> None:
        self.app = app
        self._tenant = tenant or TenantRule()
        self._header_wait = header_wait
        self._count_fault = count_fault
        self._throttle = Throttle(60.0)
        self._arrivals = Arrivals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _generation_path(scope)
        if path is None:
            await self.app(scope, receive, send)
            return
        try:
            request = self._open(scope["headers"], path)
        except DirectiveError as error:
            refusal = RequestRejected(400, f"{error}. {ALLOWED}.")
            for message in refusal_messages(refusal, path, "Cache-Control"):
                await send(message)
            return
        gate = ResponseGate(send, request, self._header_wait, self._fault, self._arrivals)
        token = current_scope.set(request)
        try:
            await self._serve(scope, keep_body(receive, request.body), gate)
        finally:
            current_scope.reset(token)
            gate.close()

    async def _serve(self, scope: Scope, receive: Receive, gate: ResponseGate) -> None:
        try:
            await self.app(scope, receive, gate.send)
        except Exception:
            # What was held must not be lost; an exception that stands for a refusal has had its answer.
            if not await gate.finish():
                raise
        else:
            await gate.finish()

    def _open(self, headers: list[tuple[bytes, bytes]], path: str) -> RequestScope:
        """Read the headers.

        Raises:
            DirectiveError: the client's ``Cache-Control`` cannot be understood.
        """
        try:
            return RequestScope(directives=_directives(headers), tenant=self._tenant.digest(headers), path=path)
        except DirectiveError:
            raise
        except Exception as error:
            self._fault("request", error)
            # Without a tenant nothing may be shared.
            return RequestScope(directives=BYPASS, path=path)

    def _fault(self, where: str, error: BaseException) -> None:
        if self._count_fault is not None:
            self._count_fault(f"middleware_{where}")
        held = self._throttle.allow(where)
        if held is not None:
            logger.error(
                "fault around a %s, served by plain vLLM (%d more since the last such line)",
                where,
                held,
                exc_info=error,
            )


def _generation_path(scope: Scope) -> str | None:
    """The path of a request that may generate, or ``None`` for all others: lifespan, websockets, our own routes."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    if not path.startswith(GUARDED) or path == OWN or path.startswith(OWN + "/"):
        return None
    return path


def _directives(headers: list[tuple[bytes, bytes]]) -> Directives:
    lines = [value for name, value in headers if name == b"cache-control"]
    return parse_cache_control(b",".join(lines).decode("latin-1")) if lines else NO_DIRECTIVES


def keep_body(receive: Receive, chunks: list[bytes], limit: int = BODY_BYTES) -> Receive:
    """A ``receive`` that also keeps references to the body's chunks.

    When they exceed ``limit`` bytes, one empty chunk takes their place: "there was a body that nobody can read" must
    not look like "there was no body".
    """
    total = 0

    async def receive_and_keep() -> Message:
        nonlocal total
        message = await receive()
        if message["type"] == "http.request" and total <= limit:
            body = message.get("body", b"")
            total += len(body)
            if total > limit:
                chunks[:] = [b""]
            elif body:
                chunks.append(body)
        return message

    return receive_and_keep
