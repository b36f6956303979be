"""The built wheel: what is in it, what is not, and that it works without the sources and without extras."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vllm_enhance", "vllm_enhance_cache", "vllm_enhance_nlp", "vllm_enhance_similarity")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that no build output lands beside the sources."""
    scratch = tmp_path_factory.mktemp("wheel")
    source = scratch / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("vllm_enhance", "hooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    built = subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(scratch), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(scratch.glob("vllm_enhance-*.whl")))


def test_nothing_but_our_packages_reaches_site_packages(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_every_source_file_is_in_it(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for package in PACKAGES:
        home = ROOT if package == "vllm_enhance" else ROOT / "hooks" / package.removeprefix("vllm_enhance_")
        for path in (home / package).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert path.relative_to(home).as_posix() in names


def test_the_entry_points_are_those_of_the_project(wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    for group, points in {"console_scripts": project["scripts"], **project["entry-points"]}.items():
        section = text.split(f"[{group}]")[1].split("[")[0]
        for point, value in points.items():
            assert f"{point} = {value}" in section


def test_every_entry_point_leads_to_something_in_it(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for points in (project["scripts"], *project["entry-points"].values()):
        for value in points.values():
            module = value.partition(":")[0].replace(".", "/")
            assert {f"{module}.py", f"{module}/__init__.py"} & names, value


def test_it_works_by_itself_and_without_extras(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Only what the core declares may be needed to import it and to load the hook packages."""
    wheel.extractall(tmp_path)
    code = f"""
import sys

class Absent:
    names = {("vllm", "torch", "numpy", "nltk", "jieba", "redis", "hnswlib", "sentence_transformers", "zstandard")!r}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, {str(tmp_path)!r})
import vllm_enhance, vllm_enhance.plugin
from vllm_enhance.plugins import load_plugins
assert vllm_enhance.__file__.startswith({str(tmp_path)!r}), vllm_enhance.__file__
vllm_enhance.plugin.register()
plugins = load_plugins(("cache", "nlp", "similarity"))
print(plugins.broken, len(plugins.settings_table()) > 20)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "{} True"), done.stderr
