"""Calls to a store: bounded in number and time, counted, and reported to a breaker.

A caller waits one deadline at most, but the call itself may run on, up to :data:`LIMIT_SECONDS`: cutting it off would
throw its connection away, and on a slow link no connection would ever be made. What comes late still fills memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from vllm_enhance.errors import ConfigurationError, StoreError, StoreTimeout
from vllm_enhance_cache.breaker import Breaker
from vllm_enhance_cache.errors import StoreFault
from vllm_enhance_cache.meters import StoreMeter

__all__ = ["LIMIT_SECONDS", "StoreCalls"]

T = TypeVar("T")

LIMIT_SECONDS = 1.0
MAX_CALLS = 64


class Saturated(StoreError):
    """Too many calls are under way: our fault, not the store's, so no breaker hears of it."""


class StoreCalls:
    """Runs calls.

    Args:
        name: of the store.
        meter: where calls are counted.
        monotonic: seconds.
        max_calls: how many may be under way at once.
    """

    def __init__(
        self,
        name: str,
        meter: StoreMeter,
        monotonic: Callable[[], float] = time.monotonic,
        max_calls: int = MAX_CALLS,
    ) -> None:
        self._name = name
        self._meter = meter
        self._monotonic = monotonic
        self._max_calls = max_calls
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        breaker: Breaker | None,
        deadline: float,
        limit: float = LIMIT_SECONDS,
    ) -> T:
        """The result of ``call``, or an error within ``deadline`` seconds.

        Raises:
            StoreTimeout: not in time; the call may run on.
            StoreError: it failed, or too many are under way.
        """
        if len(self._tasks) >= self._max_calls:
            self._meter.call(operation, "saturated", 0.0)
            raise Saturated(self._name, f"{len(self._tasks)} calls are under way")
        task: asyncio.Task[T] = asyncio.create_task(
            self._watched(operation, call, breaker, deadline, max(deadline, limit)), name="enhance-store-call"
        )
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        done, _ = await asyncio.wait((task,), timeout=deadline)
        if not done:
            raise StoreTimeout(self._name, f"{operation}: no answer in {deadline:g} s")
        return task.result()

    async def close(self) -> None:
        """Cut off what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain of one that nobody waited for

    async def _watched(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        breaker: Breaker | None,
        deadline: float,
        limit: float,
    ) -> T:
        verdict = _Verdict(breaker, deadline)
        started = self._monotonic()
        outcome = "error"
        try:
            async with asyncio.timeout(limit):
                result = await call()
            outcome = "late" if verdict.given else "ok"
            verdict.good()
            return result
        except asyncio.CancelledError:
            outcome = "cancelled"
            verdict.withdraw()
            raise
        except (TimeoutError, StoreTimeout) as error:
            outcome = "timeout"
            verdict.bad("timeout")
            raise StoreTimeout(self._name, f"{operation}: no answer in {limit:g} s") from error
        except StoreFault as error:
            outcome = error.reason
            if error.reason == "error":
                verdict.good()  # it answered; what it said concerns one key
            else:
                verdict.bad(str(error))
            raise
        except (StoreError, ConfigurationError, OSError) as error:
            outcome = "unavailable"
            verdict.bad(str(error))
            raise StoreFault(self._name, "unavailable", str(error)) from error
        finally:
            verdict.withdraw()
            self._meter.call(operation, outcome, self._monotonic() - started)


class _Verdict:
    """What one call tells the breaker, once: good, bad, or bad because the deadline passed.

    When the event loop itself stood still, the deadline says nothing about the store and is given again.
    """

    GRACE = 3

    def __init__(self, breaker: Breaker | None, deadline: float) -> None:
        self._breaker = breaker
        self._deadline = deadline
        self._grace = self.GRACE
        self._loop = asyncio.get_running_loop()
        self.given = False
        self._arm()

    def good(self) -> None:
        if not self.given and self._breaker is not None:
            self._breaker.succeeded()
        self.withdraw()

    def bad(self, reason: str) -> None:
        if not self.given and self._breaker is not None:
            self._breaker.failed(reason)
        self.withdraw()

    def withdraw(self) -> None:
        self.given = True
        self._timer.cancel()

    def _arm(self) -> None:
        self._due = self._loop.time() + self._deadline
        self._timer = self._loop.call_at(self._due, self._overdue)

    def _overdue(self) -> None:
        if self._grace and self._loop.time() - self._due > self._deadline / 2:
            self._grace -= 1
            self._arm()
        else:
            self.bad("timeout")
