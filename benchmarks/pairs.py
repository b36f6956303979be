"""Plain and enhanced server compared within rounds, over several starts of both.

Rounds cancel what the machine does meanwhile. They do not cancel what chance gave a process when it started, which
stays with it: two starts of the same code differ by a few per cent. So the ratio is the median over starts of the
median over the rounds of each, and its interval comes from drawing starts, and rounds within them, again (cluster
bootstrap; Field and Welsh 2007).

On few cores vLLM's engine core at times hears of waiting requests only when it has done with the one it has, and then
makes answers one by one, with the plugin or without: such a cell takes four times as long. ``batch`` tells, the mean
number of answers in an engine step. The ratio is that of the rounds in which both servers' batches were alike, and the
one over all rounds stands beside it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common import median

__all__ = ["interval", "over_floor", "paired"]

ALIKE = 0.15
"""By how much the batches of two cells may differ when one is to be compared with the other."""

DRAWS = 2000
"""Resamples for the interval of a median (percentile bootstrap; Efron 1979)."""

Pair = tuple[dict[str, Any], dict[str, Any]]
"""Figures of two cells of one round."""

RATIOS: Mapping[str, Callable[[dict[str, Any], dict[str, Any]], float]] = {
    "throughput": lambda plain, ours: ours["per_second"] / plain["per_second"],
    "first_token": lambda plain, ours: plain["first_token_p50_ms"] / ours["first_token_p50_ms"],
    "latency": lambda plain, ours: plain["p50_ms"] / ours["p50_ms"],
    "server_cpu": lambda plain, ours: _server_cpu(plain) / _server_cpu(ours),
}
"""Above 1 in favour of ``--enhance``."""


def paired(each: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Enhanced against plain within each round: slow drifts of the machine cancel out.

    Args:
        each: rounds of ``plain`` and of ``enhanced``, in the same order, each with the number of its ``start``.

    Returns:
        `RATIOS`, each with ``ratio``, a 95% ``interval``, the ratios ``by_start`` and, over all rounds,
        ``ratio_of_all``; ``rounds``, and how many of these were ``alike``.
    """
    pairs = list(zip(each.get("plain", ()), each.get("enhanced", ()), strict=False))
    alike = [pair for pair in pairs if _alike(*pair)]
    found: dict[str, Any] = {"rounds": len(pairs), "alike": len(alike)}
    for name, ratio in RATIOS.items():
        found[name] = {**_over_starts(alike, ratio), "ratio_of_all": median(ratio(*pair) for pair in pairs)}
    return found


def over_floor(rows: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]) -> dict[str, Any]:
    """Latency of a hit over that of ``/tokenize``, which renders the same prompt, within each round."""
    floors, hits = (rows.get(cell, {}).get("enhanced", ()) for cell in ("tokenize-c1", "hit-c1"))
    pairs = list(zip(floors, hits, strict=False))
    return {"rounds": len(pairs), **_over_starts(pairs, lambda floor, hit: hit["p50_ms"] / floor["p50_ms"])}


def _over_starts(pairs: Sequence[Pair], ratio: Callable[[dict[str, Any], dict[str, Any]], float]) -> dict[str, Any]:
    groups: dict[int, list[float]] = {}
    for one, other in pairs:
        groups.setdefault(one.get("start", 0), []).append(ratio(one, other))
    by_start = [median(group) for group in groups.values()]
    return {"ratio": median(by_start), "interval": interval(*groups.values()), "by_start": by_start}


def interval(*groups: Sequence[float]) -> tuple[float, float]:
    """Where the median of the groups' medians lies with 95% confidence; the same values give the same interval.

    With one or two groups the values are drawn from all of them together: so few say nothing of how groups differ.
    """
    known = [[value for value in group if not math.isnan(value)] for group in groups]
    known = [group for group in known if group]
    if len(known) < 3:
        known = [[value for group in known for value in group]]
    if sum(map(len, known)) < 3:
        return math.nan, math.nan
    draw = random.Random(0)
    medians = sorted(_drawn(known, draw) for _ in range(DRAWS))
    return medians[round(0.025 * DRAWS)], medians[round(0.975 * DRAWS) - 1]


def _drawn(groups: Sequence[Sequence[float]], draw: random.Random) -> float:
    chosen = draw.choices(groups, k=len(groups))
    return median(median(draw.choices(group, k=len(group))) for group in chosen)


def _alike(plain: dict[str, Any], ours: dict[str, Any]) -> bool:
    return bool(abs(ours["batch"] / plain["batch"] - 1) <= ALIKE)


def _server_cpu(figures: dict[str, Any]) -> float:
    return float(figures["cpu_ms"].get("vllm server", math.nan))
