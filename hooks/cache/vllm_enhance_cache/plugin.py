"""The cache as the engine sees it: one hook, two tiers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from vllm_enhance.errors import ConfigurationError, StoreError
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.stores import Horizon, Store, matcher
from vllm_enhance.types import (
    AnnotationKey,
    HealthReport,
    InvalidationScope,
    Lookup,
    Outcome,
    RequestContext,
    Respond,
    Source,
    Waiting,
)
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.leases import Lease, wait_for_value
from vllm_enhance_cache.lru import LRUCache
from vllm_enhance_cache.meters import METRICS, MemoryMeter, StoreMeter
from vllm_enhance_cache.options import SETTINGS, CacheOptions
from vllm_enhance_cache.stores import open_store, shares

if TYPE_CHECKING:
    from vllm_enhance.context import HookContext
    from vllm_enhance.metrics import Metrics
    from vllm_enhance.records import GenerationRecord
    from vllm_enhance.settings import Setting
    from vllm_enhance_cache.shared import SharedTier

__all__ = ["ADMITTED", "CacheHook"]

logger = logging.getLogger("vllm_enhance.cache")

ADMITTED: AnnotationKey[int] = AnnotationKey("cache_generation")
"""Generation of the horizon in which a request was admitted."""

PURGE_CHUNK = 200
"""Entries dropped in one go: well under a millisecond of the event loop."""

SWEEPS = 50
TICK_SECONDS = 1.0
WAIT_SECONDS = 120.0
"""How long a request waits for another process' generation at most."""


