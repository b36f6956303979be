"""What the bounded policy has learned, kept in the shared store: by the processes of all hosts, and over restarts.

There are some numbered places. Each process claims one and writes its state there; it goes on from what its place held
before, and learns from the other places as from peers. So nobody's lessons are lost when a process ends, they are never
counted twice, and their number is bounded. Where the store has lessons, they count; those in a file of this host are a
copy of some of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import zlib
from typing import TYPE_CHECKING, Any

from vllm_enhance.sharing import MAX_STATE
from vllm_enhance_similarity.policies.bounded import BoundedPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from vllm_enhance.sharing import Message, SharedLog
    from vllm_enhance_similarity.service import SimilarityService

__all__ = ["SharedLearning"]

logger = logging.getLogger("vllm_enhance.similarity")

PLACES = 64
KEPT_SECONDS = 30 * 86400.0
_MAX_STATE = 4 * MAX_STATE  # unpacked


class SharedLearning:
    """One process' share in it. Call from the event loop; work is done on the service's slow thread.

    Args:
        fresh: state of a policy that knows nothing.
        tag: of those who may learn from each other: same served model, same embedding model.
    """

    def __init__(self, service: SimilarityService, policy: BoundedPolicy, shared: SharedLog, tag: str, fresh: bytes):
        self._service = service
        self._policy = policy
        self._shared = shared
        self._topic = f"learned-{tag}"
        self._fresh = fresh
        self._place: int | None = None
        self._kept = b""
        self._opened = False
        self._stops: list[Callable[[], None]] = []
        self._work: asyncio.Task[None] | None = None
        service.learning_is_shared = True

    @property
    def place(self) -> int | None:
        return self._place

    def start(self) -> None:
        """Begin, in the background: a sick store takes its time."""
        self._work = asyncio.get_running_loop().create_task(self._safely(self._open()), name="enhance-learned")

    def save_soon(self) -> None:
        """`save` in the background, unless something is under way."""
        if self._work is None or self._work.done():
            self._work = asyncio.get_running_loop().create_task(self._safely(self.save()), name="enhance-learned")

    def close(self) -> None:
        """End what runs, and listen no more."""
        for stop in self._stops:
            stop()
        if self._work is not None:
            self._work.cancel()

    @staticmethod
    async def _safely(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # the next time tries again
            logger.exception("similarity: what was learned could not be shared")

    async def _open(self) -> None:
        """Claim a place and take over what is in all of them, then hear of changes."""
        alone = self._has_learned
        states: dict[int, bytes] = {}
        for place in range(PLACES):
            state = await self._recall(place)
            if state is not None:
                states[place] = state
            await self._claim(place, allowed=state is None or not alone)
        if states and not alone:
            own = self._fresh if self._place is None else states.pop(self._place, self._fresh)
            await self._service.run_slow(lambda: self._policy.load(own))
        for place, state in states.items():
            await self._absorb(place, state)
        self._stops.append(self._shared.follow(self._topic, self._heard))
        self._opened = True

    async def save(self) -> None:
        """Write the own state, if it has changed, and tell the others."""
        if not self._opened:
            return
        if self._place is not None and not self._shared.holds(self._name(self._place)):
            self._place, self._kept = None, b""
        for place in range(PLACES if self._place is None else 0):  # the store was away, or all places were taken
            await self._claim(place, allowed=await self._recall(place) is None)
        if self._place is None:
            return
        state = await self._service.run_slow(self._policy.dump)
        digest = hashlib.blake2b(state, digest_size=16).digest() + self._shared.horizon.generation.to_bytes(8, "big")
        if digest == self._kept:
            return
        packed = await self._service.run_slow(lambda: zlib.compress(state, 1))
        if await self._shared.keep(self._name(self._place), packed, ttl=KEPT_SECONDS):
            self._kept = digest
            self._shared.publish(self._topic, str(self._place).encode(), ttl=3600.0)

    async def _claim(self, place: int, *, allowed: bool) -> None:
        """Who has learned something already may take an empty place only: nobody can go on from two states."""
        if self._place is None and allowed and await self._shared.claim(self._name(place)):
            self._place = place

    @property
    def _has_learned(self) -> bool:
        verdicts = self._service.verdicts
        return verdicts["same"] + verdicts["different"] > 0

    async def _heard(self, messages: Sequence[Message]) -> None:
        for text in {message.payload for message in messages}:
            place = int(text) if text.isdigit() and len(text) < 4 else PLACES
            state = await self._recall(place) if place < PLACES and place != self._place else None
            if state is not None:
                await self._absorb(place, state)

    async def _absorb(self, place: int, state: bytes) -> None:
        if not await self._service.run_slow(lambda: self._policy.absorb(self._name(place), state)):
            logger.info("similarity: what another process has learned does not fit this version")

    async def _recall(self, place: int) -> bytes | None:
        packed = await self._shared.recall(self._name(place))
        return None if packed is None else await self._service.run_slow(lambda: _unpacked(packed))

    def _name(self, place: int) -> str:
        return f"{self._topic}-{place}"


def _unpacked(packed: bytes) -> bytes | None:
    try:
        unpacker = zlib.decompressobj()
        state = unpacker.decompress(packed, _MAX_STATE)
    except zlib.error:
        return None
    return state if unpacker.eof else None
