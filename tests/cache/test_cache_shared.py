"""The shared tier: two hooks on one store, as two API server processes would be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import prometheus_client
import pytest
from cache_support import key_of, record_of, request_of
from vllm_enhance_cache.errors import StoreFault
from vllm_enhance_cache.options import SETTINGS, CacheOptions
from vllm_enhance_cache.plugin import CacheHook
from vllm_enhance_cache.stores import open_store
from vllm_enhance_cache.stores.memory import MemoryStore

from vllm_enhance.context import HookContext
from vllm_enhance.directives import Directives
from vllm_enhance.errors import StoreError
from vllm_enhance.metrics import Metrics
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable
from vllm_enhance.stores import EntryTags, Horizon, Store
from vllm_enhance.types import InvalidationScope, Lookup, Outcome, RequestContext, Respond, Source

FRESH = Outcome(Source.ENGINE, storable=True)


@asynccontextmanager
async def running(given: Store | None = None, **settings: str) -> AsyncIterator[tuple[CacheHook, Metrics]]:
    """A started hook and its metrics."""
    table = SettingsTable((*CORE_SETTINGS, *SETTINGS))
    texts = {name.replace("_", "-"): text for name, text in settings.items()}
    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    hook = CacheHook(store=given)
    await hook.startup(HookContext(settings=Settings(table, texts, {}), metrics=metrics))
    try:
        yield hook, metrics
    finally:
        await hook.shutdown()


async def ask(hook: CacheHook, request: RequestContext) -> Respond | None:
    """What the engine would do: take the answer, or run the lookup."""
    decision = hook.pre_request(request)
    return await decision.run() if isinstance(decision, Lookup) else decision


async def generate(hook: CacheHook, number: int = 1, text: str = "an answer", **fields: object) -> None:
    request = request_of(number, **fields)  # type: ignore[arg-type]
    assert await ask(hook, request) is None
    hook.post_output(request, record_of(text, created_at=time.time()), FRESH)


async def eventually(condition: object, seconds: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        result = condition()  # type: ignore[operator]
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, "did not come to pass"
        await asyncio.sleep(0.01)


def stored(metrics: Metrics) -> float:
    return metrics.value("vllm_enhance_store_call_seconds_count", "put", "ok")


async def test_what_one_process_generates_another_answers(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/store.db"
    async with running(given=open_store(url)) as (one, metrics), running(given=open_store(url)) as (two, others):
        await generate(one, tenant=b"a" * 16)
        await eventually(lambda: stored(metrics) == 1)
        answer = await ask(two, request_of(tenant=b"a" * 16))
        assert answer is not None
        assert answer.source is Source.STORE
        assert answer.record is not None
        assert answer.record.choices[0].text == "an answer"
        assert answer.age < 5
        assert answer.ttl is not None
        assert 3590 < answer.ttl <= 3600
        again = two.pre_request(request_of(tenant=b"a" * 16))
        assert isinstance(again, Respond)
        assert again.source is Source.MEMORY
        assert others.value("vllm_enhance_store_lookups", "hit") == 1
        assert await ask(two, request_of(tenant=b"b" * 16)) is None
        assert others.value("vllm_enhance_store_refused", "tenant") == 1


async def test_a_restart_finds_its_answers(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/store.db"
    async with running(given=open_store(url)) as (hook, _):
        for number in range(50):
            await generate(hook, number)
    async with running(given=open_store(url)) as (hook, _):
        for number in range(50):
            answer = await ask(hook, request_of(number))
            assert answer is not None, "the shutdown wrote what was waiting"


async def test_the_store_is_named_by_a_setting(tmp_path: Path) -> None:
    async with running(store=f"sqlite://{tmp_path}/store.db", store_key="k") as (hook, _):
        stats = await hook.stats()
        assert stats["store"]["name"] == "sqlite"
        assert stats["store"]["signed"] is True
        assert [report.status for report in hook.health()] == ["healthy", "healthy"]
    assert (tmp_path / "store.db").exists()


@pytest.mark.parametrize(
    ("directives", "looked"),
    [(Directives(no_cache=True), False), (Directives(no_store=True), True), (Directives(max_age=5), True)],
)
async def test_directives_and_the_store(directives: Directives, looked: bool) -> None:
    async with running(given=MemoryStore()) as (hook, _):
        assert isinstance(hook.pre_request(request_of(directives=directives)), Lookup) is looked


async def test_max_age_is_obeyed_by_what_the_store_has() -> None:
    store = MemoryStore()
    async with running(given=store) as (one, metrics), running(given=store) as (two, _):
        request = request_of()
        await ask(one, request)
        one.post_output(request, record_of(created_at=time.time() - 100), FRESH)
        await eventually(lambda: stored(metrics) == 1)
        assert await ask(two, request_of(directives=Directives(max_age=50))) is None
        assert await ask(two, request_of(directives=Directives(max_age=150))) is not None


async def test_an_own_shorter_time_to_live_holds(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(given=store) as (one, metrics), running(given=store, cache_ttl="50s") as (two, _):
        request = request_of()
        await ask(one, request)
        one.post_output(request, record_of(created_at=time.time() - 100), FRESH)
        await eventually(lambda: stored(metrics) == 1)
        assert await ask(two, request_of()) is None
        assert len(two._memory) == 0


# --------------------------------------------------------------------------- forgetting


@pytest.mark.parametrize(
    "scope",
    [
        InvalidationScope("all"),
        InvalidationScope("tenant", (b"a" * 16).hex()),
        InvalidationScope("model", "m"),
        InvalidationScope("key", key_of(1).hex()),
        InvalidationScope("age", "0"),
    ],
)
async def test_a_flush_reaches_the_others_memory_within_a_second(tmp_path: Path, scope: InvalidationScope) -> None:
    url = f"sqlite://{tmp_path}/store.db"
    async with running(given=open_store(url)) as (one, metrics), running(given=open_store(url)) as (two, _):
        await generate(one, tenant=b"a" * 16)
        await eventually(lambda: stored(metrics) == 1)
        assert await ask(two, request_of(tenant=b"a" * 16)) is not None
        dry = await one.invalidate(InvalidationScope(scope.kind, scope.value, dry_run=True))
        assert dry == 1
        await asyncio.sleep(0.3)
        assert isinstance(two.pre_request(request_of(tenant=b"a" * 16)), Respond), "a dry run forgets nothing"
        assert await one.invalidate(scope) == 1
        assert await ask(one, request_of(tenant=b"a" * 16)) is None
        await eventually(lambda: not isinstance(two.pre_request(request_of(tenant=b"a" * 16)), Respond), 1.0)
        assert await ask(two, request_of(tenant=b"a" * 16)) is None
        await eventually(lambda: len(two._memory) == 0)
        await generate(two, tenant=b"a" * 16)
        assert await ask(two, request_of(tenant=b"a" * 16)) is not None, "what comes after the flush is kept"


async def test_an_answer_under_way_elsewhere_does_not_come_back(tmp_path: Path) -> None:
    """Process two admits a request, process one flushes, process two stores before it has heard of the flush."""
    store = MemoryStore()
    async with running(given=store) as (one, _), running(given=store) as (two, metrics):
        request = request_of()
        await ask(two, request)
        two._shared._poller.cancel()  # type: ignore[union-attr]
        await one.invalidate(InvalidationScope("all"))
        two.post_output(request, record_of(created_at=time.time()), FRESH)
        await eventually(lambda: stored(metrics) == 1)
        assert await store.get(key_of(1)) is not None, "it is there"
        assert await ask(one, request_of()) is None, "and is not believed"


async def test_a_view_that_is_too_old_is_not_trusted() -> None:
    store = MemoryStore()
    async with running(given=store) as (one, metrics), running(given=store) as (two, _):
        await generate(one)
        await eventually(lambda: stored(metrics) == 1)
        two._shared._poller.cancel()  # type: ignore[union-attr]
        await asyncio.sleep(1.1)
        assert two.pre_request(request_of()) is None, "no lookup is even offered"
        assert {report.component: report.status for report in two.health()}["store"] == "degraded"


class Sick(MemoryStore):
    """A store that fails as told: the tests of the real ones are elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: dict[str, Exception] = {}
        self.delay = 0.0
        self.asked = 0

    async def _suffer(self, operation: str) -> None:
        self.asked += 1
        if operation in self.trouble:
            raise self.trouble[operation]
        if self.delay:
            await asyncio.sleep(self.delay)

    async def get(self, key: bytes) -> bytes | None:
        await self._suffer("get")
        return await super().get(key)

    async def put(self, key: bytes, value: bytes, *, ttl: float, tags: EntryTags) -> None:
        await self._suffer("put")
        await super().put(key, value, ttl=ttl, tags=tags)

    async def horizon(self) -> Horizon:
        await self._suffer("horizon")
        return await super().horizon()

    async def forget(self, scope: InvalidationScope) -> Horizon:
        await self._suffer("forget")
        return await super().forget(scope)