class CacheHook:
    """Exact reuse.

    Works as soon as it is made, with the memory tier; ``startup`` reads the settings, opens the shared store and starts
    housekeeping.

    Args:
        options: instead of settings; then ``startup`` leaves them alone.
        store: a store of one's own instead of the one that ``options.store`` names; closed at shutdown.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        options: CacheOptions | None = None,
        *,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._given = options
        self._own_store = store
        self._shared: SharedTier | None = None
        self._store_problem = ""
        self._clock = clock
        self._metrics: Metrics | None = None
        self._horizon = Horizon()
        self._ticker: asyncio.Task[None] | None = None
        self._purging: set[asyncio.Task[None]] = set()
        self._elects = False
        self._use(options or CacheOptions(), None)

    # ------------------------------------------------------------------ traffic

    @hookimpl(inline=True, trylast=True)
    def pre_request(self, request: RequestContext) -> Respond | Lookup | None:
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
        if self._shared is None or request.directives.no_cache or not self._shared.available:
            return None
        if self._elects and not request.directives.only_if_cached:
            return Lookup(partial(self._look_or_lead, self._shared, request, key), "store", blocking=True)
        return Lookup(partial(self._look, self._shared, request, key), "store")

    async def _look_or_lead(self, shared: SharedTier, request: RequestContext, key: bytes) -> Respond | Waiting | None:
        """Find the answer, or become the one process that generates it, or wait for the one that does."""
        found = await self._look(shared, request, key)
        if found is not None or await self._leads(shared, request, key):
            return found
        return Waiting(partial(self._wait, shared, request, key))

    async def _leads(self, shared: SharedTier, request: RequestContext, key: bytes) -> bool:
        """Whether this process generates ``key``; so it does, too, when the store cannot say."""
        try:
            lease = await Lease.acquire(shared.store, key)
        except (StoreError, OSError):
            return True
        if lease is None:
            return False
        request.on_end.append(lambda: self._release_soon(shared, lease))
        return True

    async def _wait(self, shared: SharedTier, request: RequestContext, key: bytes) -> Respond | None:
        deadline = time.monotonic() + WAIT_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                value = await wait_for_value(shared.store, key, left)
            except (StoreError, OSError):
                return None
            found = None if value is None else await self._look(shared, request, key)
            if found is not None or await self._leads(shared, request, key):
                return found
        return None

    def _release_soon(self, shared: SharedTier, lease: Lease) -> None:
        async def release() -> None:
            await shared.written(lease.key)  # a lease that ends before the answer is there makes others generate
            await lease.release()

        task = asyncio.get_running_loop().create_task(release(), name="enhance-lease-release")
        self._purging.add(task)
        task.add_done_callback(self._purging.discard)

    async def _look(self, shared: SharedTier, request: RequestContext, key: bytes) -> Respond | None:
        found = await shared.fetch(key, request.tenant)
        if found is None:
            return None
        now = self._clock()
        entry = self._capped(found, now)
        if entry.expires_at <= now or not self._usable(entry, request, now):
            return None
        return _answer(entry, Source.STORE, now)

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
        if self._keep(entry, now) and self._shared is not None:
            self._shared.save(entry)

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
        if self._options.enabled:
            await self._open_store(context)
        wanted = context.settings.get("coalesce", True) and context.settings.get("coalesce-scope") == "shared"
        self._elects = wanted and self._shared is not None
        if wanted and self._shared is None:
            logger.warning("--enhance-coalesce-scope shared needs a store that processes share; they do not")
        self._ticker = asyncio.create_task(self._tick(), name="enhance-cache")

    @hookimpl
    async def shutdown(self) -> None:
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.close()
        self._publish()

    @hookimpl(inline=True)
    def health(self) -> list[HealthReport]:
        if not self._options.enabled:
            return [HealthReport("cache", "healthy", "off")]
        reports = [
            HealthReport("cache", "healthy", f"{len(self._memory)} entries, {self._memory.nbytes} bytes in memory")
        ]
        if self._shared is not None:
            reports.append(self._shared.health())
        elif self._store_problem:
            reports.append(HealthReport("store", "unhealthy", self._store_problem))
        return reports

    @hookimpl
    async def stats(self) -> Mapping[str, Any]:
        counts, memory = self._memory.counts, self._memory
        found: dict[str, Any] = {
            "enabled": self._options.enabled,
            "memory": {
                "entries": len(memory),
                "bytes": memory.nbytes,
                "max_entries": memory.max_entries,
                "max_bytes": memory.max_bytes,
                **{name: getattr(counts, name) for name in counts.__slots__},
            },
        }
        if self._shared is not None:
            found["store"] = await self._shared.stats()
        return found

    @hookimpl
    async def invalidate(self, scope: InvalidationScope) -> int:
        """Forget. Nothing in ``scope`` is served here once this returns, answers now being generated included, nor by
        any process on the same store a second later.

        Returns:
            how many answers, counted where most of them are: in the store, else in memory. An answer in both is one.

        Raises:
            DirectiveError: the scope cannot be understood.
        """
        now = self._clock()
        keys = await self._selected(scope, now)
        if not scope.dry_run:
            self._horizon = self._horizon.forget(scope, now)
            await self._purge(keys)
        stored = await self._shared.invalidate(scope) if self._shared is not None else None
        return max(len(keys), stored or 0)

    async def _selected(self, scope: InvalidationScope, now: float) -> list[bytes]:
        """Keys in memory that ``scope`` names. For an age every entry is looked at, some at a time."""
        if scope.kind != "age":
            return self._memory.select(scope, now)
        inside, entries, keys = matcher(scope, now), self._memory.entries(), list[bytes]()
        for start in range(0, len(entries), PURGE_CHUNK):
            keys += [entry.key for entry in entries[start : start + PURGE_CHUNK] if inside(entry.key, entry.tags)]
            await asyncio.sleep(0)
        return keys

    # ------------------------------------------------------------------ inside

    def _use(self, options: CacheOptions, metrics: Metrics | None) -> None:
        self._options = options
        self._metrics = metrics
        self._memory = LRUCache(options.max_bytes, options.max_entries, options.max_entry_bytes, ttl=options.ttl)
        self._meter = MemoryMeter(self._memory, metrics) if metrics is not None else None

    async def _open_store(self, context: HookContext) -> None:
        """The shared store if there is one; else, with several API server processes, what they forget together."""
        options, holds_entries = self._options, True
        try:
            if self._own_store is not None:
                store = self._own_store
            elif shares(options.store):
                store = open_store(
                    options.store, prefix=options.store_prefix, max_bytes=options.store_max_bytes, clock=self._clock
                )
            elif context.api_process[1] > 1:
                from vllm_enhance_cache.stores.host import HostHorizon

                store, holds_entries = HostHorizon(clock=self._clock), False
            else:
                return
        except ConfigurationError as error:
            self._store_problem = str(error)
            logger.error("answers are kept in this process' memory only: %s", error)
            return
        await self._share(store, holds_entries, context)
        if holds_entries and not options.store_key:
            logger.warning(
                "ENHANCE_STORE_KEY is not set: whoever can write to the store can make this server say anything"
            )

    async def _share(self, store: Store, holds_entries: bool, context: HookContext) -> None:
        from vllm_enhance_cache.envelope import Envelope
        from vllm_enhance_cache.seal import Seal
        from vllm_enhance_cache.shared import SharedTier

        options = self._options
        self._shared = SharedTier(
            store,
            Envelope(options.store_key, compression=options.compression, max_bytes=options.max_entry_bytes),
            StoreMeter(context.metrics),
            seal=Seal(options.store_key),
            holds_entries=holds_entries,
            deadline=options.store_deadline,
            on_entry=self._fetched,
            on_horizon=self._moved,
            clock=self._clock,
            monotonic=context.monotonic,
        )
        await self._shared.start()
        context.shared = self._shared.log

    def _fetched(self, entry: Entry) -> None:
        """An entry has come from the store, perhaps too late for who asked: memory takes it."""
        now = self._clock()
        self._keep(self._capped(entry, now), now)

    def _capped(self, entry: Entry, now: float) -> Entry:
        """``entry``, living no longer than our own time to live allows."""
        ours = min(entry.created_at, now) + self._options.ttl
        return entry if entry.expires_at <= ours else msgspec.structs.replace(entry, expires_at=ours)

    def _moved(self, horizon: Horizon) -> None:
        """The store's horizon has moved: follow, and drop from memory what is behind it."""
        self._horizon = self._horizon.merge(horizon)
        task = asyncio.get_running_loop().create_task(self._purge_behind(), name="enhance-cache-purge")
        self._purging.add(task)
        task.add_done_callback(self._purging.discard)

    async def _purge_behind(self) -> None:
        entries = self._memory.entries()
        for start in range(0, len(entries), PURGE_CHUNK):
            for entry in entries[start : start + PURGE_CHUNK]:
                if not entry.admitted_by(self._horizon):
                    self._memory.delete(entry.key)
            await asyncio.sleep(0)

    def _count_refused(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.count("vllm_enhance_cache_refused", 1, reason)

    def _usable(self, entry: Entry, request: RequestContext, now: float) -> bool:
        # The key covers tenant and prompt; looking twice costs nothing and keeps a mistake there from leaking.
        if entry.tenant != request.tenant or entry.record.prompt_tokens != request.num_asked_tokens:
            self._count_refused("mismatch")
            return False
        horizon = self._horizon
        if (
            entry.generation < horizon.generation or entry.created_at <= horizon.created_after
        ) and not entry.admitted_by(horizon):
            return False  # a purge is on its way here
        return request.directives.accepts_age(now - entry.created_at)

    def _keep(self, entry: Entry, now: float) -> bool:
        if not entry.admitted_by(self._horizon):
            self._count_refused("flushed")
            return False
        return self._memory.put(entry, now)

    async def _purge(self, keys: Sequence[bytes]) -> int:
        dropped = 0
        for start in range(0, len(keys), PURGE_CHUNK):
            dropped += sum(self._memory.delete(key) for key in keys[start : start + PURGE_CHUNK])
            await asyncio.sleep(0)
        return dropped

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for _ in range(SWEEPS):
                if self._memory.sweep(self._clock(), PURGE_CHUNK) < PURGE_CHUNK:
                    break
                await asyncio.sleep(0)
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
