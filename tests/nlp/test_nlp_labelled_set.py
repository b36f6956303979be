"""The labelled questions: their form, and the goals on both splits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from vllm_enhance_nlp.types import Sense

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nlp_benchmark", ROOT / "benchmarks" / "nlp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def items(language: str) -> list[dict[str, Any]]:
    lines = (ROOT / "benchmarks" / "data" / f"nlp_{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_set_is_well_formed(language: str) -> None:
    labelled = items(language)
    assert len(labelled) == 200
    assert len({item["text"] for item in labelled}) == 200
    assert [item["id"] for item in labelled] == [f"{language}-{number:03d}" for number in range(1, 201)]
    for number, item in enumerate(labelled, 1):
        assert item["split"] == ("held" if number % 4 == 0 else "dev")
        assert item["lang"] == language
        assert {one["sense"] for one in item["connectives"]} <= set(get_args(Sense))
        assert all(clause in item["text"] for clause in item["clauses"])


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("split", ["dev", "held"])
@pytest.mark.parametrize(("task", "goal"), [("connectives", 0.95), ("sub_questions", 0.90)])
def test_goals_are_met(bench: ModuleType, language: str, split: str, task: str, goal: float) -> None:
    figures, _ = bench.score(task, bench.load(bench.DATA, language, split))
    assert figures["f1"] >= goal


def test_the_score_can_fail(bench: ModuleType) -> None:
    item = {**items("en")[0], "sub_questions": ["Something else?"], "connectives": []}
    assert bench.score("sub_questions", [item])[0]["f1"] == 0.0
    assert bench.score("connectives", [item])[0]["precision"] == 0.0
