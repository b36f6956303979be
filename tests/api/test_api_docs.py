"""The demonstrations and every Python snippet of the guides run."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from api_support import ROOT, LoopOfItsOwn
from vllm import SamplingParams

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def snippets(name: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


async def execute(code: str, names: dict[str, Any]) -> dict[str, Any]:
    compiled = compile(code, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)
    if inspect.isawaitable(result):
        await result
    return names


def test_the_five_demonstrations(
    own: LoopOfItsOwn, handler: Any, usage: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for demonstrate in usage.DEMONSTRATIONS.values():
        own.run(demonstrate(handler))
    shown = capsys.readouterr().out
    assert "asks: What is TCP?" in shown
    assert "100 answers" in shown
    assert "healthy:" in shown


@pytest.mark.parametrize("code", [code for code in snippets("migration_guide.md") if "URL" not in code])
def test_migration_snippets_on_the_engine(own: LoopOfItsOwn, handler: Any, code: str) -> None:
    names = {"handler": handler, "engine": handler.llm, "SamplingParams": SamplingParams}
    assert own.run(execute(code, names))["text"]


@pytest.mark.parametrize("code", [code for code in snippets("migration_guide.md") if "URL" in code])
def test_migration_snippets_over_http(own: LoopOfItsOwn, enhance_server: Any, code: str) -> None:
    names = own.run(execute(code, {"URL": f"{enhance_server.base_url.removesuffix('/v1')}/v1"}))
    assert "hit" in names["status"] if "status" in names else names["answer"].choices[0].finish_reason


@pytest.mark.parametrize("code", snippets("python-api.md"))
def test_snippets_of_the_python_api(own: LoopOfItsOwn, tiny_model: Path, code: str) -> None:
    names = own.run(execute(code, {"MODEL": str(tiny_model)}), 240)
    assert names
