"""Counters, histograms and gauges: declared once, kept here, shown in vLLM's own ``/metrics``.

Names start with ``vllm_enhance_``: vLLM drops every collector named ``vllm:*`` on some occasions
(``vllm/v1/metrics/prometheus.py``, ``unregister_vllm_metrics``). Metrics are created on first use in an API server
process, never at import: a process that only builds a parser must not write files into Prometheus' multiprocess
directory. Gauges name a ``multiprocess_mode``, else they would carry a ``pid`` label.

A Prometheus observation costs some microseconds, and a request makes several. So values are kept here, for a tenth of
that, and an engine client that is running publishes them to Prometheus four times a second and before each scrape.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_enhance.prometheus import Change, Observed, PrometheusSide, Series

__all__ = ["CORE_METRICS", "Metric", "Metrics"]

FAST = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0)
AGES = (1, 10, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Labels have few values each: outcomes, reasons, hook names; never ids, tenants or text."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = FAST
    multiprocess: str = "livesum"


CORE_METRICS: tuple[Metric, ...] = (
    Metric(
        "vllm_enhance_enabled",
        "gauge",
        "1 while requests go through the plugin, 0 when it stood aside.",
        (),
        (),
        "livemin",
    ),
    Metric(
        "vllm_enhance_requests",
        "counter",
        "Generation requests by source of the answer and reason.",
        ("source", "reason"),
    ),
    Metric("vllm_enhance_hit_age_seconds", "histogram", "Age of the answers that were reused.", (), AGES),
    Metric("vllm_enhance_decide_seconds", "histogram", "From add_request to the decision hit, join or generate."),
    Metric(
        "vllm_enhance_lookup_seconds",
        "histogram",
        "Slow lookups (store, similarity) by name and result.",
        ("lookup", "result"),
    ),
    Metric(
        "vllm_enhance_replay_seconds",
        "histogram",
        "From the decision to the last token of a replayed answer.",
    ),
    Metric("vllm_enhance_joined_requests", "gauge", "Requests now reading another request's generation."),
    Metric("vllm_enhance_inflight_generations", "gauge", "Generations now running that others may join."),
    Metric(
        "vllm_enhance_not_stored",
        "counter",
        "Finished generations that were not kept, by reason.",
        ("reason",),
    ),
    Metric("vllm_enhance_saved_tokens", "counter", "Output tokens that were not generated again."),
    Metric(
        "vllm_enhance_saved_engine_seconds",
        "counter",
        "Engine time that reused answers cost when first generated.",
    ),
    Metric("vllm_enhance_hook_seconds", "histogram", "Time in hooks, by plugin and hook.", ("plugin", "hook")),
    Metric(
        "vllm_enhance_hook_failures",
        "counter",
        "Hooks that raised, hung or returned nonsense.",
        ("plugin", "hook", "why"),
    ),
    Metric(
        "vllm_enhance_hook_dropped",
        "counter",
        "post_output calls dropped because the background queue was full.",
    ),
    Metric(
        "vllm_enhance_faults",
        "counter",
        "Faults of the plugin itself, each served as plain vLLM.",
        ("where",),
    ),
    Metric("vllm_enhance_invalidations", "counter", "Times stored answers were forgotten, by cause.", ("cause",)),
    Metric(
        "vllm_enhance_peer_failures",
        "counter",
        "Questions between the API server processes of one server that failed, by cause.",
        ("why",),
    ),
)


@dataclass(slots=True)
class _Histogram:
    """Observations by bucket and their sum, and how much of both Prometheus has been told."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0
    told: list[int] = field(default_factory=list)
    told_sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)  # the last bucket has no upper bound
        self.told = list(self.counts)

    def change(self) -> Observed:
        """What has come since the last call."""
        grown = [now - before for now, before in zip(self.counts, self.told, strict=True)]
        total, self.told, self.told_sum = self.sum - self.told_sum, list(self.counts), self.sum
        return Observed(grown, total)


