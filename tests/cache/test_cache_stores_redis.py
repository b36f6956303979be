"""The contract on Redis: plain, unix socket, Cluster and Sentinel, each with real servers."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import prometheus_client
import pytest
from cache_support import key_of, record_of, request_of
from hypothesis import settings
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.envelope import Envelope
from vllm_enhance_cache.errors import StoreFault
from vllm_enhance_cache.options import SETTINGS
from vllm_enhance_cache.plugin import CacheHook
from vllm_enhance_cache.stores import open_store, redis_url

from vllm_enhance.context import HookContext
from vllm_enhance.metrics import Metrics
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable
from vllm_enhance.stores import EntryTags, LogLimits, Store
from vllm_enhance.testing.redis import RedisServer, free_port, redis_binary
from vllm_enhance.testing.store_machine import StoreMachine
from vllm_enhance.testing.stores import StoreContract
from vllm_enhance.types import InvalidationScope, Lookup, Outcome, Respond, Source

pytestmark = pytest.mark.redis


def sealed(text: bytes, key: bytes, tags: EntryTags) -> bytes:
    """An envelope: Redis reads tenant, model and time from its head."""
    record = record_of(text.hex(), created_at=tags.created_at)
    entry = Entry(key, record, tags.tenant, tags.model, tags.created_at, tags.created_at + 3600)
    return Envelope().seal(entry)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("redis")
    server = RedisServer(folder, "--unixsocket", str(folder / "s")).start()
    yield server
    server.stop()


class RedisContract(StoreContract):
    shared = True
    url = ""

    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is tested is what a store does, not how fast: a thousand writes at once take longer than a second."""
        monkeypatch.setattr(redis_url, "TIMEOUT_SECONDS", 30.0)

    def value_of(self, text: bytes, key: bytes, tags: EntryTags) -> bytes:
        return sealed(text, key, tags)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        store = open_store(self.url)
        yield store
        await store.close()


class TestRedisStore(RedisContract):
    @pytest.fixture(autouse=True)
    def _empty(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        self.url = server.url

    async def test_a_position_in_a_log_that_was_lost_is_the_beginning(self) -> None:
        async with self.open() as store:
            await store.append("log", b"new", LogLimits())
            page = await store.read("log", "99999999999999-7")  # from a server whose clock was ahead
            assert not page.messages
            assert (await store.read("log", page.position)).messages == [b"new"]

    async def test_what_a_stranger_puts_into_a_log_harms_nobody(self, server: RedisServer) -> None:
        async with self.open() as store:
            server.command("XADD", "vllm-enhance:1:g:log", "*", "x", "y")
            await store.append("log", b"ours", LogLimits())
            assert (await store.read("log")).messages == [b"", b"ours"]
            server.command("SET", "vllm-enhance:1:g:other", "no log")
            with pytest.raises(StoreFault):
                await store.append("other", b"ours", LogLimits())


class TestRedisOverUnixSocket(RedisContract):
    @pytest.fixture(autouse=True)
    def _empty(self, server: RedisServer) -> None:
        server.command("FLUSHALL")
        self.url = f"unix://{server.folder}/s?db=1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    servers = [RedisServer(folder / str(n), *options).start() for n in range(3)]
    step = 16384 // 3 + 1
    for number, node in enumerate(servers):
        slots = range(number * step, min((number + 1) * step, 16384))
        node.command("CLUSTER", "ADDSLOTS", *map(str, slots))
        node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
    for node in servers[1:]:
        node.command("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
    deadline = time.monotonic() + 20
    while not all(_joined(node) for node in servers):
        assert time.monotonic() < deadline, "the cluster did not form"
        time.sleep(0.1)
    yield servers
    for node in servers:
        node.stop()


def _joined(node: RedisServer) -> bool:
    info = node.command("CLUSTER", "INFO")
    values = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    return values["cluster_state"] == "ok" and values["cluster_slots_ok"] == "16384"


class TestRedisCluster(RedisContract):
    @pytest.fixture(autouse=True)
    def _empty(self, cluster: list[RedisServer]) -> None:
        for node in cluster:
            node.command("FLUSHALL")
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster)


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, int]]:
    folder = tmp_path_factory.mktemp("sentinel")
    master = RedisServer(folder / "master").start()
    port = free_port()
    (folder / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder}/sentinel.log\n"
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
    )
    process = subprocess.Popen([redis_binary(), str(folder / "sentinel.conf"), "--sentinel"], stdout=subprocess.DEVNULL)
    watcher = RedisServer(folder, port=port)
    deadline = time.monotonic() + 15
    while True:
        try:
            assert watcher.command("SENTINEL", "MASTERS")
            break
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield master, port
    process.terminate()
    process.wait(10)
    master.stop()


