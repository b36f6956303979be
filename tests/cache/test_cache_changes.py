"""What processes on one store tell each other: logs, states, claims; and what a sick or hostile store makes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import prometheus_client
import pytest
from vllm_enhance_cache.calls import LIMIT_SECONDS
from vllm_enhance_cache.errors import EnvelopeError
from vllm_enhance_cache.options import SETTINGS
from vllm_enhance_cache.plugin import CacheHook
from vllm_enhance_cache.seal import Seal
from vllm_enhance_cache.stores import open_store
from vllm_enhance_cache.stores.memory import MemoryStore

from vllm_enhance.context import HookContext
from vllm_enhance.metrics import Metrics
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable
from vllm_enhance.sharing import MAX_MESSAGE, Message, SharedLog
from vllm_enhance.stores import Horizon, LogLimits, Store
from vllm_enhance.testing.redis import RedisServer
from vllm_enhance.types import InvalidationScope


class Peer:
    """A process: its hook, what it offers to other hooks, its metrics, and what it has heard."""

    def __init__(self, hook: CacheHook, log: SharedLog, metrics: Metrics) -> None:
        self.hook = hook
        self.log = log
        self.metrics = metrics
        self.heard: list[bytes] = []

    async def listen(self, messages: Sequence[Message]) -> None:
        self.heard += [message.payload for message in messages]

    async def hears(self, expected: list[bytes], seconds: float = 10.0) -> float:
        """Seconds until it has heard exactly this."""
        started = time.monotonic()
        while self.heard != expected:
            assert time.monotonic() - started < seconds, (self.heard, expected)
            await asyncio.sleep(0.005)
        return time.monotonic() - started


async def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def peer(store: Store, **settings: str) -> AsyncIterator[Peer]:
    table = SettingsTable((*CORE_SETTINGS, *SETTINGS))
    texts = {name.replace("_", "-"): text for name, text in settings.items()}
    context = HookContext(
        settings=Settings(table, texts, {}), metrics=Metrics(registry=prometheus_client.CollectorRegistry())
    )
    hook = CacheHook(store=store)
    await hook.startup(context)
    assert context.shared is not None
    found = Peer(hook, context.shared, context.metrics)
    found.log.follow("talk", found.listen)
    try:
        yield found
    finally:
        await hook.shutdown()


@asynccontextmanager
async def peers(*stores: Store, **settings: str) -> AsyncIterator[list[Peer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(peer(store, **settings)) for store in stores]


async def test_what_one_says_the_others_hear_in_order_within_a_second(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/store.db"
    async with peers(open_store(url), open_store(url), open_store(url)) as (one, two, three):
        said = [b"%d" % number for number in range(100)]
        for message in said:
            assert one.log.publish("talk", message, ttl=60.0)
        await two.hears(said)
        await three.hears(said)
        assert one.heard == [], "not what it has said itself"
        assert two.metrics.value("vllm_enhance_store_messages", "received") == 100
        assert one.metrics.value("vllm_enhance_store_messages", "sent") == 100
        assert two.metrics.value("vllm_enhance_store_lag_seconds_count") > 0
        assert one.log.stats()["sent"] == 100
    async with peer(open_store(url)) as late:
        await late.hears(said)
        assert late.metrics.value("vllm_enhance_store_lag_seconds_count") == 0, "old news is no lag"


async def test_only_what_is_signed_with_our_key_is_heard() -> None:
    store = MemoryStore()
    limits = LogLimits()
    async with peer(store, store_key="ours") as one, peer(store, store_key="theirs") as stranger:
        stranger.log.publish("talk", b"forged", ttl=60.0)
        seal = Seal("ours")
        good = seal.seal("talk", b"good", origin=b"elsewher", now=time.time())
        for bad in (
            b"",
            b"garbage",
            Seal().seal("talk", b"unsigned", origin=b"elsewher", now=time.time()),
            seal.seal("other", b"moved from another log", origin=b"elsewher", now=time.time()),
            good[:-1] + bytes([good[-1] ^ 1]),
            good.replace(b"good", b"evil"),
        ):
            await store.append("talk", bad, limits)
        await store.append("talk", good, limits)
        await one.hears([b"good"])
        assert one.metrics.value("vllm_enhance_store_messages_refused", "mac") == 5
        assert one.metrics.value("vllm_enhance_store_messages_refused", "short") == 2
        assert one.log.stats()["refused"] == 7


def test_a_seal_raises_nothing_but_its_own_error() -> None:
    seal = Seal("k")
    whole = seal.seal("p", b"payload", origin=b"12345678", now=1.0)
    assert seal.open("p", whole).payload == b"payload"
    for cut in range(len(whole)):
        with pytest.raises(EnvelopeError):
            seal.open("p", whole[:cut])
        with pytest.raises(EnvelopeError):
            seal.open("p", whole[:cut] + bytes([whole[cut] ^ 0x40]) + whole[cut + 1 :])


async def test_what_waits_is_bounded() -> None:
    class Slow(MemoryStore):
        async def append(self, log: str, message: bytes, limits: LogLimits) -> None:
            await asyncio.sleep(0.05)

    async with peer(Slow()) as one:
        assert not one.log.publish("talk", b"x" * (MAX_MESSAGE + 1), ttl=60.0)
        taken = sum(one.log.publish("talk", b"x", ttl=60.0) for _ in range(3000))
        assert taken == 1024
        assert one.metrics.value("vllm_enhance_store_messages_dropped", "queue_full") == 3000 - 1024
        assert one.metrics.value("vllm_enhance_store_messages_dropped", "too_large") == 1
        started = time.monotonic()
    assert time.monotonic() - started < 3.0, "closing does not wait for a slow store"


async def test_a_listener_that_fails_goes_on_hearing() -> None:
    store = MemoryStore()
    async with peers(store, store) as (one, two):
        heard = []

        async def listen(messages: Sequence[Message]) -> None:
            heard.extend(message.payload for message in messages)
            raise RuntimeError("bad day")

        two.log.follow("other", listen)
        one.log.publish("other", b"1", ttl=60.0)
        await until(lambda: heard)
        one.log.publish("other", b"2", ttl=60.0)
        await until(lambda: len(heard) > 1)
        assert heard == [b"1", b"2"]


async def test_states_and_claims() -> None:
    store = MemoryStore()
    async with peers(store, store, store_key="k") as (one, two), peer(store) as stranger:
        assert await one.log.recall("lesson") is None
        assert await one.log.keep("lesson", b"x" * 100_000, ttl=60.0)
        assert await two.log.recall("lesson") == b"x" * 100_000
        assert await stranger.log.recall("lesson") is None
        assert not await one.log.keep("lesson", b"x" * (16 * 2**20 + 1), ttl=60.0)
        assert await one.log.claim("place")
        assert not await two.log.claim("place")
        assert one.log.holds("place")
        assert not two.log.holds("place")
    async with peer(store, store_key="k") as next_one:
        assert await next_one.log.claim("place"), "given back at the end"


async def test_a_claim_goes_with_the_stores_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_enhance_cache.changes.CLAIM_SECONDS", 1.5)
    store = MemoryStore()
    async with peer(store) as one:
        assert await one.log.claim("place")
        (claimed,) = store._leases.values()
        await until(lambda: claimed not in store._leases.values())  # it is renewed
        assert one.log.holds("place")
        store._leases.clear()
        await until(lambda: not one.log.holds("place"))


async def test_a_flush_is_told_and_empties_the_logs(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/store.db"
    async with peers(open_store(url), open_store(url)) as (one, two):
        moves: list[Horizon] = []
        two.log.on_horizon(moves.append)
        one.log.publish("talk", b"before", ttl=60.0)
        await two.hears([b"before"])
        await one.hook.invalidate(InvalidationScope("all"))
        await until(lambda: moves)
        assert two.log.horizon.everything == 1
        one.log.publish("talk", b"after", ttl=60.0)
        await two.hears([b"before", b"after"])
        async with peer(open_store(url)) as late:
            await late.hears([b"after"])


@pytest.mark.redis
async def test_a_redis_that_hangs_dies_and_comes_back_empty(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        async with peers(open_store(server.url), open_store(server.url)) as (one, two):
            one.log.publish("talk", b"1", ttl=60.0)
            await two.hears([b"1"])
            server.freeze()
            started = time.perf_counter()
            for number in range(20):
                one.log.publish("talk", b"lost %d" % number, ttl=60.0)
            assert time.perf_counter() - started < LIMIT_SECONDS, "nobody waits"
            assert await one.log.recall("state") is None
            await until(lambda: one.log.stats()["sending"] != "closed")
            assert {report.status for report in one.hook.health() if report.component == "store"} == {"degraded"}
            server.kill()
            assert await one.log.keep("state", b"x", ttl=60.0) is False
            server.start()
            deadline = time.monotonic() + 30
            while b"again" not in two.heard:
                assert time.monotonic() < deadline, (two.log.stats(), one.log.stats())
                one.log.publish("talk", b"again", ttl=60.0)
                await asyncio.sleep(0.25)
            assert one.log.stats()["dropped"] > 0
    finally:
        server.stop()


@pytest.mark.redis
@pytest.mark.parametrize("fault", ["full", "read-only"])
async def test_a_redis_that_takes_nothing_more_is_still_heard(tmp_path: Path, fault: str) -> None:
    server = RedisServer(tmp_path, "--maxmemory-policy", "noeviction").start()
    try:
        async with peers(open_store(server.url), open_store(server.url)) as (one, two):
            one.log.publish("talk", b"1", ttl=60.0)
            await two.hears([b"1"])
            if fault == "full":
                server.command("CONFIG", "SET", "maxmemory", "1")
            else:
                server.command("REPLICAOF", "127.0.0.1", "1")
                server.command("CONFIG", "SET", "replica-serve-stale-data", "yes")
            async with asyncio.timeout(30):
                while one.log.stats()["sending"] == "closed":
                    one.log.publish("talk", b"lost", ttl=60.0)
                    await asyncio.sleep(0.05)
            late_heard: list[bytes] = []
            async with peer(open_store(server.url)) as late:
                await late.hears([b"1"])
                late_heard += late.heard
            assert late_heard == [b"1"]
            assert one.log.stats()["hearing"] == "closed"
            assert one.log.stats()["sending"] != "closed"
            details = [report.detail for report in one.hook.health() if report.component == "store"]
            assert "messages out stopped" in details[0]
            server.command("CONFIG", "SET", "maxmemory", "0")
            server.command("REPLICAOF", "NO", "ONE")
            deadline = time.monotonic() + 30
            while b"again" not in two.heard:
                assert time.monotonic() < deadline, (two.log.stats(), one.log.stats())
                one.log.publish("talk", b"again", ttl=60.0)
                await asyncio.sleep(0.25)
    finally:
        server.stop()
