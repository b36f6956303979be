"""Counters, histograms and gauges, in vLLM's own ``/metrics``.

Names start with ``vllm_enhance_``: vLLM drops every collector named ``vllm:*`` on some occasions
(``vllm/v1/metrics/prometheus.py``, ``unregister_vllm_metrics``). Metrics are created on first use in an API server
process, never at import: a process that only builds a parser must not write files into Prometheus' multiprocess
directory. Gauges name a ``multiprocess_mode``, else they would carry a ``pid`` label.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
)


_GLOBAL_FAMILIES: dict[str, Any] = {}
"""What is in the global registry: a process may make several engines, and a name is registered there once."""


class Metrics:
    """The metrics of this process: Prometheus' and a plain copy for ``/v1/enhance/stats``.

    Args:
        registry: a ``prometheus_client`` registry; the global one by default, where vLLM's ``/metrics`` looks.
    """

    def __init__(self, metrics: Iterable[Metric] = CORE_METRICS, registry: Any = None) -> None:
        self._registry = registry
        self._declared: dict[str, Metric] = {}
        self._families: dict[str, Any] = _GLOBAL_FAMILIES if registry is None else {}
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._plain: dict[tuple[str, tuple[str, ...]], float] = {}
        self._lock = threading.Lock()
        for metric in metrics:
            self.declare(metric)

    def separate(self) -> Metrics:
        """The same metrics for Prometheus, with plain values of their own: one engine among several of a process."""
        other = Metrics((), self._registry)
        other._declared, other._families = self._declared, self._families
        other._children, other._lock = self._children, self._lock
        return other

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

    def count(self, name: str, amount: float = 1.0, *labels: str) -> None:
        """Add to a counter; ``labels`` in the order of the declaration."""
        self._child(name, labels).inc(amount)
        self._plain[name, labels] = self._plain.get((name, labels), 0.0) + amount

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add an observation to a histogram."""
        self._child(name, labels).observe(value)
        count_key, sum_key = (name + "_count", labels), (name + "_sum", labels)
        self._plain[count_key] = self._plain.get(count_key, 0.0) + 1.0
        self._plain[sum_key] = self._plain.get(sum_key, 0.0) + value

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)
        self._plain[name, labels] = value

    def value(self, name: str, *labels: str) -> float:
        """This process' value: of a counter or gauge, or of ``<histogram>_count`` and ``_sum``."""
        return self._plain.get((name, labels), 0.0)

    def snapshot(self) -> dict[str, Any]:
        """This process' values by name; labelled ones as ``{"label values joined by |": value}``."""
        result: dict[str, Any] = {}
        for (name, labels), value in list(self._plain.items()):
            if labels:
                result.setdefault(name, {})["|".join(labels)] = value
            else:
                result[name] = value
        return result

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        child = self._children.get((name, labels))
        if child is None:
            with self._lock:
                family = self._families.get(name) or self._create(self._declared[name])
                child = family.labels(*labels) if labels else family
                self._children[name, labels] = child
        return child

    def _create(self, metric: Metric) -> Any:
        import prometheus_client

        kwargs: dict[str, Any] = {"labelnames": metric.labels}
        if self._registry is not None:
            kwargs["registry"] = self._registry
        if metric.kind == "gauge":
            kwargs["multiprocess_mode"] = metric.multiprocess
        if metric.kind == "histogram":
            kwargs["buckets"] = metric.buckets
        factories: Mapping[str, Any] = {
            "counter": prometheus_client.Counter,
            "gauge": prometheus_client.Gauge,
            "histogram": prometheus_client.Histogram,
        }
        family = factories[metric.kind](metric.name, metric.help, **kwargs)
        self._families[metric.name] = family
        return family
