"""The memory tier: least recently used goes first, nothing outlives its time, bytes and entries are capped.

Every operation is O(1) in the number of entries. Expiry needs no scan: entries wait in buckets of a second or more by
the time they end, and a sweep takes whole buckets, a bounded number of entries at a time. The clock is an argument.
Not thread-safe: it lives on one event loop.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

from vllm_enhance.stores import matcher, model_tag, scope_value, tenant_tag
from vllm_enhance.types import InvalidationScope
from vllm_enhance_cache.entries import Entry

__all__ = ["LRUCache", "LRUCounts"]

BUCKETS = 1024
MIN_BUCKET_SECONDS = 4.0
SWEEP_LIMIT = 64

K = TypeVar("K")


@dataclass(slots=True)
class LRUCounts:
    """What has happened since the start."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
    expired: int = 0
    evicted_for_bytes: int = 0
    evicted_for_entries: int = 0
    too_large: int = 0


class LRUCache:
    """Entries by key.

    Args:
        max_bytes: cap on the sum of :attr:`Entry.nbytes`.
        max_entries: cap on their number.
        max_entry_bytes: larger entries are not kept.
        ttl: the usual time to live, which sets how finely a sweep looks; a look-up is always exact.
    """

    def __init__(
        self, max_bytes: int, max_entries: int, max_entry_bytes: int | None = None, *, ttl: float = 3600.0
    ) -> None:
        if max_bytes < 1 or max_entries < 1:
            raise ValueError("max_bytes and max_entries are 1 or more")
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.max_entry_bytes = max_bytes if max_entry_bytes is None else min(max_bytes, max_entry_bytes)
        self.counts = LRUCounts()
        self.nbytes = 0
        self._entries: OrderedDict[bytes, tuple[Entry, int]] = OrderedDict()
        self._tenants: dict[bytes, set[bytes]] = {}
        self._models: dict[str, set[bytes]] = {}
        self._bucket_seconds = max(MIN_BUCKET_SECONDS, ttl / BUCKETS)
        self._buckets: dict[int, set[bytes]] = {}
        self._bucket_order: list[int] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def get(self, key: bytes, now: float) -> Entry | None:
        """The entry under ``key``, which becomes the most recently used, or ``None``."""
        found = self._entries.get(key)
        if found is None:
            self.counts.misses += 1
            return None
        entry = found[0]
        if entry.expires_at <= now:
            self._remove(key)
            self.counts.expired += 1
            self.counts.misses += 1
            return None
        self._entries.move_to_end(key)
        self.counts.hits += 1
        return entry

    def put(self, entry: Entry, now: float) -> bool:
        """Keep ``entry`` in place of an older one under its key; ``False`` when it is too large or already over."""
        key, size = entry.key, entry.nbytes
        if key in self._entries:
            self._remove(key)
        if size > self.max_entry_bytes:
            self.counts.too_large += 1
            return False
        if entry.expires_at <= now:
            return False
        self._entries[key] = (entry, size)
        self.nbytes += size
        _index(self._tenants, entry.tenant, key)
        _index(self._models, entry.model, key)
        self._schedule(entry)
        self.counts.stored += 1
        if self.nbytes > self.max_bytes or len(self._entries) > self.max_entries:
            self.sweep(now)
            self._evict()
        return True

    def delete(self, key: bytes) -> bool:
        """Drop one entry; whether it was there."""
        if key not in self._entries:
            return False
        self._remove(key)
        return True

    def sweep(self, now: float, limit: int = SWEEP_LIMIT) -> int:
        """Drop up to ``limit`` entries whose time is over; how many."""
        dropped = 0
        while self._bucket_order and (self._bucket_order[0] + 1) * self._bucket_seconds <= now:
            bucket = self._buckets[self._bucket_order[0]]
            while bucket and dropped < limit:
                key = bucket.pop()
                self._remove(key)
                dropped += 1
            if bucket:
                break
            del self._buckets[heapq.heappop(self._bucket_order)]
        self.counts.expired += dropped
        return dropped

    def select(self, scope: InvalidationScope, now: float) -> list[bytes]:
        """Keys of the entries in ``scope``. In time proportional to their number, but for ages.

        Raises:
            DirectiveError: see :func:`vllm_enhance.stores.scope_value`.
        """
        value = scope_value(scope)
        if scope.kind == "all":
            return list(self._entries)
        if scope.kind == "key" and isinstance(value, bytes):
            return [value] if value in self._entries else []
        if scope.kind == "tenant":
            return [key for tenant, keys in self._tenants.items() if tenant_tag(tenant) == value for key in keys]
        if scope.kind == "model":
            return [key for model, keys in self._models.items() if model_tag(model) == value for key in keys]
        inside = matcher(scope, now)
        return [key for key, (entry, _) in self._entries.items() if inside(key, entry.tags)]

    def entries(self) -> list[Entry]:
        """All entries, least recently used first."""
        return [entry for entry, _ in self._entries.values()]

    # ------------------------------------------------------------------ inside

    def _evict(self) -> None:
        while self.nbytes > self.max_bytes:
            self._remove(next(iter(self._entries)))
            self.counts.evicted_for_bytes += 1
        while len(self._entries) > self.max_entries:
            self._remove(next(iter(self._entries)))
            self.counts.evicted_for_entries += 1

    def _remove(self, key: bytes) -> None:
        entry, size = self._entries.pop(key)
        self.nbytes -= size
        _unindex(self._tenants, entry.tenant, key)
        _unindex(self._models, entry.model, key)
        # An emptied bucket stays until the sweep comes by, which keeps the heap in step with the buckets.
        self._buckets[self._bucket_of(entry)].discard(key)

    def _schedule(self, entry: Entry) -> None:
        number = self._bucket_of(entry)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            heapq.heappush(self._bucket_order, number)
        bucket.add(entry.key)

    def _bucket_of(self, entry: Entry) -> int:
        return int(entry.expires_at // self._bucket_seconds)


def _index(index: dict[K, set[bytes]], name: K, key: bytes) -> None:
    keys = index.get(name)
    if keys is None:
        index[name] = {key}
    else:
        keys.add(key)


def _unindex(index: dict[K, set[bytes]], name: K, key: bytes) -> None:
    keys = index[name]
    keys.discard(key)
    if not keys:
        del index[name]
