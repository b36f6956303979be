"""The words that the engine and the hooks share: requests, records, decisions, annotations.

Nothing here imports vLLM, and nothing here does I/O. Records and their byte form live in
:mod:`vllm_enhance.records`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from vllm_enhance.directives import NO_DIRECTIVES, Directives

if TYPE_CHECKING:
    from vllm_enhance.records import GenerationRecord
    from vllm_enhance.scope import RequestScope

__all__ = [
    "CONTINUE",
    "NLP_RESULT",
    "SIMILAR",
    "SIMILAR_DECISION",
    "SIMILAR_SEARCH",
    "SIMILAR_VERDICT",
    "AnnotationKey",
    "Annotations",
    "Continue",
    "Found",
    "HealthReport",
    "InvalidationScope",
    "Lookup",
    "Neighbour",
    "Outcome",
    "PreRequestDecision",
    "Question",
    "Reject",
    "RequestContext",
    "Respond",
    "Rewrite",
    "SearchFunction",
    "SimilarDecision",
    "Source",
    "Standby",
    "VerdictFunction",
    "Waiting",
]

T = TypeVar("T")


class Source(StrEnum):
    """Where an answer came from."""

    MEMORY = "memory"
    STORE = "store"
    SIMILAR = "similar"
    JOINED = "joined"
    ENGINE = "engine"
    HOOK = "hook"


# --------------------------------------------------------------------------- annotations


class AnnotationKey(Generic[T]):
    """A typed name under which one hook leaves something for others.

    Compared by identity, so that two packages cannot collide by choosing the same name.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"AnnotationKey({self.name!r})"


class Annotations:
    """What hooks know about one request, by :class:`AnnotationKey`."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[AnnotationKey[Any], Any] = {}

    def get(self, key: AnnotationKey[T], default: T | None = None) -> T | None:
        return cast("T | None", self._values.get(key, default))

    def set(self, key: AnnotationKey[T], value: T) -> None:
        self._values[key] = value

    def __contains__(self, key: AnnotationKey[Any]) -> bool:
        return key in self._values

    def as_dict(self) -> dict[str, Any]:
        """By plain name, for reports."""
        return {key.name: value for key, value in self._values.items()}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A stored question near this one.

    Attributes:
        key: exact key of the stored request (32 bytes).
        similarity: cosine similarity in [-1, 1]; higher is nearer.
        question: the stored question's text, empty unless the operator allows text to be kept.
        refused_by: name of the guard that forbids its reuse, or ``None``.
    """

    key: bytes
    similarity: float
    question: str = ""
    refused_by: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A stored question with its answer, found for a text.

    Attributes:
        question, answer: as stored.
        similarity: cosine similarity in [-1, 1].
        confident: the decision policy would answer the text with it.
        key: exact key of the stored request (32 bytes).
        age: seconds since the answer was generated.
    """

    question: str
    answer: str
    similarity: float
    confident: bool
    key: bytes = b""
    age: float = 0.0


SearchFunction = Callable[[Sequence[str], int], Awaitable[list[list[Found]]]]
"""For each text, at most so many stored questions of the request's own partition, most similar first."""

SIMILAR_SEARCH: AnnotationKey[SearchFunction] = AnnotationKey("similar_search")
"""Left by the similarity hook on requests that it may serve, for hooks that want context."""


@dataclass(frozen=True, slots=True)
class SimilarDecision:
    """What similarity decided for a request, served or not (shadow mode decides too).

    Attributes:
        action: ``reuse``, ``audit`` (it would have been reused, but is generated to measure the error) or ``miss``.
        reason: a short label.
        question: the stored question whose answer would be reused, or came nearest to it; empty when there is none.
            This is text: show it only where the operator allows text.
        similarity: cosine similarity to it in [-1, 1], or ``None``.
    """

    action: str
    reason: str
    question: str = ""
    similarity: float | None = None


