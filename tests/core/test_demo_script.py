"""What ``make demo`` runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_script"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("header", "source"),
    [
        ("vllm-enhance; hit; ttl=3541; detail=exact", "stored answer"),
        ("vllm-enhance; hit; ttl=3541; detail=similar", "similar question"),
        ("vllm-enhance; fwd=miss; stored", "engine"),
        ("vllm-enhance; fwd=miss; collapsed", "joined"),
        ("vllm-enhance; fwd=bypass; detail=sampled", "engine"),
        (None, "engine (no Cache-Status)"),
    ],
)
def test_sources_are_read_from_the_header(demo: ModuleType, header: str | None, source: str) -> None:
    assert demo.read_source(header) == source


def test_metrics_are_summed_over_their_samples(demo: ModuleType) -> None:
    text = '# HELP a_total A.\na_total{x="1"} 2.0\na_total{x="2"} 3.5\na_total_other 9\na_created 1.7e9\nb 1\n'
    assert demo.metric(text, "a_total") == 5.5
    assert demo.metric(text, "b") == 1.0
    assert demo.metric(text, "absent") == 0.0


@pytest.mark.engine
def test_the_demo_serves_asks_and_stops() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--max-tokens", "64"], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    answered = {line[2:45].strip(): line[46:83].strip() for line in lines if re.search(r"\d ms ", line)}
    assert answered["a question"] == "engine"
    assert answered["the same question"] == "stored answer"
    assert answered["the same question, streamed"] == "stored answer"
    assert answered["the same, Cache-Control: no-cache"] == "engine"
    assert "1 engine" in answered["100 callers with one other question at once"]
    assert "  99 of 100 concurrent callers cost the engine nothing." in lines
    assert lines[-1] == "The server is stopped."


def test_a_model_that_is_not_there_ends_in_a_sentence(tmp_path: Path) -> None:
    """The engine itself says what is wrong; the demo shows its last lines and stops."""
    missing = tmp_path / "no-such-model"
    missing.mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", str(missing)], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 1
    assert "error: vllm serve ended with code" in done.stderr
    assert not done.stderr.startswith("Traceback")
