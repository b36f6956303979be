"""The store that keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from vllm_enhance.stores import EntryTags, Horizon, LogLimits, LogPage, StoreStats
from vllm_enhance.types import InvalidationScope

__all__ = ["NullStore"]


class NullStore:
    """Accepts everything, remembers nothing: to switch a tier off without asking everywhere whether there is one."""

    name = "null"

    async def get(self, key: bytes) -> bytes | None:
        return None

    async def put(self, key: bytes, value: bytes, *, ttl: float, tags: EntryTags) -> None:
        return None

    async def delete(self, key: bytes) -> bool:
        return False

    async def clear(self, scope: InvalidationScope) -> int:
        return 0

    async def scan(self) -> AsyncIterator[tuple[bytes, bytes]]:
        nothing: tuple[tuple[bytes, bytes], ...] = ()
        for pair in nothing:
            yield pair

    async def horizon(self) -> Horizon:
        return Horizon()

    async def forget(self, scope: InvalidationScope) -> Horizon:
        return Horizon()

    async def restore(self, horizon: Horizon) -> Horizon:
        return horizon

    async def changed(self, timeout: float) -> None:
        await asyncio.sleep(timeout)

    async def lease(self, key: bytes, owner: bytes, ttl: float) -> bool:
        return True

    async def renew(self, key: bytes, owner: bytes, ttl: float) -> bool:
        return True

    async def release(self, key: bytes, owner: bytes) -> bool:
        return True

    async def leased(self, key: bytes) -> bool:
        return False

    async def append(self, log: str, message: bytes, limits: LogLimits) -> None:
        return None

    async def read(self, log: str, after: str = "", count: int = 64) -> LogPage:
        return LogPage()

    async def stats(self) -> StoreStats:
        return StoreStats(0, 0)

    async def close(self) -> None:
        return None