def outage() -> StoreFault:
    return StoreFault("sick", "unavailable", "gone")


async def test_a_flush_during_an_outage_is_told_when_the_store_is_back() -> None:
    store = Sick()
    async with running(given=store) as (one, metrics), running(given=store) as (two, _):
        await generate(one)
        await eventually(lambda: stored(metrics) == 1)
        assert await ask(two, request_of()) is not None
        store.trouble = {"forget": outage()}
        assert await one.invalidate(InvalidationScope("model", "m")) == 1
        assert await ask(one, request_of()) is None
        await asyncio.sleep(0.3)
        assert isinstance(two.pre_request(request_of()), Respond), "nobody could tell it"
        store.trouble = {}
        await eventually(lambda: not isinstance(two.pre_request(request_of()), Respond), 6.0)


async def test_a_store_that_lost_its_memory_gets_the_horizon_back() -> None:
    store = MemoryStore()
    async with running(given=store) as (hook, _):
        await hook.invalidate(InvalidationScope("all"))
        await hook.invalidate(InvalidationScope("model", "m"))
        store._horizon = Horizon()
        await eventually(lambda: store._horizon.generation == 2)
        assert store._horizon.everything == 1


async def test_full_for_writes_is_well_for_reads(caplog: pytest.LogCaptureFixture) -> None:
    store = Sick()
    async with running(given=store) as (hook, metrics), running(given=store) as (other, _):
        await generate(hook, 1)
        await eventually(lambda: stored(metrics) == 1)
        store.trouble = dict.fromkeys(("put", "forget"), StoreFault("sick", "refused", "OOM"))
        with caplog.at_level(logging.INFO, "vllm_enhance.cache"):
            for number in range(10, 60):
                await generate(hook, number)
            await eventually(lambda: metrics.value("vllm_enhance_store_dropped", "breaker") > 30)
        assert metrics.value("vllm_enhance_store_open", "writes") == 1
        assert len([line for line in caplog.messages if "writes stopped" in line]) == 1
        assert await ask(other, request_of(1)) is not None, "reads go on"
        await hook.invalidate(InvalidationScope("all"))
        assert hook._shared is not None
        assert hook._shared.available, "a flush that cannot be noted does not stop reads"


