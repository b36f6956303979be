"""The quality benchmark: its protocol, its counting, and what it says to bad input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import quality
from bench_support import run_script


def write(path: Path, rows: list[Any]) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, "utf-8")
    return path


PAIRS = [
    {"a": "How do I boil an egg?", "b": "How can I boil eggs?", "same": 1},
    {"a": "How can I boil eggs?", "b": "How do you boil an egg at home?", "same": 1},
    {"a": "How do I boil an egg?", "b": "How do I fry an egg?", "same": 0},
    {"a": "Who wrote Hamlet?", "b": "Who wrote Hamlet?", "same": 1},
]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz", "zipped_under_another_name.txt"])
def test_pairs_are_warm_entries_and_requests_with_joined_labels(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "pairs.jsonl.gz", PAIRS) if "zipped" in name else write(tmp_path / name, PAIRS)
    data = quality.read_questions(file.rename(tmp_path / name))
    text = data.texts.index
    assert [data.texts[row] for row in data.stored] == list(dict.fromkeys(row["a"] for row in PAIRS))
    assert [data.texts[row] for row in data.asked] == [row["b"] for row in PAIRS]
    assert len({data.labels[text(str(row[side]))] for row in PAIRS[:2] for side in ("a", "b")}) == 1
    assert data.labels[text("How do I fry an egg?")] != data.labels[text("How do I boil an egg?")]
    assert (text("How do I fry an egg?"), text("How do I boil an egg?")) in data.different


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "holds no rows"),
        (["{"], "line 1: this is no JSON"),
        ([{"text": "a", "label": 1}, {"a": "x", "b": "y", "same": 1}], "line 2: a row is"),
        ([{"a": "x", "b": "y"}], "line 1: a row is"),
        ([{"a": "x", "b": 5, "same": 1}], "must hold text"),
        ([{"a": "x", "b": "y", "same": 2}], '"same" is 0 or 1'),
        ([{"text": "a question"}], "measures nothing"),
        (["[1, 2]"], "line 1: a row is"),
    ],
)
def test_bad_input_gets_a_sentence(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        quality.read_questions(write(tmp_path / "bad.jsonl", rows))


def test_a_missing_or_broken_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot be read"):
        quality.read_rows(tmp_path / "none.jsonl")
    whole = write(tmp_path / "cut.jsonl.gz", PAIRS).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match="cannot be read"):
        quality.read_rows(tmp_path / "cut.jsonl.gz")


@pytest.mark.parametrize("policy", ["nothing", "no_such_module:policy", "json:no_such_name"])
def test_an_unknown_policy_gets_a_sentence(policy: str) -> None:
    with pytest.raises(SystemExit, match="module:factory"):
        quality.make_policy(quality.parse(["--data", "x", "--policy", policy]))


@pytest.mark.parametrize(
    "flags", [["--max-error", "0"], ["--threshold", "2"], ["--judge-noise", "0.9"], ["--seeds", "0"]]
)
def test_impossible_settings_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        quality.parse(["--data", "x", *flags])


def test_a_run_counts_repeats_apart_and_is_kept_once(tmp_path: Path) -> None:
    data, kept = write(tmp_path / "pairs.jsonl.gz", PAIRS), tmp_path / "result.json"
    flags = [
        "--data",
        str(data),
        "--threshold",
        "0.99",
        "--seeds",
        "2",
        "--cache-dir",
        str(tmp_path / "kept"),
        "--json",
    ]
    for _ in range(2):
        found = run_script("quality.py", *flags, "--policy", "threshold", "--out", str(kept))
    assert (found["requests"], found["seeds"]) == (4, 2)
    assert found["exact_repeats"] == 0.5  # two of the four asked texts are warm entries
    assert found["hit_rate"] >= 0.5
    assert found["error_rate"] == 0
    assert found["without_repeats"]["hit_rate"] < found["hit_rate"]
    assert found["latency_ms"]["search"]["p50"] > 0
    whole = json.loads(kept.read_text())
    assert [row["measured_at"] for row in whole["rows"]] == [whole["machine"]["measured_at"]]
    assert list((tmp_path / "kept").glob("*.npy"))


def test_tune_is_timed_on_a_made_up_log() -> None:
    found = run_script("tune.py", "--quick", "--labelled", "--workers", "1")
    assert (found["benchmark"], found["requests"]) == ("tune", 1000)
    assert 100 < found["texts"] < 1000
    assert found["settings"] > 3
    assert 0 < found["cpu_seconds"] < 2 * found["wall_seconds"] + 1
    assert found["versions"]["vllm-enhance"]
