"""A store in this process: for tests, and for several handlers of one process that share answers."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from vllm_enhance.stores import EntryTags, Horizon, LogLimits, LogPage, StoreStats, matcher
from vllm_enhance.types import InvalidationScope

__all__ = ["MemoryStore"]


@dataclass(frozen=True, slots=True)
class _Held:
    value: bytes
    tags: EntryTags
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Said:
    """A message of a log; ``upto`` counts the bytes up to and with it."""

    number: int
    upto: int
    message: bytes
    expires_at: float


class MemoryStore:
    """Values in a dict, the least recently used going first.

    Args:
        max_bytes: cap on the sum of the values.
        clock: Unix time in seconds.
    """

    name = "memory"

    def __init__(self, max_bytes: int = 256 * 2**20, *, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._nbytes = 0
        self._horizon = Horizon()
        self._leases: dict[bytes, tuple[bytes, float]] = {}
        self._moved = asyncio.Event()
        self._logs: dict[str, deque[_Said]] = {}
        self._said = 0

    async def get(self, key: bytes) -> bytes | None:
        held = self._living(key)
        if held is None:
            return None
        self._held.move_to_end(key)
        return held.value

    async def put(self, key: bytes, value: bytes, *, ttl: float, tags: EntryTags) -> None:
        self._drop(key)
        self._held[key] = _Held(value, tags, self._clock() + ttl)
        self._nbytes += len(value)
        while self._nbytes > self._max_bytes:
            self._drop(next(iter(self._held)))

    async def delete(self, key: bytes) -> bool:
        present = self._living(key) is not None
        self._drop(key)
        return present

    async def clear(self, scope: InvalidationScope) -> int:
        inside = matcher(scope, self._clock())
        keys = [key for key in list(self._held) if self._living(key) and inside(key, self._held[key].tags)]
        if not scope.dry_run:
            for key in keys:
                self._drop(key)
            if scope.kind != "key":
                self._logs.clear()
        return len(keys)

    async def scan(self) -> AsyncIterator[tuple[bytes, bytes]]:
        for key in list(self._held):
            held = self._living(key)
            if held is not None:
                yield key, held.value

    async def horizon(self) -> Horizon:
        return self._horizon

    async def forget(self, scope: InvalidationScope) -> Horizon:
        self._move(self._horizon.forget(scope, self._clock()))
        return self._horizon

    async def restore(self, horizon: Horizon) -> Horizon:
        self._move(self._horizon.merge(horizon))
        return self._horizon

    async def changed(self, timeout: float) -> None:
        try:
            await asyncio.wait_for(self._moved.wait(), timeout)
        except TimeoutError:
            return

    async def lease(self, key: bytes, owner: bytes, ttl: float) -> bool:
        now = self._clock()
        self._leases = {k: held for k, held in self._leases.items() if held[1] > now}
        free = self._leases.get(key, (owner, 0.0))[0] == owner
        if free:
            self._leases[key] = (owner, now + ttl)
        return free

    async def renew(self, key: bytes, owner: bytes, ttl: float) -> bool:
        mine = self._holder(key) == owner
        if mine:
            self._leases[key] = (owner, self._clock() + ttl)
        return mine

    async def release(self, key: bytes, owner: bytes) -> bool:
        mine = self._holder(key) == owner
        if mine:
            del self._leases[key]
        return mine

    async def leased(self, key: bytes) -> bool:
        return self._holder(key) is not None

    async def append(self, log: str, message: bytes, limits: LogLimits) -> None:
        kept, now = self._logs.setdefault(log, deque()), self._clock()
        self._said += 1
        kept.append(_Said(self._said, (kept[-1].upto if kept else 0) + len(message), message, now + limits.ttl))
        while kept[0] is not kept[-1] and (
            len(kept) > limits.messages
            or kept[-1].upto - kept[0].upto + len(kept[0].message) > limits.nbytes
            or kept[0].expires_at <= now
        ):
            kept.popleft()

    async def read(self, log: str, after: str = "", count: int = 64) -> LogPage:
        start, now = int(after or 0), self._clock()
        found = [said for said in self._logs.get(log, ()) if said.number > start and said.expires_at > now][:count]
        return LogPage([said.message for said in found], str(found[-1].number) if found else after)

    async def stats(self) -> StoreStats:
        now = self._clock()
        return StoreStats(sum(held.expires_at > now for held in self._held.values()), self._nbytes)

    async def close(self) -> None:
        self._held.clear()
        self._logs.clear()
        self._nbytes = 0

    # ------------------------------------------------------------------ inside

    def _living(self, key: bytes) -> _Held | None:
        held = self._held.get(key)
        if held is not None and held.expires_at <= self._clock():
            self._drop(key)
            return None
        return held

    def _drop(self, key: bytes) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._nbytes -= len(held.value)

    def _holder(self, key: bytes) -> bytes | None:
        owner, expires_at = self._leases.get(key, (None, 0.0))
        return owner if expires_at > self._clock() else None

    def _move(self, horizon: Horizon) -> None:
        self._horizon = horizon
        self._moved.set()
        self._moved = asyncio.Event()