async def test_a_hanging_store_costs_one_deadline_then_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = Sick()
    async with running(given=store, store_deadline="20ms") as (hook, metrics):
        store.delay = 3600.0
        slowest, offered = 0.0, 0
        with caplog.at_level(logging.INFO, "vllm_enhance.cache"):
            for number in range(200):
                started = time.perf_counter()
                decision = hook.pre_request(request_of(number))
                if isinstance(decision, Lookup):
                    offered += 1
                    assert await decision.run() is None
                slowest = max(slowest, time.perf_counter() - started)
                await asyncio.sleep(0)
        assert 1 <= offered <= 10
        assert slowest < 0.06
        assert len([line for line in caplog.messages if "reads stopped" in line]) == 1
        assert metrics.value("vllm_enhance_store_open", "reads") == 1
        store.delay = 0.0
        await eventually(lambda: isinstance(hook.pre_request(request_of()), Lookup), 6.0)
        assert metrics.value("vllm_enhance_store_open", "reads") == 0


async def test_a_late_answer_still_fills_memory() -> None:
    store = Sick()
    async with running(given=store) as (one, metrics), running(given=store) as (two, _):
        await generate(one)
        await eventually(lambda: stored(metrics) == 1)
        decision = two.pre_request(request_of())
        assert isinstance(decision, Lookup)
        store.delay = 0.1
        assert await decision.run() is None
        await eventually(lambda: isinstance(two.pre_request(request_of()), Respond))


async def test_a_blocked_event_loop_does_not_open_the_breaker() -> None:
    async with running(given=MemoryStore(), store_deadline="5ms") as (hook, _):
        for number in range(30):
            decision = hook.pre_request(request_of(number))
            assert isinstance(decision, Lookup), "our own stall is not the store's fault"
            running_lookup = asyncio.ensure_future(decision.run())
            await asyncio.sleep(0)
            time.sleep(0.02)
            await running_lookup