SIMILAR_DECISION: AnnotationKey[SimilarDecision] = AnnotationKey("similar_decision")

VerdictFunction = Callable[["RequestContext", SimilarDecision, bool], None]
"""Told of a request, what was decided for it, and whether the generated answer says the same as the stored one."""

SIMILAR_VERDICT: AnnotationKey[VerdictFunction] = AnnotationKey("similar_verdict")
"""Left by a hook that wants to hear the judge's verdict. Called on the event loop, at most once, possibly long after
the answer: the judge may wait for an idle engine."""

NLP_RESULT: AnnotationKey[Mapping[str, Any]] = AnnotationKey("nlp_result")
SIMILAR: AnnotationKey[Sequence[Neighbour]] = AnnotationKey("similar")


# --------------------------------------------------------------------------- the request


@dataclass(frozen=True, slots=True)
class Question:
    """The part of a prompt that similarity may vary.

    Attributes:
        text: the last user text.
        partition: digest (16 bytes) of all the rest: tenant, epoch, sampling, and the rendered prompt with the
            text cut out. Two requests may share an answer by similarity only within one partition.
    """

    text: str
    partition: bytes


@dataclass(slots=True, eq=False)
class RequestContext:
    """One generation request, as hooks see it.

    Attributes:
        request_id: the server's request id (external, as in responses and logs).
        prompt_token_ids: the rendered prompt; read-only by contract, use :class:`Rewrite` to change it.
        params: vLLM's ``SamplingParams``; read-only by contract.
        model: served model name.
        tenant: digest (16 bytes) of who asks; empty when all callers are one.
        directives: what the client asked of the cache.
        key: exact key (32 bytes), or ``None`` when the request may not be cached.
        bypass_reason: why ``key`` is ``None``, a short label.
        streaming: whether the caller reads token by token.
        scope: the HTTP request this belongs to, or ``None`` outside HTTP.
        epoch: the invalidation epoch of the key (8 bytes).
        has_text: the prompt's text is there, so that reading it is quick.
        asked_tokens: length of the prompt as it was asked, when a hook has put context into it since.
        on_end: called once when the engine's work for this request is over, however it ended; see :meth:`end`.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    params: Any
    model: str = ""
    tenant: bytes = b""
    directives: Directives = NO_DIRECTIVES
    key: bytes | None = None
    bypass_reason: str | None = None
    streaming: bool = False
    scope: RequestScope | None = None
    epoch: bytes = b""
    annotations: Annotations = field(default_factory=Annotations)
    notes: list[tuple[str, str]] = field(default_factory=list)
    on_end: list[Callable[[], None]] = field(default_factory=list)
    read_text: Callable[[], str] | None = None
    read_question: Callable[[], Question | None] | None = None
    has_text: bool = False
    asked_tokens: int | None = None

    MAX_NOTES = 32
    SHORT_TOKENS, SHORT_BYTES = 4096, 16_384

    @property
    def prompt_text(self) -> str:
        """The rendered prompt as text; detokenized on first use if need be, so not for the hot path."""
        return self.read_text() if self.read_text is not None else ""

    @property
    def question(self) -> Question | None:
        """What similarity may vary, or ``None`` when nothing may (images, tool results, no user text)."""
        return self.read_question() if self.read_question is not None else None

    async def load_question(self) -> Question | None:
        """:attr:`question`, read on the event loop if that takes no longer than the way to a thread and back."""
        body = self.scope.body if self.scope is not None else ()
        short = len(self.prompt_token_ids) <= self.SHORT_TOKENS and sum(map(len, body)) <= self.SHORT_BYTES
        if short and self.has_text:
            return self.question
        return await asyncio.to_thread(lambda: self.question)

    def end(self) -> None:
        """Tell those in ``on_end``, once."""
        callbacks, self.on_end = self.on_end, []
        for callback in callbacks:
            callback()

    @property
    def num_asked_tokens(self) -> int:
        """Length of the prompt that the key stands for."""
        return len(self.prompt_token_ids) if self.asked_tokens is None else self.asked_tokens

    def note(self, who: str, what: str) -> None:
        """Leave a line for ``explain``. Never prompt text."""
        if len(self.notes) < self.MAX_NOTES:
            self.notes.append((who, what))


# --------------------------------------------------------------------------- decisions of pre_request


@dataclass(frozen=True, slots=True)
class Continue:
    """Nothing to say; the same as returning ``None``."""


CONTINUE = Continue()


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Go on with another prompt or other parameters. Later hooks, and the key, see the new request.

    Attributes:
        prompt_text: new rendered prompt, tokenized by the server's tokenizer.
        prompt_token_ids: new rendered prompt; wins over ``prompt_text``.
        params: sampling fields to change, such as ``{"temperature": 0.0}``.
        keep_key: the change is in how the answer is made, not in what was asked (context put into the prompt): the
            answer is kept under the key of the request as it came.
    """

    prompt_text: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    params: Mapping[str, Any] | None = None
    keep_key: bool = False


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer with this and ask no further hook.

    Attributes:
        record: the stored generation; or else
        text: a plain text, which the engine tokenizes.
        source: where it came from.
        age: seconds since it was generated.
        ttl: seconds it will still be kept, if known.
        similarity: cosine similarity of the question it answered, for ``Source.SIMILAR``.
        detail: a word for ``Cache-Status``.
    """

    record: GenerationRecord | None = None
    text: str | None = None
    source: Source = Source.HOOK
    age: float = 0.0
    ttl: float | None = None
    similarity: float | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the request with an HTTP status from 400 to 599."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """Go on, and meanwhile look: an answer may still come.

    The engine does not wait for a lookup: it starts at once, and an answer that arrives before the first token wins
    (``--enhance-lookup hedge``), or it waits up to ``--enhance-lookup-deadline`` (``blocking``). The function is called
    only when it is needed, so a joined request costs no lookup.

    Attributes:
        run: starts the lookup; its result is a :class:`Respond`, a :class:`Waiting`, or ``None``.
        name: for metrics and ``explain``.
        blocking: ask for the engine to wait (within the deadline) whatever the setting says.
    """

    run: Callable[[], Awaitable[Respond | Waiting | None]]
    name: str
    blocking: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A blocking lookup found that another process is generating this very answer: wait for it.

    Attributes:
        run: waits as long as that other lives; its result is the answer, or ``None`` when this process must generate.
    """

    run: Callable[[], Awaitable[Respond | None]]


