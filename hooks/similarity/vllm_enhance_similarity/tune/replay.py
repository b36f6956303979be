"""Replaying the stream under one decision policy: the policy and the guards are the ones that serve.

The nearest earlier questions are known beforehand; what a policy would have stored decides which of them were there.
Beyond the neighbours looked at (`k` of them) a stored one may be overlooked, which makes the replay a little strict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vllm_enhance_similarity.guards.compare import compare_texts
from vllm_enhance_similarity.guards.freshness import is_time_bound
from vllm_enhance_similarity.policies.base import DecisionPolicy, Neighbour
from vllm_enhance_similarity.policies.features import NEIGHBOURS
from vllm_enhance_similarity.tune.neighbours import Neighbourhood
from vllm_enhance_similarity.tune.traffic import Traffic

__all__ = ["Findings", "Hit", "Replay", "replay"]

Verdicts = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of the guards that veto a pair, and of those that hint."""


@dataclass(slots=True)
class Findings:
    """What the guards say of pairs of texts, asked once."""

    traffic: Traffic
    known: dict[tuple[int, int], Verdicts] = field(default_factory=dict)

    def of(self, asked: int, stored: int) -> Verdicts:
        found = self.known.get((asked, stored))
        if found is None:
            found = self.known[asked, stored] = judge_pair(self.traffic.texts[asked], self.traffic.texts[stored])
        return found


def judge_pair(asked: str, stored: str) -> Verdicts:
    """Ask the guards."""
    findings = compare_texts(asked, stored)
    return (
        tuple(one.guard for one in findings if one.strength == "veto"),
        tuple(one.guard for one in findings if one.strength == "hint"),
    )


@dataclass(frozen=True, slots=True)
class Hit:
    """A reuse: which text was answered with which one's answer, at what similarity, and whether that was right."""

    asked: int
    stored: int
    similarity: float
    right: bool | None


@dataclass(slots=True)
class Replay:
    """What one policy did.

    Attributes:
        requests: all, exact repeats included.
        repeats: requests whose text was asked (or stored) before: what exact repeats alone would answer.
        exact: those of them whose own answer was stored; the others got a similar question's.
        hits: reuses by similarity.
        refused: pairs that were near enough but for a guard, by guard.
        nearest: best similarity (at `floor` or above, else -1) of each text that was no hit, shape (misses,).
        audits: would-be hits that were generated to measure the error.
    """

    requests: int = 0
    repeats: int = 0
    exact: int = 0
    audits: int = 0
    hits: list[Hit] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    nearest: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


def replay(
    traffic: Traffic,
    near: Neighbourhood,
    policy: DecisionPolicy,
    findings: Findings,
    *,
    floor: float = -1.0,
    nearest_wins: bool = False,
    draw: Callable[[], float] = lambda: 1.0,
    start: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Replay:
    """Feed the stream to a policy.

    Args:
        floor: neighbours less similar are not looked at: a threshold policy takes none of them.
        nearest_wins: look no further than the first neighbour that no guard speaks against. A threshold policy takes
            it, whatever comes behind; a policy that lets neighbours vote needs them all.
        draw: uniform in [0, 1), for audits; the default audits nothing.
        start: first request that is counted and asked; earlier ones are left out.
        progress: told how many more requests are done.
    """
    result, stored, groups = Replay(), set(traffic.stored), {}
    groups.update({text: _group(traffic, text) for text in traffic.stored})
    for text in traffic.stored:
        policy.stored(traffic.texts[text])
    missed: list[float] = []
    # How many neighbours of each text lie at the floor or above: most have none at a high threshold.
    reach = (near.similarities >= floor).sum(axis=1).tolist()
    seen = set(stored)
    for position in range(start, len(traffic.asked)):
        text = traffic.asked[position]
        result.requests += 1
        result.repeats += text in seen
        seen.add(text)
        if (position - start) % 256 == 255:
            progress(256)
        if text in stored:
            result.exact += 1
            continue
        if is_time_bound(traffic.texts[text]):
            continue
        neighbours = _neighbours(traffic, near, findings, stored, groups, text, reach[text], nearest_wins)
        decision = policy.decide(traffic.texts[text], neighbours, draw())
        chosen = int.from_bytes(decision.choice.key, "big") if decision.choice is not None else None
        right = None if chosen is None else traffic.truth(text, chosen)
        if decision.action == "reuse" and chosen is not None and decision.choice is not None:
            result.hits.append(Hit(text, chosen, decision.choice.similarity, right))
            continue
        result.audits += decision.action == "audit"
        for guard in neighbours[0].vetoes if neighbours else ():
            result.refused[guard] = result.refused.get(guard, 0) + 1
        missed.append(neighbours[0].similarity if neighbours else -1.0)
        if right is not None and policy.learns:
            policy.observe(decision, right)
        stored.add(text)
        groups[text] = groups[chosen] if right and chosen is not None else _group(traffic, text)
        policy.stored(traffic.texts[text])
        if policy.refit_due():
            policy.refit()
    progress((len(traffic.asked) - start) % 256)
    result.nearest = np.array(missed, dtype=np.float32)
    return result


def _neighbours(
    traffic: Traffic,
    near: Neighbourhood,
    findings: Findings,
    stored: set[int],
    groups: dict[int, bytes],
    text: int,
    reach: int,
    nearest_wins: bool,
) -> list[Neighbour]:
    found: list[Neighbour] = []
    if not reach:
        return found
    ids, similarities = near.ids[text, :reach].tolist(), near.similarities[text, :reach].tolist()
    for other, similarity in zip(ids, similarities, strict=True):
        if other < 0 or len(found) == NEIGHBOURS:
            break
        if other not in stored:
            continue
        vetoes, hints = findings.of(text, other)
        found.append(
            Neighbour(other.to_bytes(8, "big"), groups[other], traffic.texts[other], similarity, vetoes, hints)
        )
        if nearest_wins and not vetoes and not hints:
            break
    return found


def _group(traffic: Traffic, text: int) -> bytes:
    label = traffic.labels[text]
    return text.to_bytes(8, "big") if label is None else b"label " + label.encode("utf-8", "surrogatepass")
