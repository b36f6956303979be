"""Out of one store, into another."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard
from cache_support import key_of, record_of
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.envelope import Envelope
from vllm_enhance_cache.stores.memory import MemoryStore
from vllm_enhance_cache.transfer import Tally, export_entries, import_entries, warm

from vllm_enhance.errors import ConfigurationError, StoreError
from vllm_enhance.stores import EntryTags, Store
from vllm_enhance.types import InvalidationScope

TENANT = b"t" * 16


async def filled(envelope: Envelope, count: int, ttl: float = 1000.0) -> MemoryStore:
    store, now = MemoryStore(), time.time()
    for number in range(count):
        entry = Entry(key_of(number), record_of(f"answer {number}"), TENANT, "m", now, now + ttl)
        await store.put(entry.key, envelope.seal(entry), ttl=ttl, tags=entry.tags)
    return store


async def test_a_round_trip_under_another_key(tmp_path: Path) -> None:
    ours, theirs = Envelope("ours"), Envelope("theirs")
    source, path = await filled(ours, 2500), tmp_path / "a.jsonl.zst"
    told: list[int] = []
    assert await export_entries(source, ours, path, progress=lambda t: told.append(t.done)) == Tally(done=2500)
    assert told == [1000, 2000, 2500]
    target = MemoryStore()
    assert await import_entries(target, theirs, path) == Tally(done=2500)
    value = await target.get(key_of(77))
    assert value is not None
    entry = theirs.open(value, key=key_of(77), tenant=TENANT, now=time.time())
    assert entry.record.choices[0].text == "answer 77"
    assert await target.clear(InvalidationScope("tenant", TENANT.hex(), dry_run=True)) == 2500


async def test_an_import_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    envelope, path = Envelope(), tmp_path / "a.jsonl.zst"
    await export_entries(await filled(envelope, 100), envelope, path)

    class Failing(MemoryStore):
        puts = 0

        async def put(self, key: bytes, value: bytes, *, ttl: float, tags: EntryTags) -> None:
            self.puts += 1
            if self.puts == 40:
                raise StoreError("memory", "gone")
            await super().put(key, value, ttl=ttl, tags=tags)

    target = Failing()
    with pytest.raises(StoreError):
        await import_entries(target, envelope, path)
    assert await import_entries(target, envelope, path) == Tally(done=61, skipped=39)


async def test_what_is_forgotten_foreign_or_over_is_not_exported(tmp_path: Path) -> None:
    envelope, path = Envelope("k"), tmp_path / "a.jsonl.zst"
    store = await filled(envelope, 10)
    await store.put(key_of(50), b"noise", ttl=60, tags=EntryTags())
    await store.forget(InvalidationScope("key", key_of(3).hex()))
    assert await export_entries(store, envelope, path) == Tally(done=9, skipped=2)
    assert await export_entries(store, Envelope("another"), path) == Tally(skipped=11)


async def test_an_imported_entry_belongs_to_now(tmp_path: Path) -> None:
    """A store that was flushed takes an import made after the flush."""
    envelope, path = Envelope(), tmp_path / "a.jsonl.zst"
    await export_entries(await filled(envelope, 3), envelope, path)
    target = MemoryStore()
    await target.forget(InvalidationScope("all"))
    assert (await import_entries(target, envelope, path)).done == 3
    assert (await import_entries(target, envelope, path)).skipped == 3
    await target.forget(InvalidationScope("all"))
    assert (await import_entries(target, envelope, path)).done == 3, "what lies behind the horizon counts as absent"


async def test_times_to_live(tmp_path: Path) -> None:
    envelope, path = Envelope(), tmp_path / "a.jsonl.zst"
    await export_entries(await filled(envelope, 3, ttl=100.0), envelope, path)
    later = time.time() + 200
    assert await import_entries(MemoryStore(), envelope, path, clock=lambda: later) == Tally(skipped=3)
    assert await import_entries(MemoryStore(), envelope, path, ttl=50.0, clock=lambda: later) == Tally(done=3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text",
        zstandard.compress(b"not json\n"),
        zstandard.compress(b'{"format": "other"}\n'),
        zstandard.compress(b'{"format": "vllm-enhance-export", "version": 2}\n'),
        zstandard.compress(b"\xff\xfe\n"),
    ],
)
async def test_what_is_no_export_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"a\.jsonl\.zst"):
        await import_entries(MemoryStore(), Envelope(), path)


async def test_bad_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    envelope, path = Envelope(), tmp_path / "a.jsonl.zst"
    await export_entries(await filled(envelope, 2), envelope, path)
    good = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode().splitlines()
    entry = json.loads(good[1])
    bad = [
        "{",
        "[]",
        "{}",
        json.dumps({**entry, "key": "00"}),
        json.dumps({**entry, "record": "!!"}),
        json.dumps({**entry, "record": "AAAA"}),
        json.dumps({**entry, "tenant": "00"}),
        json.dumps({**entry, "created_at": None}),
    ]
    path.write_bytes(zstandard.compress("\n".join([good[0], *bad, *good[1:2], good[-1]]).encode()))
    assert await import_entries(MemoryStore(), envelope, path) == Tally(done=1, failed=len(bad))


async def test_a_cut_export_says_so_and_gives_what_it_has(tmp_path: Path) -> None:
    envelope, path = Envelope(), tmp_path / "a.jsonl.zst"
    await export_entries(await filled(envelope, 3000), envelope, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    target = MemoryStore()
    with pytest.raises(ConfigurationError, match="cut short"):
        await import_entries(target, envelope, path)
    assert 0 < ((await target.stats()).entries or 0) < 3000


async def test_an_export_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    envelope, path = Envelope(), tmp_path / "a.jsonl.zst"
    await export_entries(await filled(envelope, 1), envelope, path)
    before = path.read_bytes()

    class Failing(MemoryStore):
        async def scan(self) -> AsyncIterator[tuple[bytes, bytes]]:
            raise StoreError("memory", "gone")
            yield b"", b""

    store: Store = Failing()
    with pytest.raises(StoreError):
        await export_entries(store, envelope, path)
    assert path.read_bytes() == before


async def test_warm_up_resumes(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    asked: list[str] = []
    trouble = {"q3"}

    async def ask(line: str) -> None:
        if line in trouble:
            raise OSError("refused")
        asked.append(line)

    async def questions() -> AsyncIterator[str]:
        for number in range(6):
            yield f"q{number}" if number != 5 else " "

    assert await warm(questions(), ask, journal, concurrency=2) == Tally(done=4, skipped=1, failed=1)
    trouble.clear()
    assert await warm(questions(), ask, journal) == Tally(done=1, skipped=5)
    assert sorted(asked) == ["q0", "q1", "q2", "q3", "q4"]