@dataclass(frozen=True, slots=True)
class Standby:
    """Returned by ``startup``: nothing to do for requests in this configuration, so do not call the traffic hooks."""


PreRequestDecision = Continue | Rewrite | Respond | Reject | Lookup | None


# --------------------------------------------------------------------------- after the answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended, for ``post_output``.

    Attributes:
        source: where the answer came from.
        storable: whether the record may be kept. Hooks that keep answers must obey.
        reason: why it was not answered from the cache (miss or bypass reason), or why it is not storable.
        similarity: for ``Source.SIMILAR``.
        seconds: from admission to the last token, as this request saw it.
    """

    source: Source
    storable: bool
    reason: str | None = None
    similarity: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class InvalidationScope:
    """What to forget.

    Attributes:
        kind: ``all``, ``key``, ``tenant``, ``model``, or ``age``.
        value: hex key, hex tenant digest, model name, or seconds: entries at least this old.
        dry_run: only count.
    """

    kind: str = "all"
    value: str | None = None
    dry_run: bool = False

    KINDS = ("all", "key", "tenant", "model", "age")


@dataclass(frozen=True, slots=True)
class HealthReport:
    """One component's health. ``status`` is ``healthy``, ``degraded`` or ``unhealthy``."""

    component: str
    status: str = "healthy"
    detail: str = ""
