"""Joined generations over vLLM's own client loop: who reads what, who ends what, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from engine_support import (
    CUMULATIVE,
    DELTA,
    EOS,
    FINAL,
    KINDS,
    EngineDeadError,
    LookupHook,
    MemoryHook,
    ScriptedCore,
    ScriptedLLM,
    Step,
    collect,
    greedy,
    nothing_left,
    read_all,
    settle,
)
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineGenerateError

from vllm_enhance.engine.inflight import Generation
from vllm_enhance.types import Respond, Source

Make = Callable[..., ScriptedLLM]
TEXT = "abcdefgh"
STEPS = [*(Step([ord(letter)]) for letter in TEXT), Step([EOS], "stop")]


def task(llm: ScriptedLLM, name: str, kind: RequestOutputKind = DELTA, text: str = "hello", **fields: Any) -> Any:
    return asyncio.create_task(collect(llm, greedy(kind, **fields), text, name))


def text_of(outputs: Any, kind: RequestOutputKind) -> str:
    return read_all(outputs, kind)[0].text


async def say(core: ScriptedCore, steps: list[Step]) -> None:
    """Have the one running request make these steps, and let everybody read."""
    (request,) = core.added[-1:]
    for step in steps:
        core.say(request, step)
        await settle()


# --------------------------------------------------------------------------- joining


@pytest.mark.parametrize(("leads", "joins"), list(itertools.product(KINDS, KINDS)))
async def test_a_late_joiner_gets_the_past_at_once_and_then_what_comes(
    make_llm: Make, leads: RequestOutputKind, joins: RequestOutputKind
) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    leader = task(llm, "leader", leads)
    await settle()
    await say(core, STEPS[:4])
    stream = llm.generate({"type": "token", "prompt_token_ids": list(b"hello"), "prompt": "hello"}, greedy(joins), "j")
    first = asyncio.ensure_future(anext(stream))
    await settle()
    # Whoever waits for the end has the engine report at its end: only then is there no past to be had.
    if joins != FINAL and leads != FINAL:
        assert first.done()
        assert first.result().outputs[0].text == "abcd"
    await say(core, STEPS[4:6])
    if joins != FINAL:
        assert first.done()
    await say(core, STEPS[6:])
    outputs = [await first, *[output async for output in stream]] if joins != FINAL else [await first]
    await settle()
    assert text_of(outputs, joins) == TEXT
    assert text_of(await leader, leads) == TEXT
    assert len(core.added) == 1
    assert llm.source_counts == {"engine": 1, "joined": 1}
    nothing_left(llm)


async def test_a_thousand_twins_cost_one_generation(make_llm: Make) -> None:
    core = ScriptedCore(lambda request: STEPS, autorun=True)
    llm = make_llm(core)
    kinds = [KINDS[index % 3] for index in range(1000)]
    answers = await asyncio.gather(*(task(llm, f"r{index}", kind) for index, kind in enumerate(kinds)))
    assert {text_of(outputs, kind) for outputs, kind in zip(answers, kinds, strict=True)} == {TEXT}
    assert len(core.added) == 1
    await settle()
    nothing_left(llm)


async def test_parallel_samples_are_joined(make_llm: Make) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    fields = {"n": 3, "temperature": 1.0, "seed": 1}
    readers = [task(llm, f"r{index}", kind, **fields) for index, kind in enumerate((FINAL, DELTA, CUMULATIVE, FINAL))]
    await settle()
    assert len(core.added) == 3
    for step in (Step([97]), Step([98]), Step([EOS], "stop")):
        for request in list(core.added):
            core.say(request, step)
        await settle()
    for reader, kind in zip(readers, (FINAL, DELTA, CUMULATIVE, FINAL), strict=True):
        assert [choice.text for choice in read_all(await reader, kind, 3)] == ["ab"] * 3
    await settle()
    nothing_left(llm)


async def test_different_requests_are_not_joined(make_llm: Make) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    readers = [
        task(llm, "a", text="one"),
        task(llm, "b", text="two"),
        task(llm, "c", text="one", seed=7),
        task(llm, "d", text="one", extra_args={"enhance": "bypass"}),
        task(llm, "e", text="one", extra_args={"enhance": "no-cache"}),
    ]
    await settle()
    assert len(core.added) == 5
    await core.run_all()
    await asyncio.gather(*readers)


async def test_joining_can_be_switched_off(make_llm: Make) -> None:
    core = ScriptedCore()
    llm = make_llm(core, settings={"coalesce": "off"})
    readers = [task(llm, "a"), task(llm, "b")]
    await settle()
    assert len(core.added) == 2
    await core.run_all()
    await asyncio.gather(*readers)


# --------------------------------------------------------------------------- leaving


async def test_the_leader_hangs_up_and_the_others_live_on(make_llm: Make) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    leader, *others = [task(llm, f"r{index}", kind) for index, kind in enumerate((DELTA, *KINDS))]
    await settle()
    await say(core, STEPS[:3])
    leader.cancel()
    await settle()
    assert core.aborted == []
    await say(core, STEPS[3:])
    assert [text_of(await each, kind) for each, kind in zip(others, KINDS, strict=True)] == [TEXT] * 3
    await settle()
    nothing_left(llm)


async def test_the_last_to_leave_ends_the_engine_request_once(make_llm: Make) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    readers = [task(llm, f"r{index}") for index in range(3)]
    await settle()
    await say(core, STEPS[:3])
    for reader in readers:
        assert core.aborted == []
        reader.cancel()
        await settle()
    assert core.aborted == [core.added[0].request_id]
    nothing_left(llm)
    again = task(llm, "again")
    await settle()
    assert len(core.added) == 2
    await say(core, STEPS)
    assert text_of(await again, DELTA) == TEXT


async def test_a_caller_who_closes_the_stream_leaves(make_llm: Make) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    stream = llm.generate({"type": "token", "prompt_token_ids": [1], "prompt": "x"}, greedy(), "r")
    first = asyncio.ensure_future(anext(stream))
    await settle()
    await say(core, STEPS[:1])
    await first
    await stream.aclose()
    await settle()
    assert core.aborted == [core.added[0].request_id]
    nothing_left(llm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", [0, 1, 2])
async def test_an_abort_by_name_ends_that_caller_only(make_llm: Make, who: int, kind: RequestOutputKind) -> None:
    """``abort`` with the external id, as the server's routes call it; the leader is number 0."""
    core = ScriptedCore()
    llm = make_llm(core)
    readers = [task(llm, f"r{index}", kind) for index in range(3)]
    await settle()
    await say(core, STEPS[:3])
    await llm.abort(f"r{who}")
    await settle()
    assert core.aborted == []
    assert readers[who].done()
    ended = read_all(readers[who].result(), kind)[0]
    assert ended.finish_reason == "abort"
    assert TEXT.startswith(ended.text)
    await say(core, STEPS[3:])
    for index, reader in enumerate(readers):
        if index != who:
            assert text_of(await asyncio.wait_for(reader, 2), kind) == TEXT
    assert read_all(readers[who].result(), kind)[0].finish_reason == "abort"
    await settle()
    nothing_left(llm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_aborts_by_name_of_all_end_the_engine_request(
    make_llm: Make, order: tuple[int, int], kind: RequestOutputKind
) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    readers = [task(llm, f"r{index}", kind) for index in range(2)]
    await settle()
    await say(core, STEPS[:3])
    for who in order:
        await llm.abort(f"r{who}")
        await settle()
    for reader in readers:
        outputs = await asyncio.wait_for(reader, 2)
        assert outputs[-1].finished
        assert outputs[-1].outputs[0].finish_reason == "abort"
    assert core.aborted == [core.added[0].request_id]
    nothing_left(llm)


async def test_an_abort_of_a_request_that_nobody_joined_is_vllms_own(make_llm: Make) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    reader = task(llm, "r")
    await settle()
    await say(core, STEPS[:2])
    await llm.abort(["r", "unknown"])
    outputs = await asyncio.wait_for(reader, 2)
    assert (text_of(outputs, DELTA), outputs[-1].outputs[0].finish_reason) == ("ab", "abort")
    await settle()
    nothing_left(llm)


# --------------------------------------------------------------------------- faults


async def test_a_dead_engine_is_heard_by_each_caller_once(make_llm: Make) -> None:
    core = ScriptedCore()
    llm = make_llm(core)
    readers = [task(llm, f"r{index}", kind) for index, kind in enumerate((*KINDS, *KINDS))]
    await settle()
    await say(core, STEPS[:2])
    core.die(EngineDeadError())
    await settle()
    for reader in readers:
        with pytest.raises(EngineDeadError):
            await asyncio.wait_for(reader, 2)
    assert llm.enhance is not None
    assert llm.enhance.table.num_readers == 0
    assert len(llm.enhance.table) == 0


async def test_a_refused_leader_lets_one_of_those_who_wait_lead(make_llm: Make) -> None:
    core = ScriptedCore(lambda request: STEPS, autorun=True)
    core.gate = asyncio.Event()
    llm = make_llm(core)
    readers = [task(llm, f"r{index}") for index in range(5)]
    await settle()
    core.refusal = RuntimeError("queue full")
    core.gate.set()
    await settle(1)
    core.refusal = None
    results = await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), 2)
    assert [isinstance(each, EngineGenerateError) for each in results].count(True) >= 1
    assert [text_of(each, DELTA) for each in results if isinstance(each, list)] == [TEXT] * (
        5 - [isinstance(each, EngineGenerateError) for each in results].count(True)
    )
    assert len(core.added) == 1


