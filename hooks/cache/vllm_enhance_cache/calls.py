"""Calls to a store: bounded in number and time, counted, and reported to a breaker.

A caller waits one deadline at most, but the call itself may run on, up to a limit: cutting it off would throw its
connection away, and on a slow link no connection would ever be made. What comes late still fills memory. The breaker
hears of a failure only after twice the deadline, and not while the event loop itself stands still: a busy API server
must not take a healthy store for a sick one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from vllm_enhance.errors import ConfigurationError, StoreError, StoreTimeout
from vllm_enhance_cache.breaker import Breaker
from vllm_enhance_cache.errors import StoreFault
from vllm_enhance_cache.meters import StoreMeter

__all__ = ["LIMIT_SECONDS", "Saturated", "StoreCalls"]

T = TypeVar("T")

LIMIT_SECONDS = 1.0
MAX_CALLS = 64
PATIENCE = 2.0
"""Deadlines until a call that is still under way counts as failed."""
STALLS = 3
"""How often a call is judged anew because the event loop stood still."""


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
        self.name = name
        self.meter = meter
        self.monotonic = monotonic
        self._max_calls = max_calls
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(
        self,
        operation: str,
        function: Callable[[], Awaitable[T]],
        breaker: Breaker | None,
        deadline: float,
        limit: float = LIMIT_SECONDS,
    ) -> T:
        """The result of ``function``, or an error within ``deadline`` seconds.

        Raises:
            StoreTimeout: not in time; the call may run on, for ``limit`` seconds in all.
            StoreError: it failed, or too many are under way.
        """
        if len(self._tasks) >= self._max_calls:
            self.meter.call(operation, "saturated", 0.0)
            raise Saturated(self.name, f"{len(self._tasks)} calls are under way")
        call: _Call[T] = _Call(self, operation, breaker, deadline, max(limit, PATIENCE * deadline))
        task = call.start(function)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await call.waiter

    async def close(self) -> None:
        """Cut off what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Call(Generic[T]):
    """One call, on a task of its own, with one timer: at the deadline, at the verdict, at the limit."""

    def __init__(
        self, calls: StoreCalls, operation: str, breaker: Breaker | None, deadline: float, limit: float
    ) -> None:
        self._calls = calls
        self._operation = operation
        self._breaker = breaker
        self._deadline = deadline
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._stalls = STALLS
        self._overran = False
        self.waiter: asyncio.Future[T] = self._loop.create_future()

    def start(self, function: Callable[[], Awaitable[T]]) -> asyncio.Task[None]:
        self._task = self._loop.create_task(self._run(function), name="enhance-store-call")
        self._begun = self._loop.time()
        self._arm(self._deadline, self._late)
        return self._task

    # ------------------------------------------------------------------ the clock

    def _arm(self, after: float, step: Callable[[], None]) -> None:
        self._due = self._begun + after
        self._timer = self._loop.call_at(self._due, step)

    def _late(self) -> None:
        self._fail(self._timeout(self._deadline))
        self._arm(PATIENCE * self._deadline, self._judge)

    def _judge(self) -> None:
        if self._stalls and self._loop.time() - self._due > self._deadline / 2:
            self._stalls -= 1
            self._arm(self._loop.time() - self._begun + self._deadline, self._judge)
            return
        self._report("timeout")
        self._arm(self._limit, self._overrun)

    def _overrun(self) -> None:
        self._overran = True
        self._task.cancel()

    # ------------------------------------------------------------------ the call

    async def _run(self, function: Callable[[], Awaitable[T]]) -> None:
        started = self._calls.monotonic()
        outcome = "ok"
        try:
            result = await function()
            outcome = "late" if self.waiter.done() else "ok"
            self._report(None)
            if not self.waiter.done():
                self.waiter.set_result(result)
        except asyncio.CancelledError:
            outcome = "timeout" if self._overran else "cancelled"
            self._fail(self._timeout(self._limit))
            if not self._overran:
                raise
        except (TimeoutError, StoreTimeout):
            outcome = "timeout"
            self._report("timeout")
            self._fail(self._timeout(self._limit))
        except Exception as error:
            outcome = self._failed(error)
        finally:
            self._timer.cancel()
            self._calls.meter.call(self._operation, outcome, self._calls.monotonic() - started)

    def _failed(self, error: Exception) -> str:
        if not isinstance(error, StoreFault):
            expected = isinstance(error, (StoreError, ConfigurationError, OSError))
            text = str(error) if expected else f"{type(error).__name__} in the store's code"
            error = StoreFault(self._calls.name, "unavailable", text)
        # An "error" is an answer: what it says concerns one key.
        self._report(None if error.reason == "error" else str(error))
        self._fail(error)
        return error.reason

    def _timeout(self, seconds: float) -> StoreTimeout:
        return StoreTimeout(self._calls.name, f"{self._operation}: no answer in {seconds:g} s")

    def _fail(self, error: Exception) -> None:
        if not self.waiter.done():
            self.waiter.set_exception(error)
            self.waiter.exception()  # looked at, in case whoever waited is cancelled at this very moment

    def _report(self, failure: str | None) -> None:
        """Tell the breaker, once."""
        breaker, self._breaker = self._breaker, None
        if breaker is None:
            return
        if failure is None:
            breaker.succeeded()
        else:
            breaker.failed(failure)
