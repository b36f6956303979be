"""The real engine: the first answer comes from it, the second from memory, and they are equal.

One engine for all tests of this file, on an event loop of its own thread, as in a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import os
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from engine_support import CUMULATIVE, DELTA, FINAL, KINDS, patches, prompt_logprobs_of, read_all
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from vllm_enhance.engine import activation
from vllm_enhance.engine.state import STATE

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

T = TypeVar("T")
names = itertools.count()
leaked: list[Any] = []
"""vLLM leaves a ZeroMQ context open; kept to the process' end, where its warning is nobody's failure."""


class Bench:
    """An engine client and the loop that it lives on."""

    def __init__(self, model: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="engine-loop", daemon=True)
        self._thread.start()
        self.llm: Any = self.run(self._make(model))

    async def _make(self, model: Path) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(
            model=str(model), max_model_len=1024, enforce_eager=True, max_num_seqs=32, disable_log_stats=False
        )
        return AsyncLLM.from_engine_args(arguments)

    def run(self, work: Awaitable[T], timeout: float = 120.0) -> T:
        """Run on the engine's loop and wait."""

        async def wrapped() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(timeout)

    def close(self) -> None:
        self.llm.shutdown()

        async def end() -> None:
            others = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
            for each in others:
                each.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        leaked.append(self.llm)

    # ------------------------------------------------------------------ asking

    async def ask(self, question: str, params: SamplingParams, name: str | None = None) -> list[RequestOutput]:
        outputs = []
        async for output in self.llm.generate(question, params, name or f"q{next(names)}"):
            for each in output.outputs:
                each.token_ids = list(each.token_ids)
                each.logprobs = each.logprobs[:] if each.logprobs is not None else None
            outputs.append(output)
        return outputs

    async def asked(self, question: str, params: SamplingParams) -> tuple[str, list[RequestOutput]]:
        """The source of an answer, and the answer."""
        name = f"q{next(names)}"
        outputs = await self.ask(question, params, name)
        return self.llm.enhance.explain.read(name)["source"], outputs

    @property
    def engine_requests(self) -> int:
        """Requests that the engine's output processor has finished or has in work, from vLLM's own counter."""
        return self._counted

    _counted = 0

    def count_engine_requests(self) -> None:
        original = self.llm.engine_core.add_request_async

        async def counted(request: Any) -> Any:
            self._counted += 1
            return await original(request)

        self.llm.engine_core.add_request_async = counted


@pytest.fixture(scope="module")
def bench(tiny_model: Path) -> Iterator[Bench]:
    import vllm.v1.engine.async_llm as module

    before = dict(os.environ)
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="1",
        HF_HUB_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        TOKENIZERS_PARALLELISM="false",
        ENHANCE="1",
        ENHANCE_HOOKS="cache",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # vLLM loads plugins once in a process, and other tests may have had it do so before.
        STATE.settings = STATE.plugins = None
        STATE.refused = []
        activation.register()
        made = Bench(tiny_model)
        made.count_engine_requests()
        yield made
        made.close()
    for patch in reversed(patches.PATCHES):
        patch.revert()
    STATE.settings = STATE.plugins = None
    STATE.refused = []
    os.environ.clear()
    os.environ.update(before)
    assert type(object.__new__(module.AsyncLLM)) is module.AsyncLLM


@pytest.fixture(autouse=True)
def collector_in_place() -> None:
    """The whole set of patches is in place here, not the collector's alone."""


def greedy(kind: RequestOutputKind = FINAL, **fields: Any) -> SamplingParams:
    return SamplingParams(**{"output_kind": kind, "temperature": 0.0, "max_tokens": 40, **fields})


CASES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "stop string": {"stop": ["e", "th", "a"]},
    "stop string kept": {"stop": ["e", "th", "a"], "include_stop_str_in_output": True},
    "stop token": {"stop_token_ids": list(range(97, 110))},
    "logprobs": {"logprobs": 3},
    "flat logprobs": {"logprobs": 2, "flat_logprobs": True},
    "prompt logprobs": {"prompt_logprobs": 2},
    "n=3 seeded": {"n": 3, "temperature": 1.0, "seed": 11},
    "n=3 with logprobs": {"n": 3, "temperature": 1.0, "seed": 12, "logprobs": 1},
    "min tokens": {"min_tokens": 20, "stop": ["a", "e", "i"]},
    "json": {
        "structured_outputs": StructuredOutputsParams(
            json={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        ),
        "max_tokens": 80,
    },
    "no detokenizing": {"detokenize": False},
    "special tokens shown": {"skip_special_tokens": False, "ignore_eos": True},
    "long": {"max_tokens": 300, "ignore_eos": True},
    "sampled": {"temperature": 1.0},
}