@pytest.mark.parametrize("when", ["before the engine took it", "right after"])
async def test_a_leader_who_leaves_at_admission_leaves_one_generation(make_llm: Make, when: str) -> None:
    core = ScriptedCore(lambda request: STEPS)
    core.gate = asyncio.Event()
    llm = make_llm(core)
    leader, *others = [task(llm, f"r{index}") for index in range(6)]
    await settle()
    if when == "before the engine took it":
        leader.cancel()
        core.gate.set()
    else:
        core.gate.set()
        await asyncio.sleep(0)
        leader.cancel()
    await settle()
    assert len(core.running) == 1
    await core.run_all()
    answers = await asyncio.wait_for(asyncio.gather(*others), 2)
    assert [text_of(each, DELTA) for each in answers] == [TEXT] * 5
    await settle()
    nothing_left(llm)


async def test_a_fault_in_recording_hurts_nobody_but_those_who_joined(
    make_llm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_enhance.engine.tape import Tape

    core = ScriptedCore()
    hook = MemoryHook()
    llm = make_llm(core, [hook])
    readers = [task(llm, f"r{index}") for index in range(3)]
    await settle()
    await say(core, STEPS[:2])
    whole = Tape.ingest

    def broken(self: Any, output: Any, kind: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(Tape, "ingest", broken)
    await say(core, STEPS[2:4])
    monkeypatch.setattr(Tape, "ingest", whole)
    await say(core, STEPS[4:])
    leader, *joined = await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), 2)
    assert text_of(leader, DELTA) == TEXT
    assert all(isinstance(each, EngineGenerateError) for each in joined)
    assert not llm.errored
    assert hook.records == {}
    assert llm.faults == 1  # one bad generation is one fault, however many tokens it has
    await settle()
    nothing_left(llm)


