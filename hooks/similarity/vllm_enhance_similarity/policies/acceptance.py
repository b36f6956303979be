"""How much error a level of acceptance would cost, and what the audits say about it.

Terms: a case's `error` is the model's probability that reuse is wrong. Reusing every case up to a level costs the sum
of those errors over the requests of a window; `drift` is the ratio of wrongs that audits saw to wrongs that the model
had predicted for them, a Gamma posterior with a prior around one. Audits are few; verdicts on misses are many and tell
the same ratio for rows that the model was not fitted to (`Evidence`). The less favourable of the two counts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["AuditTally", "Evidence", "acceptance_level", "gamma_quantile"]

_EVIDENCE_PRIOR = 3.0  # predicted wrongs that the belief "held-out rows turn out as predicted" is worth
_Z80, _Z95 = 0.8416, 1.6449


def gamma_quantile(shape: float, rate: float, z: float) -> float:
    """Quantile of a Gamma law at the normal deviate `z` (Wilson and Hilferty 1931), within 2% for shape > 1."""
    if shape <= 0:
        return 0.0
    root = 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * math.sqrt(shape))
    return shape * max(root, 0.0) ** 3 / rate


class AuditTally(msgspec.Struct):
    """Audited would-be hits: weighted wrongs observed and predicted, and the sum of squares that tells their noise.

    `observed` may be fractional: with a judge that errs, an audit adds the probability that it saw a wrong answer.
    Old audits fade with `fade` per audit, so that the tally follows the traffic.
    """

    observed: float = 0.0
    predicted: float = 0.0
    weight: float = 0.0
    square: float = 0.0
    audits: float = 0.0
    fade: float = 0.999

    def add(self, wrong: float, error: float, weight: float) -> None:
        """Enter one audit: `wrong` in [0, 1], the predicted `error`, and 1 / (share audited)."""
        for name in ("observed", "predicted", "weight", "square", "audits"):
            setattr(self, name, getattr(self, name) * self.fade)
        self.observed += weight * wrong
        self.predicted += weight * error
        self.weight += weight
        self.square += weight * weight * error
        self.audits += 1

    def pooled(self, others: Iterable[AuditTally]) -> AuditTally:
        """The sum of this tally and others, as a new one."""
        total = AuditTally(self.observed, self.predicted, self.weight, self.square, self.audits, self.fade)
        for other in others:
            for name in ("observed", "predicted", "weight", "square", "audits"):
                setattr(total, name, getattr(total, name) + getattr(other, name))
        return total

    def _gamma(self, prior: float) -> tuple[float, float]:
        unit = self.square / self.predicted if self.predicted > 0 else 1.0
        return prior + self.observed / unit, prior + self.predicted / unit

    def drift(self, prior: float) -> float:
        """Posterior mean of observed / predicted; `prior` counts like that many predicted wrongs, all as predicted."""
        shape, rate = self._gamma(prior)
        return shape / rate

    def drift_upper(self, prior: float) -> float:
        """Upper 80% bound of the same."""
        shape, rate = self._gamma(prior)
        return gamma_quantile(shape, rate, _Z80)

    def error_among_hits(self) -> tuple[float, float]:
        """Audited share of wrong answers among would-be hits, and its upper 95% bound, without the model."""
        if self.weight <= 0:
            return 0.0, 1.0
        unit = max(self.square / self.predicted, 1.0) if self.predicted > 0 else 1.0
        upper = gamma_quantile(self.observed / unit + 1.0, self.weight / unit, _Z95)
        return self.observed / self.weight, min(1.0, upper)


class Evidence(NamedTuple):
    """Rows that a model was not fitted to, by rising predicted error, with running sums up to each of them.

    `support` is how many of the rows were the same: what there is to know about answers that may be reused.
    """

    errors: NDArray[np.float64]
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    support: float

    @classmethod
    def of(cls, errors: NDArray[np.float64], wrong: NDArray[np.float64], weights: NDArray[np.float64]) -> Evidence:
        """From predicted errors, wrongs in [0, 1] and weights, each of shape (n,), in any order."""
        order = np.argsort(errors)
        sums = [np.concatenate([[0.0], np.cumsum((weights * each)[order])]) for each in (errors, wrong)]
        return cls(errors[order], sums[0], sums[1], float(len(wrong) - wrong.sum()))

    def drift(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Observed over predicted wrongs among the rows up to each level, pulled towards one."""
        upto = np.searchsorted(self.errors, levels, side="right")
        return np.asarray((_EVIDENCE_PRIOR + self.observed[upto]) / (_EVIDENCE_PRIOR + self.predicted[upto]))


def acceptance_level(
    errors: NDArray[np.float64],
    requests: int,
    budget: float,
    drift: float,
    evidence: Evidence | None = None,
) -> float:
    """The highest error that may be accepted, so that the window's accepted errors times the drift stay within budget.

    Args:
        errors: predicted errors of the window's cases, any order.
        requests: requests in the window; those without a case cost nothing.
        budget: tolerated wrong answers per request.
        drift: correction of predicted errors, at least.
        evidence: where the model did worse than that, its own drift at that level counts.

    Returns:
        a level; accept `error <= level`. Negative when nothing may be accepted.
    """
    if not len(errors):
        return -1.0
    ordered = np.sort(errors)
    ratio = drift if evidence is None else np.maximum(drift, evidence.drift(ordered))
    within = np.flatnonzero(np.cumsum(ordered) * ratio <= budget * requests)
    return float(ordered[within[-1]]) if len(within) else -1.0