async def test_too_many_lookups_at_once_are_refused_without_blame() -> None:
    store = Sick()
    async with running(given=store, store_deadline="1s") as (hook, metrics):
        store.delay = 0.05
        requests = [request_of(number) for number in range(500)]
        decisions = [hook.pre_request(request) for request in requests]
        assert all(isinstance(decision, Lookup) for decision in decisions)
        await asyncio.gather(*(decision.run() for decision in decisions if isinstance(decision, Lookup)))
        assert metrics.value("vllm_enhance_store_call_seconds_count", "get", "saturated") > 400
        assert metrics.value("vllm_enhance_store_open", "reads") == 0
        assert isinstance(hook.pre_request(request_of()), Lookup)


async def test_a_cancelled_lookup_leaves_nothing_behind() -> None:
    store = Sick()
    async with running(given=store) as (hook, _):
        store.delay = 0.01
        decision = hook.pre_request(request_of())
        assert isinstance(decision, Lookup)
        task = asyncio.ensure_future(decision.run())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: not [t for t in asyncio.all_tasks() if t.get_name() == "enhance-store-call"])
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("enhance-")]


async def test_shutdown_does_not_wait_for_a_hanging_store() -> None:
    store = Sick()
    started = time.monotonic()
    async with running(given=store) as (hook, metrics):
        store.delay = 3600.0
        for number in range(100):
            request = request_of(number)
            hook.pre_request(request)
            hook.post_output(request, record_of(created_at=time.time()), FRESH)
    assert time.monotonic() - started < 4.5
    assert metrics.value("vllm_enhance_store_dropped", "shutdown") > 0
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("enhance-")]


async def test_waiting_writes_are_bounded() -> None:
    store = Sick()
    async with running(given=store) as (hook, metrics):
        store.delay = 3600.0
        for number in range(3000):
            request = request_of(number)
            hook.pre_request(request)
            hook.post_output(request, record_of(created_at=time.time()), FRESH)
        assert metrics.value("vllm_enhance_store_dropped", "queue_full") >= 3000 - 2048 - 2


async def test_damage_in_the_store_is_a_counted_miss() -> None:
    store = MemoryStore()
    async with running(given=store) as (one, metrics), running(given=store) as (two, others):
        await generate(one)
        await eventually(lambda: stored(metrics) == 1)
        value = await store.get(key_of(1))
        assert value is not None
        for position in range(0, len(value), 7):
            broken = value[:position] + bytes([value[position] ^ 0x55]) + value[position + 1 :]
            await store.put(key_of(1), broken, ttl=60, tags=EntryTags())
            assert await ask(two, request_of()) is None
        total = sum(v for k, v in others.snapshot()["vllm_enhance_store_refused"].items())
        assert total == len(range(0, len(value), 7))
        assert isinstance(two.pre_request(request_of()), Lookup), "damage is no outage"


async def test_a_store_that_is_unreachable_at_start_is_used_when_it_comes() -> None:
    store = Sick()
    store.trouble = {"horizon": outage()}
    async with running(given=store) as (hook, _):
        assert hook.pre_request(request_of()) is None
        assert {report.component: report.status for report in hook.health()} == {
            "cache": "healthy",
            "store": "degraded",
        }
        store.trouble = {}
        await eventually(lambda: isinstance(hook.pre_request(request_of()), Lookup), 6.0)


async def test_a_file_that_cannot_be_used_leaves_the_memory_tier(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"no database" * 1000)
    async with running(given=open_store(f"sqlite://{tmp_path}/f")) as (hook, _):
        await generate(hook)
        assert isinstance(hook.pre_request(request_of()), Respond)
        assert {report.component: report.status for report in hook.health()}["store"] == "degraded"


async def test_off_opens_no_store(tmp_path: Path) -> None:
    async with running(cache="off", store=f"sqlite://{tmp_path}/store.db") as (hook, _):
        assert hook.pre_request(request_of()) is None
    assert not (tmp_path / "store.db").exists()


def test_store_errors_are_store_errors() -> None:
    assert issubclass(StoreFault, StoreError)
    assert CacheOptions(store_key="k").store_key == "k"
