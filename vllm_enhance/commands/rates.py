"""From counters to rates: what happened between two looks at ``/v1/enhance/series``. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Look", "Rates", "quantile", "rates", "totals"]

Look = Mapping[str, Any]
"""An answer of ``/v1/enhance/series``: ``at`` in seconds and ``series``."""

REQUESTS = "vllm_enhance_requests_total"
GENERATED = "engine"
REFUSED = "rejected"


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two looks.

    Attributes:
        seconds: between them.
        by_source: requests per second by source of the answer.
        hit_rate: share answered without generating, in [0, 1]; NaN without requests.
        saved_tokens, saved_engine_seconds: per second.
        generated_least: upper edge of the first bucket of vLLM's histogram, seconds: of times below it, no more is
            known than that.
        reused, generated: median and 95th percentile of the time to the whole answer, seconds; NaN without requests.
    """

    seconds: float
    by_source: dict[str, float]
    hit_rate: float
    saved_tokens: float
    saved_engine_seconds: float
    reused: tuple[float, float]
    generated: tuple[float, float]
    generated_least: float = 0.0


def totals(look: Look, name: str, label: str | None = None) -> dict[str, float]:
    """Sums of a counter's or gauge's samples by the values of one label (by ``""`` without one)."""
    found: dict[str, float] = {}
    for sample in look["series"]:
        if sample["name"] == name:
            value = sample["labels"].get(label, "") if label else ""
            found[value] = found.get(value, 0.0) + (sample["value"] or 0.0)
    return found


def rates(before: Look, after: Look) -> Rates | None:
    """What happened between two looks, or ``None`` when the server has started anew in between."""
    seconds = after["at"] - before["at"]
    old, now = totals(before, REQUESTS, "source"), totals(after, REQUESTS, "source")
    if seconds <= 0 or any(now.get(source, 0.0) < count for source, count in old.items()):
        return None
    counts = {source: count - old.get(source, 0.0) for source, count in now.items() if source != REFUSED}
    served = sum(counts.values())
    return Rates(
        seconds,
        {source: count / seconds for source, count in counts.items()},
        (served - counts.get(GENERATED, 0.0)) / served if served else math.nan,
        _rate(before, after, "vllm_enhance_saved_tokens_total"),
        _rate(before, after, "vllm_enhance_saved_engine_seconds_total"),
        _spread(before, after, "vllm_enhance_replay_seconds"),
        _spread(before, after, "vllm:e2e_request_latency_seconds"),
        min(_buckets(after, "vllm:e2e_request_latency_seconds"), default=0.0),
    )


def _rate(before: Look, after: Look, name: str) -> float:
    grown = sum(totals(after, name).values()) - sum(totals(before, name).values())
    seconds: float = after["at"] - before["at"]
    return max(0.0, grown) / seconds


def _spread(before: Look, after: Look, name: str) -> tuple[float, float]:
    return quantile(before, after, name, 0.5), quantile(before, after, name, 0.95)


def quantile(before: Look, after: Look, name: str, q: float) -> float:
    """Quantile of what a histogram took in between two looks, interpolated within its bucket as Prometheus does.

    Returns:
        the quantile; the last finite edge when it lies beyond; NaN when nothing came in.
    """
    old = _buckets(before, name)
    steps = [(edge, count - old.get(edge, 0.0)) for edge, count in sorted(_buckets(after, name).items())]
    total = steps[-1][1] if steps else 0.0
    if total <= 0:
        return math.nan
    lower = below = 0.0
    for edge, count in steps:
        if count >= q * total:
            if math.isinf(edge):
                return lower
            return lower + (edge - lower) * (q * total - below) / max(count - below, 1e-9)
        lower, below = edge, count
    return lower


def _buckets(look: Look, name: str) -> dict[float, float]:
    return {float(edge.replace("+Inf", "inf")): count for edge, count in totals(look, name + "_bucket", "le").items()}
