"""Traces: which question is asked when. Pure, and the same for the same seed."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["ARRIVALS", "arrivals", "read_questions", "repeating", "repetition", "zipf"]


def repeating(count: int, share: float, rng: random.Random) -> list[int]:
    """``count`` question numbers, of which about ``share`` were asked before, all earlier ones alike."""
    asked: list[int] = []
    for _ in range(count):
        new = not asked or rng.random() >= share
        asked.append(max(asked, default=-1) + 1 if new else rng.choice(asked))
    return asked


def zipf(count: int, population: int, exponent: float, rng: random.Random) -> list[int]:
    """``count`` draws from ``population`` questions, the k-th most popular with weight ``1 / k**exponent``."""
    weights = list(itertools.accumulate(1.0 / rank**exponent for rank in range(1, population + 1)))
    return rng.choices(range(population), cum_weights=weights, k=count)


def repetition(numbers: Sequence[int]) -> float:
    """Share of requests whose question came before: the best hit rate there is."""
    return 1.0 - len(set(numbers)) / len(numbers) if numbers else 0.0


# --------------------------------------------------------------------------- arrivals


def _poisson(rng: random.Random) -> Iterator[float]:
    while True:
        yield rng.expovariate(1.0)


def _bursty(rng: random.Random) -> Iterator[float]:
    """Gamma gaps with a coefficient of variation of 3, as measured of real LLM services (BurstGPT, KDD 2025)."""
    shape = 1.0 / 9.0
    while True:
        yield rng.gammavariate(shape, 1.0 / shape)


def _steady(rng: random.Random) -> Iterator[float]:
    return itertools.repeat(1.0)


ARRIVALS: dict[str, Callable[[random.Random], Iterator[float]]] = {
    "poisson": _poisson,
    "bursty": _bursty,
    "steady": _steady,
}
"""Gaps between requests, of mean 1, by name."""


def arrivals(process: str, rate: float, seconds: float, rng: random.Random) -> list[float]:
    """Times of requests within ``seconds`` at ``rate`` per second on average."""
    times, now = [], 0.0
    for gap in ARRIVALS[process](rng):
        now += gap / rate
        if now >= seconds or not math.isfinite(now):
            return times
        times.append(now)
    return times


# --------------------------------------------------------------------------- real questions


def read_questions(path: Path) -> list[str]:
    """Questions of a file of JSON lines (``.gz`` or not) with ``text``, or ``a`` and ``b``, as often as they come.

    Raises:
        ValueError: no such rows.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    found: list[str] = []
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            found += [row[name] for name in ("text", "a", "b") if isinstance(row.get(name), str)]
    if not found:
        raise ValueError(f"{path.name}: no rows with text, or a and b")
    return found
