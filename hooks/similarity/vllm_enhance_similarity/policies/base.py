"""The contract of a decision policy, and the words it speaks in.

One question's life: `decide` on its neighbours; when its answer is generated all the same (a miss, an audit, shadow
mode), a judge compares that answer with the one that would have been reused and `observe` takes the verdict; when the
answer is stored, `stored` says so. `refit` does the slow part, in the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

__all__ = ["Action", "DecisionPolicy", "Neighbour", "PolicyDecision"]

# reuse: answer with the stored record. audit: it would have been reused, but generate, and compare. miss: generate.
Action = Literal["reuse", "audit", "miss"]


class Neighbour(msgspec.Struct, frozen=True):
    """A stored question near the one asked, as a policy sees it; nearest first.

    `group` names its answer: neighbours with equal groups have the same answer. `vetoes` and `hints` are guard names.
    """

    key: bytes
    group: bytes
    text: str
    similarity: float
    vetoes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


class PolicyDecision(msgspec.Struct, frozen=True):
    """What a policy decided, and what it needs to learn from the outcome.

    `choice` is the neighbour that would be reused, also for a miss (its verdict is the lesson), or None if there was
    none to choose. `error` is the estimated probability that its reuse would be wrong, None if the policy has no
    estimate. `weight` is 1 / (share of such cases that are labelled), at least 1.
    """

    action: Action
    reason: str
    choice: Neighbour | None = None
    error: float | None = None
    level: float | None = None
    weight: float = 1.0
    features: tuple[float, ...] = ()


class DecisionPolicy(Protocol):
    """Called from one thread at a time, except `refit`, which may run beside `decide`. Never raises for its inputs."""

    name: str

    @property
    def learns(self) -> bool:
        """True if verdicts change it; a judge is worth asking then."""

    def decide(self, text: str, neighbours: Sequence[Neighbour], draw: float) -> PolicyDecision:
        """Decide; `draw` is uniform in [0, 1) and settles audits. Well under a millisecond."""

    def preview(self, text: str, neighbours: Sequence[Neighbour]) -> Neighbour | None:
        """The neighbour that `decide` would reuse, were it not for audits. Books nothing; from any thread."""

    def observe(self, decision: PolicyDecision, same: bool) -> None:
        """Take the judge's verdict on `decision.choice`: was its answer the same as the generated one?"""

    def stored(self, text: str) -> None:
        """A question was stored; policies that count words do so here."""

    def refit_due(self) -> bool:
        """True when enough has been observed for `refit`."""

    def refit(self) -> None:
        """Fit again; tens of milliseconds, off the request path."""

    def feedback(self, key: bytes, group: bytes) -> None:
        """A user marked the answer `group` of entry `key` as wrong."""

    def report(self) -> Mapping[str, Any]:
        """Numbers for operators, JSON-able."""

    def dump(self) -> bytes:
        """State for a restart, or for sharing."""

    def load(self, state: bytes) -> bool:
        """Take over a state that `dump` wrote; False, and no change, if it is not usable."""