async def test_a_fault_in_our_books_does_not_fail_a_request(make_llm: Make) -> None:
    core = ScriptedCore(lambda request: STEPS, autorun=True)
    llm = make_llm(core, [MemoryHook()])
    assert llm.enhance is not None

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ours")

    llm.enhance.explain.write = broken  # type: ignore[method-assign]
    for name in ("miss", "hit"):
        assert text_of(await asyncio.wait_for(task(llm, name), 2), DELTA) == TEXT
    readers = [task(llm, name, text="other") for name in ("leads", "joins")]
    for reader in readers:
        assert text_of(await asyncio.wait_for(reader, 2), DELTA) == TEXT
    await settle()
    nothing_left(llm)


# --------------------------------------------------------------------------- lookups


async def record_of(make_llm: Make) -> Any:
    """A stored record, made by a generation."""
    hook = MemoryHook()
    llm = make_llm(ScriptedCore(lambda request: [Step(list(b"stored")), Step([EOS], "stop")], autorun=True), [hook])
    await collect(llm, greedy())
    await settle()
    (record,) = hook.records.values()
    return record


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lookup_that_beats_the_engine_wins_for_all(make_llm: Make, kind: RequestOutputKind) -> None:
    record, found = await record_of(make_llm), asyncio.Event()

    async def look() -> Respond:
        await found.wait()
        return Respond(record, source=Source.STORE)

    core = ScriptedCore()
    llm = make_llm(core, [LookupHook(look)])
    readers = [task(llm, f"r{index}", kind) for index in range(4)]
    await settle()
    assert len(core.added) == 1
    found.set()
    for reader in readers:
        assert text_of(await asyncio.wait_for(reader, 2), kind) == "stored"
    await settle()
    assert core.aborted == [core.added[0].request_id]
    assert llm.source_counts == {"store": 1, "joined": 3}
    nothing_left(llm)


