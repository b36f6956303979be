"""One real engine for all tests of a module, on an event loop of its own thread."""

from __future__ import annotations

import gc
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from api_support import LoopOfItsOwn

ROOT = Path(__file__).resolve().parent.parent.parent


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


@pytest.fixture(scope="module")
def own(tiny_model: Path) -> Iterator[LoopOfItsOwn]:
    """A loop, and the environment that a small engine needs."""
    from api_support import engine_environment

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with engine_environment() as loop:
            yield loop
        gc.collect()  # sockets that vLLM leaves to the collector warn; here nobody minds


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
