"""Hard partitions over growing indexes: what may not be found is not searched.

A partition stands for everything that must match exactly (tenant, model, system prompt, history, tools, sampling);
its name is made by the caller. Search sees one partition only, so that no filter can be forgotten.
"""

from __future__ import annotations

import heapq
import threading
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from vllm_enhance_similarity.index.entries import Entry, EntryTable, Scope
from vllm_enhance_similarity.index.growing import GrowingIndex
from vllm_enhance_similarity.index.hnsw import HnswIndex, HnswParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["Candidate", "IndexLimits", "IndexStats", "PartitionedIndex"]

_SPARE = 4  # searched beyond k, to make up for expired entries among the nearest


class Candidate(NamedTuple):
    """A stored question near the one asked; similarity is the cosine."""

    entry: Entry
    similarity: float


class IndexLimits(msgspec.Struct, frozen=True):
    """Caps over all partitions; the first one reached evicts."""

    max_entries: int = 200_000
    max_bytes: int = 1 << 30
    flat_limit: int = 4096


class IndexStats(msgspec.Struct, frozen=True):
    """Counts since start, and the present size."""

    entries: int
    partitions: int
    graph_partitions: int
    bytes: int
    evicted: int
    expired: int
    rebuilds: int
    short_searches: int


class PartitionedIndex:
    """Thread-safe index of stored questions. Every method but `maintain` takes well under a millisecond or copies."""

    def __init__(
        self, dimension: int, *, limits: IndexLimits | None = None, parameters: HnswParameters | None = None
    ) -> None:
        self.dimension = dimension
        self.limits = limits or IndexLimits()
        self.parameters = parameters or HnswParameters()
        self._lock = threading.RLock()
        self._table = EntryTable()
        self._indexes: dict[bytes, GrowingIndex] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._bytes = self._evicted = self._expired = self._rebuilds = 0

    def __len__(self) -> int:
        return len(self._table)

    @property
    def lock(self) -> threading.RLock:
        """Held by a snapshot while it copies."""
        return self._lock

    def add(
        self,
        partition: bytes,
        key: bytes,
        vector: NDArray[np.float32],
        *,
        text: str,
        tenant: bytes,
        now: float,
        model: str = "",
        group: bytes = b"",
        expires: float | None = None,
        payload: bytes = b"",
        generation: int = 0,
    ) -> Entry:
        """Store one question; the same key in the same partition is replaced. `group` defaults to the key.

        Raises ValueError for a vector of the wrong shape or with values that are not finite.
        """
        row = np.asarray(vector, dtype=np.float32).reshape(1, -1)
        if row.shape[1] != self.dimension or not np.isfinite(row).all():
            raise ValueError(f"expected a finite vector of {self.dimension} dimensions")
        with self._lock:
            before = self._table.find(partition, key)
            if before is not None:
                self._drop(before)
            entry = Entry(
                self._table.new_id(),
                key,
                partition,
                tenant,
                model,
                text,
                group or key,
                now,
                expires,
                payload,
                generation,
            )
            self._make_room(entry)
            self.restore_entry(entry)
            self._index_of(partition).add([entry.id], row)
            return entry

    def restore_entry(self, entry: Entry) -> None:
        """Enter the table without a vector; for `add` and for a snapshot that brings the vectors itself."""
        self._table.insert(entry)
        self._bytes += entry.size(self._vector_bytes())
        if entry.expires is not None:
            heapq.heappush(self._deadlines, (entry.expires, entry.id))
            if len(self._deadlines) > 2 * len(self._table) + 1024:  # replaced and evicted entries leave theirs behind
                self._deadlines = [(e.expires, e.id) for e in self._table if e.expires is not None]
                heapq.heapify(self._deadlines)

    def restore_partition(self, partition: bytes, index: GrowingIndex) -> None:
        """Put a whole partition's vectors in place; its entries are in the table."""
        self._indexes[partition] = index

    def search(self, partition: bytes, vector: NDArray[np.float32], k: int, *, now: float) -> list[Candidate]:
        """The at most k nearest live entries of one partition, similarity descending, then key."""
        return self.search_many(partition, np.asarray(vector, dtype=np.float32).reshape(1, -1), k, now=now)[0]

    def search_many(
        self, partition: bytes, vectors: NDArray[np.float32], k: int, *, now: float
    ) -> list[list[Candidate]]:
        """`search` for each row of `vectors`, shape (n, dimension)."""
        with self._lock:
            index = self._indexes.get(partition)
            if index is None or k <= 0:
                return [[] for _ in range(len(vectors))]
            return [self._candidates(row, k, now) for row in index.search(vectors, k + _SPARE)]

    def touch(self, entry: Entry) -> None:
        """Count as used, for eviction."""
        with self._lock:
            if self._table.get(entry.id) is entry:
                self._table.touch(entry)

    def find(self, partition: bytes, key: bytes) -> Entry | None:
        """The entry with this key, if it is stored."""
        with self._lock:
            return self._table.find(partition, key)

    def entries(self) -> list[Entry]:
        """All entries, least recently used first. A copy of the list, not of the entries."""
        with self._lock:
            return list(self._table)

    def partitions(self) -> dict[bytes, GrowingIndex]:
        """The index of each partition; for snapshots, under `lock`."""
        return dict(self._indexes)

    def delete(self, scope: Scope, value: str | bytes | float = "", *, dry_run: bool = False) -> int:
        """Delete by key, tenant, model, partition, age, or all; returns how many there were."""
        with self._lock:
            chosen = self._table.select(scope, value)
            if not dry_run:
                for entry in chosen:
                    self._drop(entry)
            return len(chosen)

    def drop_unless(self, keeps: Callable[[Entry], bool]) -> int:
        """Delete the entries that `keeps` does not hold for; returns how many. Not for an event loop."""
        gone = [entry for entry in self.entries() if not keeps(entry)]
        for entry in gone:
            with self._lock:
                if self._table.get(entry.id) is entry:
                    self._drop(entry)
        return len(gone)

    def expire(self, now: float, *, limit: int = 1000) -> int:
        """Drop entries whose time is over, at most `limit` in one call."""
        dropped = 0
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= now and dropped < limit:
                _, entry_id = heapq.heappop(self._deadlines)
                entry = self._table.get(entry_id)
                if entry is not None and not entry.is_live(now):
                    self._drop(entry)
                    self._expired += 1
                    dropped += 1
        return dropped

    def maintain(self) -> bool:
        """Promote or rebuild the largest partition that needs it; True if there was one. Seconds, off-loop."""
        with self._lock:
            waiting = [index for index in self._indexes.values() if index.needs_maintenance]
        if not waiting:
            return False
        max(waiting, key=len).maintain(self._lock)
        self._rebuilds += 1
        return True

    def stats(self) -> IndexStats:
        """Sizes and counts."""
        with self._lock:
            graphs = [index.backing for index in self._indexes.values() if isinstance(index.backing, HnswIndex)]
            return IndexStats(
                entries=len(self._table),
                partitions=self._table.partition_count,
                graph_partitions=len(graphs),
                bytes=self._bytes,
                evicted=self._evicted,
                expired=self._expired,
                rebuilds=self._rebuilds,
                short_searches=sum(graph.short_searches for graph in graphs),
            )

    def _candidates(self, matches: Sequence[tuple[int, float]], k: int, now: float) -> list[Candidate]:
        found: list[Candidate] = []
        seen: set[bytes] = set()
        for entry_id, similarity in matches:
            entry = self._table.get(entry_id)
            if entry is not None and entry.is_live(now) and entry.key not in seen:
                seen.add(entry.key)
                found.append(Candidate(entry, similarity))
        # Equal vectors may differ in the last bits, by where they lie in the matrix.
        found.sort(key=lambda candidate: (-round(candidate.similarity, 6), candidate.entry.key))
        return found[:k]

    def _index_of(self, partition: bytes) -> GrowingIndex:
        index = self._indexes.get(partition)
        if index is None:
            index = GrowingIndex(self.dimension, self.parameters, self.limits.flat_limit)
            self._indexes[partition] = index
        return index

    def _vector_bytes(self) -> int:
        # row, graph links of the base layer (2 * M ids), labels
        return 4 * self.dimension + 8 * self.parameters.m + 64

    def _make_room(self, entry: Entry) -> None:
        size = entry.size(self._vector_bytes())
        while len(self._table) and (
            len(self._table) >= self.limits.max_entries or self._bytes + size > self.limits.max_bytes
        ):
            self._drop(self._table.victim(entry.partition))
            self._evicted += 1

    def _drop(self, entry: Entry) -> None:
        self._table.remove(entry)
        self._bytes -= entry.size(self._vector_bytes())
        index = self._indexes[entry.partition]
        index.remove([entry.id])
        if not len(index):
            del self._indexes[entry.partition]
