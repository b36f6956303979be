"""One real engine for all tests of the Python API, on an event loop of its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class LoopOfItsOwn:
    """An event loop in a thread, so that an engine outlives one test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 120.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture(scope="session")
def usage() -> ModuleType:
    """``examples/enhanced_llm_usage.py`` as a module."""
    spec = importlib.util.spec_from_file_location("enhanced_llm_usage", ROOT / "examples" / "enhanced_llm_usage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def engine_environment() -> Iterator[LoopOfItsOwn]:
    """Variables for a small engine, a loop; vLLM is as it was afterwards."""
    from vllm_enhance.engine import patches

    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    loop = LoopOfItsOwn()
    try:
        yield loop
    finally:
        loop.close()
        os.environ.clear()
        os.environ.update(before)
        for patch in patches.PATCHES:
            if not patch.always:
                patch.revert()
        patches.STATE.settings = None


@pytest.fixture(scope="module")
def own(tiny_model: Path) -> Iterator[LoopOfItsOwn]:
    """A loop, and the environment that a small engine needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with engine_environment() as loop:
            yield loop


@pytest.fixture(scope="module")
def handler(own: LoopOfItsOwn, usage: ModuleType, tiny_model: Path) -> Iterator[Any]:
    """A started handler on an engine that the tests of one module share."""
    from vllm_enhance import create_enhanced_system, get_global_factory

    async def make() -> Any:
        made = await create_enhanced_system(*usage.configuration(str(tiny_model)))
        await made.start()
        return made

    yield own.run(make(), 300)
    own.run(get_global_factory().cleanup_all())


@contextlib.asynccontextmanager
async def equipped(llm: Any, **arguments: Any) -> AsyncIterator[Any]:
    """The engine with other settings and hooks for a while, as its constructor would equip it."""
    from vllm_enhance.engine.api import assembly_of
    from vllm_enhance.engine.patches import make_runtime

    before = llm.enhance
    llm.enhance = make_runtime(llm, {}, assembly_of(arguments))
    await llm.enhance.start()
    try:
        yield llm
    finally:
        await llm.enhance.stop()
        llm.enhance = before
