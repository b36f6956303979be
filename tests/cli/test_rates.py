from __future__ import annotations

import math

import pytest

from vllm_enhance.commands.rates import quantile, rates, totals


def look(at: float, requests: dict[str, float], **more: float) -> dict[str, object]:
    series = [
        {"name": "vllm_enhance_requests_total", "labels": {"source": source, "reason": ""}, "value": value}
        for source, value in requests.items()
    ]
    return {"at": at, "series": series + [{"name": name, "labels": {}, "value": value} for name, value in more.items()]}


def histogram(name: str, *buckets: tuple[str, float]) -> dict[str, object]:
    return {
        "at": 0.0,
        "series": [{"name": f"{name}_bucket", "labels": {"le": edge}, "value": count} for edge, count in buckets],
    }


def test_rates_are_differences_over_time() -> None:
    before = look(10.0, {"memory": 5, "engine": 5}, vllm_enhance_saved_tokens_total=100)
    after = look(12.0, {"memory": 11, "engine": 7, "joined": 2}, vllm_enhance_saved_tokens_total=150)
    found = rates(before, after)
    assert found is not None
    assert found.by_source == {"memory": 3.0, "engine": 1.0, "joined": 1.0}
    assert found.hit_rate == pytest.approx(0.8)
    assert found.saved_tokens == 25.0
    assert math.isnan(found.reused[0])


def test_refused_requests_are_no_misses() -> None:
    found = rates(look(0, {"memory": 0}), look(1, {"memory": 1, "rejected": 3}))
    assert found is not None
    assert found.hit_rate == 1.0


def test_a_restart_gives_no_negative_rates() -> None:
    assert rates(look(0, {"memory": 5}), look(1, {"memory": 1})) is None
    assert rates(look(0, {"memory": 5}), look(1, {})) is None
    assert rates(look(1, {}), look(1, {})) is None


def test_quantiles_are_prometheus_own() -> None:
    before = histogram("x", ("0.1", 1), ("1.0", 1), ("+Inf", 1))
    after = histogram("x", ("0.1", 1), ("1.0", 11), ("+Inf", 11))
    assert quantile(before, after, "x", 0.5) == pytest.approx(0.1 + 0.9 * 0.5)
    beyond = histogram("x", ("0.1", 1), ("1.0", 1), ("+Inf", 5))
    assert quantile(before, beyond, "x", 0.5) == 1.0
    assert math.isnan(quantile(before, before, "x", 0.5))


def test_totals_sum_over_the_other_labels() -> None:
    both = {"at": 0, "series": [
        {"name": "a", "labels": {"source": "x", "reason": r}, "value": 1.0} for r in "pq"
    ]}  # fmt: skip
    assert totals(both, "a", "source") == {"x": 2.0}
    assert totals(both, "a") == {"": 2.0}
