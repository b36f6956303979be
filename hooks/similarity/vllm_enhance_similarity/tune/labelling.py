"""A small labelling loop in the terminal: does one answer fit both questions?

It asks where an answer sharpens the estimate most: the stratum whose uncertainty weighs most in the error (Neyman's
allocation), and there a pair at random, so that the estimate stays unbiased.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

from vllm_enhance_similarity.tune.estimate import EDGES, Stratum, stratum_of
from vllm_enhance_similarity.tune.replay import Hit
from vllm_enhance_similarity.tune.traffic import Traffic

__all__ = ["label_pairs", "pair_pool", "pick_pair"]

Pairs = dict[tuple[int, int], float]


def pair_pool(replays: Iterable[Sequence[Hit]]) -> Pairs:
    """All pairs that some setting would reuse, with their similarity."""
    return {(hit.asked, hit.stored): hit.similarity for hits in replays for hit in hits}


def judged_strata(traffic: Traffic, pairs: Pairs) -> list[Stratum]:
    """Pairs by stratum, with what is known of them."""
    found = [Stratum() for _ in range(len(EDGES) + 1)]
    for (asked, stored), similarity in pairs.items():
        found[stratum_of(similarity)].add(1, traffic.truth(asked, stored))
    return found


def pick_pair(traffic: Traffic, pairs: Pairs, random: Random, skipped: set[tuple[int, int]]) -> tuple[int, int] | None:
    """The pair to ask about next, or ``None`` when all are judged."""
    strata = judged_strata(traffic, pairs)
    by_worth = sorted(range(len(strata)), key=lambda at: -strata[at].hits * strata[at].deviation)
    for at in by_worth:
        unknown = [
            pair
            for pair, similarity in pairs.items()
            if stratum_of(similarity) == at and pair not in skipped and traffic.truth(*pair) is None
        ]
        if unknown:
            return random.choice(sorted(unknown))
    return None


def label_pairs(
    traffic: Traffic,
    pairs: Pairs,
    file: Path,
    *,
    ask: Callable[[str, str, float], str],
    most: int = 0,
    seed: int = 0,
) -> int:
    """Ask until the person stops; each verdict is written at once.

    Args:
        ask: shows both questions and their similarity, answers ``y``, ``n``, ``s`` (skip) or ``q`` (stop).
        most: end after so many verdicts; 0 goes on.

    Returns:
        verdicts given.
    """
    random, skipped, given = Random(seed), set[tuple[int, int]](), 0  # noqa: S311
    with open(file, "a", encoding="utf-8") as out:
        while not most or given < most:
            pair = pick_pair(traffic, pairs, random, skipped)
            if pair is None:
                break
            a, b = traffic.texts[pair[0]], traffic.texts[pair[1]]
            answer = ask(a, b, pairs[pair])
            if answer == "q":
                break
            if answer == "s":
                skipped.add(pair)
                continue
            traffic.judged.add(a, b, answer == "y")
            out.write(json.dumps({"a": a, "b": b, "same": int(answer == "y")}, ensure_ascii=False) + "\n")
            out.flush()
            given += 1
    return given
