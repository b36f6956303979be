"""The metrics of the cache."""

from __future__ import annotations

from vllm_enhance.metrics import Metric, Metrics
from vllm_enhance_cache.lru import LRUCache, LRUCounts

__all__ = ["METRICS", "MemoryMeter", "StoreMeter"]

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
    Metric(
        "vllm_enhance_store_call_seconds",
        "histogram",
        "Calls to the shared store by operation and outcome (ok, late, timeout, unavailable, refused, error, "
        "saturated, cancelled).",
        ("operation", "outcome"),
    ),
    Metric("vllm_enhance_store_lookups", "counter", "Answered lookups in the shared store by result.", ("result",)),
    Metric(
        "vllm_enhance_store_refused",
        "counter",
        "Values from the shared store that were not used, by what is wrong with them.",
        ("reason",),
    ),
    Metric(
        "vllm_enhance_store_dropped",
        "counter",
        "Answers that did not reach the shared store, by reason.",
        ("reason",),
    ),
    Metric(
        "vllm_enhance_store_open",
        "gauge",
        "1 while the shared store is not asked because it fails, in any API server process.",
        ("side",),
        multiprocess="livemax",
    ),
    Metric(
        "vllm_enhance_store_messages",
        "counter",
        "Messages in the shared store's change logs: sent by this process, received from others.",
        ("direction",),
    ),
    Metric(
        "vllm_enhance_store_messages_dropped",
        "counter",
        "Messages that were not sent: too_large, queue_full, breaker, failed.",
        ("reason",),
    ),
    Metric(
        "vllm_enhance_store_messages_refused",
        "counter",
        "Messages from the change logs that were not used, by what is wrong with them (mac: not signed with our key).",
        ("reason",),
    ),
    Metric(
        "vllm_enhance_store_lag_seconds",
        "histogram",
        "From sending a message to receiving it in another process, by the clocks of both hosts.",
    ),
    Metric("vllm_enhance_store_entries", "gauge", "Answers in the shared store, if it can say.", (), (), "livemax"),
    Metric("vllm_enhance_store_bytes", "gauge", "Size of the shared store, if it can say.", (), (), "livemax"),
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


class StoreMeter:
    """Counts what the shared tier does; silent without metrics."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics

    def call(self, operation: str, outcome: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.observe("vllm_enhance_store_call_seconds", seconds, operation, outcome)

    def lookup(self, result: str) -> None:
        self._count("vllm_enhance_store_lookups", result)

    def refused(self, reason: str) -> None:
        self._count("vllm_enhance_store_refused", reason)

    def dropped(self, reason: str) -> None:
        self._count("vllm_enhance_store_dropped", reason)

    def message(self, direction: str, count: int = 1) -> None:
        if count:
            self._count("vllm_enhance_store_messages", direction, count)

    def message_dropped(self, reason: str) -> None:
        self._count("vllm_enhance_store_messages_dropped", reason)

    def message_refused(self, reason: str) -> None:
        self._count("vllm_enhance_store_messages_refused", reason)

    def lag(self, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.observe("vllm_enhance_store_lag_seconds", seconds)

    def breaker(self, side: str, is_open: bool) -> None:
        if self._metrics is not None:
            self._metrics.gauge("vllm_enhance_store_open", float(is_open), side)

    def size(self, entries: int | None, nbytes: int | None) -> None:
        if self._metrics is None:
            return
        if entries is not None:
            self._metrics.gauge("vllm_enhance_store_entries", entries)
        if nbytes is not None:
            self._metrics.gauge("vllm_enhance_store_bytes", nbytes)

    def _count(self, name: str, label: str, count: int = 1) -> None:
        if self._metrics is not None:
            self._metrics.count(name, count, label)
