"""The Prometheus side of :mod:`vllm_enhance.metrics`: families and children in a registry, made on first use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_enhance.metrics import Metric, Metrics

__all__ = ["Change", "Observed", "PrometheusSide", "Series"]

Series = tuple[str, tuple[str, ...]]
"""Name of a metric and the values of its labels."""


@dataclass(frozen=True, slots=True)
class Observed:
    """New observations of a histogram: how many by bucket, and their sum."""

    counts: list[int]
    sum: float


Change = float | Observed
"""A counter's growth, a gauge's value, or a histogram's new observations."""

_GLOBAL_FAMILIES: dict[str, Any] = {}
"""What is in the global registry: a process may make several engines, and a name is registered there once."""


class PrometheusSide:
    """Metrics of one registry.

    It is a collector itself, before all others of ours, and has no metrics of its own: a scrape asks it first, and so
    finds fresh values. (In Prometheus' multiprocess mode a scrape reads files, and values are as old as the last
    :meth:`~vllm_enhance.metrics.Metrics.publish`.)

    Args:
        registry: a ``prometheus_client`` registry; the global one when ``None``.

    Attributes:
        before_scrape: whom to ask for what is new.
    """

    def __init__(self, registry: Any) -> None:
        self._registry = registry
        self._families: dict[str, Any] = _GLOBAL_FAMILIES if registry is None else {}
        self._children: dict[Series, Any] = {}
        self._lock = threading.Lock()
        self._registered = False
        self.before_scrape: weakref.WeakSet[Metrics] = weakref.WeakSet()

    def describe(self) -> Iterator[Any]:
        """What a registry calls when a collector is added; without it, it would scrape."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        """What a registry calls in a scrape."""
        for metrics in list(self.before_scrape):
            metrics.publish()
        return iter(())

    def tell(self, changes: Iterable[tuple[Metric, tuple[str, ...], Change]]) -> None:
        """Pass on what has changed. From any thread."""
        for metric, labels, change in changes:
            child = self.child(metric, labels)
            if isinstance(change, Observed):
                # As Histogram.observe does (prometheus_client/metrics.py), for many observations at once.
                child._sum.inc(change.sum)
                for bucket, observations in zip(child._buckets, change.counts, strict=True):
                    if observations:
                        bucket.inc(observations)
            elif metric.kind == "counter":
                child.inc(change)
            else:
                child.set(change)

    def child(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        """One series, made on first use.

        Raises:
            ValueError: another number of labels than declared.
        """
        child = self._children.get((metric.name, labels))
        if child is None:
            with self._lock:
                family = self._families.get(metric.name) or self._create(metric)
                child = family.labels(*labels) if labels or metric.labels else family
                self._children[metric.name, labels] = child
        return child

    def _create(self, metric: Metric) -> Any:
        import prometheus_client

        registry = self._registry or prometheus_client.REGISTRY
        if not self._registered:
            self._registered = True
            registry.register(self)
        kwargs: dict[str, Any] = {"labelnames": metric.labels, "registry": registry}
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
