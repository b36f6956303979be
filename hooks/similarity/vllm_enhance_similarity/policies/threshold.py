"""Reuse above a fixed similarity: simple, no learning, no bound on the error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllm_enhance_similarity.policies.base import PolicyDecision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_enhance_similarity.policies.base import Neighbour

__all__ = ["HINT_MARGINS", "HINT_PENALTIES", "ThresholdParameters", "ThresholdPolicy"]

# How much of the distance to 1 a hint takes away. An exchanged name or word is refused however near the embeddings
# are; a name more, or another length, asks for twice the nearness.
HINT_PENALTIES: dict[str, float] = {
    "entity": 1.0,
    "substitution": 1.0,
    "quoted": 1.0,
    "case": 1.0,
    "entity_extra": 0.5,
    "length": 0.5,
}
# Any other wording asks for this much more, 0.99 instead of 0.95: of 958 written pairs whose answers differ, 19% are
# nearer than 0.95 and in no other guard's way, 1.6% nearer than 0.99. A lower threshold lowers this one, too.
HINT_MARGINS: dict[str, float] = {"wording": 0.04}


class ThresholdParameters(msgspec.Struct, frozen=True):
    """`min_similarity` is a cosine in [-1, 1]; 1.0 means the same vector only, not "unset"."""

    min_similarity: float = 0.95


class ThresholdPolicy:
    """The nearest neighbour without a veto, if it is near enough."""

    name = "threshold"

    def __init__(self, parameters: ThresholdParameters | None = None) -> None:
        self.parameters = parameters or ThresholdParameters()
        self._refused: dict[bytes, None] = {}
        self._decisions = self._reuses = 0

    @property
    def learns(self) -> bool:
        return False

    def decide(self, text: str, neighbours: Sequence[Neighbour], draw: float) -> PolicyDecision:
        """See DecisionPolicy."""
        self._decisions += 1
        decision = self._decided(neighbours)
        self._reuses += decision.action == "reuse"
        return decision

    def preview(self, text: str, neighbours: Sequence[Neighbour]) -> Neighbour | None:
        """See DecisionPolicy."""
        decision = self._decided(neighbours)
        return decision.choice if decision.action == "reuse" else None

    def _decided(self, neighbours: Sequence[Neighbour]) -> PolicyDecision:
        free = [one for one in neighbours if not one.vetoes and one.key not in self._refused]
        if not free:
            return PolicyDecision("miss", "guard" if neighbours else "no_neighbour")
        choice = max(free, key=lambda one: one.similarity - self._wanted(one))
        wanted = self._wanted(choice)
        # A hint that takes all the distance away still lets equal texts pass: their guards are silent.
        if choice.similarity < wanted or (wanted >= 1.0 and choice.hints):
            return PolicyDecision("miss", "below_threshold", choice, None, wanted)
        return PolicyDecision("reuse", "accepted", choice, None, wanted)

    def _wanted(self, neighbour: Neighbour) -> float:
        return max(map(self._asked_for, neighbour.hints), default=self.parameters.min_similarity)

    def _asked_for(self, hint: str) -> float:
        least = self.parameters.min_similarity
        nearer = max(HINT_PENALTIES.get(hint, 0.0) * (1.0 - least), HINT_MARGINS.get(hint, 0.0))
        return min(1.0, least + nearer)

    def observe(self, decision: PolicyDecision, same: bool) -> None:
        """Nothing to learn."""

    def stored(self, text: str) -> None:
        """Nothing to learn."""

    def refit_due(self) -> bool:
        return False

    def refit(self) -> None:
        """Nothing to fit."""

    def feedback(self, key: bytes, group: bytes) -> None:
        """An entry marked wrong is not reused any more; the last ten thousand marks are kept."""
        self._refused[key] = None
        while len(self._refused) > 10_000:
            del self._refused[next(iter(self._refused))]

    def report(self) -> Mapping[str, Any]:
        """See DecisionPolicy."""
        return {
            "policy": self.name,
            "min_similarity": self.parameters.min_similarity,
            "hit_share": self._reuses / self._decisions if self._decisions else 0.0,
        }

    def dump(self) -> bytes:
        """See DecisionPolicy."""
        return msgspec.msgpack.encode(list(self._refused))

    def load(self, state: bytes) -> bool:
        """See DecisionPolicy."""
        try:
            self._refused = dict.fromkeys(msgspec.msgpack.decode(state, type=list[bytes]))
        except msgspec.MsgspecError:
            return False
        return True