class TestRedisSentinel(RedisContract):
    @pytest.fixture(autouse=True)
    def _empty(self, sentinel: tuple[RedisServer, int]) -> None:
        master, port = sentinel
        master.command("FLUSHALL")
        self.url = f"redis+sentinel://127.0.0.1:{port}/mymaster"


def test_against_a_dict(server: RedisServer) -> None:
    class Machine(StoreMachine):
        async def open_store(self) -> Store:
            server.command("FLUSHALL")
            return open_store(server.url)

        def value_of(self, text: bytes, key: bytes, tags: EntryTags) -> bytes:
            return sealed(text, key, tags)

    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))


# --------------------------------------------------------------------------- Redis' own


async def test_no_name_carries_text(server: RedisServer) -> None:
    server.command("FLUSHALL")
    store = open_store(server.url, prefix="my*prefix[1]")
    tags = EntryTags(b"t" * 16, "secret-model", time.time())
    await store.put(key_of(1), sealed(b"", key_of(1), tags), ttl=60, tags=tags)
    await store.lease(key_of(1), b"me", 60)
    await store.forget(InvalidationScope("model", "secret-model"))
    names = [name.decode() for name in server.command("KEYS", "*")]
    assert len(names) == 3
    assert all(name.startswith("my*prefix[1]:1:") for name in names)
    assert not any("secret" in name for name in names)
    assert await store.clear(InvalidationScope("all")) == 1
    await store.close()


async def test_prefixes_are_apart(server: RedisServer) -> None:
    server.command("FLUSHALL")
    ours, theirs = open_store(server.url, prefix="a"), open_store(server.url, prefix="a*")
    await theirs.put(key_of(1), b"v", ttl=60, tags=EntryTags())
    assert await ours.get(key_of(1)) is None
    assert await ours.clear(InvalidationScope("all")) == 0
    assert await theirs.get(key_of(1)) == b"v"
    await ours.close()
    await theirs.close()


async def test_a_flush_is_told_at_once(server: RedisServer) -> None:
    here, there = open_store(server.url), open_store(server.url)
    await here.changed(0.1)
    waiting = asyncio.ensure_future(here.changed(5.0))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await there.forget(InvalidationScope("all"))
    await waiting
    assert time.monotonic() - started < 0.5
    await here.close()
    await there.close()


async def test_values_and_names_of_strangers_do_no_harm(server: RedisServer) -> None:
    server.command("FLUSHALL")
    store = open_store(server.url)
    base = "vllm-enhance:1:"
    server.command("LPUSH", f"{base}e:{key_of(1).hex()}", "a list")
    server.command("SET", f"{base}e:nothex", "x")
    server.command("SET", f"{base}e:{key_of(2).hex()}", "short")
    server.command("HSET", f"{base}horizon", "generation", "many", "tenants:zz", "1", "odd", "1", "version", "v")
    assert (await store.horizon()).generation == 0
    assert await store.clear(InvalidationScope("model", "m", dry_run=True)) == 0
    assert {key async for key, _ in store.scan()} == {key_of(2)}
    assert await store.clear(InvalidationScope("all")) == 3
    await store.close()


