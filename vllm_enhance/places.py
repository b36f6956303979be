"""Back-pressure: so many requests at once, so many callers waiting, and the next one is refused."""

from __future__ import annotations

import asyncio

from vllm_enhance.errors import OverloadedError

__all__ = ["Places"]


class Places:
    """Places for requests that are under way, given out in order of asking.

    Args:
        limit: how many there are.
        max_waiting: callers that may wait for one.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.limit = limit
        self.max_waiting = max_waiting
        self.taken = 0
        self.waiting = 0
        self._free = asyncio.Semaphore(limit)
        self._empty = asyncio.Event()
        self._empty.set()

    async def enter(self) -> None:
        """Take a place; waits while there is none.

        Raises:
            OverloadedError: too many wait already.
        """
        if self._free.locked() and self.waiting >= self.max_waiting:
            raise OverloadedError(
                f"{self.taken} requests are under way and {self.waiting} wait (max_waiting_requests): try again later"
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.taken += 1
        self._empty.clear()

    def leave(self) -> None:
        """Give a place back."""
        self.taken -= 1
        self._free.release()
        if self.taken == 0:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait until no place is taken."""
        await self._empty.wait()
