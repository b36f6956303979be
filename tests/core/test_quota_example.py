"""The example hook package, installed as its users would, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "quota_hook"


@pytest.fixture(scope="session")
def installed_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip has installed the example; put it on ``PYTHONPATH``."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Setuptools is there already, so nothing needs to be fetched. The sources stay clean: pip builds in a copy.
    source = tmp_path_factory.mktemp("source") / "quota_hook"
    _copy(EXAMPLE, source)
    subprocess.run([*command, "--no-build-isolation", "--target", str(target), str(source)], check=True)
    return target


def _copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())


def run_python(code: str, site: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_found_and_its_settings_become_flags(installed_example: Path) -> None:
    code = """
from vllm_enhance.plugins import load_plugins
plugins = load_plugins()
assert not plugins.broken, plugins.broken
quota = {plugin.name: plugin for plugin in plugins.loaded}["quota"]
print(quota.source, *quota.hooks)
print(*(setting.flag for setting in plugins.settings_table() if setting.section == "Quota"))
print(*(plugin.name for plugin in load_plugins(["quota"]).loaded))
"""
    found, flags, chosen = run_python(code, installed_example).splitlines()
    assert found == "quota-hook 0.1.0 declare_settings post_output pre_request startup stats"
    assert flags.split() == [
        "--enhance-quota-requests-per-minute",
        "--enhance-quota-tokens-per-minute",
        "--enhance-quota-tenants",
    ]
    assert chosen == "quota"


def test_its_own_tests_pass_on_the_installed_package(installed_example: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed_example)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [*command, "--rootdir", str(EXAMPLE), str(EXAMPLE / "tests")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_it_there_is_no_trace_of_it() -> None:
    code = "from vllm_enhance.plugins import load_plugins; print(*(p.name for p in load_plugins().loaded))"
    assert "quota" not in run_python(code, ROOT / "tests" / "core")
