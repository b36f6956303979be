"""Results that are fetched by request id: kept for a while, and never more than so many."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from vllm_enhance.errors import AlreadyClosedError, OverloadedError, RequestRejected, UnknownRequestError
from vllm_enhance.outputs import EnhancedOutput

__all__ = ["Results"]


class Results:
    """Tasks that read answers, by request id.

    Args:
        limit: results kept; the oldest finished one makes room.
        ttl: seconds that a finished one is kept.
        monotonic: clock, in seconds.
    """

    def __init__(self, limit: int, ttl: float, monotonic: Callable[[], float]) -> None:
        self._limit = limit
        self._ttl = ttl
        self._monotonic = monotonic
        self._running: dict[str, asyncio.Task[EnhancedOutput]] = {}
        self._finished: OrderedDict[str, tuple[float, asyncio.Task[EnhancedOutput]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._running) + len(self._finished)

    def check(self, request_id: str) -> None:
        """Whether there is room for one more, of this name.

        Raises:
            RequestRejected: the id is in use.
            OverloadedError: as many results as may be kept are still being made.
        """
        self._forget_old()
        if request_id in self._running or request_id in self._finished:
            raise RequestRejected(409, f"there is a request {request_id!r} already: use another id, or none")
        if len(self._running) >= self._limit:
            raise OverloadedError(f"{len(self._running)} results are being made (max_results): fetch some first")

    def add(self, request_id: str, task: asyncio.Task[EnhancedOutput]) -> None:
        """Keep a task and, when it is done, its result."""
        self._running[request_id] = task
        task.add_done_callback(lambda done: self._done(request_id, done))

    def get(self, request_id: str) -> asyncio.Task[EnhancedOutput]:
        """The task of a request.

        Raises:
            UnknownRequestError: there is none of this name, or it was forgotten.
        """
        self._forget_old()
        task = self._running.get(request_id)
        if task is None and request_id in self._finished:
            task = self._finished[request_id][1]
        if task is None:
            raise UnknownRequestError(f"no request {request_id!r} is known; results are kept {self._ttl:g} s")
        return task

    async def wait(self, request_id: str, timeout: float | None) -> EnhancedOutput:
        """The answer, once it is there.

        Raises:
            UnknownRequestError: see :meth:`get`.
            AlreadyClosedError: the request was cancelled.
            TimeoutError: not there yet; the request goes on.
        """
        task = self.get(request_id)
        done, _ = await asyncio.wait([task], timeout=timeout)
        if not done:
            raise TimeoutError(f"request {request_id!r} is not finished after {timeout} s")
        if task.cancelled():
            raise AlreadyClosedError(f"request {request_id!r} was cancelled")
        return task.result()

    def poll(self, request_id: str) -> dict[str, Any]:
        """How far a request is, JSON-able; see ``EnhancedHandler.poll``.

        Raises:
            UnknownRequestError: see :meth:`get`.
        """
        task = self.get(request_id)
        if not task.done():
            return {"request_id": request_id, "status": "running"}
        if task.cancelled():
            return {"request_id": request_id, "status": "cancelled"}
        output = task.result()
        return {
            "request_id": request_id,
            "status": "finished" if output.error is None else "failed",
            "text": output.text,
            "metadata": output.metadata,
            "error": None if output.error is None else str(output.error),
        }

    async def cancel(self, request_id: str) -> None:
        """Stop a request, and wait until it has stopped.

        Raises:
            UnknownRequestError: see :meth:`get`.
        """
        task = self.get(request_id)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def tasks(self) -> list[asyncio.Task[EnhancedOutput]]:
        """Those still at work."""
        return list(self._running.values())

    def _done(self, request_id: str, task: asyncio.Task[EnhancedOutput]) -> None:
        self._running.pop(request_id, None)
        if not task.cancelled():
            task.exception()  # seen: whoever fetches the result hears of it
        self._finished[request_id] = (self._monotonic(), task)
        self._forget_old()

    def _forget_old(self) -> None:
        now = self._monotonic()
        while self._finished:
            request_id, (finished_at, _) = next(iter(self._finished.items()))
            if len(self) <= self._limit and now - finished_at < self._ttl:
                return
            del self._finished[request_id]