@pytest.mark.parametrize("led", KINDS, ids=lambda kind: f"first {kind.name.lower()}")
@pytest.mark.parametrize("case", CASES)
def test_the_second_answer_is_the_first(bench: Bench, case: str, led: RequestOutputKind) -> None:
    fields = CASES[case]
    n = fields.get("n", 1)
    question = f"{case} {led.name}"
    source, first = bench.run(bench.asked(question, greedy(led, **fields)))
    assert source == "engine"
    wanted = read_all(first, led, n)
    assert all(choice.token_ids for choice in wanted)
    for kind in KINDS:
        source, again = bench.run(bench.asked(question, greedy(kind, **fields)))
        assert source == "memory"
        assert read_all(again, kind, n) == wanted
        if n == 1:
            assert prompt_logprobs_of(again) == prompt_logprobs_of(first)
        assert again[-1].finished
        assert again[0].prompt == first[0].prompt
        assert again[0].prompt_token_ids == first[0].prompt_token_ids


def test_what_is_replayed_is_what_plain_vllm_says(bench: Bench) -> None:
    """Recorded and replayed against the same question asked past the plugin."""
    for case, fields in CASES.items():
        if case == "sampled":
            continue
        for kind in KINDS:
            plain = bench.run(
                bench.asked(f"plain? {case}", greedy(kind, **{**fields, "extra_args": {"enhance": "bypass"}}))
            )
            bench.run(bench.asked(f"plain? {case}", greedy(DELTA, **fields)))
            stored = bench.run(bench.asked(f"plain? {case}", greedy(kind, **fields)))
            assert (plain[0], stored[0]) == ("engine", "memory")
            ours, theirs = read_all(stored[1], kind, fields.get("n", 1)), read_all(plain[1], kind, fields.get("n", 1))
            assert [each.text for each in ours] == [each.text for each in theirs]
            assert [each.token_ids for each in ours] == [each.token_ids for each in theirs]
            assert [(each.finish_reason, each.stop_reason) for each in ours] == [
                (each.finish_reason, each.stop_reason) for each in theirs
            ]


def test_a_thousand_twins_cost_one_generation(bench: Bench) -> None:
    before = bench.engine_requests

    async def all_of_them() -> Sequence[list[RequestOutput]]:
        return await asyncio.gather(*(bench.ask("a thousand", greedy(KINDS[index % 3])) for index in range(1000)))

    answers = bench.run(all_of_them())
    assert len({read_all(outputs, KINDS[index % 3])[0].text for index, outputs in enumerate(answers)}) == 1
    assert bench.engine_requests - before == 1


def test_hanging_up_frees_the_engine(bench: Bench) -> None:
    async def hang_up() -> None:
        long = greedy(DELTA, max_tokens=900, ignore_eos=True)
        first, second = (asyncio.create_task(bench.ask("hang up", long)) for _ in range(2))
        while not bench.llm.output_processor.request_states:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        first.cancel()
        await asyncio.sleep(0.1)
        assert len(bench.llm.output_processor.request_states) == 1
        second.cancel()
        await asyncio.sleep(0.2)
        assert not bench.llm.output_processor.request_states
        assert bench.llm.enhance.table.num_readers == 0
        assert len(bench.llm.enhance.table) == 0

    bench.run(hang_up())


def test_the_leader_leaves_and_the_others_get_it_all(bench: Bench) -> None:
    async def leave() -> tuple[str, str]:
        params = {"max_tokens": 300, "ignore_eos": True}
        leader = asyncio.create_task(bench.ask("leader leaves", greedy(DELTA, **params)))
        await asyncio.sleep(0.1)
        follower = asyncio.create_task(bench.ask("leader leaves", greedy(CUMULATIVE, **params)))
        await asyncio.sleep(0.1)
        leader.cancel()
        followed = read_all(await follower, CUMULATIVE)[0].text
        alone = await bench.ask("leader leaves", greedy(FINAL, **params, extra_args={"enhance": "bypass"}))
        return followed, read_all(alone, FINAL)[0].text

    followed, alone = bench.run(leave())
    assert followed == alone


EVENTS: Mapping[str, tuple[Callable[[Any], Awaitable[Any]], bool]] = {
    "reset_prefix_cache": (lambda llm: llm.reset_prefix_cache(), True),
    "collective_rpc of an unknown method": (lambda llm: llm.collective_rpc("list_loras_or_else"), True),
    "collective_rpc of a harmless method": (lambda llm: llm.collective_rpc("check_health"), False),
    "pause and resume": (lambda llm: _both(llm.pause_generation(), llm.resume_generation()), False),
    "reset_mm_cache": (lambda llm: llm.reset_mm_cache(), False),
}


async def _both(first: Awaitable[Any], second: Awaitable[Any]) -> None:
    await first
    await second


@pytest.mark.parametrize("event", EVENTS)
def test_events_forget_what_they_must(bench: Bench, event: str) -> None:
    happen, forgets = EVENTS[event]
    bench.run(bench.asked(event, greedy()))
    assert bench.run(bench.asked(event, greedy()))[0] == "memory"

    async def it_happens() -> None:
        # A worker may not know the method: the call alone is the event.
        with contextlib.suppress(*([Exception] if "collective_rpc" in event else [])):
            await happen(bench.llm)

    bench.run(it_happens())
    assert bench.run(bench.asked(event, greedy()))[0] == ("engine" if forgets else "memory")
    assert bench.llm.enhance.epoch.state == 0


