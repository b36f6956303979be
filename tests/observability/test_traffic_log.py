"""The traffic log: what stands in it, who may read it, how large it grows, and that it harms nobody."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from vllm_enhance.context import HookContext
from vllm_enhance.directives import Directives
from vllm_enhance.metrics import Metrics
from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.segments import BATCH, QUEUE_LIMIT, SegmentWriter
from vllm_enhance.settings import Settings, SettingsTable
from vllm_enhance.traffic_log import MAX_TEXT, SETTINGS, TrafficLogHook
from vllm_enhance.types import (
    SIMILAR_DECISION,
    SIMILAR_VERDICT,
    Outcome,
    Question,
    RequestContext,
    SimilarDecision,
    Source,
    Standby,
)

NOW = 1_700_000_000.25
RECORD = GenerationRecord(RECORD_VERSION, (ChoiceRecord(pack_token_ids(range(5)), "a secret answer", "stop"),), 7, NOW)
GENERATED = Outcome(Source.ENGINE, storable=True, seconds=0.25)


def context(**texts: str) -> HookContext:
    settings = Settings(SettingsTable(SETTINGS), texts, {})
    return HookContext(
        settings=settings, metrics=Metrics(registry=CollectorRegistry()), clock=lambda: NOW, api_process=(1, 2)
    )


def request(text: str | None, **fields: Any) -> RequestContext:
    question = None if text is None else Question(text, b"p" * 16)
    given: dict[str, Any] = {"key": b"k" * 32, "model": "m", "tenant": b"t" * 16} | fields
    return RequestContext("r1", [1, 2, 3], SimpleNamespace(), read_question=lambda: question, **given)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


async def started(folder: Path, **texts: str) -> TrafficLogHook:
    hook = TrafficLogHook()
    assert await hook.startup(context(**{"traffic-log-dir": str(folder), **texts})) is None
    return hook


async def test_off_by_default() -> None:
    hook = TrafficLogHook()
    assert isinstance(await hook.startup(context()), Standby)
    assert hook.health().detail == "off"
    assert hook.stats() == {"enabled": False}
    assert hook.feedback(b"k" * 32, "wrong") == 0
    await hook.shutdown()


async def test_a_request_its_decision_the_verdict_and_feedback(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "traffic"
    hook = await started(folder)
    asked = request("What's a cache?")
    hook.pre_request(asked)
    decision = SimilarDecision("reuse", "accepted", "What is a cache?", 0.96)
    asked.annotations.set(SIMILAR_DECISION, decision)
    hook.post_output(asked, RECORD, GENERATED)
    told = asked.annotations.get(SIMILAR_VERDICT)
    assert told is not None
    told(asked, decision, False)
    hook.feedback(b"k" * 32, "wrong")
    await hook.shutdown()
    whole, verdict, feedback = lines(folder)
    assert whole == {
        "event": "request",
        "at": NOW - 0.25,
        "request_id": "r1",
        "model": "m",
        "tenant": (b"t" * 16).hex(),
        "key": (b"k" * 32).hex(),
        "partition": (b"p" * 16).hex(),
        "text": "What's a cache?",
        "source": "engine",
        "reason": None,
        "seconds": 0.25,
        "prompt_tokens": 3,
        "output_tokens": 5,
        "similar": {"action": "reuse", "reason": "accepted", "question": "What is a cache?", "similarity": 0.96},
    }
    assert (verdict["asked"], verdict["stored"], verdict["same"]) == ("What's a cache?", "What is a cache?", False)
    assert (feedback["key"], feedback["verdict"]) == ((b"k" * 32).hex(), "wrong")
    assert "secret" not in "".join(path.read_text() for path in folder.iterdir())


async def test_only_the_owner_may_read_it_and_the_log_tells_that_text_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "traffic"
    with caplog.at_level("INFO", "vllm_enhance"):
        hook = await started(folder)
    assert str(folder) in caplog.text
    hook.post_output(request("x"), RECORD, GENERATED)
    await hook.shutdown()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "fields",
    [
        {"key": None},
        {"directives": Directives(no_store=True)},
        {"directives": Directives(no_store=True, no_cache=True)},
    ],
)
async def test_what_is_not_logged(tmp_path: Path, fields: dict[str, Any]) -> None:
    hook = await started(tmp_path / "traffic")
    asked = request("do not keep this", **fields)
    hook.pre_request(asked)
    assert SIMILAR_VERDICT not in asked.annotations
    hook.post_output(asked, RECORD, GENERATED)
    await hook.shutdown()
    assert lines(tmp_path / "traffic") == []


async def test_text_that_may_not_vary_or_is_long_is_left_out(tmp_path: Path) -> None:
    hook = await started(tmp_path / "traffic")
    for text in (None, "x" * (MAX_TEXT + 1), "lone \ud800 surrogate\nand a line"):
        hook.post_output(request(text), RECORD, GENERATED)
    await hook.shutdown()
    assert [line["text"] for line in lines(tmp_path / "traffic")] == [None, None, "lone \ud800 surrogate\nand a line"]


async def test_a_question_that_cannot_be_read_costs_its_own_line_only(tmp_path: Path) -> None:
    hook = await started(tmp_path / "traffic")
    broken = request("x")
    broken.read_question = lambda: json.loads("{")
    hook.post_output(broken, RECORD, GENERATED)
    hook.post_output(request("y"), RECORD, GENERATED)
    await hook.shutdown()
    assert [line["text"] for line in lines(tmp_path / "traffic")] == ["y"]


async def test_a_folder_that_cannot_be_made_ends_the_hook_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        await started(tmp_path / "file" / "traffic")


# --------------------------------------------------------------------------- the writer


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_oldest_segments_go(tmp_path: Path) -> None:
    for start in range(3):  # restarts do not make it grow
        writer = SegmentWriter(tmp_path, "traffic-p0", 8000, clock=lambda at=start: NOW + at)
        writer.start()
        for number in range(200):
            while not writer.write(lambda at=(start, number): {"at": at, "pad": "x" * 60}):
                time.sleep(0.01)
        writer.close()
        assert writer.written == 200
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8000
    kept = sorted(line["at"] for line in lines(tmp_path))
    assert kept[-1] == [2, 199]
    assert 50 < len(kept) < 100


def test_another_process_keeps_its_segments(tmp_path: Path) -> None:
    (tmp_path / "traffic-p1-20200101T000000.000Z-aaaa.jsonl").write_text("x" * 9000)
    (tmp_path / "notes.txt").write_text("mine")
    writer = SegmentWriter(tmp_path, "traffic-p0", 8000)
    writer.start()
    writer.close()
    assert {"notes.txt", "traffic-p1-20200101T000000.000Z-aaaa.jsonl"} <= {path.name for path in tmp_path.iterdir()}


def test_a_disk_that_hangs_drops_lines_and_blocks_nobody(tmp_path: Path) -> None:
    go = threading.Event()
    writer = SegmentWriter(tmp_path, "traffic-p0", 8000)
    writer.start()

    def slow() -> dict[str, Any]:
        go.wait(20)
        return {}

    started_at = time.monotonic()
    taken = sum(writer.write(slow) for _ in range(2 * QUEUE_LIMIT))
    assert time.monotonic() - started_at < 5
    assert QUEUE_LIMIT <= taken <= QUEUE_LIMIT + BATCH
    assert writer.dropped == 2 * QUEUE_LIMIT - taken
    go.set()
    until(lambda: writer.written == taken)
    writer.close()


def test_a_folder_that_vanishes_is_told_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "traffic"
    writer = SegmentWriter(folder, "traffic-p0", 800)
    writer.start()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    for _ in range(5):
        writer.write(lambda: {"pad": "x" * 90})
    until(lambda: writer.written + writer.failed == 5)
    assert writer.last_failure == "FileNotFoundError"
    folder.mkdir()
    writer.write(lambda: {"back": 1})
    until(lambda: writer.last_failure == "")
    writer.close()
    assert lines(folder) == [{"back": 1}]
