"""Tests of the quota hook: arithmetic by itself, then through the dispatcher that the server uses."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quota_hook.bucket import Buckets
from quota_hook.hook import SETTINGS, QuotaHook

from vllm_enhance import HookContext, Outcome, Reject, RequestContext, Source
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import new_manager
from vllm_enhance.records import ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.settings import SettingsTable, resolve

ALICE, BOB = b"a" * 16, b"b" * 16


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_full_bucket_then_a_steady_flow() -> None:
    buckets = Buckets(per_minute=60, limit=10)
    for _ in range(60):
        assert buckets.wait(ALICE, 1, 0.0) == 0.0
        buckets.take(ALICE, 1, 0.0)
    assert buckets.wait(ALICE, 1, 0.0) == pytest.approx(1.0)
    assert buckets.wait(ALICE, 1, 1.0) == 0.0
    assert buckets.wait(BOB, 1, 0.0) == 0.0


def test_debt_is_paid_before_more_is_given() -> None:
    buckets = Buckets(per_minute=60, limit=10)
    buckets.take(ALICE, 180, 0.0)
    assert buckets.wait(ALICE, 0, 0.0) == pytest.approx(120.0)
    assert buckets.wait(ALICE, 0, 120.0) == 0.0


def test_the_table_is_bounded_and_forgets_the_quietest() -> None:
    buckets = Buckets(per_minute=1, limit=3)
    for number in range(100):
        buckets.take(bytes([number]), 1, float(number))
    assert len(buckets) == 3
    assert buckets.wait(bytes([99]), 1, 99.0) > 0.0
    assert buckets.wait(bytes([0]), 1, 99.0) == 0.0


@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 120), st.integers(1, 50)), min_size=1, max_size=60))
def test_nobody_gets_more_than_one_bucket_and_the_flow(per_minute: int, tries: list[tuple[float, int]]) -> None:
    buckets, now, granted = Buckets(per_minute, 10), 0.0, 0
    for pause, amount in tries:
        now += pause
        if buckets.wait(ALICE, amount, now) == 0.0:
            buckets.take(ALICE, amount, now)
            granted += amount
    assert granted <= per_minute + now * per_minute / 60.0 + 1e-6


class Served:
    """The hook behind the real dispatcher."""

    def __init__(self, **settings: str) -> None:
        self.clock = Clock()
        self.metrics = Metrics(registry=prometheus_client.CollectorRegistry())
        manager = new_manager()
        self.hook = QuotaHook()
        manager.register(self.hook, name="quota")
        self.dispatcher = Dispatcher(manager, self.metrics)
        flags = {f"enhance_quota_{name}": value for name, value in settings.items()}
        self.context = HookContext(
            settings=resolve(SettingsTable(SETTINGS), flags, {}), metrics=self.metrics, monotonic=self.clock
        )

    async def start(self) -> Served:
        def drop(name: str, reason: str) -> None:
            raise AssertionError(reason)

        await self.dispatcher.startup(self.context, drop)
        return self

    async def ask(self, tenant: bytes, tokens: int = 0, source: Source = Source.ENGINE) -> Reject | None:
        request = RequestContext("r", [1], None, tenant=tenant)
        verdict = await self.dispatcher.pre_request(request, lambda request, change: None)
        if isinstance(verdict.decision, Reject):
            return verdict.decision
        choice = ChoiceRecord(pack_token_ids(range(tokens)), "", "stop")
        record = GenerationRecord(1, (choice,), prompt_tokens=1, created_at=0.0)
        self.dispatcher.post_output(request, record, Outcome(source, storable=True))
        return None


async def test_too_many_requests_are_refused_with_the_time_to_wait() -> None:
    served = await Served(requests_per_minute="2").start()
    assert await served.ask(ALICE) is None
    assert await served.ask(ALICE) is None
    assert await served.ask(ALICE) == Reject(429, "quota: 2 requests a minute are used up; try again in 30 s")
    assert await served.ask(BOB) is None
    served.clock.now += 30
    assert await served.ask(ALICE) is None
    assert served.metrics.value("vllm_enhance_quota_refused", "requests") == 1
    assert await served.dispatcher.gather("stats") == {"quota": {"tenants": 2, "refused": {"requests": 1, "tokens": 0}}}


async def test_generated_tokens_are_charged_and_reused_ones_are_not() -> None:
    served = await Served(tokens_per_minute="60").start()
    for source in (Source.MEMORY, Source.STORE, Source.JOINED, Source.SIMILAR):
        assert await served.ask(ALICE, tokens=1000, source=source) is None
    assert await served.ask(ALICE, tokens=90) is None
    assert await served.ask(ALICE) == Reject(429, "quota: 60 tokens a minute are used up; try again in 30 s")
    served.clock.now += 30
    assert await served.ask(ALICE) is None


async def test_without_limits_nothing_is_refused_or_remembered() -> None:
    served = await Served().start()
    for _ in range(100):
        assert await served.ask(ALICE, tokens=1000) is None
    assert (await served.dispatcher.gather("stats"))["quota"]["tenants"] == 0
