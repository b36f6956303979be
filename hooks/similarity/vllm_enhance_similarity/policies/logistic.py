"""Logistic regression whose labels come from a judge that errs.

A verdict "same" on a pair that is the same with probability p is seen with probability (1 - b) p + a (1 - p), where a
and b are the judge's error rates (Bootkrajang and Kaban 2012, label-noise robust logistic regression). Fitted by EM:
the E step gives each row the probability that it truly is the same, the M step is a weighted ridge Newton step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

__all__ = ["LogisticModel", "fit_logistic", "sigmoid"]

_CLIP = 30.0


def sigmoid(score: Matrix) -> Matrix:
    """1 / (1 + exp(-score)), without overflow."""
    clipped = np.clip(score, -_CLIP, _CLIP)
    return np.asarray(1.0 / (1.0 + np.exp(-clipped)))


class LogisticModel(NamedTuple):
    """Coefficients on standardised features; `coefficients[0]` is the intercept.

    `outliers` is the share of cases that are different although everything says "same": no score is surer than that.
    """

    center: Matrix
    scale: Matrix
    coefficients: Matrix
    outliers: float = 0.0

    def score(self, rows: Matrix) -> Matrix:
        """Log odds of "same" for each row of features, shape (n, d) -> (n,)."""
        return np.asarray(self.coefficients[0] + ((rows - self.center) / self.scale) @ self.coefficients[1:])

    def probability(self, rows: Matrix) -> Matrix:
        """Probability of "same" for each row of features, shape (n, d) -> (n,)."""
        return (1.0 - self.outliers) * sigmoid(self.score(rows))


def fit_logistic(
    rows: Matrix,
    same: Matrix,
    weights: Matrix,
    *,
    noise: tuple[float, float] = (0.0, 0.0),
    ridge: float = 1.0,
    start: LogisticModel | None = None,
    rounds: int = 25,
) -> LogisticModel:
    """Fit by penalised maximum likelihood.

    Args:
        rows: features, shape (n, d).
        same: verdicts 0.0 or 1.0, shape (n,).
        weights: non-negative, shape (n,).
        noise: (P[says same | different], P[says different | same]).
        ridge: penalty on squared standardised coefficients; the intercept is free.
        start: a former model, for a warm start.
    """
    center, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    design = np.column_stack([np.ones(len(rows)), (rows - center) / scale])
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 1e-6
    beta = _carry_over(start, center, scale) if start is not None else np.zeros(design.shape[1])
    false_same, false_different = noise
    noisy = max(noise) > 1e-9
    for _ in range(rounds):
        p = sigmoid(design @ beta)
        target = _posterior(p, same, false_same, false_different) if noisy else same
        gradient = design.T @ (weights * (target - p)) - penalty * beta
        curvature = weights * np.maximum(p * (1.0 - p), 1e-6)
        step = np.linalg.solve((design * curvature[:, None]).T @ design + np.diag(penalty), gradient)
        longest = float(np.max(np.abs(step)))
        beta = beta + step * min(1.0, 2.0 / max(longest, 1e-12))
        if longest < 1e-4:
            break
    return LogisticModel(center, scale, beta)


def _posterior(p: Matrix, same: Matrix, false_same: float, false_different: float) -> Matrix:
    """P[truly same | verdict], row by row."""
    if_same = np.where(same > 0.5, 1.0 - false_different, false_different) * p
    if_different = np.where(same > 0.5, false_same, 1.0 - false_same) * (1.0 - p)
    return np.asarray(if_same / np.maximum(if_same + if_different, 1e-12))


def _carry_over(model: LogisticModel, center: Matrix, scale: Matrix) -> Matrix:
    """The same function, written for another standardisation."""
    slopes = model.coefficients[1:] / model.scale
    intercept = model.coefficients[0] + float((center - model.center) @ slopes)
    return np.concatenate([[intercept], slopes * scale])
