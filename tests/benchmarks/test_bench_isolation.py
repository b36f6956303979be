"""The benchmarks of isolation and of the event loop find what they look for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import isolation
import loop
import pytest


@pytest.fixture
def arguments(minilm: str) -> SimpleNamespace:
    return SimpleNamespace(trials=640, seed=7, embedding_model=minilm, rate=50.0, seconds=3.0, policy="threshold")


def test_no_leak_where_there_is_none(arguments: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "FLUSH_EVERY", 160)
    monkeypatch.setattr(isolation, "HEARD_AFTER", 5.0)  # a busy machine may be late
    result = asyncio.run(isolation.measured(arguments))
    assert result["hits"] > 100
    assert result["flushes"] == 4
    assert result["worlds"] == result["partitions"]
    assert (result["cross_world"], result["cross_tenant"], result["forgotten"]) == (0, 0, 0)
    assert all(side["added"] > 0 for side in result["received"]), "entries cross between the processes"


def test_a_partition_that_leaves_something_out_is_found(
    arguments: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = isolation.key_of

    def forgetful(world: Any, text: str) -> Any:
        key = original(world, text)
        parts = tuple(part for part in key.parts if part[0] not in ("sampling", "salt"))
        return type(key)(key.digest, parts)

    monkeypatch.setattr(isolation, "key_of", forgetful)
    result = asyncio.run(isolation.measured(arguments))
    assert result["cross_world"] > 0
    assert result["cross_tenant"] == 0, "the tenant is looked at once more when it is served"
    assert result["partitions"] < result["worlds"]


def test_a_flush_that_forgets_nothing_is_found(arguments: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: isolation.Side, scope: Any) -> None:
        pass

    monkeypatch.setattr(isolation, "FLUSH_EVERY", 64)
    monkeypatch.setattr(isolation.Side, "forget", nothing)
    result = asyncio.run(isolation.measured(arguments))
    assert result["flushes"] == 10
    assert result["forgotten"] > 0


def test_a_slow_callback_is_found_and_named(
    arguments: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(self: Any, text: str) -> Any:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return original(self, text)

    original = loop.Traffic.generated
    monkeypatch.setattr(loop.Traffic, "generated", busy)
    monkeypatch.setattr(asyncio.events.Handle, "_run", asyncio.events.Handle._run)  # put back at the end
    result = asyncio.run(loop.measured(arguments, str(tmp_path)))
    assert result["cpu_over_1_ms"] > 0
    assert "Traffic.request" in {each["callback"].removeprefix("task ") for each in result["who"]}
    assert sum(result["answered_from"].values()) > 50
