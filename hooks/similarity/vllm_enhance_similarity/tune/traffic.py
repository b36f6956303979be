"""Recorded traffic, as read from JSON lines.

A line is one of

- ``{"text": ..., "label": ...?, "answer": ...?}``: a question; equal labels, or else equal answers, mean that one
  answer fits both;
- a request body of the OpenAI API (``messages`` or ``prompt``), alone or under ``body`` or ``request``: the last user
  text is the question, all the rest is what must match exactly;
- ``{"a": ..., "b": ..., "same": 0 or 1}``: a judged pair; all ``a`` are stored first and all ``b`` are asked;
- a line of the server's own traffic log (``"event"``, see `vllm_enhance.traffic_log`): its requests are the stream,
  and its verdicts and feedback judge pairs.

Files may be gzipped. A directory is a traffic log: all its files, in the order of time.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from vllm_enhance.errors import ConfigurationError

__all__ = ["Judgements", "Traffic", "open_text", "read_judgements", "read_traffic"]

EVENTS = frozenset({"request", "verdict", "feedback"})

MAX_PROBLEMS = 0.1
"""Share of unreadable lines above which the file is refused."""


@dataclass(slots=True)
class Judgements:
    """Pairs of texts that somebody judged: does one answer fit both?"""

    pairs: dict[tuple[str, str], bool] = field(default_factory=dict)

    def add(self, a: str, b: str, same: bool) -> None:
        self.pairs[min(a, b), max(a, b)] = same

    def verdict(self, a: str, b: str) -> bool | None:
        return self.pairs.get((min(a, b), max(a, b)))


@dataclass(slots=True)
class Traffic:
    """Questions in the order in which they were asked.

    Attributes:
        texts: distinct (partition, question) as question; `asked` and `stored` index into it.
        partitions: of each text: what must match exactly.
        labels: of each text, or ``None`` where nobody said.
        asked: the stream, repeats included.
        stored: texts whose answers are there from the start.
        rows: of each text, the first line that held it, counted without unreadable ones.
        judged: verdicts on pairs.
        lines: requests read; pairs count as one.
        skipped: lines that could not be read.
    """

    texts: list[str] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    judged: Judgements = field(default_factory=Judgements)
    lines: int = 0
    skipped: int = 0
    _reused: dict[str, tuple[str, str]] = field(default_factory=dict)
    _numbers: dict[tuple[int, str], int] = field(default_factory=dict)
    _partitions: dict[str, int] = field(default_factory=dict)

    def number(self, text: str, partition: str, label: str | None) -> int:
        """The text's number, new or known."""
        place = self._partitions.setdefault(partition, len(self._partitions))
        found = self._numbers.setdefault((place, text), len(self.texts))
        if found == len(self.texts):
            self.texts.append(text)
            self.partitions.append(place)
            self.labels.append(label)
            self.rows.append(self.lines)
        elif label is not None and self.labels[found] is None:
            self.labels[found] = label
        return found

    def take_event(self, row: Mapping[str, Any]) -> None:
        """Take over what a line of the server's log says of pairs."""
        similar, verdict = row.get("similar"), row.get("verdict")
        if row["event"] == "verdict":
            if isinstance(row.get("asked"), str) and isinstance(row.get("stored"), str):
                self.judged.add(row["asked"].strip(), row["stored"].strip(), bool(row.get("same")))
        elif row["event"] == "feedback":
            pair = self._reused.get(str(row.get("key")))
            if pair is not None and verdict in ("wrong", "right"):
                self.judged.add(*pair, verdict == "right")
        elif row.get("source") == "similar" and isinstance(similar, dict) and isinstance(similar.get("question"), str):
            self._reused[str(row.get("key"))] = (_question_text(row), similar["question"].strip())

    def truth(self, one: int, other: int) -> bool | None:
        """Whether one answer fits both texts, or ``None`` when nobody knows."""
        verdict = self.judged.verdict(self.texts[one], self.texts[other])
        if verdict is not None:
            return verdict
        mine, theirs = self.labels[one], self.labels[other]
        return None if mine is None or theirs is None else mine == theirs


