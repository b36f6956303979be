"""What the cache's tiers cost. Prints JSON; microseconds unless said otherwise.

The memory tier alone; a SQLite store of 100,000 entries, restart included; Redis against a bare ``redis-py`` GET of the
same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.envelope import Envelope
from vllm_enhance_cache.lru import LRUCache
from vllm_enhance_cache.meters import StoreMeter
from vllm_enhance_cache.shared import SharedTier
from vllm_enhance_cache.stores import open_store

from vllm_enhance.records import ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.stores import Store
from vllm_enhance.testing.redis import RedisServer

Sample = list[float]


def quantiles(sample: Sample) -> dict[str, float]:
    """Median and 99th percentile in microseconds."""
    cuts = statistics.quantiles(sample, n=100)
    return {"p50": round(1e6 * cuts[49], 2), "p99": round(1e6 * cuts[98], 2)}


def entry_of(number: int, tokens: int = 500) -> Entry:
    """An answer of ``tokens`` tokens that does not compress too well."""
    source = random.Random(number)
    ids = pack_token_ids(source.randrange(150_000) for _ in range(tokens))
    text = " ".join(source.choice(WORDS) for _ in range(tokens))
    now = time.time()
    record = GenerationRecord(1, (ChoiceRecord(ids, text, "stop"),), prompt_tokens=3, created_at=now)
    return Entry(number.to_bytes(32, "big"), record, b"", "m", now, now + 1e6)


WORDS = [f"word{number}" for number in range(2000)]


def memory(entries: int) -> dict[str, Any]:
    """Lookup and put in a full memory tier: each put evicts one."""
    cache, shared = LRUCache(2**40, entries), entry_of(0).record
    now = time.time()

    def light(number: int) -> Entry:
        return Entry(number.to_bytes(32, "big"), shared, b"", "m", now, now + 1e6)

    for number in range(entries):
        cache.put(light(number), now)
    order = random.sample(range(entries), min(entries, 50_000))
    keys, more = [n.to_bytes(32, "big") for n in order], [light(entries + n) for n in range(50_000)]
    return {
        "entries": entries,
        "lookup": quantiles(_timed(lambda key: cache.get(key, now), keys)),
        "put": quantiles(_timed(lambda entry: cache.put(entry, now), more)),
    }


def _timed(call: Callable[[Any], object], arguments: list[Any]) -> Sample:
    sample = []
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        sample.append(time.perf_counter() - started)
    return sample


async def _timed_async(call: Callable[[Any], Awaitable[object]], arguments: list[Any]) -> Sample:
    sample = []
    for argument in arguments:
        started = time.perf_counter()
        assert await call(argument) is not None
        sample.append(time.perf_counter() - started)
    return sample


async def sqlite(entries: int, folder: Path) -> dict[str, Any]:
    """Fill, restart, first hit, then lookups."""
    url, envelope = f"sqlite://{folder}/store.db", Envelope("k")
    store = open_store(url, max_bytes=2**40)
    template = [envelope.seal(entry_of(number)) for number in range(64)]
    tags = entry_of(0).tags
    started = time.perf_counter()
    for start in range(0, entries, 500):
        batch = range(start, min(entries, start + 500))
        await asyncio.gather(*(store.put(n.to_bytes(32, "big"), template[n % 64], ttl=1e6, tags=tags) for n in batch))
    filled = time.perf_counter() - started
    await store.close()
    started = time.perf_counter()
    store = open_store(url, max_bytes=2**40)
    assert await store.get((entries // 2).to_bytes(32, "big")) is not None
    first = time.perf_counter() - started
    keys = [random.randrange(entries).to_bytes(32, "big") for _ in range(5000)]
    lookups = await _timed_async(store.get, keys)
    stats = await store.stats()
    await store.close()
    return {
        "entries": entries,
        "bytes": stats.nbytes,
        "put_per_s": round(entries / filled),
        "restart_to_first_hit_ms": round(1000 * first, 1),
        "lookup": quantiles(lookups),
    }


async def redis(folder: Path) -> dict[str, Any]:
    """The same value by a bare client, by the store, and by the whole shared tier with deadline and check."""
    import redis.asyncio

    server = RedisServer(folder).start()
    try:
        entry, envelope = entry_of(1), Envelope("k")
        value = envelope.seal(entry)
        store: Store = open_store(server.url)
        await store.put(entry.key, value, ttl=1000, tags=entry.tags)
        tier = SharedTier(store, envelope, StoreMeter(), deadline=1.0)
        await tier.start()
        samples: dict[str, Sample] = {"bare": [], "store": [], "tier": []}
        async with redis.asyncio.Redis(port=server.port) as bare:
            await bare.set("bare", value)
            calls: dict[str, Callable[[Any], Awaitable[object]]] = {
                "bare": lambda _: bare.get("bare"),
                "store": lambda _: store.get(entry.key),
                "tier": lambda _: tier.fetch(entry.key, b""),
            }
            for _ in range(20):  # by turns, so that a busy moment hits all three
                for name, call in calls.items():
                    samples[name] += await _timed_async(call, [None] * 200)
        await tier.close()
    finally:
        server.stop()
    found: dict[str, Any] = {name: quantiles(sample) for name, sample in samples.items()}
    found["value_bytes"] = len(value)
    found["tier_over_bare"] = round(found["tier"]["p50"] / found["bare"]["p50"], 2)
    return found


def envelope_cost() -> dict[str, Any]:
    """Seal and open one answer of 500 tokens."""
    envelope, entry = Envelope("k"), entry_of(1)
    value = envelope.seal(entry)
    return {
        "bytes": len(value),
        "seal": quantiles(_timed(envelope.seal, [entry] * 2000)),
        "open": quantiles(_timed(lambda data: envelope.open(data, key=entry.key, tenant=b"", now=0.0), [value] * 2000)),
    }


async def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = {
            "memory": memory(arguments.entries),
            "envelope": envelope_cost(),
            "sqlite": await sqlite(arguments.entries, Path(folder)),
            "redis": await redis(Path(folder) / "redis"),
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--folder", help="where to put the SQLite file; a temporary folder by default")
    asyncio.run(main(parser.parse_args()))
