"""Writes behind the request: a bounded queue and two workers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.meters import StoreMeter

__all__ = ["Writer"]

MAX_WAITING = 2048
MAX_WAITING_BYTES = 64 * 2**20
WORKERS = 2
DRAIN_SECONDS = 2.0
LOOK_SECONDS = 0.005


class Writer:
    """Takes entries at once and writes them by and by. When too much waits, the newest is dropped and counted.

    Args:
        write: writes one entry.
        meter: metrics.
    """

    def __init__(self, write: Callable[[Entry], Awaitable[None]], meter: StoreMeter) -> None:
        self._write = write
        self._meter = meter
        self._waiting: deque[Entry] = deque()
        self._nbytes = 0
        self._workers: set[asyncio.Task[None]] = set()
        self._closed = False
        self._writing: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry) -> None:
        """Queue ``entry``."""
        size = entry.nbytes
        if self._closed or len(self._waiting) >= MAX_WAITING or self._nbytes + size > MAX_WAITING_BYTES:
            self._meter.dropped("queue_full")
            return
        self._waiting.append(entry)
        self._nbytes += size
        if len(self._workers) < WORKERS:
            worker = asyncio.get_running_loop().create_task(self._work(), name="enhance-store-write")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def written(self, key: bytes) -> None:
        """Wait until no write of ``key`` waits or runs, for :data:`DRAIN_SECONDS` at most."""
        for _ in range(int(DRAIN_SECONDS / LOOK_SECONDS)):
            if key not in self._writing and all(entry.key != key for entry in self._waiting):
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Write what waits, for :data:`DRAIN_SECONDS` at most."""
        self._closed = True
        if self._workers:
            await asyncio.wait(list(self._workers), timeout=DRAIN_SECONDS)
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for _ in range(len(self._waiting)):
            self._meter.dropped("shutdown")
        self._waiting.clear()

    async def _work(self) -> None:
        while self._waiting:
            entry = self._waiting.popleft()
            self._nbytes -= entry.nbytes
            self._writing.add(entry.key)
            try:
                await self._write(entry)
            except Exception:
                self._meter.dropped("error")
            finally:
                self._writing.discard(entry.key)
