"""The shared tier: a store behind an envelope, a deadline, breakers and a horizon.

Reading and writing have a breaker each, since a full or read-only Redis still answers; the change logs have their own.
No request ever probes: the poll that keeps the horizon up to date does. A view of the horizon older than a second is no
view: then lookups miss, so that a flush elsewhere is obeyed even by a process that cannot hear of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vllm_enhance.errors import ConfigurationError, StoreError
from vllm_enhance.stores import Horizon, Store
from vllm_enhance.types import HealthReport, InvalidationScope
from vllm_enhance_cache.breaker import Breaker, BreakerState
from vllm_enhance_cache.calls import LIMIT_SECONDS, StoreCalls
from vllm_enhance_cache.changes import ChangeLog
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.envelope import Envelope
from vllm_enhance_cache.errors import EnvelopeError, StoreFault
from vllm_enhance_cache.meters import StoreMeter
from vllm_enhance_cache.seal import Seal
from vllm_enhance_cache.writer import Writer

__all__ = ["SharedTier"]

logger = logging.getLogger("vllm_enhance.cache")

POLL_SECONDS = 0.25
VIEW_SECONDS = 1.0
CLEAR_SECONDS = 3.5
LARGE_BYTES = 65536
MAX_PENDING = 64
GAUGE_EVERY = 60
SIDES = ("reads", "writes", "messages out", "messages in")


class SharedTier:
    """One store, as the hook uses it.

    Args:
        store: the backend.
        envelope: seals and opens values.
        meter: metrics.
        seal: signs and checks what is in the change logs.
        holds_entries: ``False`` for a store that only tells processes what to forget, see
            :class:`vllm_enhance_cache.stores.host.HostHorizon`.
        deadline: seconds that a lookup may take.
        on_entry: told of each entry that was fetched, also of one that came late.
        on_horizon: told when the horizon has moved.
        clock, monotonic, chance: Unix time, seconds, uniform in [0, 1).
    """

    def __init__(
        self,
        store: Store,
        envelope: Envelope,
        meter: StoreMeter,
        *,
        seal: Seal | None = None,
        holds_entries: bool = True,
        deadline: float = 0.025,
        on_entry: Callable[[Entry], None] = lambda entry: None,
        on_horizon: Callable[[Horizon], None] = lambda horizon: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.store = store
        self.horizon = Horizon()
        self._envelope = envelope
        self._meter = meter
        self._holds_entries = holds_entries
        self._deadline = deadline
        self._on_entry = on_entry
        self._on_horizon = on_horizon
        self._clock = clock
        self._monotonic = monotonic
        self._view_at = float("-inf")
        self._pending: list[InvalidationScope] = []
        self._polls = 0
        self._poller: asyncio.Task[None] | None = None
        self._clearing: set[asyncio.Task[int | None]] = set()
        self._calls = StoreCalls(store.name, meter, monotonic)
        self._breakers = {side: Breaker(monotonic, chance, self._log_change(side)) for side in SIDES}
        self._reading, self._writing, sending, hearing = self._breakers.values()
        self._writer = Writer(self._write, meter)
        self.log = ChangeLog(
            store,
            seal or Seal(),
            self._calls,
            meter,
            sending=sending,
            hearing=hearing,
            horizon=lambda: self.horizon,
            carries_answers=holds_entries,
            clock=clock,
        )

    # ------------------------------------------------------------------ traffic

    @property
    def available(self) -> bool:
        """Whether a lookup makes sense now: the store answers, and our view of the horizon is fresh."""
        return self._holds_entries and self._listening

    @property
    def _listening(self) -> bool:
        return self._reading.closed and self._monotonic() - self._view_at <= VIEW_SECONDS

    async def fetch(self, key: bytes, tenant: bytes) -> Entry | None:
        """The entry under ``key``, or ``None`` within the deadline, whatever the store does."""
        try:
            return await self._calls.run("get", lambda: self._fetch(key, tenant), self._reading, self._deadline)
        except StoreError:
            return None

    def save(self, entry: Entry) -> None:
        """Store an entry in the background; dropped and counted when too much is waiting."""
        if self._holds_entries:
            self._writer.add(entry)

    async def written(self, key: bytes) -> None:
        """Wait until no write of ``key`` is under way."""
        await self._writer.written(key)

    async def _fetch(self, key: bytes, tenant: bytes) -> Entry | None:
        data = await self.store.get(key)
        if data is None:
            self._meter.lookup("miss")
            return None
        now = self._clock()
        try:
            if len(data) > LARGE_BYTES:
                entry = await asyncio.to_thread(self._envelope.open, data, key=key, tenant=tenant, now=now)
            else:
                entry = self._envelope.open(data, key=key, tenant=tenant, now=now)
        except EnvelopeError as error:
            self._meter.lookup("refused")
            self._meter.refused(error.reason)
            return None
        if not entry.admitted_by(self.horizon) or self._monotonic() - self._view_at > VIEW_SECONDS:
            self._meter.lookup("refused")
            self._meter.refused("flushed")
            return None
        self._meter.lookup("hit")
        self._on_entry(entry)
        return entry

    async def _write(self, entry: Entry) -> None:
        ttl = entry.expires_at - self._clock()
        if ttl <= 0 or not entry.admitted_by(self.horizon):
            self._meter.dropped("flushed")
            return
        try:
            if entry.nbytes > LARGE_BYTES:
                value = await asyncio.to_thread(self._envelope.seal, entry)
            else:
                value = self._envelope.seal(entry)
            if not self._writing.admits():
                self._meter.dropped("breaker")
                return
            await self._calls.run(
                "put",
                lambda: self.store.put(entry.key, value, ttl=ttl, tags=entry.tags),
                self._writing,
                LIMIT_SECONDS,
            )
        except EnvelopeError as error:
            self._meter.dropped(error.reason)
        except StoreError:
            self._meter.dropped("failed")

    # ------------------------------------------------------------------ forgetting

    async def invalidate(self, scope: InvalidationScope) -> int | None:
        """Move the horizon here and in the store, and drop the entries behind it.

        Where the store cannot be reached, the horizon moves here and the store is told as soon as it answers.

        Returns:
            entries in ``scope``, counted before the store's deadline for it; ``None`` when the store cannot say.

        Raises:
            DirectiveError: the scope cannot be understood.
        """
        if not scope.dry_run:
            self._move(self.horizon.forget(scope, self._clock()))
            self._pending.append(scope)
            if len(self._pending) > MAX_PENDING:
                self._pending = [InvalidationScope("all")]
            try:
                await self._calls.run("forget", self._tell, self._reading, LIMIT_SECONDS)
            except StoreError as error:
                logger.warning("the store cannot be told to forget now, and will be when it can: %s", error)
        if not self._holds_entries:
            return None
        clearing = self._clear_soon(scope)
        await asyncio.wait((clearing,), timeout=CLEAR_SECONDS)
        if not clearing.done():
            logger.info("forgetting %s: the store still counts in the background", scope.kind)
            return None
        return clearing.result()

    def _clear_soon(self, scope: InvalidationScope) -> asyncio.Task[int | None]:
        async def clear() -> int | None:
            try:
                return await self.store.clear(scope)
            except (StoreError, ConfigurationError, OSError):
                return None

        task = asyncio.create_task(clear(), name="enhance-store-clear")
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
        return task

    async def _tell(self) -> None:
        while self._pending:
            scope = self._pending[0]
            horizon = await self.store.forget(scope)
            if scope in self._pending:
                self._pending.remove(scope)
            self._move(self.horizon.merge(horizon))

    async def sync(self) -> None:
        """Bring our view of the horizon up to date, and the store's where it has lost its memory.

        Raises:
            StoreError: the store does not answer.
        """
        await self._calls.run("sync", self._look, self._reading, self._deadline)

    async def _look(self) -> None:
        asked_at = self._monotonic()
        if self._pending:
            late = list(self._pending)
            if await self._unless_refused(self._tell()):
                for scope in late:
                    self._clear_soon(scope)
        theirs = await self.store.horizon()
        merged = self.horizon.merge(theirs)
        if merged != theirs:
            await self._unless_refused(self.store.restore(merged))
        self._move(merged)
        self._view_at = max(self._view_at, asked_at)

    @staticmethod
    async def _unless_refused(change: Awaitable[object]) -> bool:
        """A store that is full or read-only can still be read; what it would not take is offered again later."""
        try:
            await change
        except StoreFault as error:
            if error.reason != "refused":
                raise
            return False
        return True

    def _move(self, horizon: Horizon) -> None:
        if horizon != self.horizon:
            self.horizon = horizon
            self._on_horizon(horizon)
            self.log.moved(horizon)

    # ------------------------------------------------------------------ life cycle

    async def start(self) -> None:
        """Look at the store once, then keep the view fresh in the background. Never raises for a sick store."""
        try:
            await self._calls.run("sync", self._look, None, LIMIT_SECONDS)
        except StoreError as error:
            logger.warning("the store does not answer yet, requests are served without it: %s", error)
        self._poller = asyncio.create_task(self._poll(), name="enhance-store-poll")

    async def close(self) -> None:
        """Write what is waiting, for two seconds at most, then let go of the store."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.gather(poller, return_exceptions=True)
        await self._writer.close()
        await self.log.close()
        for task in list(self._clearing):
            task.cancel()
        await self._calls.close()
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await self.store.close()
        except (TimeoutError, StoreError, OSError):
            logger.warning("the store did not close in time")

    async def _poll(self) -> None:
        while True:
            try:
                async with asyncio.timeout(2 * POLL_SECONDS):
                    await self.store.changed(POLL_SECONDS)
            except Exception:
                await asyncio.sleep(POLL_SECONDS)
            if self._reading.admits():
                try:
                    await self.sync()
                except StoreError:
                    await asyncio.sleep(POLL_SECONDS)
            self._polls += 1
            if self._polls % GAUGE_EVERY == 1 and self._reading.closed:
                await self._measure()

    async def _measure(self) -> None:
        try:
            stats = await self._calls.run("stats", self.store.stats, None, LIMIT_SECONDS)
        except StoreError:
            return
        self._meter.size(stats.entries, stats.nbytes)
        advice = stats.detail.get("advice")
        if self._polls == 1 and isinstance(advice, list):
            for sentence in advice:
                logger.warning("%s", sentence)

    # ------------------------------------------------------------------ for people

    def health(self) -> HealthReport:
        """Degraded while a breaker is open or the view is stale."""
        problems = [
            f"{side} stopped: {breaker.reason}" for side, breaker in self._breakers.items() if not breaker.closed
        ]
        if not problems and not self._listening:
            problems.append("no answer yet")
        return HealthReport("store", "degraded" if problems else "healthy", "; ".join(problems) or self.store.name)

    async def stats(self) -> Mapping[str, Any]:
        """Numbers, from a look at the store if it answers within a second."""
        found: dict[str, Any] = {
            "name": self.store.name,
            "reads": self._reading.state.value,
            "writes": self._writing.state.value,
            "signed": self._envelope.keyed,
            "waiting_writes": len(self._writer),
            "generation": self.horizon.generation,
            "log": self.log.stats(),
        }
        try:
            looked = await self._calls.run("stats", self.store.stats, None, LIMIT_SECONDS)
        except StoreError:
            return {**found, "entries": None, "bytes": None}
        return {**found, "entries": looked.entries, "bytes": looked.nbytes, **looked.detail}

    def _log_change(self, side: str) -> Callable[[BreakerState, str, float], None]:
        def told(state: BreakerState, reason: str, seconds: float) -> None:
            self._meter.breaker(side, state is not BreakerState.CLOSED)
            if state is BreakerState.OPEN:
                logger.warning("store %s: %s stopped, requests go on without it: %s", self.store.name, side, reason)
            else:
                logger.warning("store %s: %s are back after %.1f s", self.store.name, side, seconds)

        return told
