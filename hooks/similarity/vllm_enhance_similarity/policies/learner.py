"""Fitting the pooled model so that what it says off its training rows is what happens.

A fit is optimistic on its own rows, most of all when they are few. So each row also gets a score from a fit without
it (cross-validation), and those scores are calibrated once more (Platt 1999): the slope pulls probabilities towards
the middle as far as the model over-reached.

Some questions are as like as can be and have different answers all the same: a label is off, or the difference is one
that no feature sees. A logistic curve denies them, tilts to make room for each, and promises too much where it is
surest, which is where nearly all reuses are. So a share of outliers is part of the model and is estimated along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vllm_enhance_similarity.policies.acceptance import Evidence
from vllm_enhance_similarity.policies.logistic import LogisticModel, fit_logistic, sigmoid

if TYPE_CHECKING:
    from vllm_enhance_similarity.policies.logistic import Matrix

__all__ = ["Fit", "learn"]

_FOLDS = 4
# Share of outliers before any was seen, and how many of them that belief is worth.
_OUTLIERS, _OUTLIERS_SEEN, _MOST_OUTLIERS = 0.003, 1.0, 0.2
_OUTLIER_ROUNDS = 30


class Fit(NamedTuple):
    """A model, and how well it foretold the rows that it was not fitted to."""

    model: LogisticModel
    evidence: Evidence


def learn(
    rows: Matrix,
    same: Matrix,
    weights: Matrix,
    *,
    noise: tuple[float, float],
    ridge: float,
    start: LogisticModel | None,
) -> Fit | None:
    """Fit and calibrate; None if the labels hold one class only. About 0.1 s at 8000 rows on one core."""
    if len(rows) < 2 * _FOLDS or same.min() == same.max():
        return None
    outliers = start.outliers if start is not None else _OUTLIERS
    truth, noise = noise, _with_outliers(noise, outliers)
    rounds = 8 if start is not None else 25
    model = fit_logistic(rows, same, weights, noise=noise, ridge=ridge, start=start, rounds=rounds)
    held_out = np.empty(len(rows))
    folds = np.arange(len(rows)) % _FOLDS
    for fold in range(_FOLDS):
        kept = folds != fold
        if same[kept].min() == same[kept].max():
            return None
        part = fit_logistic(rows[kept], same[kept], weights[kept], noise=noise, ridge=ridge, start=model, rounds=6)
        held_out[~kept] = part.score(rows[~kept])
    slope, intercept = _calibration(held_out, same, weights, noise)
    coefficients = model.coefficients * slope
    coefficients[0] += intercept
    sure = sigmoid(slope * held_out + intercept)
    outliers = _outliers(sure, same, weights, truth, outliers)
    errors = 1.0 - (1.0 - outliers) * sure
    evidence = Evidence.of(errors, _wrong(errors, same, truth), weights)
    return Fit(LogisticModel(model.center, model.scale, coefficients, outliers), evidence)


def _calibration(held_out: Matrix, same: Matrix, weights: Matrix, noise: tuple[float, float]) -> tuple[float, float]:
    """Slope and intercept that make held-out scores log odds."""
    line = fit_logistic(held_out[:, None], same, weights, noise=noise, ridge=1e-3, rounds=12)
    slope = float(line.coefficients[1] / line.scale[0])
    intercept = float(line.coefficients[0]) - slope * float(line.center[0])
    return min(1.0, max(0.1, slope)), intercept  # never more confident than the fit itself


def _with_outliers(noise: tuple[float, float], outliers: float) -> tuple[float, float]:
    """What a verdict says of a case that looks the same: the judge errs, or the case is an outlier."""
    false_same, false_different = noise
    return false_same, false_different + outliers * (1.0 - false_same - false_different)


def _outliers(sure: Matrix, same: Matrix, weights: Matrix, noise: tuple[float, float], share: float) -> float:
    """The share of outliers by EM; `sure` are held-out probabilities of looking the same."""
    for _ in range(_OUTLIER_ROUNDS):
        false_same, false_different = _with_outliers(noise, share)
        as_outlier = share * np.where(same > 0.5, noise[0], 1.0 - noise[0]) * sure
        looks_same = np.where(same > 0.5, 1.0 - false_different, false_different) * sure
        looks_different = np.where(same > 0.5, false_same, 1.0 - false_same) * (1.0 - sure)
        seen = float(weights @ (as_outlier / np.maximum(looks_same + looks_different, 1e-12)))
        share = (_OUTLIERS_SEEN + seen) / (_OUTLIERS_SEEN / _OUTLIERS + float(weights @ sure))
        share = min(_MOST_OUTLIERS, share)
    return share


def _wrong(errors: Matrix, same: Matrix, noise: tuple[float, float]) -> Matrix:
    """P[truly different | verdict], row by row."""
    false_same, false_different = noise
    if_different = np.where(same > 0.5, false_same, 1.0 - false_same) * errors
    if_same = np.where(same > 0.5, 1.0 - false_different, false_different) * (1.0 - errors)
    return np.asarray(if_different / np.maximum(if_different + if_same, 1e-12))
