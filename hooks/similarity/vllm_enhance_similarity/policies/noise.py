"""How often the judge errs, estimated from pairs whose truth is known."""

from __future__ import annotations

import msgspec

__all__ = ["JudgeNoise"]

# Before any probe: an error rate of 0.5%, worth thirty probes. More would deny that a judge errs, and the fit would
# take its errors for outliers.
_PRIOR_WRONG, _PRIOR_PROBES = 0.15, 30.0


class JudgeNoise(msgspec.Struct):
    """Error rates of the judge on truly same and truly different pairs, posterior means of a Beta."""

    same_probes: int = 0
    same_wrong: int = 0
    different_probes: int = 0
    different_wrong: int = 0

    def probe(self, truly_same: bool, verdict: bool) -> None:
        """Enter the verdict on a pair whose truth is known, such as an answer compared with itself."""
        if truly_same:
            self.same_probes += 1
            self.same_wrong += not verdict
        else:
            self.different_probes += 1
            self.different_wrong += verdict

    @property
    def rates(self) -> tuple[float, float]:
        """(P[says same | different], P[says different | same]), each below one half."""
        return (
            _rate(self.different_wrong, self.different_probes),
            _rate(self.same_wrong, self.same_probes),
        )

    def wrong_given(self, verdict_same: bool, error: float) -> float:
        """P[truly different | verdict], when the model had predicted `error` = P[different]."""
        false_same, false_different = self.rates
        if_same = (1.0 - false_different if verdict_same else false_different) * (1.0 - error)
        if_different = (false_same if verdict_same else 1.0 - false_same) * error
        return if_different / max(if_same + if_different, 1e-12)


def _rate(wrong: int, probes: int) -> float:
    return min(0.45, (wrong + _PRIOR_WRONG) / (probes + _PRIOR_PROBES))
