"""The contract of a shared store, and the horizon: what all processes agree to have forgotten.

A store keeps opaque bytes under 32-byte keys. It may fail, hang or be written to by strangers: deadlines, the breaker
and the check of what comes back are the caller's business, so that a store is small. ``vllm_enhance.testing.stores``
holds the suite that each store passes.

**Forgetting without a race.** A flush that only deletes loses against an answer that was under way: its process stores
it a moment later. So each flush moves the store's :class:`Horizon` one *generation* forward, each entry carries the
generation in which its request was admitted, and readers refuse entries from behind the horizon. Deleting is then
housekeeping. A horizon only moves forward, so two copies of it merge in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from vllm_enhance.errors import DirectiveError
from vllm_enhance.types import InvalidationScope

__all__ = [
    "EntryTags",
    "Horizon",
    "LogLimits",
    "LogPage",
    "Store",
    "StoreStats",
    "matcher",
    "model_tag",
    "scope_value",
    "tenant_tag",
]

K = TypeVar("K")

KEY_BYTES = 32
TAG_BYTES = 16
MAX_FLOORS = 1024
"""Floors kept per kind. One more, and the horizon forgets everything instead: more than asked, never less."""


@dataclass(frozen=True, slots=True)
class EntryTags:
    """By what an entry may be forgotten, besides its key.

    Attributes:
        tenant: digest of who asked; empty when all callers are one.
        model: served model name.
        created_at: Unix time of the generation, seconds.
    """

    tenant: bytes = b""
    model: str = ""
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreStats:
    """A look at a store: ``None`` where the backend cannot say."""

    entries: int | None = None
    nbytes: int | None = None
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of a log is kept: the oldest messages go first, a message of its own accord after ``ttl`` seconds."""

    messages: int = 10_000
    nbytes: int = 64 * 2**20
    ttl: float = 3600.0


@dataclass(frozen=True, slots=True)
class LogPage:
    """Messages, oldest first, and the position behind them: what to read from next."""

    messages: Sequence[bytes] = ()
    position: str = ""


def tenant_tag(tenant: bytes) -> bytes:
    """A tenant as exactly 16 bytes; a tenant of that length is its own tag."""
    if len(tenant) == TAG_BYTES:
        return tenant
    return hashlib.blake2b(tenant, digest_size=TAG_BYTES).digest() if tenant else bytes(TAG_BYTES)


def model_tag(model: str) -> bytes:
    """A model name as 16 bytes."""
    return hashlib.blake2b(model.encode("utf-8", "surrogatepass"), digest_size=TAG_BYTES).digest()


def scope_value(scope: InvalidationScope) -> bytes | float | None:
    """What a scope names: a key, a tenant tag or a model tag as bytes, an age in seconds, or ``None`` for all.

    Raises:
        DirectiveError: the kind or the value cannot be understood.
    """
    if scope.kind == "all":
        return None
    text = scope.value or ""
    if scope.kind == "model":
        if not text:
            raise DirectiveError("scope=model wants the served model name as value")
        return model_tag(text)
    if scope.kind == "age":
        try:
            age = float(text)
        except ValueError:
            age = -1.0
        if not 0.0 <= age < float("inf"):
            raise DirectiveError("scope=age wants a number of seconds as value, 0 or more")
        return age
    if scope.kind in ("key", "tenant"):
        return _from_hex(scope.kind, text)
    raise DirectiveError(f"scope {scope.kind[:32]!r} is not one of {', '.join(InvalidationScope.KINDS)}")


