"""Each fault of a real Redis, under traffic: nobody fails, nobody waits longer than a deadline, hits come back."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from vllm_enhance_cache.envelope import Envelope
from vllm_enhance_cache.stores.sqlite import SqliteStore

from vllm_enhance.stores import EntryTags

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    """The script that makes the table of docs/reliability.md: what it measures is asserted here."""
    spec = importlib.util.spec_from_file_location("store_faults", ROOT / "benchmarks" / "store_faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


faults = _load()


@pytest.mark.redis
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
async def test_nobody_notices(fault: object, tmp_path: Path) -> None:
    seen = await faults.observe(fault, tmp_path, seconds=1.0, deadline="50ms")
    assert seen.failed == 0
    assert seen.requests > 50
    # One deadline of 50 ms, and room for a busy machine: what the event loop itself stood still.
    assert seen.longest_delay_ms < 100 + 2 * seen.longest_stall_ms
    assert seen.median_delay_ms < 50
    assert seen.hits_before > 0.8
    assert seen.hits_after > 0.8
    assert seen.back_after_s < 10
    assert seen.log_lines <= 8
    if fault.reads_go_on:  # type: ignore[attr-defined]
        assert seen.hits_during > 0.8


# --------------------------------------------------------------------------- SQLite and kill -9

WRITER = """
import asyncio, sys
sys.path[:0] = {paths!r}
from cache_support import key_of, record_of
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.envelope import Envelope
from vllm_enhance_cache.stores.sqlite import SqliteStore

async def main(path, start):
    store, envelope = SqliteStore(path), Envelope("k")
    number = start
    while True:
        record = record_of("x" * (number % 5000), created_at=2e9)
        entry = Entry(key_of(number), record, b"", "m", 2e9, 3e9)
        await store.put(entry.key, envelope.seal(entry), ttl=1e9, tags=entry.tags)
        print(number, flush=True)
        number += 1

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_kill_9_while_writing_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    """Set ENHANCE_TEST_KILLS=200 for the long form."""
    path = tmp_path / "store.db"
    paths = [str(ROOT), str(ROOT / "hooks" / "cache"), str(Path(__file__).parent)]
    committed: list[int] = []
    for turn in range(int(os.environ.get("ENHANCE_TEST_KILLS", "10"))):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER.format(paths=paths), str(path), str(turn * 10_000)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        time.sleep(0.003 * (turn % 17))
        process.kill()
        lines += process.stdout.read().split(b"\n")
        process.wait()
        process.stdout.close()
        committed += [int(line) for line in lines if line.strip()]
    store, envelope = SqliteStore(path), Envelope("k")
    for number in committed:
        key = number.to_bytes(32, "big")
        value = await store.get(key)
        assert value is not None, "it was committed"
        assert envelope.open(value, key=key, tenant=b"", now=2e9).record.choices[0].text == "x" * (number % 5000)
    async for key, value in store.scan():
        assert envelope.open(value, key=key, tenant=b"", now=2e9).key == key
    await store.put(b"\xff" * 32, b"v", ttl=60, tags=EntryTags())
    await store.close()
    assert len(committed) >= 30
