"""The metrics of the cache."""

from __future__ import annotations

from vllm_enhance.metrics import Metric, Metrics
from vllm_enhance_cache.lru import LRUCache, LRUCounts

__all__ = ["METRICS", "MemoryMeter"]

METRICS: tuple[Metric, ...] = (
    Metric("vllm_enhance_cache_bytes", "gauge", "Memory held by stored answers, all API server processes together."),
    Metric("vllm_enhance_cache_entries", "gauge", "Answers in memory, all API server processes together."),
    Metric("vllm_enhance_cache_lookups", "counter", "Lookups in memory by result.", ("result",)),
    Metric("vllm_enhance_cache_stored", "counter", "Answers put into memory."),
    Metric("vllm_enhance_cache_evictions", "counter", "Answers dropped to stay under a cap, by cap.", ("reason",)),
    Metric("vllm_enhance_cache_expirations", "counter", "Answers dropped from memory because their time was over."),
    Metric(
        "vllm_enhance_cache_refused",
        "counter",
        "Answers not kept or not used: too_large, flushed (forgotten while it was generated), mismatch.",
        ("reason",),
    ),
)


class MemoryMeter:
    """Carries the counts of an :class:`LRUCache` over into metrics, now and then: the hot path only adds integers."""

    _TABLE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("hits", "vllm_enhance_cache_lookups", ("hit",)),
        ("misses", "vllm_enhance_cache_lookups", ("miss",)),
        ("stored", "vllm_enhance_cache_stored", ()),
        ("expired", "vllm_enhance_cache_expirations", ()),
        ("evicted_for_bytes", "vllm_enhance_cache_evictions", ("bytes",)),
        ("evicted_for_entries", "vllm_enhance_cache_evictions", ("entries",)),
        ("too_large", "vllm_enhance_cache_refused", ("too_large",)),
    )

    def __init__(self, cache: LRUCache, metrics: Metrics) -> None:
        self._cache = cache
        self._metrics = metrics
        self._told = LRUCounts()

    def publish(self) -> None:
        """Bring the metrics up to date."""
        for field, name, labels in self._TABLE:
            value = getattr(self._cache.counts, field)
            if value != getattr(self._told, field):
                self._metrics.count(name, value - getattr(self._told, field), *labels)
                setattr(self._told, field, value)
        self._metrics.gauge("vllm_enhance_cache_bytes", self._cache.nbytes)
        self._metrics.gauge("vllm_enhance_cache_entries", len(self._cache))