def open_text(path: Path) -> TextIO:
    """Open for reading, gzip or not."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")


def read_traffic(paths: Iterable[Path], *, limit: int = 0) -> Traffic:
    """Read files one after the other.

    Args:
        limit: at most this many lines; 0 reads all.

    Raises:
        ConfigurationError: a file cannot be read, or holds hardly a line of a known form.
    """
    traffic = Traffic()
    asked: list[int] = []
    for row in _rows(paths, traffic):
        if limit and traffic.lines >= limit:
            break
        if row.get("event") in EVENTS:
            traffic.take_event(row)
            if row["event"] != "request" or not _question_text(row):
                continue  # a request in which nothing may vary is none of similarity's
        if "a" in row and "b" in row:
            a, b = str(row["a"]), str(row["b"])
            traffic.judged.add(a, b, bool(int(row.get("same", 0))))
            traffic.stored.append(traffic.number(a, "", None))
            asked.append(traffic.number(b, "", None))
        else:
            text, partition, label = _question(row)
            asked.append(traffic.number(text, partition, label))
        traffic.lines += 1
    traffic.asked = asked
    if not asked or traffic.skipped > MAX_PROBLEMS * (traffic.lines + traffic.skipped):
        raise ConfigurationError(
            f"{traffic.skipped} of {traffic.lines + traffic.skipped} lines hold no question; a line is JSON with "
            '"text", or "messages", or "prompt", or the pair "a", "b", "same", or of the server\'s own traffic log'
        )
    return traffic


def read_judgements(path: Path) -> Judgements:
    """Verdicts of an earlier labelling; none when there is no such file yet."""
    found = Judgements()
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                row = json.loads(line)
                found.add(str(row["a"]), str(row["b"]), bool(row["same"]))
    return found


def _rows(paths: Iterable[Path], traffic: Traffic) -> Iterator[Mapping[str, Any]]:
    for path in paths:
        if path.is_dir():
            files = sorted(each for each in path.iterdir() if each.name.endswith((".jsonl", ".jsonl.gz")))
            if not files:
                raise ConfigurationError(f"{path} holds no traffic log: no file in it ends in .jsonl or .jsonl.gz")
            rows = [row for file in files for row in _rows_of(file, traffic)]
            yield from sorted(rows, key=lambda row: float(row.get("at") or 0.0))
        else:
            yield from _rows_of(path, traffic)


def _rows_of(path: Path, traffic: Traffic) -> Iterator[Mapping[str, Any]]:
    try:
        with open_text(path) as lines:
            for line in lines:
                if not line.strip():
                    continue
                row = _parsed(line)
                if row is None:
                    traffic.skipped += 1
                else:
                    yield row
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _parsed(line: str) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    if row.get("event") in EVENTS:
        return row if isinstance(row.get("at", 0.0), int | float) else None
    if isinstance(row.get("a"), str) and isinstance(row.get("b"), str):
        return row
    return row if _question_text(_body(row)) else None


def _body(row: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = row.get("body", row.get("request"))
    return inner if isinstance(inner, dict) else row


def _question_text(body: Mapping[str, Any]) -> str:
    for name in ("text", "prompt"):
        if isinstance(body.get(name), str):
            return str(body[name]).strip()
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return ""
    content = messages[-1].get("content")
    return content.strip() if messages[-1].get("role") == "user" and isinstance(content, str) else ""


DELIVERY = frozenset({"stream", "stream_options", "user", "request_id", "metadata", "priority", "cache_salt"})


def _question(row: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """Question, what must match exactly, label."""
    if row.get("event") == "request":
        return _question_text(row), str(row.get("partition")), None
    body = _body(row)
    label = row.get("label")
    if label is None and isinstance(row.get("answer"), str):
        label = " ".join(row["answer"].casefold().split())
    rest: dict[str, Any] = {}
    if "text" not in body:
        rest = {
            name: value for name, value in body.items() if name not in DELIVERY and name not in ("messages", "prompt")
        }
        rest["history"] = body.get("messages", [])[:-1]
    partition = hashlib.blake2b(json.dumps(rest, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
    return _question_text(body), partition if rest else "", None if label is None else str(label)
