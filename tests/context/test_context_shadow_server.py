"""Shadow mode on a real server: everything is looked up and reported, nothing is served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from context_support import RULES, chat, explain, note, post, running, status, store

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def url(tiny_model: Path, minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    arguments = ["--enhance-similarity-mode", "shadow", "--enhance-compose", "on", "--enhance-lookup", "blocking"]
    with running(tiny_model, minilm, tmp_path_factory.mktemp("shadow"), arguments) as found:
        yield found


def test_a_similar_question_is_seen_and_not_served(url: str) -> None:
    store(url, chat("What is the capital of Norway?", RULES))
    answer = post(url, chat("what's Norway's capital?", RULES))
    assert status(answer).startswith("fwd=miss")
    assert "x-enhance-similarity" not in answer.headers
    found = explain(url, answer.json()["id"])
    assert note(found, "similarity") == "reuse: accepted"
    assert found["similar"][0]["similarity"] > 0.85


def test_nothing_is_composed(url: str) -> None:
    for part in ("What is a violin?", "Who plays the violin?"):
        store(url, chat(part))
    answer = post(url, chat("What is a violin and who plays the violin?"))
    assert status(answer).startswith("fwd=miss")
    assert note(explain(url, answer.json()["id"])) == "none"