def _from_hex(kind: str, text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if (text and not value) or (kind == "key" and len(value) != KEY_BYTES):
        wanted = f"{2 * KEY_BYTES} hex digits" if kind == "key" else "a hex digest"
        raise DirectiveError(f"scope={kind} wants {wanted} as value")
    return value if kind == "key" else tenant_tag(value)


def matcher(scope: InvalidationScope, now: float) -> Callable[[bytes, EntryTags], bool]:
    """Whether an entry, given its key and tags, is in ``scope``.

    Args:
        now: Unix time, for ages.

    Raises:
        DirectiveError: see :func:`scope_value`.
    """
    value = scope_value(scope)
    if isinstance(value, float):
        cutoff = now - value
        return lambda key, tags: tags.created_at <= cutoff
    tests: dict[str, Callable[[bytes, EntryTags], bool]] = {
        "all": lambda key, tags: True,
        "key": lambda key, tags: key == value,
        "tenant": lambda key, tags: tenant_tag(tags.tenant) == value,
        "model": lambda key, tags: model_tag(tags.model) == value,
    }
    return tests[scope.kind]


# --------------------------------------------------------------------------- the horizon


@dataclass(frozen=True, slots=True)
class Horizon:
    """From which generation on an entry counts. Immutable.

    Attributes:
        generation: flushes so far; what is admitted now belongs to it.
        everything: floor for all entries: those of an earlier generation are forgotten.
        tenants, models, keys: floors by tenant tag, model tag and key.
        created_after: Unix time; what was generated then or earlier is forgotten.
    """

    generation: int = 0
    everything: int = 0
    tenants: Mapping[bytes, int] = field(default_factory=dict)
    models: Mapping[bytes, int] = field(default_factory=dict)
    keys: Mapping[bytes, int] = field(default_factory=dict)
    created_after: float = 0.0

    def admits(self, generation: int, key: bytes, tags: EntryTags) -> bool:
        """Whether an entry admitted in ``generation`` is on this side of the horizon."""
        if generation >= self.generation and tags.created_at > self.created_after:
            return True  # admitted after the last flush: the usual case
        return (
            generation >= self.everything
            and tags.created_at > self.created_after
            and (not self.keys or generation >= self.keys.get(key, 0))
            and (not self.tenants or generation >= self.tenants.get(tenant_tag(tags.tenant), 0))
            and (not self.models or generation >= self.models.get(model_tag(tags.model), 0))
        )

    def forget(self, scope: InvalidationScope, now: float) -> Horizon:
        """The horizon one generation later, with ``scope`` behind it."""
        value, generation = scope_value(scope), self.generation + 1
        if value is None:
            return Horizon(generation, generation, created_after=self.created_after)
        if isinstance(value, float):
            return replace(self, generation=generation, created_after=max(self.created_after, now - value))
        floors = {"tenant": "tenants", "model": "models", "key": "keys"}[scope.kind]
        return self._with(floors, {**getattr(self, floors), value: generation}, generation)

    def merge(self, other: Horizon) -> Horizon:
        """The further of the two in every respect."""
        return Horizon(
            max(self.generation, other.generation),
            max(self.everything, other.everything),
            _further(self.tenants, other.tenants),
            _further(self.models, other.models),
            _further(self.keys, other.keys),
            max(self.created_after, other.created_after),
        )

    def _with(self, name: str, floors: Mapping[bytes, int], generation: int) -> Horizon:
        if len(floors) > MAX_FLOORS:
            return Horizon(generation, generation, created_after=self.created_after)
        changes: dict[str, object] = {name: floors, "generation": generation}
        return replace(self, **changes)  # type: ignore[arg-type]


def _further(first: Mapping[K, int], second: Mapping[K, int]) -> Mapping[K, int]:
    if not second or first == second:
        return first
    return {name: max(first.get(name, 0), second.get(name, 0)) for name in {**first, **second}}


# --------------------------------------------------------------------------- the store


class Store(Protocol):
    """Bytes under keys, shared by processes or hosts. All methods may raise ``StoreError``; none blocks the loop.

    Keys are 32 bytes. ``now`` is Unix time in seconds.
    """

    name: str

    async def get(self, key: bytes) -> bytes | None:
        """The value, or ``None``: absent or expired."""
        ...

    async def put(self, key: bytes, value: bytes, *, ttl: float, tags: EntryTags) -> None:
        """Keep ``value`` for ``ttl`` seconds (more than 0), in place of an older one."""
        ...

    async def delete(self, key: bytes) -> bool:
        """Drop one entry; whether it was there."""
        ...

    async def clear(self, scope: InvalidationScope) -> int:
        """Drop, or with ``dry_run`` count, the entries in ``scope``; how many. Does not move the horizon."""
        ...

    def scan(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """Keys and values one by one, for an export; an entry that comes or goes meanwhile may be missed."""
        ...

    async def horizon(self) -> Horizon:
        """What has been forgotten so far."""
        ...

    async def forget(self, scope: InvalidationScope) -> Horizon:
        """Move the horizon, atomically, and wake those in :meth:`changed`; ``dry_run`` is no matter here."""
        ...

    async def restore(self, horizon: Horizon) -> Horizon:
        """Merge ``horizon`` into the store's, as after a store has lost its memory; the result."""
        ...

    async def changed(self, timeout: float) -> None:
        """Wait until the horizon may have moved, ``timeout`` seconds at most."""
        ...

    async def lease(self, key: bytes, owner: bytes, ttl: float) -> bool:
        """Become the one who generates ``key``, for ``ttl`` seconds; ``False`` while another is."""
        ...

    async def renew(self, key: bytes, owner: bytes, ttl: float) -> bool:
        """Stay it; ``False`` when the lease has lapsed or passed on."""
        ...

    async def release(self, key: bytes, owner: bytes) -> bool:
        """Give the lease back; ``False`` when it was not held any more."""
        ...

    async def leased(self, key: bytes) -> bool:
        """Whether somebody holds a lease on ``key``."""
        ...

    async def append(self, log: str, message: bytes, limits: LogLimits) -> None:
        """Put ``message`` (not empty) at the end of ``log``, and drop what is over ``limits``.

        A log is made by its first message and goes with its last. Clearing a scope wider than a key drops all logs:
        they hold what was to be forgotten.
        """
        ...

    async def read(self, log: str, after: str = "", count: int = 64) -> LogPage:
        """At most ``count`` messages of ``log`` behind a position, or from the oldest that is kept.

        A position that lies behind the log's end is one in a log that has been lost since: the next page then begins
        at the beginning. A message may be seen twice, never in another order.
        """
        ...

    async def stats(self) -> StoreStats:
        """Numbers for people, from a real look."""
        ...

    async def close(self) -> None:
        """Let go of connections, files and threads. Twice is once."""
        ...