class Metrics:
    """The metrics of this process. Each value reaches Prometheus at once, until :meth:`hold`.

    Args:
        registry: a ``prometheus_client`` registry; the global one by default, where vLLM's ``/metrics`` looks.
    """

    def __init__(self, metrics: Iterable[Metric] = CORE_METRICS, registry: Any = None) -> None:
        self._begin(PrometheusSide(registry), {})
        for metric in metrics:
            self.declare(metric)

    def separate(self) -> Metrics:
        """The same metrics for Prometheus, with plain values of their own: one engine among several of a process."""
        other = object.__new__(Metrics)
        other._begin(self._prometheus, self._declared)
        return other

    def _begin(self, prometheus: PrometheusSide, declared: dict[str, Metric]) -> None:
        self._prometheus, self._declared = prometheus, declared
        self._values: dict[Series, float] = {}
        self._told: dict[Series, float] = {}
        self._histograms: dict[Series, _Histogram] = {}
        self._fresh: set[Series] = set()
        self._watched: dict[str, Callable[[], float]] = {}
        self._held = False
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        prometheus.before_scrape.add(self)

    def declare(self, metric: Metric) -> None:
        """Add a metric. The same declaration twice is one metric.

        Raises:
            ValueError: the name is taken, or lacks the prefix.
        """
        if not metric.name.startswith("vllm_enhance_"):
            raise ValueError(f"metric {metric.name!r}: names start with vllm_enhance_")
        if self._declared.setdefault(metric.name, metric) != metric:
            raise ValueError(f"metric {metric.name!r} is declared twice")

    @property
    def declared(self) -> tuple[Metric, ...]:
        return tuple(self._declared.values())

    # ------------------------------------------------------------------ writing, from any thread

    def count(self, name: str, amount: float = 1.0, *labels: str) -> None:
        """Add to a counter; ``labels`` in the order of the declaration."""
        series = (name, labels)
        with self._lock:
            before = self._values.get(series)
            self._values[series] = self._first(series) + amount if before is None else before + amount
            self._fresh.add(series)
        if not self._held:
            self.publish()

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        series = (name, labels)
        with self._lock:
            if series not in self._values:
                self._first(series)
            self._values[series] = value
            self._fresh.add(series)
        if not self._held:
            self.publish()

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add an observation to a histogram."""
        series = (name, labels)
        with self._lock:
            histogram = self._histograms.get(series)
            if histogram is None:
                self._first(series)
                histogram = self._histograms[series] = _Histogram(self._declared[name].buckets)
            histogram.counts[bisect_left(histogram.bounds, value)] += 1
            histogram.sum += value
            self._fresh.add(series)
        if not self._held:
            self.publish()

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Have a gauge without labels read whenever somebody looks, instead of set at each change."""
        self._watched[name] = read

    def _read_watched(self) -> None:
        for name, read in self._watched.items():
            self._first((name, ()))
            self._values[name, ()] = read()
            self._fresh.add((name, ()))

    def _first(self, series: Series) -> float:
        """Make a series known to Prometheus, so that a wrong name or label is heard of by the caller who uses it."""
        self._prometheus.child(self._declared[series[0]], series[1])
        return 0.0

    # ------------------------------------------------------------------ reading

    def value(self, name: str, *labels: str) -> float:
        """This process' value: of a counter or gauge, or of ``<histogram>_count`` and ``_sum``."""
        if name in self._watched:
            return self._watched[name]()
        base, _, what = name.rpartition("_")
        histogram = self._histograms.get((base, labels)) if what in ("count", "sum") else None
        if histogram is not None:
            return histogram.sum if what == "sum" else float(sum(histogram.counts))
        return self._values.get((name, labels), 0.0)

    def snapshot(self) -> dict[str, Any]:
        """This process' values by name; labelled ones as ``{"label values joined by |": value}``."""
        with self._lock:
            self._read_watched()
            values = dict(self._values)
            for (name, labels), histogram in self._histograms.items():
                values[f"{name}_count", labels] = float(sum(histogram.counts))
                values[f"{name}_sum", labels] = histogram.sum
        result: dict[str, Any] = {}
        for (name, labels), value in values.items():
            if labels:
                result.setdefault(name, {})["|".join(labels)] = value
            else:
                result[name] = value
        return result

    # ------------------------------------------------------------------ to Prometheus

    def hold(self) -> None:
        """From now on values reach Prometheus in :meth:`publish`, which a scrape of this process calls too."""
        self._held = True

    def release(self) -> None:
        """Undo :meth:`hold`."""
        self._held = False
        self.publish()

    def publish(self) -> None:
        """Tell Prometheus what has changed since it was told last."""
        with self._publishing:  # else an older value of a gauge could be told after a newer one
            with self._lock:
                self._read_watched()
                fresh, self._fresh = self._fresh, set()
                changes = [(self._declared[name], labels, self._change((name, labels))) for name, labels in fresh]
            self._prometheus.tell(changes)

    def _change(self, series: Series) -> Change:
        histogram = self._histograms.get(series)
        if histogram is not None:
            return histogram.change()
        value = self._values[series]
        if self._declared[series[0]].kind == "gauge":
            return value
        before, self._told[series] = self._told.get(series, 0.0), value
        return value - before
