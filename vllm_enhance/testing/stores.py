"""The suite that every shared store passes, ours and third parties'.

A store's own test is a subclass that says how to open it::

    class TestMyStore(StoreContract):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[Store]:
            store = MyStore(...)
            yield store
            await store.close()

The tests are coroutines; run them with pytest-asyncio. :mod:`vllm_enhance.testing.store_machine` is the same idea for
hypothesis: random operations against a dict.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import pytest

from vllm_enhance.errors import DirectiveError
from vllm_enhance.stores import EntryTags, Horizon, LogLimits, Store
from vllm_enhance.types import InvalidationScope

__all__ = ["ALICE", "BOB", "StoreContract", "store_key"]

T = TypeVar("T")

LIMITS = LogLimits(messages=1000, nbytes=2**20, ttl=60.0)
ALL = InvalidationScope("all")
ALICE, BOB = b"a" * 16, b"b" * 16


def store_key(number: int) -> bytes:
    """A 32-byte key for tests."""
    return number.to_bytes(32, "big")


def _tags(tenant: bytes = b"", model: str = "m", age: float = 0.0) -> EntryTags:
    return EntryTags(tenant, model, time.time() - age)


@pytest.mark.asyncio
class StoreContract:
    """What a store does, as tests.

    Attributes:
        keeps: ``False`` for a store that by design keeps nothing.
        shared: whether two stores opened at once see the same entries; then :meth:`open` is entered twice.
        ttl: seconds an entry of the expiry tests lives; the tests wait a little longer.
    """

    keeps = True
    shared = False
    ttl = 0.15

    def open(self) -> AbstractAsyncContextManager[Store]:
        """A store, empty at the first entry within a test; closed at exit."""
        raise NotImplementedError

    def value_of(self, text: bytes, key: bytes, tags: EntryTags) -> bytes:
        """Bytes to store. A store that reads tags out of the value overrides this to put them there."""
        return text

    async def put(self, store: Store, number: int, text: bytes = b"v", *, ttl: float = 60.0, **tags: Any) -> bytes:
        """Store ``text`` under key ``number``; the value as it must come back."""
        key, its_tags = store_key(number), _tags(**tags)
        value = self.value_of(text, key, its_tags)
        await store.put(key, value, ttl=ttl, tags=its_tags)
        return value

    # ------------------------------------------------------------------ entries

    async def test_absent_is_none(self) -> None:
        async with self.open() as store:
            assert await store.get(store_key(1)) is None
            assert await store.delete(store_key(1)) is False

    async def test_what_is_put_comes_back_byte_for_byte(self) -> None:
        async with self.open() as store:
            for text in (b"", b"\x00\xff" * 500, secrets.token_bytes(300_000)):
                value = await self.put(store, 1, text)
                assert await store.get(store_key(1)) == (value if self.keeps else None)

    async def test_the_latest_put_wins(self) -> None:
        async with self.open() as store:
            await self.put(store, 1, b"old")
            value = await self.put(store, 1, b"new")
            assert await store.get(store_key(1)) == (value if self.keeps else None)

    async def test_deleted_is_gone(self) -> None:
        async with self.open() as store:
            await self.put(store, 1)
            assert await store.delete(store_key(1)) is self.keeps
            assert await store.get(store_key(1)) is None

    async def test_an_entry_ends_by_itself(self) -> None:
        async with self.open() as store:
            await self.put(store, 1, ttl=self.ttl)
            await self.put(store, 2, ttl=60.0)
            await asyncio.sleep(self.ttl * 1.5)
            assert await store.get(store_key(1)) is None
            assert await store.delete(store_key(1)) is False
            assert await store.clear(InvalidationScope("all", dry_run=True)) == (1 if self.keeps else 0)

    async def test_many_at_once(self) -> None:
        async with self.open() as store:
            values = await asyncio.gather(*(self.put(store, n, b"%d" % n) for n in range(100)))
            found = await asyncio.gather(*(store.get(store_key(n)) for n in range(100)))
            assert found == (values if self.keeps else [None] * 100)

    async def test_a_cancelled_call_harms_no_other(self) -> None:
        async with self.open() as store:
            values = [await self.put(store, n, b"%d" % n * 1000) for n in range(20)]
            for wait in (0.0, 0.0001, 0.0005):
                doomed = [asyncio.ensure_future(store.get(store_key(n))) for n in range(20)]
                await asyncio.sleep(wait)
                for task in doomed:
                    task.cancel()
                await asyncio.gather(*doomed, return_exceptions=True)
                found = [await store.get(store_key(n)) for n in range(20)]
                assert found == (values if self.keeps else [None] * 20)

    async def test_scan_shows_each_entry_once(self) -> None:
        async with self.open() as store:
            expected = {store_key(n): await self.put(store, n) for n in range(150)}
            pairs = [pair async for pair in store.scan()]
            assert len(pairs) == len(dict(pairs))
            assert dict(pairs) == (expected if self.keeps else {})

    # ------------------------------------------------------------------ forgetting

    @pytest.mark.parametrize(
        ("kind", "value", "numbers"),
        [
            ("all", None, {1, 2, 3}),
            ("key", store_key(2).hex(), {2}),
            ("tenant", BOB.hex(), {2, 3}),
            ("model", "m", {1, 2}),
            ("age", "50", {1, 2}),
            ("tenant", (b"c" * 16).hex(), set()),
        ],
    )
    async def test_clear_drops_what_it_counts(self, kind: str, value: str | None, numbers: set[int]) -> None:
        async with self.open() as store:
            await self.put(store, 1, tenant=ALICE, model="m", age=100.0)
            await self.put(store, 2, tenant=BOB, model="m", age=100.0)
            await self.put(store, 3, tenant=BOB, model="other")
            expected = len(numbers) if self.keeps else 0
            assert await store.clear(InvalidationScope(kind, value, dry_run=True)) == expected
            assert await store.clear(InvalidationScope(kind, value)) == expected
            assert await store.clear(InvalidationScope(kind, value)) == 0
            for number in (1, 2, 3):
                assert (await store.get(store_key(number)) is not None) == (self.keeps and number not in numbers)

    async def test_clear_of_many(self) -> None:
        async with self.open() as store:
            await asyncio.gather(*(self.put(store, n) for n in range(1300)))
            assert await store.clear(ALL) == (1300 if self.keeps else 0)

    async def test_clear_refuses_nonsense(self) -> None:
        if not self.keeps:
            pytest.skip("keeps nothing, so any scope is empty")
        async with self.open() as store:
            for scope in (InvalidationScope("key", "xyz"), InvalidationScope("moon"), InvalidationScope("age", "old")):
                with pytest.raises(DirectiveError):
                    await store.clear(scope)

    async def test_the_horizon_moves_forward(self) -> None:
        async with self.open() as store:
            before = await store.horizon()
            assert before == Horizon()
            for kind, value in (("tenant", BOB.hex()), ("model", "m"), ("key", store_key(7).hex()), ("age", "10")):
                moved = await store.forget(InvalidationScope(kind, value))
                assert await store.horizon() == moved
            if not self.keeps:
                return
            assert moved.generation == 4
            now = time.time()
            assert not moved.admits(0, store_key(1), EntryTags(BOB, "x", now))
            assert moved.admits(1, store_key(1), EntryTags(BOB, "x", now))
            assert not moved.admits(1, store_key(1), EntryTags(ALICE, "m", now))
            assert not moved.admits(2, store_key(7), EntryTags(ALICE, "x", now))
            assert not moved.admits(4, store_key(1), EntryTags(ALICE, "x", now - 11))
            assert moved.admits(0, store_key(1), EntryTags(ALICE, "x", now))
            assert not (await store.forget(ALL)).admits(4, store_key(1), EntryTags(ALICE, "x", now))

    async def test_concurrent_flushes_are_all_remembered(self) -> None:
        if not self.keeps:
            pytest.skip("keeps nothing")
        async with self.open() as store:
            await asyncio.gather(*(store.forget(InvalidationScope("key", store_key(n).hex())) for n in range(40)))
            horizon = await store.horizon()
            assert horizon.generation == 40
            assert sorted(horizon.keys.values()) == list(range(1, 41))

    async def test_a_store_that_lost_its_memory_is_told(self) -> None:
        if not self.keeps:
            pytest.skip("keeps nothing")
        async with self.open() as store:
            await store.forget(InvalidationScope("model", "m"))
            remembered = Horizon(9, 3, {BOB: 7}, {}, {store_key(1): 9}, 123.5)
            merged = await store.restore(remembered)
            assert merged == await store.horizon()
            assert merged == remembered.merge(Horizon(1, models=merged.models))
            assert list(merged.models.values()) == [1]
            assert (await store.forget(ALL)).generation == 10

    async def test_changed_returns_in_time(self) -> None:
        async with self.open() as store:
            started = time.monotonic()
            await store.changed(0.05)
            assert time.monotonic() - started < 0.5

    # ------------------------------------------------------------------ leases

    async def test_one_holder_at_a_time(self) -> None:
        if not self.keeps:
            pytest.skip("keeps nothing")
        async with self.open() as store:
            key = store_key(1)
            assert not await store.leased(key)
            won = await asyncio.gather(*(store.lease(key, b"%d" % n, 60.0) for n in range(20)))
            assert sum(won) == 1
            holder = b"%d" % won.index(True)
            assert await store.leased(key)
            assert await store.lease(key, holder, 60.0)
            assert not await store.renew(key, b"thief", 60.0)
            assert not await store.release(key, b"thief")
            assert await store.renew(key, holder, 60.0)
            assert await store.release(key, holder)
            assert not await store.release(key, holder)
            assert not await store.leased(key)
            assert await store.lease(key, b"next", 60.0)

    async def test_a_lease_lapses(self) -> None:
        if not self.keeps:
            pytest.skip("keeps nothing")
        async with self.open() as store:
            key = store_key(1)
            assert await store.lease(key, b"dead", self.ttl)
            assert not await store.lease(key, b"next", 60.0)
            await asyncio.sleep(self.ttl * 1.5)
            assert not await store.leased(key)
            assert not await store.renew(key, b"dead", 60.0)
            assert await store.lease(key, b"next", 60.0)

    # ------------------------------------------------------------------ logs

    async def read_all(self, store: Store, log: str, after: str = "") -> tuple[list[bytes], str]:
        """Every message behind a position, page by page, and the last position."""
        messages: list[bytes] = []
        while True:
            page = await store.read(log, after, count=7)
            messages, after = [*messages, *page.messages], page.position
            if len(page.messages) < 7:
                return messages, after

    async def test_a_log_is_read_in_order_from_any_position(self) -> None:
        async with self.open() as store:
            assert (await store.read("one")).messages in ((), [])
            said = [b"%d" % number + b"\x00\xff" * 10 for number in range(20)]
            for message in said:
                await store.append("one", message, LIMITS)
            await store.append("other", b"elsewhere", LIMITS)
            messages, position = await self.read_all(store, "one")
            assert messages == (said if self.keeps else [])
            assert await self.read_all(store, "one", position) == ([], position)
            await store.append("one", b"later", LIMITS)
            page = await store.read("one", position)
            assert list(page.messages) == ([b"later"] if self.keeps else [])
            assert (await self.read_all(store, "other"))[0] == ([b"elsewhere"] if self.keeps else [])

    async def test_appends_at_once_are_all_there(self) -> None:
        async with self.open() as store:
            said = [b"%d" % number for number in range(100)]
            await asyncio.gather(*(store.append("log", message, LIMITS) for message in said))
            messages, _ = await self.read_all(store, "log")
            assert sorted(messages) == (sorted(said) if self.keeps else [])

    async def test_a_log_is_bounded_in_messages_and_bytes(self) -> None:
        async with self.open() as store:
            for number in range(50):
                await store.append("few", b"%d" % number, LogLimits(messages=10, nbytes=2**20, ttl=60.0))
                await store.append("small", b"%02d" % number * 500, LogLimits(messages=1000, nbytes=5000, ttl=60.0))
            await store.append("small", b"x" * 9000, LogLimits(messages=1000, nbytes=5000, ttl=60.0))
            few, _ = await self.read_all(store, "few")
            assert few == ([b"%d" % number for number in range(40, 50)] if self.keeps else [])
            small, _ = await self.read_all(store, "small")
            assert small == ([b"x" * 9000] if self.keeps else []), "the newest message always stays"

    async def test_messages_end_by_themselves(self) -> None:
        async with self.open() as store:
            short = LogLimits(messages=1000, nbytes=2**20, ttl=self.ttl)
            await store.append("log", b"old", short)
            _, position = await self.read_all(store, "log")
            await asyncio.sleep(self.ttl * 1.5)
            await store.append("log", b"new", short)
            assert (await self.read_all(store, "log"))[0] == ([b"new"] if self.keeps else [])
            assert (await self.read_all(store, "log", position))[0] == ([b"new"] if self.keeps else [])

    async def test_forgetting_more_than_a_key_empties_the_logs(self) -> None:
        async with self.open() as store:
            await store.append("log", b"kept", LIMITS)
            await store.clear(InvalidationScope("key", store_key(1).hex()))
            await store.clear(InvalidationScope("tenant", ALICE.hex(), dry_run=True))
            messages, position = await self.read_all(store, "log")
            assert messages == ([b"kept"] if self.keeps else [])
            await store.clear(InvalidationScope("tenant", ALICE.hex()))
            assert (await self.read_all(store, "log"))[0] == []
            await store.append("log", b"after", LIMITS)
            assert (await self.read_all(store, "log", position))[0] == ([b"after"] if self.keeps else [])

    # ------------------------------------------------------------------ two at once

    async def test_two_see_the_same(self) -> None:
        if not self.shared:
            pytest.skip("not shared")
        async with self.open() as here, self.open() as there:
            value = await self.put(here, 1)
            assert await there.get(store_key(1)) == value
            assert await here.lease(store_key(1), b"here", 60.0)
            assert not await there.lease(store_key(1), b"there", 60.0)
            moved = await there.forget(ALL)
            assert await here.horizon() == moved
            assert await there.clear(ALL) == 1
            assert await here.get(store_key(1)) is None

    async def test_two_read_one_log(self) -> None:
        if not self.shared:
            pytest.skip("not shared")
        async with self.open() as here, self.open() as there:
            _, position = await self.read_all(there, "log")
            await here.append("log", b"from here", LIMITS)
            await there.append("log", b"from there", LIMITS)
            assert (await self.read_all(there, "log", position))[0] == [b"from here", b"from there"]
            assert (await self.read_all(here, "log"))[0] == [b"from here", b"from there"]

    async def test_a_flush_is_noticed_within_a_second(self) -> None:
        if not self.shared:
            pytest.skip("not shared")
        async with self.open() as here, self.open() as there:
            before = await here.horizon()
            started = time.monotonic()
            await there.forget(ALL)
            while await here.horizon() == before:
                assert time.monotonic() - started < 1.0
                await here.changed(0.25)

    # ------------------------------------------------------------------ the rest

    async def test_stats_are_real(self) -> None:
        async with self.open() as store:
            await asyncio.gather(*(self.put(store, n, b"x" * 100) for n in range(10)))
            stats = await store.stats()
            assert stats.entries in (None, 10 if self.keeps else 0)
            assert stats.nbytes is None or stats.nbytes >= (1000 if self.keeps else 0)

    async def test_close_twice_is_once(self) -> None:
        async with self.open() as store:
            await store.put(store_key(1), b"v", ttl=60.0, tags=_tags())
            await store.close()
            await store.close()
