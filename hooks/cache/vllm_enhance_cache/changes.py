"""The change logs of a store, as other hook packages use them: :class:`vllm_enhance.sharing.SharedLog`.

Sending and listening have a breaker each, apart from those of answers: a Redis that refuses streams (its version, an
access list) still serves answers. What cannot be sent is counted and lost, since whoever listens is right without it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from vllm_enhance.errors import ConfigurationError, StoreError
from vllm_enhance.sharing import MAX_MESSAGE, MAX_STATE, Message, Receiver
from vllm_enhance.stores import EntryTags, Horizon, LogLimits, LogPage, Store
from vllm_enhance.throttle import Throttle
from vllm_enhance_cache.breaker import Breaker
from vllm_enhance_cache.calls import LIMIT_SECONDS, StoreCalls
from vllm_enhance_cache.errors import EnvelopeError
from vllm_enhance_cache.leases import Lease
from vllm_enhance_cache.meters import StoreMeter
from vllm_enhance_cache.seal import ORIGIN_BYTES, Seal

__all__ = ["ChangeLog"]

logger = logging.getLogger("vllm_enhance.cache")

T = TypeVar("T")

POLL_SECONDS = 0.25
PAGE = 32
MAX_MESSAGES = 10_000
MAX_BYTES = 64 * 2**20
MAX_WAITING = 1024
MAX_WAITING_BYTES = 16 * 2**20
DRAIN_SECONDS = 1.0
LARGE_BYTES = 65536
CLAIM_SECONDS = 10.0


class ChangeLog:
    """See :class:`vllm_enhance.sharing.SharedLog`.

    Args:
        store: the backend.
        seal: signs and checks.
        calls: bounds and counts calls to the store.
        meter: metrics.
        sending, hearing: breakers.
        horizon: the present horizon.
        carries_answers: see the protocol.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        store: Store,
        seal: Seal,
        calls: StoreCalls,
        meter: StoreMeter,
        *,
        sending: Breaker,
        hearing: Breaker,
        horizon: Callable[[], Horizon],
        carries_answers: bool,
        clock: Callable[[], float],
    ) -> None:
        self.carries_answers = carries_answers
        self._store = store
        self._seal = seal
        self._calls = calls
        self._meter = meter
        self._sending = sending
        self._hearing = hearing
        self._horizon = horizon
        self._clock = clock
        self._origin = secrets.token_bytes(ORIGIN_BYTES)
        self._listeners: list[Callable[[Horizon], None]] = []
        self._waiting: deque[tuple[str, bytes, float]] = deque()
        self._nbytes = 0
        self._sender: asyncio.Task[None] | None = None
        self._followers: set[asyncio.Task[None]] = set()
        self._leases: dict[str, Lease] = {}
        self._throttle = Throttle(60.0)
        self._counts = {"sent": 0, "received": 0, "dropped": 0, "refused": 0}
        self._closed = False

    # ------------------------------------------------------------------ the horizon

    @property
    def horizon(self) -> Horizon:
        return self._horizon()

    def on_horizon(self, told: Callable[[Horizon], None]) -> None:
        self._listeners.append(told)

    def moved(self, horizon: Horizon) -> None:
        """Tell those who asked."""
        for told in self._listeners:
            try:
                told(horizon)
            except Exception:
                self._complain("horizon")

    # ------------------------------------------------------------------ sending

    def publish(self, topic: str, payload: bytes, *, ttl: float) -> bool:
        reason = (
            "too_large"
            if len(payload) > MAX_MESSAGE
            else "queue_full"
            if self._closed or len(self._waiting) >= MAX_WAITING or self._nbytes + len(payload) > MAX_WAITING_BYTES
            else None
        )
        if reason is not None:
            self._dropped(reason)
            return False
        self._waiting.append((topic, payload, ttl))
        self._nbytes += len(payload)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_all(), name="enhance-log-send")
        return True

    async def _send_all(self) -> None:
        while self._waiting:
            topic, payload, ttl = self._waiting.popleft()
            self._nbytes -= len(payload)
            if not self._sending.admits():
                self._dropped("breaker")
                continue
            await self._send(topic, payload, ttl)

    async def _send(self, topic: str, payload: bytes, ttl: float) -> None:
        def seal() -> bytes:
            return self._seal.seal(topic, payload, origin=self._origin, now=self._clock())

        message, limits = await self._off_loop(len(payload), seal), LogLimits(MAX_MESSAGES, MAX_BYTES, ttl)
        try:
            await self._calls.run(
                "log_append", lambda: self._store.append(topic, message, limits), self._sending, LIMIT_SECONDS
            )
        except StoreError:
            self._dropped("failed")
            return
        self._counts["sent"] += 1
        self._meter.message("sent")

    def _dropped(self, reason: str) -> None:
        self._counts["dropped"] += 1
        self._meter.message_dropped(reason)

    # ------------------------------------------------------------------ listening

    def follow(self, topic: str, receive: Receiver) -> Callable[[], None]:
        task = asyncio.get_running_loop().create_task(self._follow(topic, receive), name=f"enhance-log-{topic}")
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

        def stop() -> None:
            task.cancel()

        return stop

    async def _follow(self, topic: str, receive: Receiver) -> None:
        position, since = "", self._clock()
        while True:
            page = await self._page(topic, position)
            if page is None or not page.messages:
                position = position if page is None else page.position
                await asyncio.sleep(POLL_SECONDS)
                continue
            position = page.position
            messages = await asyncio.to_thread(self._open_all, topic, page.messages)
            self._count_received(messages, since)
            try:
                if messages:
                    await receive(messages)
            except Exception:  # one bad message must not end the listening
                self._complain("receive")
            if len(page.messages) < PAGE:
                await asyncio.sleep(POLL_SECONDS)

    async def _page(self, topic: str, position: str) -> LogPage | None:
        if not self._hearing.admits():
            return None
        try:
            return await self._calls.run(
                "log_read", lambda: self._store.read(topic, position, PAGE), self._hearing, LIMIT_SECONDS
            )
        except StoreError:
            return None

    def _open_all(self, topic: str, sealed: Sequence[bytes]) -> list[Message]:
        """In a worker thread: what others have sent, without what is not in order."""
        found = []
        for data in sealed:
            try:
                opened = self._seal.open(topic, data)
            except EnvelopeError as error:
                self._counts["refused"] += 1
                self._meter.message_refused(error.reason)
                continue
            if opened.origin != self._origin:
                found.append(Message(opened.payload, opened.sent_at))
        return found

    def _count_received(self, messages: Sequence[Message], since: float) -> None:
        now = self._clock()
        self._counts["received"] += len(messages)
        self._meter.message("received", len(messages))
        for message in messages:
            if message.sent_at >= since:  # the others were sent before anybody here listened
                self._meter.lag(max(0.0, now - message.sent_at))

    # ------------------------------------------------------------------ states

    async def claim(self, name: str) -> bool:
        if self._closed or not self._hearing.closed:
            return False
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                lease = await Lease.acquire(self._store, _key_of("claim", name), seconds=CLAIM_SECONDS)
        except (StoreError, ConfigurationError, TimeoutError, OSError):
            return False
        if lease is not None:
            self._leases[name] = lease
        return lease is not None

    def holds(self, name: str) -> bool:
        lease = self._leases.get(name)
        return lease is not None and not lease.lost

    async def keep(self, name: str, value: bytes, *, ttl: float) -> bool:
        if len(value) > MAX_STATE:
            self._dropped("too_large")
            return False
        if not self._sending.admits():
            return False
        sealed = await self._off_loop(
            len(value), lambda: self._seal.seal(name, value, origin=self._origin, now=self._clock())
        )

        async def put() -> bool:
            tags = EntryTags(created_at=self._clock())
            await self._store.put(_key_of("state", name), sealed, ttl=ttl, tags=tags)
            return True

        return await self._answered("state_put", put, self._sending) is True

    async def recall(self, name: str) -> bytes | None:
        if not self._hearing.admits():
            return None
        sealed = await self._answered("state_get", lambda: self._store.get(_key_of("state", name)), self._hearing)
        if sealed is None:
            return None
        try:
            return (await self._off_loop(len(sealed), lambda: self._seal.open(name, sealed))).payload
        except EnvelopeError as error:
            self._counts["refused"] += 1
            self._meter.message_refused(error.reason)
            return None

    async def _answered(self, operation: str, function: Callable[[], Awaitable[T]], breaker: Breaker) -> T | None:
        try:
            return await self._calls.run(operation, function, breaker, LIMIT_SECONDS)
        except StoreError:
            return None

    # ------------------------------------------------------------------ the rest

    def stats(self) -> Mapping[str, Any]:
        return {
            **self._counts,
            "waiting": len(self._waiting),
            "sending": self._sending.state.value,
            "hearing": self._hearing.state.value,
        }

    async def close(self) -> None:
        """Send what waits, for a second at most; stop listening; give back what is held."""
        self._closed = True
        if self._sender is not None and not self._sender.done():
            await asyncio.wait((self._sender,), timeout=DRAIN_SECONDS)
            self._sender.cancel()
        for task in list(self._followers):
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        leases, self._leases = list(self._leases.values()), {}
        await asyncio.gather(
            *(asyncio.wait_for(lease.release(), DRAIN_SECONDS) for lease in leases), return_exceptions=True
        )

    @staticmethod
    async def _off_loop(nbytes: int, function: Callable[[], T]) -> T:
        """Digests of large values take milliseconds."""
        return await asyncio.to_thread(function) if nbytes > LARGE_BYTES else function()

    def _complain(self, where: str) -> None:
        if self._throttle.allow(where) is not None:
            logger.exception("a listener of the change log failed (%s)", where)


def _key_of(kind: str, name: str) -> bytes:
    return hashlib.blake2b(f"{kind}:{name}".encode(), digest_size=32, person=b"enhance-name").digest()
