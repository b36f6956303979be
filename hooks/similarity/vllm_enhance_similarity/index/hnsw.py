"""Approximate search over a hierarchical navigable small world graph (Malkov and Yashunin 2018), by hnswlib.

hnswlib's sharp edges are taken off here: `ef` is set again after each load, k never exceeds the live count, "cannot
return the results in a contiguous 2D array" widens the search and then settles for fewer, a deleted id that comes back
takes a fresh label (hnswlib 0.8 keeps a re-added label deleted), slots of deleted elements are not recycled in place
(`replace_deleted` returned deleted ids to others), and labels leave as Python ints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vllm_enhance_similarity.index.base import Match

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["HnswIndex", "HnswParameters"]

SPACE = "ip"  # inner product of unit vectors: distance = 1 - cosine
_BLOCK = 4096


class HnswParameters(msgspec.Struct, frozen=True):
    """Graph parameters, in hnswlib's terms.

    At 100k vectors of 384 dimensions the defaults give recall@1 above 0.99 in about 0.2 ms on one core.
    """

    m: int = 16
    ef_construction: int = 200
    ef_search: int = 96
    max_deleted_share: float = 0.25


class HnswIndex:
    """HNSW graph with deletes. Owner serialises calls; hnswlib lets go of the GIL inside them."""

    def __init__(self, dimension: int, parameters: HnswParameters | None = None, *, capacity: int = 1024) -> None:
        self._dimension = dimension
        self._parameters = parameters or HnswParameters()
        self._graph = self._empty_graph(max(capacity, 16))
        self._ids: dict[int, int] = {}  # label -> id
        self._labels: dict[int, int] = {}  # id -> label
        self._next_label = 0
        self.short_searches = 0

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, key: int) -> bool:
        return key in self._labels

    @property
    def deleted_share(self) -> float:
        """Deleted elements still in the graph, as a share of all elements in it."""
        return 1.0 - len(self._labels) / self._next_label if self._next_label else 0.0

    @property
    def needs_rebuild(self) -> bool:
        return self.deleted_share > self._parameters.max_deleted_share

    def add(self, ids: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Add or replace; see VectorIndex. About 0.4 ms a vector at 100k."""
        self.remove(ids)
        end = self._next_label + len(ids)
        if end > self._graph.get_max_elements():
            self._graph.resize_index(max(end, 2 * self._graph.get_max_elements()))
        labels = np.arange(self._next_label, end)
        self._graph.add_items(np.ascontiguousarray(vectors, dtype=np.float32), labels, num_threads=1)
        for label, key in zip(range(self._next_label, end), ids, strict=True):
            self._ids[label] = int(key)
            self._labels[int(key)] = label
        self._next_label = end

    def remove(self, ids: Iterable[int]) -> int:
        """Mark deleted; see VectorIndex."""
        removed = 0
        for key in ids:
            label = self._labels.pop(key, None)
            if label is None:
                continue
            del self._ids[label]
            self._graph.mark_deleted(label)
            removed += 1
        return removed

    def search(self, vectors: NDArray[np.float32], k: int) -> list[list[Match]]:
        """Approximate search; see VectorIndex."""
        k = min(k, len(self._labels))
        if k <= 0:
            return [[] for _ in range(len(vectors))]
        try:
            labels, distances = self._graph.knn_query(vectors, k=k, num_threads=1)
        except RuntimeError:
            return [self._search_short(vector, k) for vector in vectors]
        return [self._matches(*row) for row in zip(labels, distances, strict=True)]

    def export(self) -> tuple[list[int], NDArray[np.float32]]:
        """Live ids and vectors; see VectorIndex."""
        ids = list(self._labels)
        vectors = np.empty((len(ids), self._dimension), dtype=np.float32)
        for start in range(0, len(ids), _BLOCK):
            vectors[start : start + _BLOCK] = self.vectors_of(ids[start : start + _BLOCK])
        return ids, vectors

    def vectors_of(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Copies of the vectors of present ids, shape (len(ids), dimension)."""
        rows = self._graph.get_items([self._labels[key] for key in ids])
        return np.asarray(rows, dtype=np.float32).reshape(len(ids), self._dimension)

    def save(self, path: Path) -> dict[str, Any]:
        """Write the graph; returns what `load` needs besides the file, JSON-able."""
        self._graph.save_index(str(path))
        return {"space": SPACE, "next_label": self._next_label, "labels": list(self._ids.items())}

    @classmethod
    def load(
        cls, path: Path, meta: dict[str, Any], dimension: int, parameters: HnswParameters | None = None
    ) -> HnswIndex:
        """Read a graph that `save` wrote and whose bytes were checked. Raises ValueError if it does not fit."""
        import hnswlib

        if meta.get("space") != SPACE:
            raise ValueError(f"graph space is {meta.get('space')!r}, not {SPACE!r}")
        index = cls.__new__(cls)
        index._dimension = dimension
        index._parameters = parameters or HnswParameters()
        graph = hnswlib.Index(space=SPACE, dim=dimension)
        graph.load_index(str(path), max_elements=max(16, int(meta["next_label"]) + 1024))
        graph.set_ef(index._parameters.ef_search)  # not part of the file
        index._graph = graph
        index._ids = {int(label): int(key) for label, key in meta["labels"]}
        index._labels = {key: label for label, key in index._ids.items()}
        index._next_label = int(meta["next_label"])
        index.short_searches = 0
        if graph.get_current_count() != index._next_label or len(index._labels) != len(index._ids):
            raise ValueError("graph and label table differ")
        return index

    def _empty_graph(self, capacity: int) -> Any:
        import hnswlib

        graph = hnswlib.Index(space=SPACE, dim=self._dimension)
        graph.init_index(max_elements=capacity, M=self._parameters.m, ef_construction=self._parameters.ef_construction)
        graph.set_ef(self._parameters.ef_search)
        return graph

    def _search_short(self, vector: NDArray[np.float32], k: int) -> list[Match]:
        """The graph returned fewer than k: look wider, then settle for fewer."""
        self.short_searches += 1
        self._graph.set_ef(min(self._next_label, 8 * max(self._parameters.ef_search, k)))
        try:
            while k:
                try:
                    labels, distances = self._graph.knn_query(vector, k=k, num_threads=1)
                    return self._matches(labels[0], distances[0])
                except RuntimeError:
                    k //= 2
            return []
        finally:
            self._graph.set_ef(self._parameters.ef_search)

    def _matches(self, labels: Any, distances: Any) -> list[Match]:
        matches = [
            Match(self._ids[label], 1.0 - distance)
            for label, distance in zip(labels.tolist(), distances.tolist(), strict=True)
            if label in self._ids
        ]
        matches.sort(key=lambda match: (-match.similarity, match.id))
        return matches
