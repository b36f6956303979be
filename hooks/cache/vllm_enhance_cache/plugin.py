"""The cache as the engine sees it: one hook, two tiers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.stores import Horizon
from vllm_enhance.types import (
    AnnotationKey,
    HealthReport,
    InvalidationScope,
    Outcome,
    RequestContext,
    Respond,
    Source,
)
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.lru import LRUCache
from vllm_enhance_cache.meters import METRICS, MemoryMeter
from vllm_enhance_cache.options import SETTINGS, CacheOptions

if TYPE_CHECKING:
    from vllm_enhance.context import HookContext
    from vllm_enhance.metrics import Metrics
    from vllm_enhance.records import GenerationRecord
    from vllm_enhance.settings import Setting

__all__ = ["ADMITTED", "CacheHook"]

logger = logging.getLogger("vllm_enhance.cache")

ADMITTED: AnnotationKey[int] = AnnotationKey("cache_generation")
"""Generation of the horizon in which a request was admitted."""

PURGE_CHUNK = 1000
TICK_SECONDS = 1.0


class CacheHook:
    """Exact reuse.

    Works as soon as it is made, with the memory tier; ``startup`` reads the settings, opens the shared store and starts
    housekeeping.

    Args:
        options: instead of settings; then ``startup`` leaves them alone.
        clock: Unix time in seconds.
    """

    def __init__(self, options: CacheOptions | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._given = options
        self._clock = clock
        self._metrics: Metrics | None = None
        self._horizon = Horizon()
        self._ticker: asyncio.Task[None] | None = None
        self._use(options or CacheOptions(), None)

    # ------------------------------------------------------------------ traffic

    @hookimpl(inline=True, trylast=True)
    def pre_request(self, request: RequestContext) -> Respond | None:
        """Answer from memory, or offer a lookup in the shared store."""
        key = request.key
        if key is None or not self._options.enabled:
            return None
        if not request.directives.no_cache:
            now = self._clock()
            entry = self._memory.get(key, now)
            if entry is not None and self._usable(entry, request, now):
                return _answer(entry, Source.MEMORY, now)
        request.annotations.set(ADMITTED, self._horizon.generation)
        return None

    @hookimpl(inline=True)
    def post_output(self, request: RequestContext, record: GenerationRecord, outcome: Outcome) -> None:
        """Keep what the engine generated, if it may be kept."""
        if request.key is None or not self._options.enabled or not outcome.storable:
            return
        if outcome.source is not Source.ENGINE or request.directives.no_store:
            return
        now = self._clock()
        entry = Entry(
            request.key,
            record,
            request.tenant,
            request.model,
            record.created_at,
            min(record.created_at, now) + self._options.ttl,
            request.annotations.get(ADMITTED, 0) or 0,
        )
        self._keep(entry, now)

    # ------------------------------------------------------------------ life cycle

    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return SETTINGS

    @hookimpl
    async def startup(self, context: HookContext) -> None:
        for metric in METRICS:
            context.metrics.declare(metric)
        self._clock = context.clock
        self._use(self._given or CacheOptions.from_settings(context.settings), context.metrics)
        self._ticker = asyncio.create_task(self._tick(), name="enhance-cache")

    @hookimpl
    async def shutdown(self) -> None:
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
        self._publish()

    @hookimpl(inline=True)
    def health(self) -> list[HealthReport]:
        if not self._options.enabled:
            return [HealthReport("cache", "healthy", "off")]
        return [HealthReport("cache", "healthy", f"{len(self._memory)} entries, {self._memory.nbytes} bytes in memory")]

    @hookimpl(inline=True)
    def stats(self) -> Mapping[str, Any]:
        counts, memory = self._memory.counts, self._memory
        return {
            "enabled": self._options.enabled,
            "memory": {
                "entries": len(memory),
                "bytes": memory.nbytes,
                "max_entries": memory.max_entries,
                "max_bytes": memory.max_bytes,
                **{name: getattr(counts, name) for name in counts.__slots__},
            },
        }

    @hookimpl
    async def invalidate(self, scope: InvalidationScope) -> int:
        """Forget. Nothing in ``scope`` is served once this returns, answers now being generated included.

        Raises:
            DirectiveError: the scope cannot be understood.
        """
        now = self._clock()
        keys = self._memory.select(scope, now)
        if scope.dry_run:
            return len(keys)
        self._horizon = self._horizon.forget(scope, now)
        return await self._purge(keys)

    # ------------------------------------------------------------------ inside

    def _use(self, options: CacheOptions, metrics: Metrics | None) -> None:
        self._options = options
        self._metrics = metrics
        self._memory = LRUCache(options.max_bytes, options.max_entries, options.max_entry_bytes, ttl=options.ttl)
        self._meter = MemoryMeter(self._memory, metrics) if metrics is not None else None

    def _count_refused(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.count("vllm_enhance_cache_refused", 1, reason)

    def _usable(self, entry: Entry, request: RequestContext, now: float) -> bool:
        # The key covers tenant and prompt; looking twice costs nothing and keeps a mistake there from leaking.
        if entry.tenant != request.tenant or entry.record.prompt_tokens != len(request.prompt_token_ids):
            self._count_refused("mismatch")
            return False
        return request.directives.accepts_age(now - entry.created_at)

    def _keep(self, entry: Entry, now: float) -> None:
        if not entry.admitted_by(self._horizon):
            self._count_refused("flushed")
            return
        self._memory.put(entry, now)

    async def _purge(self, keys: Sequence[bytes]) -> int:
        dropped = 0
        for start in range(0, len(keys), PURGE_CHUNK):
            dropped += sum(self._memory.delete(key) for key in keys[start : start + PURGE_CHUNK])
            await asyncio.sleep(0)
        return dropped

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._memory.sweep(self._clock(), 1000)
            self._publish()

    def _publish(self) -> None:
        if self._meter is not None:
            self._meter.publish()


def _answer(entry: Entry, source: Source, now: float) -> Respond:
    return Respond(
        entry.record,
        source=source,
        age=max(0.0, now - entry.created_at),
        ttl=max(0.0, entry.expires_at - now),
        detail="exact",
    )
