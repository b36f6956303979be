"""A thread with one SQLite connection, and the way to it from the event loop."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vllm_enhance.errors import EnhanceError
from vllm_enhance_cache.errors import StoreFault

__all__ = ["ConnectionThread"]

T = TypeVar("T")

CLOSE_SECONDS = 2.0


@dataclass(slots=True)
class _Job:
    function: Callable[[sqlite3.Connection], Any]
    after: Callable[[sqlite3.Connection], None] | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class ConnectionThread:
    """Runs functions on one connection, one after the other. Starts with the first.

    Args:
        connect: makes the connection, on the thread; asked again at each job until it succeeds.
        name: of the thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._connect = connect
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(
        self,
        function: Callable[[sqlite3.Connection], T],
        after: Callable[[sqlite3.Connection], None] | None = None,
    ) -> T:
        """The result of ``function``; ``after`` follows once the result is on its way.

        Raises:
            StoreFault: SQLite failed.
            ConfigurationError: the file cannot be used at all.
        """
        if self._closed:
            raise StoreFault("sqlite", "unavailable", "closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(function, after, loop, future))
        return await future

    async def close(self) -> None:
        """Finish what is queued, then close the connection; waits two seconds at most."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._jobs.get()) is not None:
            if job.future.cancelled():
                continue
            try:
                connection = connection or self._connect()
                result: Any = job.function(connection)
            except Exception as error:
                _hand_over(job, None, error if isinstance(error, EnhanceError) else _fault(error))
                continue
            _hand_over(job, result, None)
            if job.after is not None:
                try:
                    job.after(connection)
                except sqlite3.Error:
                    continue  # housekeeping comes round again
        if connection is not None:
            connection.close()


def _hand_over(job: _Job, result: Any, error: Exception | None) -> None:
    def settle() -> None:
        if job.future.done():
            return
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)

    try:
        job.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop is gone, and with it whoever asked


def _fault(error: Exception) -> StoreFault:
    text = str(error)
    refused = ("readonly", "is full", "read-only", "permission")
    reason = "refused" if any(word in text for word in refused) else "unavailable"
    return StoreFault("sqlite", reason, f"{type(error).__name__}: {text[:120]}")
