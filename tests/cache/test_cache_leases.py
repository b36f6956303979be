"""One leader among processes, and what the others do meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from cache_support import key_of
from vllm_enhance_cache.leases import Lease, wait_for_value
from vllm_enhance_cache.stores import open_store
from vllm_enhance_cache.stores.memory import MemoryStore

from vllm_enhance.stores import EntryTags, Store

KEY = key_of(1)


async def test_a_hundred_ask_and_one_generates(tmp_path: Path) -> None:
    stores = [open_store(f"sqlite://{tmp_path}/store.db") for _ in range(4)]
    generated = 0

    async def answer(store: Store) -> bytes:
        nonlocal generated
        while True:
            lease = await Lease.acquire(store, KEY, seconds=1.0)
            if lease is not None:
                found = await store.get(KEY)
                if found is None:
                    generated += 1
                    await asyncio.sleep(0.05)
                    await store.put(KEY, b"the answer", ttl=60, tags=EntryTags())
                await lease.release()
            value = await wait_for_value(store, KEY, 5.0)
            if value is not None:
                return value

    answers = await asyncio.gather(*(answer(stores[n % 4]) for n in range(100)))
    assert answers == [b"the answer"] * 100
    assert generated == 1
    for store in stores:
        await store.close()


async def test_a_lease_is_renewed_while_it_is_held() -> None:
    store = MemoryStore()
    lease = await Lease.acquire(store, KEY, seconds=0.15)
    assert lease is not None
    await asyncio.sleep(0.4)
    assert await Lease.acquire(store, KEY) is None
    await lease.release()
    assert not await store.leased(KEY)
    assert not lease.lost


async def test_a_dead_leader_is_replaced_when_its_lease_lapses(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/store.db")
    assert await store.lease(KEY, b"dead", 0.3)
    started = time.monotonic()
    assert await wait_for_value(store, KEY, 5.0) is None
    assert time.monotonic() - started < 3.0, "the lease of 0.3 s, not the five that one would wait"
    lease = await Lease.acquire(store, KEY)
    assert lease is not None
    await lease.release()
    await store.close()


async def test_a_leader_that_may_not_store_frees_the_waiters() -> None:
    store = MemoryStore()
    lease = await Lease.acquire(store, KEY, seconds=30.0)
    assert lease is not None
    waiting = asyncio.ensure_future(wait_for_value(store, KEY, 5.0))
    await asyncio.sleep(0.05)
    await lease.release()
    assert await asyncio.wait_for(waiting, 1.0) is None


async def test_waiting_ends() -> None:
    store = MemoryStore()
    await store.lease(KEY, b"slow", 60.0)
    started = time.monotonic()
    assert await wait_for_value(store, KEY, 0.2) is None
    assert time.monotonic() - started < 0.5
