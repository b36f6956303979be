"""An event loop in a thread for engines that several tests share, and the engine with other settings for a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torch, while it is imported
    import vllm.v1.engine.async_llm  # noqa: F401

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


@contextlib.contextmanager
def engine_environment() -> Iterator[LoopOfItsOwn]:
    """Variables for a small engine, a loop; vLLM is as it was afterwards."""
    from vllm_enhance.engine import patches
    from vllm_enhance.engine.state import STATE

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
        STATE.settings = None


@contextlib.asynccontextmanager
async def equipped(llm: Any, **arguments: Any) -> AsyncIterator[Any]:
    """The engine with other settings and hooks for a while, as its constructor would equip it."""
    from vllm_enhance.engine.activation import make_runtime
    from vllm_enhance.engine.api import assembly_of

    before = llm.enhance
    llm.enhance = make_runtime(llm, {}, assembly_of(arguments))
    await llm.enhance.start()
    try:
        yield llm
    finally:
        await llm.enhance.stop()
        llm.enhance = before
