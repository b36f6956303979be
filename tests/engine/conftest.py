from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from engine_support import ScriptedLLM, patches


@pytest.fixture(autouse=True)
def collector_in_place() -> Iterator[None]:
    """The collector's patch, and nothing else, so that plain vLLM can run beside ours."""
    import vllm.v1.engine.async_llm as module

    from vllm_enhance.engine.collector import EnhancedRequestOutputCollector

    original, module.RequestOutputCollector = module.RequestOutputCollector, EnhancedRequestOutputCollector
    yield
    module.RequestOutputCollector = original
    assert not [patch for patch in patches.PATCHES if patch.target in patches.STATE.applied and not patch.always]


@pytest.fixture
async def make_llm() -> AsyncIterator[Callable[..., ScriptedLLM]]:
    """Makes scripted clients and closes them; no task may be left then."""
    made: list[ScriptedLLM] = []
    before = asyncio.all_tasks()

    def make(*args: Any, **kwargs: Any) -> ScriptedLLM:
        made.append(ScriptedLLM(*args, **kwargs))
        return made[-1]

    yield make
    for llm in made:
        llm.engine_core.shutdown()
        await llm.close()
    for _ in range(10):
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task() and not task.done()]
    assert not left, left
