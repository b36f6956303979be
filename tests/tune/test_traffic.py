from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from vllm_enhance_similarity.tune.traffic import read_judgements, read_traffic

from vllm_enhance.errors import ConfigurationError


def written(path: Path, *rows: object) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_plain_questions_with_labels_and_repeats(tmp_path: Path) -> None:
    log = written(tmp_path / "a.jsonl.gz", {"text": "a?", "label": 1}, {"text": "b?", "label": 1}, {"text": "a?"})
    traffic = read_traffic([log])
    assert traffic.texts == ["a?", "b?"]
    assert traffic.asked == [0, 1, 0]
    assert traffic.rows == [0, 1]
    assert traffic.truth(0, 1) is True


def test_equal_answers_are_equal_labels_and_unknown_ones_are_unknown(tmp_path: Path) -> None:
    log = written(
        tmp_path / "a.jsonl",
        {"text": "a?", "answer": "Yes,  it is."},
        {"text": "b?", "answer": "yes, it is."},
        {"text": "c?", "answer": "no"},
        {"text": "d?"},
    )
    traffic = read_traffic([log])
    assert (traffic.truth(0, 1), traffic.truth(0, 2), traffic.truth(0, 3)) == (True, False, None)


def test_what_must_match_exactly_parts_request_bodies(tmp_path: Path) -> None:
    def body(question: str, system: str, **rest: object) -> dict[str, object]:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        return {"model": "m", "messages": messages, **rest}

    log = written(
        tmp_path / "a.jsonl",
        body("hi?", "be kind"),
        {"body": body("hello?", "be kind", stream=True, user="me")},
        {"request": body("hi?", "be rude")},
        body("hi?", "be kind", temperature=0.5),
    )
    traffic = read_traffic([log])
    assert traffic.texts == ["hi?", "hello?", "hi?", "hi?"]
    assert traffic.partitions == [0, 0, 1, 2]


def test_pairs_store_a_and_ask_b(tmp_path: Path) -> None:
    log = written(tmp_path / "p.jsonl", {"a": "x", "b": "y", "same": 1}, {"a": "x", "b": "z", "same": 0})
    traffic = read_traffic([log])
    assert [traffic.texts[i] for i in traffic.stored] == ["x", "x"]
    assert [traffic.texts[i] for i in traffic.asked] == ["y", "z"]
    assert traffic.truth(0, 1) is True
    assert traffic.truth(2, 0) is False
    assert traffic.truth(1, 2) is None


def test_a_few_bad_lines_are_counted_and_many_are_refused(tmp_path: Path) -> None:
    good = [{"text": f"q{i}"} for i in range(30)]
    traffic = read_traffic([written(tmp_path / "a.jsonl", *good, "{not json", {"other": 1}, "[]")])
    assert (len(traffic.asked), traffic.skipped) == (30, 3)
    with pytest.raises(ConfigurationError, match="hold no question"):
        read_traffic([written(tmp_path / "b.jsonl", *good[:3], "{not json")])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_traffic([tmp_path / "missing.jsonl"])


def test_last_message_of_the_assistant_is_no_question(tmp_path: Path) -> None:
    log = written(tmp_path / "a.jsonl", {"messages": [{"role": "assistant", "content": "x"}]})
    with pytest.raises(ConfigurationError):
        read_traffic([log])


def test_judgements_are_symmetric_and_kept(tmp_path: Path) -> None:
    file = written(tmp_path / "labels.jsonl", {"a": "x", "b": "y", "same": 1})
    assert read_judgements(file).verdict("y", "x") is True
    assert read_judgements(tmp_path / "none.jsonl").pairs == {}


def asked(text: str | None, at: float, *, source: str = "engine", key: str = "k", **more: object) -> dict[str, object]:
    return {"event": "request", "at": at, "text": text, "partition": "p", "source": source, "key": key, **more}


def test_the_servers_own_log_is_read_in_the_order_of_time_with_verdicts_and_feedback(tmp_path: Path) -> None:
    similar = {"action": "reuse", "reason": "accepted", "question": "What is a cache?", "similarity": 0.97}
    written(
        tmp_path / "traffic-p0-a.jsonl",
        asked("What is a cache?", 1.0),
        asked("Whats a cache?", 3.0, source="similar", key="k3", similar=similar),
        {"event": "verdict", "at": 4.0, "asked": "what's a cache", "stored": "What is a cache?", "same": True},
        {"event": "feedback", "at": 5.0, "key": "k3", "verdict": "wrong"},
        {"event": "feedback", "at": 5.0, "key": "unknown", "verdict": "wrong"},
    )
    written(
        tmp_path / "traffic-p1-a.jsonl.gz",
        asked("what's a cache", 2.0),
        asked(None, 2.5),
        asked("What is a cache?", 6.0, source="memory"),
    )
    (tmp_path / "notes.txt").write_text("not a log")
    traffic = read_traffic([tmp_path])
    assert traffic.texts == ["What is a cache?", "what's a cache", "Whats a cache?"]
    assert traffic.asked == [0, 1, 2, 0]
    assert traffic.partitions == [0, 0, 0]
    assert (traffic.truth(1, 0), traffic.truth(2, 0), traffic.truth(1, 2)) == (True, False, None)
    assert (traffic.lines, traffic.skipped) == (4, 0)


def test_partitions_of_the_servers_log_stay_apart(tmp_path: Path) -> None:
    log = written(tmp_path / "a.jsonl", asked("x", 1.0), {**asked("x", 2.0), "partition": "other"})
    assert read_traffic([log]).partitions == [0, 1]


def test_a_directory_without_a_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no traffic log"):
        read_traffic([tmp_path])


def test_a_cut_last_line_is_skipped(tmp_path: Path) -> None:
    rows = [json.dumps(asked(f"q{number}", number)) for number in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows) + '\n{"event": "requ')
    traffic = read_traffic([tmp_path])
    assert (len(traffic.asked), traffic.skipped) == (20, 1)