async def test_a_lookup_that_comes_after_the_first_token_is_too_late(make_llm: Make) -> None:
    record, found, stopped = await record_of(make_llm), asyncio.Event(), []

    async def look() -> Respond:
        try:
            await found.wait()
        except asyncio.CancelledError:
            stopped.append(True)
            raise
        return Respond(record, source=Source.STORE)

    core = ScriptedCore()
    llm = make_llm(core, [LookupHook(look)])
    reader = task(llm, "r")
    await settle()
    await say(core, STEPS[:1])
    found.set()
    await settle()
    assert stopped == [True]
    await say(core, STEPS[1:])
    assert text_of(await reader, DELTA) == TEXT
    assert llm.source_counts == {"engine": 1}
    await settle()
    nothing_left(llm)


async def _raise() -> Any:
    raise RuntimeError("store down")


async def _nonsense() -> Any:
    return "an answer"


async def _empty() -> Any:
    return Respond()


async def _no_record() -> Any:
    return Respond("not a record")  # type: ignore[arg-type]


async def _cancelled() -> Any:
    raise asyncio.CancelledError


def _plain() -> Any:
    return None


async def _hang() -> Any:
    await asyncio.Event().wait()


async def _deaf() -> Any:
    """Hangs and does not hear that it shall stop."""
    for _ in range(50):
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            continue


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("look", [_raise, _nonsense, _empty, _no_record, _cancelled, _plain, _hang, _deaf])
async def test_a_bad_lookup_costs_the_request_nothing_but_its_deadline(
    make_llm: Make, look: Callable[[], Any], blocking: bool, caplog: pytest.LogCaptureFixture
) -> None:
    core = ScriptedCore()
    llm = make_llm(core, [LookupHook(look, blocking=blocking)])
    readers = [task(llm, f"r{index}") for index in range(3)]
    started = asyncio.get_running_loop().time()
    while not core.added:
        await asyncio.sleep(0.005)
        assert asyncio.get_running_loop().time() - started < 0.5
    await settle()
    await say(core, STEPS)
    for reader in readers:
        assert text_of(await asyncio.wait_for(reader, 2), DELTA) == TEXT
    assert len(core.added) == 1
    assert sum(llm.source_counts.values()) == 3
    await settle()
    if look is _deaf:
        for _ in range(600):  # it ends by itself; nothing of ours waits for it meanwhile
            if len(asyncio.all_tasks()) <= 2:
                break
            await asyncio.sleep(0.01)
    nothing_left(llm)
    assert "never retrieved" not in caplog.text


