"""The index and its policy shared with other processes and hosts, through the log that `HookContext.shared` offers.

What one process stores, every other puts into its own index, so that search never leaves the process. All of it is
optional: a message that is lost or refused costs a hit, never a request.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vllm_enhance.stores import EntryTags
from vllm_enhance_similarity.messages import EntryMessage, VerdictMessage, read_entry, read_verdict
from vllm_enhance_similarity.policies.bounded import BoundedPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from vllm_enhance.sharing import Message, SharedLog
    from vllm_enhance_similarity.encoders import EmbedderIdentity
    from vllm_enhance_similarity.feedback import Feedback
    from vllm_enhance_similarity.index.entries import Entry
    from vllm_enhance_similarity.learned import SharedLearning
    from vllm_enhance_similarity.service import SimilarityService

__all__ = ["Exchange", "sharing_tag"]

_CHUNK = 8  # entries put into the index in one go; a lookup waits for one chunk at most


def sharing_tag(identity: bytes, embedder: EmbedderIdentity) -> str:
    """Names those who can use each other's entries: same served model and weights, same embedding model."""
    digest = hashlib.blake2b(digest_size=8, person=b"enhance-similar")
    for part in (identity, embedder.digest.encode()):
        digest.update(len(part).to_bytes(4, "little") + part)
    return digest.hexdigest()


class Exchange:
    """What this process tells and hears. Made on the event loop.

    Args:
        tag: see `sharing_tag`; processes with another one are neither told nor heard.
        count: told of each entry of others, and what became of it.
    """

    def __init__(
        self,
        service: SimilarityService,
        feedback: Feedback,
        shared: SharedLog,
        tag: str,
        *,
        clock: Callable[[], float],
        count: Callable[[str, int], None],
    ) -> None:
        self._service = service
        self._feedback = feedback
        self._shared = shared
        self._entries_topic = f"similar-{tag}"
        self._verdicts_topic = f"verdicts-{tag}"
        self._clock = clock
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._since = clock()
        self._stops: list[Callable[[], None]] = []
        self.received: Counter[str] = Counter()
        self.learning = self._make_learning(tag)

    def _make_learning(self, tag: str) -> SharedLearning | None:
        policy = self._service.policy
        if not self._shared.carries_answers or not isinstance(policy, BoundedPolicy):
            return None
        from vllm_enhance_similarity.learned import SharedLearning

        return SharedLearning(self._service, policy, self._shared, tag, BoundedPolicy(policy.parameters).dump())

    def start(self) -> None:
        """Listen, and in the background take over what others have learned."""
        self._stops.append(self._shared.follow(self._verdicts_topic, self._hear_verdicts))
        if self._shared.carries_answers:
            self._stops.append(self._shared.follow(self._entries_topic, self._hear_entries))
        if self.learning is not None:
            self.learning.start()

    def close(self) -> None:
        """Listen no more."""
        for stop in self._stops:
            stop()
        if self.learning is not None:
            self.learning.close()

    # ------------------------------------------------------------------ telling

    def tell_entry(self, entry: Entry, vector: NDArray[np.float32]) -> None:
        """Called on the matching thread, after an entry has been stored."""
        if not self._shared.carries_answers or entry.expires is None:
            return
        message = EntryMessage(
            entry.partition,
            entry.key,
            entry.tenant,
            entry.model,
            entry.text,
            entry.group,
            entry.created,
            entry.expires,
            entry.generation,
            np.asarray(vector, dtype=np.float32).tobytes(),
            entry.payload,
        )
        data, ttl = msgspec.msgpack.encode(message), self._service.options.similarity_ttl
        try:
            self._loop.call_soon_threadsafe(lambda: self._shared.publish(self._entries_topic, data, ttl=ttl))
        except RuntimeError:
            return  # the loop is closed: the server has stopped

    def tell_verdict(self, message: VerdictMessage) -> None:
        """Called on the event loop."""
        self._shared.publish(
            self._verdicts_topic, msgspec.msgpack.encode(message), ttl=self._service.options.similarity_ttl
        )

    def ask_others(self, asked: bytes, verdict: str) -> None:
        """This process does not know which stored answer the question got: whoever has served it may."""
        self.tell_verdict(VerdictMessage(asked, verdict))

    # ------------------------------------------------------------------ hearing

    async def _hear_entries(self, messages: Sequence[Message]) -> None:
        for start in range(0, len(messages), _CHUNK):
            chunk = messages[start : start + _CHUNK]
            results = await self._service.run(partial(self._put_all, chunk))
            self.received.update(results)
            for result, number in results.items():
                self._count(result, number)

    def _put_all(self, messages: Sequence[Message]) -> Counter[str]:
        return Counter(self._put(each.payload) for each in messages)

    def _put(self, data: bytes) -> str:
        """On the matching thread: put one entry into the index; a word for what became of it."""
        matcher, options, now = self._service.matcher, self._service.options, self._clock()
        if matcher is None:
            return "closed"
        found = read_entry(
            data,
            dimension=matcher.index.dimension,
            now=now,
            ttl=options.similarity_ttl,
            max_payload=options.similarity_max_entry_bytes,
        )
        if not isinstance(found, EntryMessage):
            return found
        tags = EntryTags(found.tenant, found.model, found.created)
        if not self._shared.horizon.admits(found.generation, found.key, tags):
            return "forgotten"
        known = matcher.index.find(found.partition, found.key)
        if known is not None and known.created >= found.created:
            return "known"
        entry = matcher.remember(
            found.partition,
            found.key,
            found.text,
            np.frombuffer(found.vector, dtype=np.float32),
            tenant=found.tenant,
            model=found.model,
            now=found.created,
            expires=found.expires,
            payload=found.payload,
            group=found.group,
            generation=found.generation,
        )
        return "time_bound" if entry is None else "added"

    async def _hear_verdicts(self, messages: Sequence[Message]) -> None:
        matcher = self._service.matcher
        if matcher is None:
            return
        for each in messages:
            message = read_verdict(
                each.payload,
                dimension=matcher.index.dimension,
                now=self._clock(),
                ttl=self._service.options.similarity_ttl,
            )
            if message is None:
                continue
            live = each.sent_at >= self._since
            if message.group:
                await self._feedback.heard(message, live=live)
            elif live and (taken := await self._feedback.take(message.asked, message.verdict)) is not None:
                self.tell_verdict(taken)
