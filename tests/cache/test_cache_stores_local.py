"""The contract on the stores that need no server."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cache_support import Clock, key_of
from hypothesis import settings
from vllm_enhance_cache.errors import StoreFault
from vllm_enhance_cache.stores.memory import MemoryStore
from vllm_enhance_cache.stores.null import NullStore
from vllm_enhance_cache.stores.sqlite import SqliteStore

from vllm_enhance.errors import ConfigurationError
from vllm_enhance.stores import EntryTags, LogLimits, Store
from vllm_enhance.testing.store_machine import StoreMachine
from vllm_enhance.testing.stores import StoreContract


class TestNullStore(StoreContract):
    keeps = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield NullStore()


class TestMemoryStore(StoreContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        store = MemoryStore()
        yield store
        await store.close()


class TestSqliteStore(StoreContract):
    shared = True

    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "deep" / "store.db"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        store = SqliteStore(self.path)
        yield store
        await store.close()


class MemoryMachine(StoreMachine):
    async def open_store(self) -> Store:
        self.clock = Clock()
        return MemoryStore(clock=self.clock)

    def now(self) -> float:
        return self.clock()

    def advance(self, seconds: float) -> float:
        self.clock.tick(seconds)
        return seconds


class SqliteMachine(MemoryMachine):
    async def open_store(self) -> Store:
        import tempfile

        self.clock = Clock()
        self.folder = tempfile.TemporaryDirectory()
        return SqliteStore(Path(self.folder.name) / "store.db", clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


# --------------------------------------------------------------------------- SQLite's own


async def fill(store: Store, numbers: range, size: int = 10_000, ttl: float = 1e5) -> None:
    for number in numbers:
        await store.put(key_of(number), os.urandom(size), ttl=ttl, tags=EntryTags())


async def test_the_file_is_private_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = SqliteStore(path)
    await fill(first, range(3))
    value = await first.get(key_of(1))
    await first.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = SqliteStore(path)
    assert await second.get(key_of(1)) == value
    await second.close()


async def test_the_least_recently_used_go_when_the_file_is_full(tmp_path: Path) -> None:
    clock = Clock()
    store = SqliteStore(tmp_path / "store.db", max_bytes=600_000, clock=clock)
    await fill(store, range(20))
    for turn in range(60):
        clock.tick(61)
        assert await store.get(key_of(3)) is not None, "in use all the time"
        await fill(store, range(100 + turn, 101 + turn))
    stats = await store.stats()
    assert stats.nbytes is not None
    assert stats.nbytes < 650_000
    assert await store.get(key_of(0)) is None
    assert await store.get(key_of(3)) is not None
    await store.close()


async def test_space_is_given_back(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "store.db"
    store = SqliteStore(path, clock=clock)
    await fill(store, range(300), ttl=1000.0)
    clock.tick(2000)
    await fill(store, range(1000, 1020))
    await store.close()
    assert path.stat().st_size < 2_500_000
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone()[0] == 20
    connection.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be looked at" * 100, b"SQLite format 3\0 torn"]
)
async def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    store = SqliteStore(path)
    with pytest.raises(ConfigurationError, match=r"notes\.txt"):
        await store.get(key_of(1))
    await store.close()
    assert path.read_bytes() == content


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE entries (precious)")
    connection.close()
    store = SqliteStore(path)
    with pytest.raises(ConfigurationError, match="another program"):
        await store.get(key_of(1))
    await store.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await fill(store, range(1))
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    store = SqliteStore(path)
    with pytest.raises(ConfigurationError, match="newer"):
        await store.get(key_of(1))
    await store.close()


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = SqliteStore(tmp_path / "file" / "store.db")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        await store.get(key_of(1))
    await store.close()


async def test_closed_is_closed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await fill(store, range(1))
    await store.close()
    with pytest.raises(StoreFault, match="closed"):
        await store.get(key_of(0))


async def test_the_loop_goes_on_while_another_process_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await fill(store, range(1))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    blocked = asyncio.ensure_future(fill(store, range(1, 2)))
    for _ in range(20):
        started = asyncio.get_running_loop().time()
        assert await store.get(key_of(0)) is not None, "a writer does not stop readers"
        await asyncio.sleep(0.005)
        assert asyncio.get_running_loop().time() - started < 0.25
    assert not blocked.done()
    connection.execute("ROLLBACK")
    connection.close()
    await blocked
    assert await store.get(key_of(1)) is not None
    await store.close()


async def test_a_file_of_an_older_version_gets_the_new_tables(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.put(key_of(1), b"kept", ttl=60.0, tags=EntryTags())
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE logs; PRAGMA user_version = 1")
    connection.close()
    store = SqliteStore(path)
    assert await store.get(key_of(1)) == b"kept"
    await store.append("log", b"said", LogLimits())
    assert (await store.read("log")).messages == [b"said"]
    await store.close()


async def test_a_log_takes_an_eighth_of_the_file_at_most(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db", 2**20)
    for number in range(40):
        await store.append("log", b"%d" % number * 10_000, LogLimits())
    assert sum(map(len, (await store.read("log")).messages)) <= 2**17
    await store.close()
