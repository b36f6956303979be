"""How many reuses are wrong, with confidence bands, from however many of them somebody has judged.

Hits are put into strata by similarity. In each stratum the share of wrong ones has a Beta posterior with Jeffreys'
prior (Beta(1/2, 1/2)); the error is their sum, weighted by the strata's hits over all requests. With every hit judged
this is the ordinary estimate with its sampling error; with few judged, or a stratum without any, the band says how
little is known. A pair that was hit again and again is one verdict, not many: a stratum counts for as many verdicts as
its uneven pairs are worth (Kish's effective sample size). The bands hold the central 90%.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vllm_enhance_similarity.tune.replay import Hit

__all__ = ["EDGES", "Estimate", "Stratum", "estimate_error", "share_band", "strata_of", "stratum_of"]

EDGES = (0.75, 0.80, 0.84, 0.88, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
DRAWS = 4000
BAND = (5.0, 95.0)


@dataclass(slots=True)
class Stratum:
    """Hits of like similarity: how many, how many of them judged, how many of those wrong.

    Attributes:
        squares: sum of squares of the judged pairs' hits.
    """

    hits: int = 0
    judged: int = 0
    wrong: int = 0
    squares: int = 0

    def add(self, hits: int, right: bool | None) -> None:
        """Count one pair that was hit so often."""
        self.hits += hits
        if right is not None:
            self.judged += hits
            self.wrong += hits * (not right)
            self.squares += hits * hits

    @property
    def posterior(self) -> tuple[float, float]:
        """Parameters of the Beta posterior of the share of wrong ones."""
        worth = self.judged / self.squares if self.squares else 1.0
        return self.wrong * worth + 0.5, (self.judged - self.wrong) * worth + 0.5

    @property
    def deviation(self) -> float:
        """Standard deviation of the posterior."""
        a, b = self.posterior
        return math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of all requests, with its band."""

    value: float
    low: float
    high: float


def stratum_of(similarity: float) -> int:
    """Which stratum a similarity falls into."""
    return bisect.bisect_right(EDGES, similarity)


def strata_of(hits: Sequence[Hit]) -> list[Stratum]:
    """Count hits by stratum."""
    found = [Stratum() for _ in range(len(EDGES) + 1)]
    for (_, _, similarity, right), count in Counter(
        (hit.asked, hit.stored, hit.similarity, hit.right) for hit in hits
    ).items():
        found[stratum_of(similarity)].add(count, right)
    return found


def estimate_error(
    hits: Sequence[Hit], requests: int, *, pool: Sequence[Stratum] | None = None, seed: int = 0
) -> Estimate:
    """Wrong reuses per request.

    Args:
        pool: judged pairs of other settings too, by stratum, for strata whose own hits are not all judged.
    """
    strata = strata_of(hits)
    for own, pooled in zip(strata, pool or strata, strict=True):
        if own.judged < own.hits and pooled.judged > own.judged:
            own.judged, own.wrong, own.squares = pooled.judged, pooled.wrong, pooled.squares
    strata = [stratum for stratum in strata if stratum.hits]
    if not strata or not requests:
        return Estimate(0.0, 0.0, 0.0)
    random = np.random.default_rng(seed)
    drawn, value = np.zeros(DRAWS), 0.0
    for stratum in strata:
        weight = stratum.hits / requests
        drawn += weight * random.beta(*stratum.posterior, DRAWS)
        value += weight * (stratum.wrong / stratum.judged if stratum.judged else 0.5)
    low, high = np.percentile(drawn, BAND)
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def share_band(count: int, of: int) -> Estimate:
    """A counted share with Wilson's 90% interval."""
    if not of:
        return Estimate(0.0, 0.0, 0.0)
    z, share = 1.645, count / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))
