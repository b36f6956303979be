"""An event loop on a thread of its own, for callers that have none: the hooks of the offline engine live there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for a caller without an event loop, until :meth:`end`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self.loop,), name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Wait for the result of ``work``; cancelled when the caller is interrupted, or after ``timeout`` seconds."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def end(self, last: Coroutine[Any, Any, None], timeout: float) -> None:
        """Run a last coroutine and end the thread; waits ``timeout`` seconds at most, and not on the thread itself."""

        async def finish() -> None:
            try:
                await asyncio.wait_for(last, timeout)
            finally:
                self.loop.stop()

        asyncio.run_coroutine_threadsafe(finish(), self.loop)
        if threading.current_thread() is not self._thread:  # the garbage collector may call from anywhere
            self._thread.join(timeout)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
