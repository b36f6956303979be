"""One HTTP request, shared between the middleware and the engine client.

The middleware sets :data:`current_scope`; every task that vLLM starts for the request inherits it. Children get
*copies* of the context, so whatever must flow back to the middleware goes through the mutable scope itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from vllm_enhance.directives import NO_DIRECTIVES, Directives
from vllm_enhance.errors import RequestRejected
from vllm_enhance.types import Source

__all__ = ["Decision", "RequestScope", "current_scope"]


@dataclass(frozen=True, slots=True)
class Decision:
    """How one generation of an HTTP request will be answered; enough for ``Cache-Status`` (RFC 9211).

    Attributes:
        source: where the answer comes from.
        reason: bypass or miss reason, a short label.
        stored: the answer will be kept if it finishes cleanly.
        age: seconds, for hits.
        ttl: remaining seconds, for hits, if known.
        similarity: for similar hits.
        detail: a word for ``Cache-Status``.
    """

    source: Source
    reason: str | None = None
    stored: bool = False
    age: float = 0.0
    ttl: float | None = None
    similarity: float | None = None
    detail: str | None = None

    @property
    def hit(self) -> bool:
        return self.source in _HITS


@dataclass(slots=True, eq=False)
class RequestScope:
    """What the middleware knows of an HTTP request, and what the engine client tells back.

    Attributes:
        directives: from ``Cache-Control``.
        tenant: digest (16 bytes) of who asks.
        path: URL path, without query.
        decisions: one per generation that the request caused (prompt lists, tool turns); capped.
        rejection: set when a generation was refused, so that the middleware can answer with its status.
        body: chunks of the request body as they passed; dropped once the chat in it has been read.
        chat: what was read from the body, by whoever needed it first.
        on_decision: called after each decision or rejection, on the event loop.
        released: the response's headers have left, so that a refusal can no longer take its place.
        closed: the response is finished; background work may still hold the scope.
    """

    directives: Directives = NO_DIRECTIVES
    tenant: bytes = b""
    path: str = ""
    decisions: list[Decision] = field(default_factory=list)
    rejection: RequestRejected | None = None
    body: list[bytes] = field(default_factory=list)
    chat: Any = None
    on_decision: Callable[[], None] | None = None
    released: bool = False
    closed: bool = False
    request_ids: list[str] = field(default_factory=list)

    MAX_DECISIONS = 256

    def decide(self, decision: Decision) -> None:
        """Tell the middleware how one generation will be answered."""
        if len(self.decisions) < self.MAX_DECISIONS:
            self.decisions.append(decision)
        self._announce()

    def reject(self, rejection: RequestRejected) -> None:
        """Tell the middleware that a generation was refused."""
        self.rejection = rejection
        self._announce()

    def _announce(self) -> None:
        if self.on_decision is not None and not self.closed:
            self.on_decision()


_HITS = frozenset({Source.MEMORY, Source.STORE, Source.SIMILAR, Source.HOOK})

current_scope: ContextVar[RequestScope | None] = ContextVar("vllm_enhance_scope", default=None)
