"""What users say of similar answers: remembered hits, and what a verdict changes.

`wrong`: the stored answer is not reused any more for the question and its neighbourhood (`corrections`), and the policy
gets a lesson. `right`: a lesson of the other kind, and an earlier correction goes. A verdict is a lesson for the fit,
not an audit: who complains is no random sample, so it must not enter the estimate of the error.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from vllm_enhance_similarity.corrections import Correction
from vllm_enhance_similarity.messages import VerdictMessage
from vllm_enhance_similarity.policies.base import PolicyDecision

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_enhance_similarity.index.entries import Entry
    from vllm_enhance_similarity.service import Consideration, SimilarityService

__all__ = ["Feedback"]


class _Hit(msgspec.Struct):
    """Which stored answer a question got. `verdict` is the last one on it."""

    partition: bytes
    entry: bytes
    group: bytes
    vector: bytes
    decision: PolicyDecision
    verdict: str = ""


class Feedback:
    """Remembers the latest similar hits of this process and takes verdicts on them.

    Args:
        ttl: seconds for which a correction holds.
        clock: Unix time in seconds.
        limit: how many hits are remembered, the oldest going first.
    """

    def __init__(
        self, service: SimilarityService, ttl: float, clock: Callable[[], float], *, limit: int = 4096
    ) -> None:
        self._service = service
        self._ttl = ttl
        self._clock = clock
        self._limit = limit
        self._hits: OrderedDict[bytes, _Hit] = OrderedDict()

    def served(self, asked: bytes, considered: Consideration, entry: Entry) -> None:
        """The question with the exact key `asked` got the answer of `entry`. On the event loop, like `take`."""
        if considered.vector is None:
            return
        hit = _Hit(
            considered.partition, entry.key, entry.group, considered.vector.tobytes(), considered.result.decision
        )
        self._hits.pop(asked, None)
        self._hits[asked] = hit
        while len(self._hits) > self._limit:
            self._hits.popitem(last=False)

    async def take(self, asked: bytes, verdict: str) -> VerdictMessage | None:
        """A verdict on an answer of this process: learn from it. None if it was no similar answer, or is no news.

        Returns:
            what other processes should hear.
        """
        hit = self._hits.get(asked)
        if hit is None or hit.verdict == verdict:
            return None
        hit.verdict = verdict
        message = VerdictMessage(
            asked, verdict, hit.partition, hit.entry, hit.group, hit.vector, self._clock() + self._ttl
        )
        policy = self._service.policy

        def learn() -> None:
            self._correct(message, live=True)
            policy.observe(msgspec.structs.replace(hit.decision, action="miss", weight=1.0), verdict == "right")

        await self._service.run(learn)
        return message

    def knows(self, asked: bytes) -> bool:
        """Whether this process has answered it by similarity, as far as it remembers."""
        return asked in self._hits

    async def heard(self, message: VerdictMessage, *, live: bool) -> None:
        """A verdict that another process has taken; its lesson for the fit comes with what that process has learned.

        Args:
            live: it was sent since this process began to listen; an older one has been part of the policy's state.
        """
        await self._service.run(lambda: self._correct(message, live=live))

    def _correct(self, message: VerdictMessage, *, live: bool) -> None:
        """On the matching thread."""
        corrections = self._service.corrections
        if message.verdict == "right":
            corrections.withdraw(message.partition, message.asked, message.group)
            return
        correction = Correction(message.partition, message.asked, message.group, message.vector, message.expires)
        policy = self._service.policy
        if corrections.add(correction) and live and policy.learns:  # others refuse the answer everywhere: too much
            policy.feedback(message.entry, message.group)
