"""Calling hooks: ordered, awaited, isolated, with deadlines.

pluggy's plain call cannot do this: with ``firstresult`` a coroutine object counts as a result, results are not chained,
and one implementation that raises stops the others. So pluggy keeps the registry and the order, and the calls are made
here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pluggy

from vllm_enhance.errors import HookError
from vllm_enhance.hookspecs import INLINE_ATTRIBUTE
from vllm_enhance.metrics import Metrics
from vllm_enhance.records import GenerationRecord
from vllm_enhance.throttle import Throttle
from vllm_enhance.types import CONTINUE, Continue, Lookup, Outcome, Reject, RequestContext, Respond, Rewrite, Standby

__all__ = ["Dispatcher", "HookCall", "Verdict"]

logger = logging.getLogger("vllm_enhance")

FUSE_FAILURES = 5
FUSE_SECONDS = 30.0
LIFECYCLE_DEADLINE = 5.0
POST_DEADLINE = 30.0
QUEUE_LIMIT = 2048
WORKERS = 4
THREADS = 8


@dataclass(slots=True, eq=False)
class HookCall:
    """One implementation of one hook, bound to its plugin, with its record of failures."""

    plugin: str
    hook: str
    function: Callable[..., Any]
    argnames: tuple[str, ...]
    inline: bool
    is_async: bool
    failures: int = 0
    open_until: float = 0.0

    def arguments(self, offered: Mapping[str, Any]) -> list[Any]:
        return list(map(offered.__getitem__, self.argnames))


@dataclass(slots=True)
class Verdict:
    """What the ``pre_request`` hooks decided together: an answer or refusal, else lookups still to run."""

    decision: Continue | Respond | Reject = CONTINUE
    plugin: str = ""
    lookups: list[Lookup] = field(default_factory=list)


RewriteFunction = Callable[[RequestContext, Rewrite], None]


class Dispatcher:
    """Calls the hooks of one process.

    Args:
        manager: pluggy's registry with the plugins registered.
        metrics: where time and failures are counted.
        deadline: seconds for one ``pre_request`` call.
        monotonic: clock for fuses.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager,
        metrics: Metrics,
        *,
        deadline: float = 0.1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._metrics = metrics
        self._deadline = deadline
        self._monotonic = monotonic
        self._throttle = Throttle(60.0, monotonic)
        self._threads: ThreadPoolExecutor | None = None
        self._queue: asyncio.Queue[tuple[HookCall, dict[str, Any]]] | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._closed = False
        self._pre = self._calls("pre_request")
        post = self._calls("post_output")
        self._post_inline = [call for call in post if call.inline]
        self._post_queued = [call for call in post if not call.inline]

    # ------------------------------------------------------------------ traffic

    async def pre_request(self, request: RequestContext, rewrite: RewriteFunction) -> Verdict:
        """Ask every hook in order; never raises what a hook raised.

        Suspends only where a hook does: with inline hooks alone it runs through without a task switch.

        Args:
            rewrite: applies a :class:`Rewrite` to ``request``, recomputing its key.
        """
        verdict = Verdict()
        offered = {"request": request}
        for call in self._pre:
            if call.inline:
                result = self._run_inline(call, offered)
            else:
                result = await self._guarded(call, offered, self._deadline)
            if result is None or result is CONTINUE:
                continue
            kind = type(result)
            if kind is Lookup:
                verdict.lookups.append(result)
            elif kind is Respond or kind is Reject:
                verdict.decision, verdict.plugin = result, call.plugin
                break
            elif kind is Rewrite:
                try:
                    rewrite(request, result)
                except Exception as error:
                    self._failed(call, "rewrite", error)
            elif kind is not Continue:
                self._failed(call, "nonsense", HookError(f"pre_request returned {kind.__name__}"))
        return verdict

    def post_output(self, request: RequestContext, record: GenerationRecord, outcome: Outcome) -> None:
        """Tell every hook: inline ones now, the others through the background queue. Never raises, never blocks."""
        offered: dict[str, Any] = {"request": request, "record": record, "outcome": outcome}
        for call in self._post_inline:
            self._run_inline(call, offered)
        for call in self._post_queued:
            self._enqueue(call, offered)

    # ------------------------------------------------------------------ life cycle

    async def startup(self, context: Any, drop: Callable[[str, str], None]) -> None:
        """Start each plugin; one that fails is dropped with its reason and never called again."""
        for call in self._calls("startup"):
            try:
                answer = await asyncio.wait_for(self._invoke(call, {"context": context}), 60.0)
                if isinstance(answer, Standby):
                    self._forget(call.plugin)
            except Exception as error:
                logger.error("hook package %s did not start and is left out: %s", call.plugin, error)
                self._metrics.count("vllm_enhance_hook_failures", 1, call.plugin, "startup", "raised")
                self._forget(call.plugin)
                drop(call.plugin, f"startup: {type(error).__name__}: {error}")

    async def gather(self, hook: str, **offered: Any) -> dict[str, Any]:
        """Call a life-cycle hook on every plugin; results by plugin name, failures left out and counted."""
        results: dict[str, Any] = {}
        for call in self._calls(hook):
            result = await self._guarded(call, offered, LIFECYCLE_DEADLINE)
            if result is not None:
                results[call.plugin] = result
        return results

    async def shutdown(self) -> None:
        """Give queued ``post_output`` calls a moment, stop every plugin, end tasks and threads; take no more calls."""
        self._closed = True
        if self._queue is not None and self._workers:
            try:
                await asyncio.wait_for(self._queue.join(), LIFECYCLE_DEADLINE)
            except TimeoutError:
                logger.warning("%d background hook calls were left unfinished", self._queue.qsize())
        await self.gather("shutdown")
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    # ------------------------------------------------------------------ inside

    def _calls(self, hook: str) -> list[HookCall]:
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        return [
            HookCall(
                impl.plugin_name,
                hook,
                impl.function,
                impl.argnames,
                inline=getattr(impl.function, INLINE_ATTRIBUTE, False)
                and not inspect.iscoroutinefunction(impl.function),
                is_async=inspect.iscoroutinefunction(impl.function),
            )
            for impl in reversed(implementations)
        ]

    def _forget(self, plugin: str) -> None:
        for calls in (self._pre, self._post_inline, self._post_queued):
            calls[:] = [call for call in calls if call.plugin != plugin]

    def _fused(self, call: HookCall) -> bool:
        return self._monotonic() < call.open_until

    async def _guarded(self, call: HookCall, offered: Mapping[str, Any], deadline: float) -> Any:
        if call.inline:
            return self._run_inline(call, offered)
        if call.open_until > 0.0 and self._fused(call):
            return None
        started = self._monotonic()
        try:
            async with asyncio.timeout(deadline):
                result = await self._invoke(call, offered)
        except TimeoutError as error:
            self._failed(call, "deadline", error)
            return None
        except Exception as error:
            self._failed(call, "raised", error)
            return None
        call.failures = 0
        self._metrics.observe("vllm_enhance_hook_seconds", self._monotonic() - started, call.plugin, call.hook)
        return result

    def _run_inline(self, call: HookCall, offered: Mapping[str, Any]) -> Any:
        if call.open_until > 0.0 and self._fused(call):
            return None
        started = time.perf_counter()
        try:
            result = call.function(*call.arguments(offered))
        except Exception as error:
            self._failed(call, "raised", error)
            return None
        call.failures = 0
        self._metrics.observe("vllm_enhance_hook_seconds", time.perf_counter() - started, call.plugin, call.hook)
        if result is not None and inspect.iscoroutine(result):
            result.close()
            self._failed(call, "nonsense", HookError("inline hooks are plain functions"))
            return None
        return result

    async def _invoke(self, call: HookCall, offered: Mapping[str, Any]) -> Any:
        arguments = call.arguments(offered)
        if call.is_async:
            return await call.function(*arguments)
        if call.inline:
            return call.function(*arguments)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="enhance-hook")
        result = await asyncio.get_running_loop().run_in_executor(self._threads, call.function, *arguments)
        return await result if inspect.isawaitable(result) else result

    def _failed(self, call: HookCall, why: str, error: BaseException) -> None:
        self._metrics.count("vllm_enhance_hook_failures", 1, call.plugin, call.hook, why)
        call.failures += 1
        if call.failures >= FUSE_FAILURES:
            call.open_until = self._monotonic() + FUSE_SECONDS
            call.failures = 0
        suppressed = self._throttle.allow(f"{call.plugin}.{call.hook}.{why}")
        if suppressed is not None:
            logger.warning(
                "hook %s of %s failed (%s: %s); requests go on without it%s",
                call.hook,
                call.plugin,
                why,
                type(error).__name__,
                f"; {suppressed} more since the last such line" if suppressed else "",
            )

    def _enqueue(self, call: HookCall, offered: dict[str, Any]) -> None:
        if self._closed:
            self._metrics.count("vllm_enhance_hook_dropped")
            return
        if self._queue is None:
            self._queue = asyncio.Queue(QUEUE_LIMIT)
        if not self._workers:
            self._workers = [asyncio.create_task(self._work(self._queue)) for _ in range(WORKERS)]
        try:
            self._queue.put_nowait((call, offered))
        except asyncio.QueueFull:
            self._metrics.count("vllm_enhance_hook_dropped")

    async def _work(self, queue: asyncio.Queue[tuple[HookCall, dict[str, Any]]]) -> None:
        while True:
            call, offered = await queue.get()
            try:
                await self._guarded(call, offered, POST_DEADLINE)
            finally:
                queue.task_done()