async def test_a_damaged_record_in_a_lookup_never_becomes_part_of_an_answer(make_llm: Make) -> None:
    import msgspec

    from vllm_enhance.records import LogprobColumns

    record = await record_of(make_llm)
    columns = LogprobColumns([1, 1], [5], [0.0], [1], [None])
    damaged = msgspec.structs.replace(record, choices=(msgspec.structs.replace(record.choices[0], logprobs=columns),))

    async def look() -> Respond:
        return Respond(damaged, source=Source.STORE)

    core = ScriptedCore()
    hook = MemoryHook()
    llm = make_llm(core, [LookupHook(look), hook])
    readers = [task(llm, "leads"), task(llm, "joins", CUMULATIVE)]
    await settle()
    await say(core, STEPS)
    assert text_of(await asyncio.wait_for(readers[0], 2), DELTA) == TEXT
    assert text_of(await asyncio.wait_for(readers[1], 2), CUMULATIVE) == TEXT
    await settle()
    assert [each.choices[0].text for each in hook.records.values()] == [TEXT]
    nothing_left(llm)


async def test_a_blocking_lookup_with_many_waiting_is_asked_once(make_llm: Make) -> None:
    """Those who wait for a leader that a lookup has answered must not queue for the store one after the other."""
    record, asked = await record_of(make_llm), []

    async def look() -> Respond:
        asked.append(1)
        await asyncio.sleep(0.01)
        return Respond(record, source=Source.STORE)

    core = ScriptedCore()
    llm = make_llm(core, [LookupHook(look, blocking=True)])
    answers = await asyncio.gather(*(task(llm, f"r{index}") for index in range(50)))
    assert {text_of(each, DELTA) for each in answers} == {"stored"}
    assert core.added == []
    assert len(asked) == 1
    await settle()
    nothing_left(llm)


async def test_the_first_answer_of_several_lookups_counts(make_llm: Make) -> None:
    record = await record_of(make_llm)

    async def quick() -> Respond:
        return Respond(record, source=Source.STORE)

    core = ScriptedCore()
    llm = make_llm(core, [LookupHook(_hang, blocking=True), LookupHook(_raise), LookupHook(quick)])
    assert text_of(await asyncio.wait_for(task(llm, "r"), 2), DELTA) == "stored"
    await settle()
    nothing_left(llm)


# --------------------------------------------------------------------------- replays


@pytest.mark.parametrize("kind", KINDS)
async def test_a_replay_can_be_aborted_and_abandoned(make_llm: Make, kind: RequestOutputKind) -> None:
    long = [Step(list(b"word ")) for _ in range(100)]
    llm = make_llm(ScriptedCore(lambda request: [*long, Step([EOS], "stop")], autorun=True), [MemoryHook()])
    await collect(llm, greedy(kind, max_tokens=1000))
    await settle()
    prompt = {"type": "token", "prompt_token_ids": list(b"hello"), "prompt": "hello"}
    for name in ("abandoned", "aborted", "read"):
        stream = llm.generate(prompt, greedy(kind, max_tokens=1000), name)
        first = await anext(stream)
        if name == "aborted" and kind != FINAL:
            await llm.abort(name)
            rest = [output async for output in stream]
            assert rest[-1].outputs[0].finish_reason == "abort"
        elif name == "read":
            outputs = [first, *[output async for output in stream]]
            assert text_of(outputs, kind) == "word " * 100
        await stream.aclose()
    await settle()
    assert llm.source_counts == {"engine": 1, "memory": 3}
    nothing_left(llm)


async def test_a_twin_right_after_the_end_finds_the_generation_or_its_record(make_llm: Make) -> None:
    """The last output reaches the caller before the record is stored: there is no moment in between."""
    core = ScriptedCore(lambda request: STEPS, autorun=True)
    llm = make_llm(core, [MemoryHook()])
    for index in range(5):
        assert text_of(await collect(llm, greedy(KINDS[index % 3]), request_id=f"r{index}"), KINDS[index % 3]) == TEXT
    assert len(core.added) == 1
    await settle()
    nothing_left(llm)


async def test_a_long_replay_lets_others_run(make_llm: Make) -> None:
    long = [Step(list(b"word " * 20)) for _ in range(20)]
    llm = make_llm(ScriptedCore(lambda request: [*long, Step([EOS], "stop")], autorun=True), [MemoryHook()])
    await collect(llm, greedy(max_tokens=3000))
    turns, reading = 0, task(llm, "r", max_tokens=3000)
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 20


