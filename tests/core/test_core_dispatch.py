"""Calling hooks: in order, isolated, in time, and nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import prometheus_client
import pytest

from vllm_enhance import dispatch
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import new_manager
from vllm_enhance.records import GenerationRecord
from vllm_enhance.types import Continue, Lookup, Outcome, Reject, RequestContext, Respond, Rewrite, Source

RECORD = GenerationRecord(1, (), prompt_tokens=1, created_at=0.0)
OUTCOME = Outcome(Source.ENGINE, storable=True)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A dispatcher over given hook objects, with its metrics and clock."""

    def __init__(self, *plugins: object, deadline: float = 0.2) -> None:
        manager = new_manager()
        for plugin in reversed(plugins):  # pluggy calls the last registered first
            manager.register(plugin, name=type(plugin).__name__)
        self.metrics = Metrics(registry=prometheus_client.CollectorRegistry())
        self.clock = Clock()
        self.dispatcher = Dispatcher(manager, self.metrics, deadline=deadline, monotonic=self.clock)
        self.rewritten: list[Rewrite] = []

    async def pre(self, request: RequestContext | None = None) -> dispatch.Verdict:
        def rewrite(request: RequestContext, change: Rewrite) -> None:
            self.rewritten.append(change)
            if change.prompt_text == "impossible":
                raise ValueError("cannot be tokenized")
            request.model = f"{request.model}{change.prompt_text}"

        return await self.dispatcher.pre_request(request or RequestContext("r", [1], None), rewrite)

    def failures(self, plugin: str, hook: str, why: str) -> float:
        return self.metrics.value("vllm_enhance_hook_failures", plugin, hook, why)


def answering(name: str, answer: Callable[[RequestContext], Any], **mark: bool) -> object:
    """A hook object, of a class called ``name``, whose ``pre_request`` is ``answer``."""

    def pre_request(self: object, request: RequestContext) -> Any:
        return answer(request)

    async def async_pre_request(self: object, request: RequestContext) -> Any:
        return await answer(request)

    chosen = async_pre_request if asyncio.iscoroutinefunction(answer) else pre_request
    return type(name, (), {"pre_request": hookimpl(specname="pre_request", **mark)(chosen)})()


# --------------------------------------------------------------------------- decisions


async def test_nothing_to_say_is_continue() -> None:
    bench = Bench(answering("A", lambda r: None), answering("B", lambda r: Continue()))
    verdict = await bench.pre()
    assert isinstance(verdict.decision, Continue)
    assert verdict.lookups == []


@pytest.mark.parametrize("final", [Respond(text="hi"), Reject(429, "slow down")])
async def test_an_answer_or_refusal_ends_the_chain(final: Respond | Reject) -> None:
    asked: list[str] = []

    def late(request: RequestContext) -> None:
        asked.append("late")

    verdict = await Bench(answering("First", lambda r: final), answering("Second", late)).pre()
    assert (verdict.decision, verdict.plugin, asked) == (final, "First", [])


async def test_rewrites_chain() -> None:
    seen: list[str] = []

    def reading(word: str) -> Callable[[RequestContext], Rewrite]:
        def answer(request: RequestContext) -> Rewrite:
            seen.append(request.model)
            return Rewrite(prompt_text=word)

        return answer

    request = RequestContext("r", [1], None, model="m")
    await Bench(answering("A", reading("1")), answering("B", reading("2"))).pre(request)
    assert seen == ["m", "m1"]
    assert request.model == "m12"


async def test_a_rewrite_that_cannot_be_applied_is_the_hooks_fault() -> None:
    bench = Bench(answering("A", lambda r: Rewrite(prompt_text="impossible")), answering("B", lambda r: Respond()))
    verdict = await bench.pre()
    assert verdict.plugin == "B"
    assert bench.failures("A", "pre_request", "rewrite") == 1


async def test_lookups_are_collected_in_order() -> None:
    async def nothing() -> None:
        return None

    first, second = Lookup(nothing, "first"), Lookup(nothing, "second")
    verdict = await Bench(answering("A", lambda r: first), answering("B", lambda r: second)).pre()
    assert verdict.lookups == [first, second]


async def test_the_order_is_tryfirst_then_plain_then_trylast() -> None:
    called: list[str] = []
    plugins = [
        answering("Last", lambda r: called.append("last"), trylast=True),
        answering("Plain", lambda r: called.append("plain")),
        answering("First", lambda r: called.append("first"), tryfirst=True),
    ]
    await Bench(*plugins).pre()
    assert called == ["first", "plain", "last"]


