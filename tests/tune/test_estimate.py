from __future__ import annotations

import random
from typing import Literal

import pytest
from vllm_enhance_similarity.tune.estimate import Estimate, estimate_error, share_band
from vllm_enhance_similarity.tune.outcome import Outcome, advise
from vllm_enhance_similarity.tune.replay import Hit, Replay
from vllm_enhance_similarity.tune.report import render_yaml
from vllm_enhance_similarity.tune.sweep import Setting


def hits(count: int, wrong: float, judged: float, seed: int, similarity: float = 0.93) -> list[Hit]:
    rnd = random.Random(seed)
    return [Hit(i, i, similarity, (rnd.random() >= wrong) if rnd.random() < judged else None) for i in range(count)]


@pytest.mark.parametrize("judged", [1.0, 0.2])
@pytest.mark.parametrize("wrong", [0.02, 0.2])
def test_the_band_holds_the_truth_about_as_often_as_it_says(wrong: float, judged: float) -> None:
    held = 0
    for seed in range(200):
        found = estimate_error(hits(500, wrong, judged, seed), 1000, seed=seed)
        held += found.low <= wrong * 0.5 <= found.high
    assert 0.84 <= held / 200 <= 0.97  # 90% meant; 200 trials


def test_unjudged_hits_are_not_taken_for_right_ones() -> None:
    found = estimate_error(hits(100, 0.0, 0.0, 1), 1000)
    assert found.value == pytest.approx(0.05)
    assert found.high > 0.09


def test_more_verdicts_narrow_the_band() -> None:
    few, many = (estimate_error(hits(1000, 0.05, share, 3), 2000) for share in (0.05, 1.0))
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_one_pair_hit_often_is_one_verdict() -> None:
    often = estimate_error([Hit(0, 1, 0.93, True)] * 400, 1000)
    many = estimate_error([Hit(at, 1, 0.93, True) for at in range(400)], 1000)
    assert often.value == many.value == 0.0
    assert many.high < 0.005
    assert often.high > 0.1


def test_no_hits_no_error() -> None:
    assert estimate_error([], 100).high == 0.0
    assert share_band(0, 0).high == 0.0


def test_shares_have_wilsons_interval() -> None:
    found = share_band(10, 100)
    assert (found.low, found.high) == pytest.approx((0.0607, 0.1602), abs=2e-3)


def outcome(policy: Literal["threshold", "bounded"], value: float, rate: float, high: float) -> Outcome:
    made, share = Replay(requests=1000, hits=[Hit(0, 1, 0.95, True)]), Estimate(rate, rate, rate)
    return Outcome(Setting(policy, value), made, share, Estimate(0.0, 0.0, high), 0.0, share, 0.0, 1)


def test_the_advice_takes_most_hits_within_the_upper_end_of_the_band() -> None:
    rows = [
        outcome("threshold", 0.8, 0.5, 0.02),
        outcome("threshold", 0.9, 0.3, 0.009),
        outcome("threshold", 0.99, 0.1, 0),
    ]
    assert advise(rows, 0.01, "").settings["enhance-similarity-threshold"] == "0.9"


def test_a_bound_above_what_is_allowed_is_never_advised() -> None:
    rows = [outcome("bounded", 0.02, 0.6, 0.001), outcome("bounded", 0.01, 0.4, 0.001)]
    assert advise(rows, 0.01, "").settings["enhance-similarity-max-error"] == "0.01"


def test_nothing_sure_is_shadow_mode() -> None:
    advice = advise([outcome("threshold", 0.9, 0.3, 0.05)], 0.01, "")
    assert advice.chosen is None
    assert advice.settings["enhance-similarity-mode"] == "shadow"
    assert "without it similarity is off" in render_yaml(advice)
