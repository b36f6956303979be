"""Requests leave nothing to the garbage collector: its long pauses would be ours."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine_support import DELTA, FINAL, LookupHook, MemoryHook, ScriptedCore, ScriptedLLM, collect, greedy, settle

from vllm_enhance.types import Respond, Source

MakeLLM = Callable[..., ScriptedLLM]


@pytest.fixture
def nothing_collected() -> Iterator[Callable[[], Counter[str]]]:
    """A function that says what only the garbage collector could free."""
    gc.collect()
    gc.disable()

    def found() -> Counter[str]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = Counter(type(each).__name__ for each in gc.garbage)
        gc.set_debug(0)
        gc.garbage.clear()
        return kinds

    yield found
    gc.set_debug(0)
    gc.enable()


@pytest.mark.parametrize("kind", [DELTA, FINAL])
async def test_misses_hits_and_joined_requests(
    make_llm: MakeLLM, nothing_collected: Callable[[], Counter[str]], kind: Any
) -> None:
    llm = make_llm(ScriptedCore(autorun=True), [MemoryHook()])

    async def ask(text: str) -> None:
        await collect(llm, greedy(kind), text)

    await ask("warm")
    await settle()
    await ask("warm")
    await settle()
    nothing_collected()
    for index in range(20):
        await ask(f"question {index}")
        await settle()
        await ask(f"question {index}")
        await asyncio.gather(*(ask(f"together {index}") for _ in range(5)))
    await settle()
    assert llm.source_counts["memory"] >= 20
    assert llm.source_counts["joined"] >= 20
    assert nothing_collected() == Counter()


async def test_answers_that_overtake_the_engine(
    make_llm: MakeLLM, nothing_collected: Callable[[], Counter[str]]
) -> None:
    memory = MemoryHook()
    llm = make_llm(ScriptedCore(autorun=True), [memory])
    await collect(llm, greedy(), "hello")
    await settle()
    (record,) = memory.records.values()

    async def found() -> Respond:
        return Respond(record, source=Source.STORE)

    other = make_llm(ScriptedCore(), [LookupHook(found)])
    await collect(other, greedy(), "hello")
    nothing_collected()
    for index in range(20):
        await collect(other, greedy(), f"hello {index}")
    await settle()
    assert other.source_counts == {"store": 21}
    assert nothing_collected() == Counter()