# --------------------------------------------------------------------------- faults


def raising(request: RequestContext) -> None:
    raise RuntimeError("broken")


async def raising_later(request: RequestContext) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("broken")


async def hanging(request: RequestContext) -> None:
    await asyncio.sleep(60)


def blocking(request: RequestContext) -> None:
    time.sleep(0.5)


@pytest.mark.parametrize(
    ("fault", "why", "inline"),
    [
        (raising, "raised", False),
        (raising, "raised", True),
        (raising_later, "raised", False),
        (hanging, "deadline", False),
        (blocking, "deadline", False),
        (lambda r: "nonsense", "nonsense", False),
        (lambda r: "nonsense", "nonsense", True),
        (lambda r: Respond, "nonsense", False),
    ],
)
async def test_a_fault_harms_neither_request_nor_neighbours(
    fault: Callable[[RequestContext], Any], why: str, inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(answering("Bad", fault, inline=inline), answering("Good", lambda r: Respond()), deadline=0.1)
    with caplog.at_level(logging.WARNING, "vllm_enhance"):
        for _ in range(3):
            assert (await bench.pre()).plugin == "Good"
    assert bench.failures("Bad", "pre_request", why) == 3
    assert len([r for r in caplog.records if "Bad" in r.getMessage()]) == 1, "one line a minute"
    await bench.dispatcher.shutdown()


async def test_an_inline_coroutine_is_refused_without_a_warning() -> None:
    async def late(request: RequestContext) -> None:
        raise AssertionError("never awaited")

    bench = Bench(answering("Bad", lambda r: late(r), inline=True), answering("Good", lambda r: Respond()))
    assert (await bench.pre()).plugin == "Good"
    assert bench.failures("Bad", "pre_request", "nonsense") == 1


async def test_cancellation_is_never_swallowed() -> None:
    bench = Bench(answering("Slow", hanging), deadline=30)
    task = asyncio.create_task(bench.pre())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.failures("Slow", "pre_request", "deadline") == 0


async def test_the_fuse_spares_a_broken_hook_for_a_while() -> None:
    asked = 0

    def broken(request: RequestContext) -> None:
        nonlocal asked
        asked += 1
        raise RuntimeError("broken")

    for inline in (True, False):
        asked = 0
        bench = Bench(answering("Bad", broken, inline=inline))
        for _ in range(dispatch.FUSE_FAILURES + 5):
            await bench.pre()
        assert asked == dispatch.FUSE_FAILURES
        bench.clock.now += dispatch.FUSE_SECONDS
        await bench.pre()
        assert asked == dispatch.FUSE_FAILURES + 1
        await bench.dispatcher.shutdown()


async def test_a_success_resets_the_fuse() -> None:
    turns = iter([1, 1, 1, 1, 0] * 4)

    def flaky(request: RequestContext) -> None:
        if next(turns):
            raise RuntimeError("broken")

    bench = Bench(answering("Flaky", flaky, inline=True))
    for _ in range(20):
        await bench.pre()
    assert bench.failures("Flaky", "pre_request", "raised") == 16


# --------------------------------------------------------------------------- where hooks run


async def test_where_each_kind_runs() -> None:
    main = threading.current_thread()
    seen: dict[str, threading.Thread] = {}

    async def on_loop(request: RequestContext) -> None:
        seen["async"] = threading.current_thread()

    bench = Bench(
        answering("Sync", lambda r: seen.__setitem__("sync", threading.current_thread())),
        answering("Inline", lambda r: seen.__setitem__("inline", threading.current_thread()), inline=True),
        answering("Async", on_loop),
    )
    await bench.pre()
    assert seen["async"] is seen["inline"] is main
    assert seen["sync"] is not main
    await bench.dispatcher.shutdown()


async def test_inline_hooks_cost_no_task_switch() -> None:
    bench = Bench(answering("A", lambda r: None, inline=True), answering("B", lambda r: Respond(), inline=True))
    call = bench.pre()
    with pytest.raises(StopIteration) as done:
        call.send(None)
    assert done.value.value.plugin == "B"


async def test_time_in_hooks_is_counted() -> None:
    bench = Bench(answering("A", lambda r: None, inline=True), answering("B", lambda r: None))
    await bench.pre()
    for plugin in "AB":
        assert bench.metrics.value("vllm_enhance_hook_seconds_count", plugin, "pre_request") == 1
    await bench.dispatcher.shutdown()


# --------------------------------------------------------------------------- post_output


class Recorder:
    """Keeps what ``post_output`` was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Source]] = []

    @hookimpl
    async def post_output(self, request: RequestContext, outcome: Outcome) -> None:
        self.told.append((request.request_id, outcome.source))


class InlineRecorder(Recorder):
    @hookimpl(inline=True)
    def post_output(self, request: RequestContext, outcome: Outcome) -> None:  # type: ignore[override]
        self.told.append((request.request_id, outcome.source))


class BrokenRecorder:
    @hookimpl
    def post_output(self, request: RequestContext) -> None:
        raise RuntimeError("broken")


class StuckRecorder:
    def __init__(self) -> None:
        self.go = asyncio.Event()

    @hookimpl
    async def post_output(self, request: RequestContext) -> None:
        await self.go.wait()


def finish(bench: Bench, count: int = 1) -> None:
    for number in range(count):
        bench.dispatcher.post_output(RequestContext(f"r{number}", [1], None), RECORD, OUTCOME)


async def test_inline_hooks_are_told_at_once_and_the_others_soon() -> None:
    inline, queued = InlineRecorder(), Recorder()
    bench = Bench(inline, BrokenRecorder(), queued)
    finish(bench, 3)
    assert len(inline.told) == 3
    assert queued.told == []
    await bench.dispatcher.shutdown()
    assert sorted(queued.told) == [("r0", Source.ENGINE), ("r1", Source.ENGINE), ("r2", Source.ENGINE)]
    assert bench.failures("BrokenRecorder", "post_output", "raised") == 3


async def test_the_queue_is_bounded_and_drops_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "QUEUE_LIMIT", 10)
    stuck = StuckRecorder()
    bench = Bench(stuck)
    finish(bench, 50)
    assert bench.metrics.value("vllm_enhance_hook_dropped") == 40
    stuck.go.set()
    await bench.dispatcher.shutdown()


async def test_shutdown_leaves_no_task_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LIFECYCLE_DEADLINE", 0.1)
    before = set(threading.enumerate())
    bench = Bench(answering("Sync", lambda r: None), StuckRecorder())
    await bench.pre()
    finish(bench, 20)
    await asyncio.sleep(0)
    await bench.dispatcher.shutdown()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    for _ in range(100):
        if set(threading.enumerate()) <= before:
            break
        await asyncio.sleep(0.02)
    assert set(threading.enumerate()) <= before


async def test_what_finishes_after_shutdown_starts_nothing_again() -> None:
    recorder = Recorder()
    bench = Bench(recorder)
    await bench.dispatcher.shutdown()
    finish(bench, 3)
    await asyncio.sleep(0)
    assert recorder.told == []
    assert bench.metrics.value("vllm_enhance_hook_dropped") == 3
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


# --------------------------------------------------------------------------- life cycle


class Starts:
    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.started: list[Any] = []

    @hookimpl
    async def startup(self, context: Any) -> None:
        if self.problem is not None:
            raise self.problem
        self.started.append(context)

    @hookimpl(inline=True)
    def pre_request(self, request: RequestContext) -> Respond:
        return Respond(text=type(self).__name__)

    @hookimpl
    def health(self) -> str:
        return "well"


class FailsToStart(Starts):
    pass


async def test_a_package_that_does_not_start_is_left_out() -> None:
    good, bad = Starts(), FailsToStart(RuntimeError("no disk"))
    bench = Bench(bad, good)
    dropped: dict[str, str] = {}
    await bench.dispatcher.startup("context", dropped.__setitem__)
    assert good.started == ["context"]
    assert dropped == {"FailsToStart": "startup: RuntimeError: no disk"}
    assert (await bench.pre()).plugin == "Starts"


async def test_gather_collects_what_works() -> None:
    class Sick:
        @hookimpl
        def health(self) -> str:
            raise RuntimeError("ill")

    class Silent:
        @hookimpl
        def health(self) -> None:
            return None

    bench = Bench(Starts(), Sick(), Silent())
    assert await bench.dispatcher.gather("health") == {"Starts": "well"}
    assert bench.failures("Sick", "health", "raised") == 1
    await bench.dispatcher.shutdown()


async def test_gather_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        @hookimpl
        async def stats(self) -> dict[str, int]:
            await asyncio.sleep(60)
            return {}

    monkeypatch.setattr(dispatch, "LIFECYCLE_DEADLINE", 0.05)
    assert await Bench(Stuck()).dispatcher.gather("stats") == {}
