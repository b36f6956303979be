"""What the pages tell an operator to type exists."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer.main

from vllm_enhance.cli import GROUP, build
from vllm_enhance.plugins import load_plugins

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> dict[str, set[str]]:
    """Options by command."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    group = typer.main.get_command(build([EntryPoint(name, value, GROUP) for name, value in declared.items()]))
    return {
        name: {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_docs_exist(page: Path) -> None:
    known = commands()
    text = page.read_text(encoding="utf-8")
    for block in [*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), *re.findall(r"`(vllm-enhance [^`\n]+)`", text)]:
        for line in block.splitlines():
            found = re.search(r"(?:^|\s)vllm-enhance (\w+)(.*)$", line.split("#")[0])
            if found is None:
                continue
            name, rest = found.group(1), found.group(2).partition(" -- ")[0]
            assert name in known, line
            assert set(re.findall(r"(--[a-z-]+)", rest)) <= known[name], line


@pytest.mark.parametrize("page", ["operating.md", "tuning.md"])
def test_flags_in_the_operators_pages_exist(page: str) -> None:
    declared = {
        setting.flag for setting in load_plugins(["cache", "nlp", "similarity", "traffic-log"]).settings_table()
    }
    named = set(re.findall(r"--enhance-[a-z-]+[a-z]", (ROOT / "docs" / page).read_text(encoding="utf-8")))
    assert named
    assert named <= declared


def test_every_command_is_told_of() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in commands() if f"vllm-enhance {name}" not in text] == []


def test_every_command_prints_json_for_scripts() -> None:
    assert [name for name, options in commands().items() if "--json" not in options] == []
