"""One SQLite file, shared by the API server processes of a host and kept across restarts.

Write-ahead logging lets readers go on while one process writes; with ``synchronous=NORMAL`` a committed entry survives
the death of the process (not, for the last moments, of the machine), which is right for a cache. SQLite blocks, so each
connection lives on a thread of its own, one for reading and one for writing, and the event loop only hands jobs over.
The file must be on a local disk: write-ahead logging needs shared memory.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from vllm_enhance.stores import EntryTags, Horizon, LogLimits, LogPage, StoreStats, model_tag, tenant_tag
from vllm_enhance.types import InvalidationScope
from vllm_enhance_cache.stores import sqlite_sql as sql
from vllm_enhance_cache.stores.sqlite_thread import ConnectionThread

__all__ = ["SqliteStore"]

POLL_SECONDS = 0.2
SCAN_ROWS = 64
MAX_TOUCHED = 10_000
LOG_SHARE = 8
"""No log grows beyond this part of the cap."""


class SqliteStore:
    """Entries in a table.

    Args:
        path: the file, made with mode 0600 when it is not there, its folders too.
        max_bytes: cap on the pages in use; the least recently used entries go, in the background.
        clock: Unix time in seconds.

    Raises:
        ConfigurationError: from the first call: the file cannot be opened, or is not ours.
    """

    name = "sqlite"

    def __init__(
        self, path: str | os.PathLike[str], max_bytes: int = 4 * 2**30, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._clock = clock
        self._writer = ConnectionThread(partial(sql.connect, self.path), "enhance-sqlite-write")
        self._reader = ConnectionThread(partial(sql.connect, self.path, read_only=True), "enhance-sqlite-read")
        self._touched: dict[bytes, int] = {}
        self._seen: tuple[int, Horizon] = (-1, Horizon())

    async def get(self, key: bytes) -> bytes | None:
        return await self._reader.run(partial(self._get, key, self._clock()))

    def _get(self, key: bytes, now: float, connection: sqlite3.Connection) -> bytes | None:
        row = connection.execute(sql.GET, (key, now)).fetchone()
        if row is None:
            return None
        # Writing the time of use at each read would turn reads into writes; minutes are exact enough for eviction.
        if now - row[1] > sql.TOUCH_SECONDS and len(self._touched) < MAX_TOUCHED:
            self._touched[key] = int(now)
        return bytes(row[0])

    async def put(self, key: bytes, value: bytes, *, ttl: float, tags: EntryTags) -> None:
        now = self._clock()
        row = (key, tenant_tag(tags.tenant), model_tag(tags.model), tags.created_at, now + ttl, int(now), value)
        await self._writer.run(partial(sql.execute, sql.PUT, row), after=self._tidy)

    async def delete(self, key: bytes) -> bool:
        return bool(await self._writer.run(partial(sql.execute, sql.DELETE, (key, self._clock()))))

    async def clear(self, scope: InvalidationScope) -> int:
        where, values = sql.condition(scope, self._clock())
        if scope.dry_run:
            return await self._reader.run(partial(sql.count, where, (*values, self._clock())))
        if scope.kind != "key":
            await self._writer.run(partial(sql.execute, sql.DROP_LOGS, ()))
        total = 0
        while True:  # in steps, so that other writers get their turn
            living, gone = await self._writer.run(partial(sql.delete_some, where, values, self._clock()))
            total += living
            if gone < sql.DELETE_ROWS:
                return total

    async def scan(self) -> AsyncIterator[tuple[bytes, bytes]]:
        last = 0
        while True:
            rows = await self._reader.run(partial(sql.page, last, SCAN_ROWS, self._clock()))
            for row_id, key, value in rows:
                last = row_id
                yield key, value
            if len(rows) < SCAN_ROWS:
                return

    # ------------------------------------------------------------------ the horizon

    async def horizon(self) -> Horizon:
        return await self._reader.run(self._look)

    def _look(self, connection: sqlite3.Connection) -> Horizon:
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen[0]:
            self._seen = (version, sql.read_horizon(connection))
        return self._seen[1]

    async def forget(self, scope: InvalidationScope) -> Horizon:
        now = self._clock()
        return await self._writer.run(partial(sql.change_horizon, lambda current: current.forget(scope, now)))

    async def restore(self, horizon: Horizon) -> Horizon:
        return await self._writer.run(partial(sql.change_horizon, lambda current: current.merge(horizon)))

    async def changed(self, timeout: float) -> None:
        await asyncio.sleep(min(timeout, POLL_SECONDS))

    # ------------------------------------------------------------------ leases

    async def lease(self, key: bytes, owner: bytes, ttl: float) -> bool:
        now = self._clock()
        return bool(await self._writer.run(partial(sql.execute, sql.LEASE, (key, owner, now + ttl, now))))

    async def renew(self, key: bytes, owner: bytes, ttl: float) -> bool:
        now = self._clock()
        return bool(await self._writer.run(partial(sql.execute, sql.RENEW, (now + ttl, key, owner, now))))

    async def release(self, key: bytes, owner: bytes) -> bool:
        return bool(await self._writer.run(partial(sql.execute, sql.RELEASE, (key, owner, self._clock()))))

    async def leased(self, key: bytes) -> bool:
        return bool(await self._reader.run(partial(sql.leased, key, self._clock())))

    # ------------------------------------------------------------------ logs

    async def append(self, log: str, message: bytes, limits: LogLimits) -> None:
        capped = replace(limits, nbytes=min(limits.nbytes, self._max_bytes // LOG_SHARE))
        await self._writer.run(partial(sql.append, log, message, capped, self._clock()))

    async def read(self, log: str, after: str = "", count: int = 64) -> LogPage:
        return await self._reader.run(partial(sql.read_log, log, int(after or 0), count, self._clock()))

    # ------------------------------------------------------------------ the rest

    async def stats(self) -> StoreStats:
        entries, nbytes = await self._reader.run(partial(sql.size, self._clock()))
        return StoreStats(entries, nbytes, {"path": str(self.path), "max_bytes": self._max_bytes})

    async def close(self) -> None:
        for thread in (self._reader, self._writer):
            await thread.close()

    def _tidy(self, connection: sqlite3.Connection) -> None:
        """On the writer's thread, after a put has been answered."""
        touched, self._touched = self._touched, {}
        sql.tidy(connection, self._clock(), self._max_bytes, touched)
