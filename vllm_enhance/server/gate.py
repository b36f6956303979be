"""Holding a response until it is known how it is answered, so that its headers can tell.

A stream's headers leave before vLLM asks the engine (Starlette sends ``http.response.start`` before it iterates the
body), so the gate keeps them, and early body chunks that do not come from the engine, until the decision. A hit's leave
with its first token, which is there; others leave while the engine works, in the moment that `arrivals` finds, or
with the first token if that comes before. The gate never holds longer than a deadline or more than a byte cap, and
after that it is a plain pass-through.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import Context
from enum import Enum, auto
from typing import Any

from vllm_enhance.scope import RequestScope
from vllm_enhance.server.arrivals import Arrivals
from vllm_enhance.server.cache_status import response_headers
from vllm_enhance.server.refusal import refusal_messages

__all__ = ["HELD_BYTES", "ResponseGate"]

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

HELD_BYTES = 64 * 1024
"""Early body bytes that are held at most."""

DECIDED_WAIT = 0.1
"""Seconds that headers wait for the first token once they are known."""

BEFORE_THE_ENGINE = (
    b":",  # SSE comments: vllm/entrypoints/serve/utils/sse_keep_alive.py
    b"event: response.created",  # vllm/entrypoints/openai/responses/serving.py
    b"event: response.in_progress",
    b"event: response.queued",
)
"""How chunks begin that vLLM sends before it has asked the engine. Any other chunk means that the engine was asked."""


class State(Enum):
    FRESH = auto()  # nothing sent by the app yet
    HOLDING = auto()  # the start is kept
    RELEASED = auto()  # the header is settled, kept messages are leaving
    OPEN = auto()  # pass-through
    REPLACED = auto()  # our refusal left instead; what the app still sends is dropped


class ResponseGate:
    """One response on its way out.

    Args:
        send: the server's ``send``.
        scope: of this request; its ``on_decision`` is taken.
        wait: seconds that headers may be held.
        on_fault: told of a fault of ours; the response goes on without our headers.
        arrivals: of all responses of this process.
    """

    __slots__ = (
        "_arrivals",
        "_drainer",
        "_held",
        "_held_bytes",
        "_lock",
        "_on_fault",
        "_scope",
        "_send",
        "_state",
        "_timer",
        "_wait",
    )

    def __init__(
        self,
        send: Send,
        scope: RequestScope,
        wait: float,
        on_fault: Callable[[str, BaseException], None],
        arrivals: Arrivals,
    ) -> None:
        self._send = send
        self._scope = scope
        self._wait = wait
        self._on_fault = on_fault
        self._state = State.FRESH
        self._held: deque[Message] = deque()
        self._held_bytes = 0
        self._lock: asyncio.Lock | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._drainer: asyncio.Task[None] | None = None
        self._arrivals = arrivals
        arrivals.enter(self)
        scope.on_decision = self._on_decision

    # ------------------------------------------------------------------ from the app

    def send(self, message: Message) -> Awaitable[None]:
        """The app's ``send``. No coroutine of its own: once open, a token of a stream passes without one."""
        return self._send(message) if self._state is State.OPEN else self._take(message)

    async def _take(self, message: Message) -> None:
        state = self._state
        if state is State.OPEN:  # it has opened since ``send`` was called
            await self._send(message)
        elif state is State.FRESH:
            await self._begin(message)
        elif state is not State.REPLACED:
            self._held.append(message)
            if state is State.RELEASED or not self._may_hold(message):
                await self._release()

    async def finish(self) -> bool:
        """The app has returned or raised: let go of what is held.

        Returns:
            whether our refusal left in the place of the app's response.
        """
        if self._state is State.FRESH and self._scope.rejection is not None:
            self._state = State.HOLDING
        if self._state in (State.HOLDING, State.RELEASED):
            await self._release()
        if self._drainer is not None and not self._drainer.done():
            await asyncio.wait((self._drainer,))
        return self._state is State.REPLACED

    def close(self) -> None:
        """Leave no timer, task or callback behind. Idempotent."""
        self._scope.closed = True
        self._scope.on_decision = None
        self._arrivals.gone(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._drainer is not None:
            self._drainer.cancel()
        self._held.clear()

    # ------------------------------------------------------------------ holding

    async def _begin(self, message: Message) -> None:
        if message["type"] != "http.response.start":  # an extension, such as early hints
            await self._send(message)
            return
        self._held.append(message)
        self._state = State.HOLDING
        if any(name == b"content-length" for name, _ in message.get("headers", ())):
            return  # the body follows at once
        if self._decided() or self._wait <= 0:
            await self._release()
        else:
            self._release_in(self._wait)

    def _release_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # In a context of its own: a cancelled timer lingers in the loop's heap, and its context with it.
        self._timer = asyncio.get_running_loop().call_later(seconds, self.let_go, context=Context())

    def _on_decision(self) -> None:
        if self._state is State.HOLDING:
            if self._scope.rejection is not None:
                self.let_go()
            elif not self._scope.decisions[-1].hit:
                self._arrivals.wait(self)
            if self._timer is not None and self._timer.when() > asyncio.get_running_loop().time() + DECIDED_WAIT:
                self._release_in(DECIDED_WAIT)
        self._arrivals.leave(self)

    def _decided(self) -> bool:
        return bool(self._scope.decisions) or self._scope.rejection is not None

    def _may_hold(self, message: Message) -> bool:
        body = message.get("body", b"")
        self._held_bytes += len(body)
        return (
            self._timer is not None
            and message["type"] == "http.response.body"
            and bool(message.get("more_body"))
            and self._held_bytes <= HELD_BYTES
            and bytes(body[:32]).startswith(BEFORE_THE_ENGINE)
            and not self._decided()
        )

    def let_go(self) -> None:
        """Nobody is undecided any more, or a refusal or a deadline has come; on the event loop, never raises."""
        if self._state is State.HOLDING and self._drainer is None:
            # In a context of its own: who lets go may be another request.
            drain = self._drain_for_callback()
            self._drainer = asyncio.get_running_loop().create_task(drain, context=Context())

    # ------------------------------------------------------------------ letting go

    async def _drain_for_callback(self) -> None:
        try:
            await self._release()
        except Exception as error:
            # A client that has gone (OSError): the app hears of it from its own next send, or from its receive.
            if not isinstance(error, OSError):
                self._on_fault("response", error)

    async def _release(self) -> None:
        """Send what is held, in order. Whoever comes second waits for the first and sends what is left."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            if self._state is State.HOLDING:
                self._settle()
            while self._held:
                await self._send(self._held.popleft())
            if self._state is State.RELEASED:
                self._state = State.OPEN

    def _settle(self) -> None:
        """Fix the header: add ours, or put a refusal in the place of the whole response."""
        self._state = State.RELEASED
        self._scope.released = True
        self._scope.on_decision = None
        self._arrivals.gone(self)
        if self._timer is not None:
            self._timer.cancel()
        scope = self._scope
        try:
            if scope.rejection is not None:
                refusal = refusal_messages(scope.rejection, scope.path)
                self._held.clear()
                self._held.extend(refusal)
                self._state = State.REPLACED
            elif scope.decisions:
                start = self._held[0]
                headers = response_headers(scope.decisions, failed=start["status"] >= 400)
                self._held[0] = {**start, "headers": [*start.get("headers", ()), *headers]}
        except Exception as error:
            self._on_fault("response", error)