async def test_no_generation_outlives_its_callers(make_llm: Make) -> None:
    core = ScriptedCore(lambda request: STEPS, autorun=True)
    llm = make_llm(core, [MemoryHook()])
    for index in range(20):
        readers = [task(llm, f"{index}-{who}", text=f"question {index}") for who in range(3)]
        await settle(4)
        readers[0].cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    await settle()
    nothing_left(llm)
    del readers
    core.added.clear()
    gc.collect()
    assert [each for each in gc.get_objects() if type(each) is Generation] == []


async def test_hooks_are_stopped_after_the_plugin_stood_aside(make_llm: Make) -> None:
    from vllm_enhance.hookspecs import hookimpl

    class Hook(MemoryHook):
        stopped = 0

        @hookimpl
        async def shutdown(self) -> None:
            self.stopped += 1

    hook = Hook()
    llm = make_llm(ScriptedCore(lambda request: STEPS, autorun=True), [hook])
    await collect(llm, greedy())
    assert llm.enhance is not None
    for _ in range(30):
        llm.enhance.fault("test", RuntimeError("ours"))
    assert not llm.enhance.active
    assert text_of(await asyncio.wait_for(task(llm, "plain"), 2), DELTA) == TEXT
    await llm.enhance.stop()
    assert hook.stopped == 1
    await llm.enhance.stop()
    assert hook.stopped == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "token", "prompt_token_ids": [-1], "prompt": "x"},
        {"type": "token", "prompt_token_ids": [2**40], "prompt": "x"},
    ],
)
async def test_a_clients_nonsense_is_no_fault_of_ours(make_llm: Make, bad: Any) -> None:
    """Else anybody could switch the plugin off with 21 requests."""
    llm = make_llm(ScriptedCore(lambda request: STEPS, autorun=True))
    for index in range(25):
        with contextlib.suppress(EngineGenerateError):  # vLLM's own refusal
            assert [output async for output in llm.generate(bad, greedy(), f"r{index}")]
    assert llm.enhance is not None
    assert llm.enhance.active
    assert llm.faults == 0


async def test_a_deeply_nested_argument_is_no_fault_of_ours(make_llm: Make) -> None:
    nested: Any = []
    for _ in range(900):
        nested = [nested]
    llm = make_llm(ScriptedCore(lambda request: STEPS, autorun=True))
    for index in range(25):
        with contextlib.suppress(EngineGenerateError):
            assert await collect(llm, greedy(extra_args={"x": nested}), request_id=f"r{index}")
    assert llm.enhance is not None
    assert llm.enhance.active
    assert llm.faults == 0


@pytest.mark.parametrize("blocking", [None, False, True], ids=["at once", "hedged", "blocking"])
@pytest.mark.parametrize(
    "fields",
    [{"logprobs": 1}, {"prompt_logprobs": 1}, {"n": 2, "temperature": 1.0}],
    ids=lambda fields: next(iter(fields)),
)
async def test_an_answer_that_lacks_what_was_asked_for_is_a_miss(
    make_llm: Make, fields: dict[str, Any], blocking: bool | None
) -> None:
    """A hook's own record: servers index the logprobs they asked for, and would fail. Nor does it end the plugin."""
    from vllm_enhance.hookspecs import hookimpl

    record = await record_of(make_llm)

    async def look() -> Respond:
        return Respond(record)

    class Hook:
        @hookimpl(inline=True)
        def pre_request(self, request: Any) -> Respond:
            return Respond(record)

    core = ScriptedCore(lambda request: STEPS, autorun=True)
    llm = make_llm(core, [Hook() if blocking is None else LookupHook(look, blocking=blocking)])
    n = fields.get("n", 1)
    for index in range(25):
        outputs = await collect(llm, greedy(**fields), request_id=f"r{index}")
        assert [choice.text for choice in read_all(outputs, DELTA, n)] == [TEXT] * n
    assert llm.enhance is not None
    assert llm.enhance.active
    await settle()
    nothing_left(llm)
