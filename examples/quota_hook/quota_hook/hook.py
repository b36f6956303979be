"""The hook package: what vllm-enhance loads through the entry point ``quota``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quota_hook.bucket import Buckets
from vllm_enhance import GenerationRecord, HookContext, Outcome, Reject, RequestContext, Setting, Source, hookimpl
from vllm_enhance.metrics import Metric, Metrics

__all__ = ["METRICS", "SETTINGS", "QuotaHook"]

SETTINGS = (
    Setting(
        name="quota-requests-per-minute",
        kind="int",
        default="0",
        minimum=0,
        section="Quota",
        help="Requests that each tenant may make in a minute; 0 sets no limit.",
    ),
    Setting(
        name="quota-tokens-per-minute",
        kind="int",
        default="0",
        minimum=0,
        section="Quota",
        help="Tokens that may be generated for each tenant in a minute; stored answers are free. 0 sets no limit.",
    ),
    Setting(
        name="quota-tenants",
        kind="int",
        default="10000",
        minimum=1,
        section="Quota",
        help="How many tenants are remembered; the one that was quiet the longest goes first.",
    ),
)
METRICS = (
    Metric("vllm_enhance_quota_refused", "counter", "Requests refused by a quota, by what ran out.", ("limit",)),
)


class QuotaHook:
    """Refuses requests of tenants that have used up their share of the minute."""

    def __init__(self) -> None:
        self._requests = Buckets(0, 1)
        self._tokens = Buckets(0, 1)
        self._now: Callable[[], float] = time.monotonic
        self._metrics: Metrics | None = None
        self._refused = {"requests": 0, "tokens": 0}

    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return SETTINGS

    @hookimpl
    async def startup(self, context: HookContext) -> None:
        tenants = context.settings["quota-tenants"]
        self._requests = Buckets(context.settings["quota-requests-per-minute"], tenants)
        self._tokens = Buckets(context.settings["quota-tokens-per-minute"], tenants)
        self._now = context.monotonic
        for metric in METRICS:
            context.metrics.declare(metric)
        self._metrics = context.metrics

    # Inline: a few additions. First: a quota counts what is asked, also what the cache would answer.
    @hookimpl(inline=True, tryfirst=True)
    def pre_request(self, request: RequestContext) -> Reject | None:
        now = self._now()
        for limit, buckets, needed in (("requests", self._requests, 1.0), ("tokens", self._tokens, 0.0)):
            seconds = buckets.wait(request.tenant, needed, now)
            if seconds > 0.0:
                return self._refuse(limit, buckets.per_minute, seconds)
        self._requests.take(request.tenant, 1.0, now)
        return None

    @hookimpl(inline=True)
    def post_output(self, request: RequestContext, record: GenerationRecord, outcome: Outcome) -> None:
        if outcome.source is Source.ENGINE:
            self._tokens.take(request.tenant, record.num_tokens, self._now())

    @hookimpl(inline=True)
    def stats(self) -> Mapping[str, Any]:
        return {"tenants": max(len(self._requests), len(self._tokens)), "refused": dict(self._refused)}

    def _refuse(self, limit: str, per_minute: int, seconds: float) -> Reject:
        self._refused[limit] += 1
        if self._metrics is not None:
            self._metrics.count("vllm_enhance_quota_refused", 1, limit)
        return Reject(429, f"quota: {per_minute} {limit} a minute are used up; try again in {math.ceil(seconds)} s")
