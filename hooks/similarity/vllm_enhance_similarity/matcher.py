"""From a question and its embedding to a decision with its reasons: search, guards, policy.

Blocking and quick (about a millisecond); called on one thread. Time and randomness are arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vllm_enhance_similarity.guards.compare import compare_texts
from vllm_enhance_similarity.guards.freshness import is_time_bound
from vllm_enhance_similarity.index.entries import Entry
from vllm_enhance_similarity.policies.base import Neighbour, PolicyDecision
from vllm_enhance_similarity.policies.features import NEIGHBOURS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vllm_enhance_similarity.corrections import Corrections
    from vllm_enhance_similarity.index.partitioned import Candidate, PartitionedIndex
    from vllm_enhance_similarity.policies.base import DecisionPolicy
    from vllm_enhance_similarity.reranker import Reranker

__all__ = ["Match", "MatchResult", "Matcher", "check_candidate"]


class MatchResult(msgspec.Struct, frozen=True):
    """What was found and decided. `entry` is the stored question of `decision.choice`, reused or not."""

    decision: PolicyDecision
    neighbours: tuple[Neighbour, ...] = ()
    entry: Entry | None = None


class Match(NamedTuple):
    """A stored question to which no guard objects; `confident` if the policy would reuse its answer."""

    entry: Entry
    similarity: float
    confident: bool


class Matcher:
    """Finds, checks and decides.

    Args:
        min_rerank: with a reranker, candidates that score below are vetoed.
        corrections: reuses that users called wrong; what they object to has the veto `feedback`.
    """

    def __init__(
        self,
        index: PartitionedIndex,
        policy: DecisionPolicy,
        *,
        neighbours: int = NEIGHBOURS,
        reranker: Reranker | None = None,
        min_rerank: float = 0.5,
        corrections: Corrections | None = None,
    ) -> None:
        self.index = index
        self.policy = policy
        self._count = neighbours
        self._reranker = reranker
        self._min_rerank = min_rerank
        self._corrections = corrections

    def match(
        self, partition: bytes, text: str, vector: NDArray[np.float32], *, now: float, draw: float
    ) -> MatchResult:
        """Decide for one question; `draw` is uniform in [0, 1)."""
        if is_time_bound(text):
            return MatchResult(PolicyDecision("miss", "time_bound"))
        entries, neighbours = self._checked(partition, text, vector, self._count, now)
        decision = self.policy.decide(text, neighbours, draw)
        chosen = entries.get(decision.choice.key) if decision.choice is not None else None
        if decision.action == "reuse" and chosen is not None:
            self.index.touch(chosen)
        return MatchResult(decision, tuple(neighbours), chosen)

    def preview(
        self, partition: bytes, text: str, vector: NDArray[np.float32], *, limit: int, now: float
    ) -> list[Match]:
        """The at most `limit` nearest stored questions that pass the guards. Decides and books nothing; any thread."""
        if is_time_bound(text):
            return []
        entries, neighbours = self._checked(partition, text, vector, max(limit, self._count), now)
        choice = self.policy.preview(text, neighbours[: self._count])
        return [
            Match(entries[one.key], one.similarity, choice is not None and choice.key == one.key)
            for one in neighbours
            if not one.vetoes
        ][:limit]

    def _checked(
        self, partition: bytes, text: str, vector: NDArray[np.float32], count: int, now: float
    ) -> tuple[dict[bytes, Entry], list[Neighbour]]:
        candidates = self.index.search(partition, vector, count, now=now)
        checked = [check_candidate(text, candidate.entry, candidate.similarity) for candidate in candidates]
        if self._corrections is not None and len(self._corrections):
            checked = [
                self._corrected(one, candidate, vector, now) for one, candidate in zip(checked, candidates, strict=True)
            ]
        return {candidate.entry.key: candidate.entry for candidate in candidates}, self._reranked(text, checked)

    def _corrected(self, one: Neighbour, candidate: Candidate, vector: NDArray[np.float32], now: float) -> Neighbour:
        entry = candidate.entry
        if self._corrections is None or not self._corrections.object_to(
            entry.partition, entry.group, vector, candidate.similarity, now
        ):
            return one
        return msgspec.structs.replace(one, vetoes=(*one.vetoes, "feedback"))

    def remember(
        self,
        partition: bytes,
        key: bytes,
        text: str,
        vector: NDArray[np.float32],
        *,
        tenant: bytes,
        model: str,
        now: float,
        expires: float | None,
        payload: bytes,
        group: bytes = b"",
        generation: int = 0,
    ) -> Entry | None:
        """Store a question with its answer. None for a question that may never be reused."""
        if is_time_bound(text):
            return None
        entry = self.index.add(
            partition,
            key,
            vector,
            text=text,
            tenant=tenant,
            model=model,
            now=now,
            group=group,
            expires=expires,
            payload=payload,
            generation=generation,
        )
        self.policy.stored(text)
        return entry

    def _reranked(self, text: str, neighbours: list[Neighbour]) -> list[Neighbour]:
        if self._reranker is None:
            return neighbours
        free = [one for one in neighbours if not one.vetoes]
        if not free:
            return neighbours
        scores = self._reranker.scores(text, [one.text for one in free])
        low = {one.key for one, score in zip(free, scores, strict=True) if score < self._min_rerank}
        return [msgspec.structs.replace(one, vetoes=("reranker",)) if one.key in low else one for one in neighbours]


def check_candidate(text: str, entry: Entry, similarity: float) -> Neighbour:
    """Hold a stored question against the asked one, with all guards."""
    findings = compare_texts(text, entry.text)
    return Neighbour(
        key=entry.key,
        group=entry.group,
        text=entry.text,
        similarity=similarity,
        vetoes=tuple(finding.guard for finding in findings if finding.strength == "veto"),
        hints=tuple(finding.guard for finding in findings if finding.strength == "hint"),
    )