async def test_stats_give_advice(server: RedisServer) -> None:
    store = open_store(server.url)
    assert "no maxmemory" in str((await store.stats()).detail["advice"])
    server.command("CONFIG", "SET", "maxmemory", "100mb")
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        assert (await store.stats()).detail["advice"] == []
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await store.close()


ACL = (
    "~vllm-enhance:* &vllm-enhance:* +get +set +unlink +exists +getrange +scan +hget +hgetall +hset +hincrby +hlen "
    "+del +eval +publish +subscribe +pexpire +info +ping +xadd +xread +xrange +xrevrange +xlen +xdel +xtrim"
)


async def test_the_documented_rights_are_enough(server: RedisServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "stores.md").read_text("utf-8")
    assert ACL.replace("vllm-enhance:", "PREFIX:") in " ".join(page.split())
    server.command("FLUSHALL")
    server.command("ACL", "SETUSER", "cache", "reset", "resetchannels", "on", ">secret", *ACL.split())
    store = open_store(f"redis://cache:secret@127.0.0.1:{server.port}")
    tags = EntryTags(b"t" * 16, "m", time.time())
    await store.put(key_of(1), sealed(b"", key_of(1), tags), ttl=60, tags=tags)
    assert await store.get(key_of(1)) is not None
    assert [key async for key, _ in store.scan()] == [key_of(1)]
    assert await store.lease(key_of(1), b"me", 60)
    assert await store.renew(key_of(1), b"me", 60)
    assert await store.leased(key_of(1))
    assert await store.release(key_of(1), b"me")
    waiting = asyncio.ensure_future(store.changed(5.0))
    await asyncio.sleep(0.1)
    moved = await store.forget(InvalidationScope("model", "m"))
    await asyncio.wait_for(waiting, 1.0)
    assert await store.horizon() == await store.restore(moved)
    await store.append("log", b"told", LogLimits())
    assert list((await store.read("log")).messages) == [b"told"]
    assert await store.clear(InvalidationScope("model", "m")) == 1
    assert not (await store.read("log")).messages
    assert not await store.delete(key_of(1))
    assert (await store.stats()).nbytes
    await store.close()
    server.command("ACL", "DELUSER", "cache")


async def test_two_servers_on_one_redis(server: RedisServer) -> None:
    """What one generates the other answers; a flush through one is obeyed by the other within a second."""
    server.command("FLUSHALL")
    texts = {"store": server.url, "store-key": "k", "store-deadline": "500ms"}
    hooks = []
    for _ in range(2):
        metrics = Metrics(registry=prometheus_client.CollectorRegistry())
        hooks.append(CacheHook())
        settings_ = Settings(SettingsTable((*CORE_SETTINGS, *SETTINGS)), texts, {})
        await hooks[-1].startup(HookContext(settings=settings_, metrics=metrics))
    one, two = hooks
    request = request_of()
    assert isinstance(one.pre_request(request), Lookup)
    one.post_output(request, record_of(created_at=time.time()), Outcome(Source.ENGINE, storable=True))
    answer, deadline = None, time.monotonic() + 5
    while answer is None:
        assert time.monotonic() < deadline
        decision = two.pre_request(request_of())
        assert isinstance(decision, Lookup)
        answer = await decision.run()
    assert answer.source is Source.STORE
    assert isinstance(two.pre_request(request_of()), Respond)
    started = time.monotonic()
    assert await one.invalidate(InvalidationScope("all")) == 1
    while isinstance(two.pre_request(request_of()), Respond):
        assert time.monotonic() - started < 1.0
        await asyncio.sleep(0.005)
    decision = two.pre_request(request_of())
    assert isinstance(decision, Lookup)
    assert await decision.run() is None
    for hook in hooks:
        await hook.shutdown()
