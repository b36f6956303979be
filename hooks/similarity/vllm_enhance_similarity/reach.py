"""How far this process' index reaches: what it has to forget, and with whom it shares.

Without a store the horizon is the process' own. With one, it is the store's, which a flush anywhere moves; entries that
it has passed over are dropped at once in the background, and until then serving looks at it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from vllm_enhance.stores import EntryTags, Horizon

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from vllm_enhance.context import HookContext
    from vllm_enhance.sharing import SharedLog
    from vllm_enhance.types import InvalidationScope
    from vllm_enhance_similarity.account import Account
    from vllm_enhance_similarity.exchange import Exchange
    from vllm_enhance_similarity.feedback import Feedback
    from vllm_enhance_similarity.index.entries import Entry
    from vllm_enhance_similarity.service import SimilarityService

__all__ = ["Reach"]


class Reach:
    """One process' horizon and its exchange with others. On the event loop, but for `admits` and `tell_entry`."""

    def __init__(self) -> None:
        self._own_horizon = Horizon()
        self._shared: SharedLog | None = None
        self._exchange: Exchange | None = None
        self._service: SimilarityService | None = None
        self._purging: asyncio.Task[None] | None = None
        self._due = False

    # ------------------------------------------------------------------ forgetting

    @property
    def horizon(self) -> Horizon:
        return self._own_horizon if self._shared is None else self._shared.horizon

    def admits(self, entry: Entry) -> bool:
        """Whether an entry of the index has not been forgotten."""
        return _admitted(entry, self.horizon)

    def forget(self, scope: InvalidationScope, now: float) -> None:
        """Move the horizon; with a store, its holder does that for all of us."""
        if self._shared is None:
            self._own_horizon = self._own_horizon.forget(scope, now)

    async def restored(self, service: SimilarityService) -> None:
        """The index has been read from disk: drop what was forgotten while it was read."""
        self._service = service
        if self._own_horizon.generation:
            await _settle(service, self._own_horizon, restored=True)

    def _moved(self, horizon: Horizon) -> None:
        self._due = True
        if self._service is not None and self._purging is None:
            self._purging = asyncio.get_running_loop().create_task(self._purge(self._service), name="enhance-purge")

    async def _purge(self, service: SimilarityService) -> None:
        try:
            while self._due:
                self._due = False
                await _settle(service, self.horizon)
        finally:
            self._purging = None

    # ------------------------------------------------------------------ sharing

    async def join(
        self, service: SimilarityService, context: HookContext, feedback: Feedback, account: Account
    ) -> None:
        """Share with other processes, as soon as there is something to share through. Call it again and again."""
        identity = service.embedder.identity
        if self._exchange is not None or context.shared is None or identity is None:
            return
        from vllm_enhance_similarity.exchange import Exchange, sharing_tag

        self._service, self._shared = service, context.shared
        self._shared.on_horizon(self._moved)
        await _settle(service, self._shared.horizon, restored=True)
        tag = sharing_tag(context.identity, identity)
        self._exchange = Exchange(service, feedback, self._shared, tag, clock=context.clock, count=account.shared)
        self._exchange.start()

    def tell_entry(self, entry: Entry, vector: NDArray[np.float32]) -> None:
        """An entry has been stored here. Called on the matching thread."""
        if self._exchange is not None:
            self._exchange.tell_entry(entry, vector)

    @property
    def exchange(self) -> Exchange | None:
        return self._exchange

    def save_soon(self) -> None:
        """Write what the policy has learned to the store, in the background."""
        if self._exchange is not None and self._exchange.learning is not None:
            self._exchange.learning.save_soon()

    async def save(self) -> None:
        """The same, now."""
        if self._exchange is not None and self._exchange.learning is not None:
            await self._exchange.learning.save()

    async def close(self) -> None:
        """End what runs, and listen no more."""
        self._service = None
        if self._exchange is not None:
            self._exchange.close()
        if self._purging is not None:
            self._purging.cancel()
            await asyncio.gather(self._purging, return_exceptions=True)

    # ------------------------------------------------------------------ for people

    def __str__(self) -> str:
        if self._shared is None:
            return "in this process"
        if self._shared.carries_answers:
            return "shared through the store"
        return "in this process; what is forgotten or called wrong is shared on this host"

    def stats(self) -> Mapping[str, Any] | None:
        """Numbers, JSON-able; None when nothing is shared."""
        exchange = self._exchange
        if exchange is None or self._shared is None:
            return None
        return {
            "answers": self._shared.carries_answers,
            "received": dict(exchange.received),
            "policy_place": exchange.learning.place if exchange.learning is not None else None,
        }


def _admitted(entry: Entry, horizon: Horizon) -> bool:
    return horizon.admits(entry.generation, entry.key, EntryTags(entry.tenant, entry.model, entry.created))


async def _settle(service: SimilarityService, horizon: Horizon, *, restored: bool = False) -> None:
    """Drop what is behind the horizon; what a snapshot brought counts as no younger than the horizon is."""
    if service.matcher is None:
        return
    index = service.matcher.index

    def settle() -> None:
        index.drop_unless(lambda entry: _admitted(entry, horizon))
        for entry in index.entries() if restored else ():
            entry.generation = min(entry.generation, horizon.generation)

    await asyncio.to_thread(settle)
