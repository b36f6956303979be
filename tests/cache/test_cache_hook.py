"""The hook with its memory tier."""

from __future__ import annotations

import asyncio

import prometheus_client
import pytest
from cache_support import Clock, key_of, record_of, request_of
from vllm_enhance_cache.options import SETTINGS, CacheOptions
from vllm_enhance_cache.plugin import CacheHook

from vllm_enhance.context import HookContext
from vllm_enhance.directives import Directives
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet, new_manager
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable
from vllm_enhance.types import InvalidationScope, Outcome, Respond, Source

FRESH = Outcome(Source.ENGINE, storable=True)


@pytest.fixture
def hook(clock: Clock) -> CacheHook:
    return CacheHook(CacheOptions(ttl=60.0), clock=clock)


def keep(hook: CacheHook, number: int = 1, **fields: object) -> None:
    request = request_of(number, **fields)  # type: ignore[arg-type]
    assert hook.pre_request(request) is None
    hook.post_output(request, record_of(created_at=hook._clock()), FRESH)


def test_a_repeat_is_answered_from_memory(hook: CacheHook, clock: Clock) -> None:
    keep(hook)
    clock.tick(10)
    answer = hook.pre_request(request_of())
    assert isinstance(answer, Respond)
    assert (answer.source, answer.age, answer.ttl) == (Source.MEMORY, 10.0, 50.0)
    clock.tick(50)
    assert hook.pre_request(request_of()) is None


@pytest.mark.parametrize(
    ("directives", "answered"),
    [
        (Directives(no_cache=True), False),
        (Directives(max_age=9), False),
        (Directives(max_age=10), True),
        (Directives(no_store=True), True),
        (Directives(only_if_cached=True), True),
    ],
)
def test_directives_when_asking(hook: CacheHook, clock: Clock, directives: Directives, answered: bool) -> None:
    keep(hook)
    clock.tick(10)
    assert (hook.pre_request(request_of(directives=directives)) is not None) is answered


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, Outcome(Source.ENGINE, storable=False, reason="length")),
        ({}, Outcome(Source.MEMORY, storable=True)),
        ({}, Outcome(Source.SIMILAR, storable=True)),
        ({}, Outcome(Source.JOINED, storable=True)),
        ({"directives": Directives(no_store=True)}, FRESH),
        ({"key": None, "bypass_reason": "kv_transfer"}, FRESH),
    ],
)
def test_what_is_not_kept(hook: CacheHook, change: dict[str, object], outcome: Outcome) -> None:
    hook.post_output(request_of(**change), record_of(), outcome)  # type: ignore[arg-type]
    assert len(hook._memory) == 0


def test_no_cache_refreshes_what_is_kept(hook: CacheHook) -> None:
    keep(hook)
    request = request_of(directives=Directives(no_cache=True))
    assert hook.pre_request(request) is None
    hook.post_output(request, record_of("another"), FRESH)
    answer = hook.pre_request(request_of())
    assert answer is not None
    assert answer.record is not None
    assert answer.record.choices[0].text == "another"


def test_another_tenant_or_prompt_under_the_same_key_is_a_miss(hook: CacheHook) -> None:
    keep(hook, tenant=b"a" * 16)
    assert hook.pre_request(request_of(tenant=b"b" * 16)) is None
    longer = request_of(tenant=b"a" * 16)
    longer.prompt_token_ids = [1, 2, 3, 4]
    assert hook.pre_request(longer) is None


async def test_invalidate_counts_what_it_does(hook: CacheHook, clock: Clock) -> None:
    keep(hook, 1, tenant=b"a" * 16, model="m")
    keep(hook, 2, tenant=b"b" * 16, model="m")
    clock.tick(5)
    keep(hook, 3, tenant=b"b" * 16, model="other")
    table = [
        (InvalidationScope("tenant", (b"b" * 16).hex()), 2),
        (InvalidationScope("model", "m"), 2),
        (InvalidationScope("key", key_of(3).hex()), 1),
        (InvalidationScope("age", "5"), 2),
        (InvalidationScope("all"), 3),
        (InvalidationScope("model", "absent"), 0),
    ]
    for scope, count in table:
        assert await hook.invalidate(InvalidationScope(scope.kind, scope.value, dry_run=True)) == count
    assert await hook.invalidate(table[0][0]) == 2
    assert hook.pre_request(request_of(1, tenant=b"a" * 16)) is not None
    assert hook.pre_request(request_of(2, tenant=b"b" * 16)) is None
    assert await hook.invalidate(InvalidationScope("all")) == 1


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        (InvalidationScope("all"), False),
        (InvalidationScope("tenant", ""), False),
        (InvalidationScope("tenant", "ab" * 16), True),
        (InvalidationScope("model", "m"), False),
        (InvalidationScope("model", "other"), True),
        (InvalidationScope("key", key_of(1).hex()), False),
        (InvalidationScope("key", key_of(2).hex()), True),
    ],
)
async def test_an_answer_under_way_does_not_outlive_a_flush(
    hook: CacheHook, scope: InvalidationScope, kept: bool
) -> None:
    request = request_of()
    hook.pre_request(request)
    await hook.invalidate(scope)
    hook.post_output(request, record_of(), FRESH)
    assert (hook.pre_request(request_of()) is not None) is kept
    keep_after = request_of(9)
    hook.pre_request(keep_after)
    hook.post_output(keep_after, record_of(), FRESH)
    assert hook.pre_request(request_of(9)) is not None


async def test_under_the_dispatcher_with_settings_and_metrics(clock: Clock) -> None:
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry=registry)
    plugins = PluginSet(new_manager())
    hook = CacheHook()
    plugins.register(hook, "cache", "test")
    table = plugins.settings_table()
    assert {s.name for s in SETTINGS} <= {s.name for s in table}
    dispatcher = Dispatcher(plugins.manager, metrics)
    settings = Settings(table, {"cache-max-entries": "2"}, {})
    await dispatcher.startup(HookContext(settings=settings, metrics=metrics, clock=clock), plugins.drop)
    assert not plugins.broken
    for number in range(3):
        request = request_of(number)
        verdict = await dispatcher.pre_request(request, lambda *_: None)
        assert verdict.lookups == []
        dispatcher.post_output(request, record_of(), FRESH)
    verdict = await dispatcher.pre_request(request_of(2), lambda *_: None)
    assert isinstance(verdict.decision, Respond)
    assert (await dispatcher.gather("stats"))["cache"]["memory"]["entries"] == 2
    assert (await dispatcher.gather("health"))["cache"][0].status == "healthy"
    assert (await dispatcher.gather("invalidate", scope=InvalidationScope("all", dry_run=True))) == {"cache": 2}
    await dispatcher.shutdown()
    exposed = prometheus_client.generate_latest(registry).decode()
    assert 'vllm_enhance_cache_evictions_total{reason="entries"} 1.0' in exposed
    assert "vllm_enhance_cache_entries 2.0" in exposed
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("enhance-")]


async def test_off_is_off(clock: Clock) -> None:
    hook = CacheHook(CacheOptions(enabled=False), clock=clock)
    keep(hook)
    assert hook.pre_request(request_of()) is None
    assert len(hook._memory) == 0


def test_defaults_of_settings_and_options_agree() -> None:
    settings = Settings(SettingsTable((*CORE_SETTINGS, *SETTINGS)), {}, {})
    assert CacheOptions.from_settings(settings) == CacheOptions()