def test_a_paused_engine_is_not_hidden_by_stored_answers(bench: Bench) -> None:
    question = "while paused"
    bench.run(bench.asked(question, greedy()))

    async def paused() -> str:
        await bench.llm.pause_generation(mode="keep")
        task = asyncio.create_task(bench.asked(question, greedy()))
        await asyncio.sleep(0.3)
        assert not task.done()
        await bench.llm.resume_generation()
        return (await task)[0]

    assert bench.run(paused()) == "engine"
    assert bench.run(bench.asked(question, greedy()))[0] == "memory"


def test_weights_that_change_are_noticed(bench: Bench) -> None:
    """The real thing: a worker loads its weights anew, and what was stored before is not served after."""
    question = "weights"
    bench.run(bench.asked(question, greedy()))
    bench.run(bench.llm.collective_rpc("reload_weights"))
    source, _ = bench.run(bench.asked(question, greedy()))
    assert source == "engine"
    assert bench.run(bench.asked(question, greedy()))[0] == "memory"


def test_sleeping(bench: Bench) -> None:
    question = "asleep"
    bench.run(bench.asked(question, greedy()))

    async def sleep_and_wake() -> None:
        try:
            await bench.llm.sleep(level=1)
        except Exception as error:
            pytest.skip(f"this engine cannot sleep: {error}")
        await bench.llm.wake_up()

    try:
        bench.run(sleep_and_wake())
    finally:
        assert bench.llm.enhance.epoch.state == 0
    assert bench.run(bench.asked(question, greedy()))[0] == "memory"


def test_a_refused_request_is_refused_as_by_vllm_and_is_no_fault(bench: Bench) -> None:
    faults = bench.llm.enhance.metrics.snapshot().get("vllm_enhance_faults", {})

    async def refused(question: Any, params: SamplingParams) -> None:
        with pytest.raises(Exception) as ours:
            await bench.ask(question, params)
        bench.llm.enhance._open = False
        try:
            with pytest.raises(Exception) as theirs:
                await bench.ask(question, params)
        finally:
            bench.llm.enhance._open = True
        assert type(ours.value) is type(theirs.value)
        assert str(ours.value) == str(theirs.value)

    for question, params in (
        ("x" * 5000, greedy()),
        ({"prompt_token_ids": [10**7]}, greedy()),
        ({"prompt_token_ids": []}, greedy()),
        ("", greedy()),
        (None, greedy()),
        ("fine", greedy(allowed_token_ids=[10**7])),
        ("fine", greedy(logprobs=10**4)),
        ("fine", greedy(structured_outputs=StructuredOutputsParams(regex="("))),
    ):
        bench.run(refused(question, params))
    assert bench.llm.enhance.metrics.snapshot().get("vllm_enhance_faults", {}) == faults
    assert bench.llm.enhance.active
    assert len(bench.llm.enhance.table) == 0


def _shape(function: Any) -> list[Any]:
    """Names, kinds and defaults of arguments; annotations may be strings."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


def test_it_is_a_drop_in(bench: Bench) -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    assert isinstance(bench.llm, AsyncLLM)
    ours = type(bench.llm)
    assert ours is not AsyncLLM
    for name, theirs in inspect.getmembers(AsyncLLM):
        if name.startswith("_"):
            continue
        mine = getattr(ours, name)
        if callable(theirs):
            assert _shape(mine) == _shape(theirs), name
            assert inspect.iscoroutinefunction(inspect.unwrap(mine)) == inspect.iscoroutinefunction(theirs), name
            assert inspect.isasyncgenfunction(mine) == inspect.isasyncgenfunction(theirs), name
            assert mine.__doc__ or not theirs.__doc__, name


def test_pooling_and_ready_made_requests_pass_by(bench: Bench) -> None:
    from vllm.v1.engine import EngineCoreRequest

    async def ready_made() -> str:
        request: EngineCoreRequest = bench.llm.input_processor.process_inputs(
            "ready",
            {"type": "token", "prompt_token_ids": [104, 105]},
            greedy(),
            supported_tasks=("generate",),
        )
        outputs = [output async for output in bench.llm.generate(request, greedy(), "ready")]
        return str(outputs[-1].outputs[0].finish_reason)

    assert bench.run(ready_made()) in ("stop", "length")


def test_the_engine_is_left_clean(bench: Bench) -> None:
    async def look() -> None:
        await asyncio.sleep(0.2)
        assert not bench.llm.output_processor.request_states
        assert bench.llm.enhance.table.num_readers == 0
        assert not bench.llm.enhance.races

    bench.run(look())
    assert not bench.llm.enhance.metrics.snapshot().get("vllm_enhance_faults", {})
