"""An index that starts exact and becomes a graph, and renews the graph when too much of it is deleted.

Both changes build a new graph from a copy while the old index goes on serving: `maintain` takes the owner's lock only
to copy and to swap. What arrives in between is logged and replayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vllm_enhance_similarity.index.flat import FlatIndex
from vllm_enhance_similarity.index.hnsw import HnswIndex, HnswParameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from vllm_enhance_similarity.index.base import Match

__all__ = ["GrowingIndex"]

_BUILD_BLOCK = 512


class GrowingIndex:
    """Flat up to `flat_limit` vectors, HNSW above, and flat again once a rebuild finds less than half of that.

    Owner serialises all calls but `maintain`, which gets the owner's lock.
    """

    def __init__(
        self, dimension: int, parameters: HnswParameters, flat_limit: int, backing: FlatIndex | HnswIndex | None = None
    ) -> None:
        self._dimension = dimension
        self._parameters = parameters
        self._flat_limit = flat_limit
        self._backing: FlatIndex | HnswIndex = backing or FlatIndex(dimension)
        self._changed: set[int] | None = None  # ids added or removed since a build began
        self.rebuilds = 0

    def __len__(self) -> int:
        return len(self._backing)

    @property
    def backing(self) -> FlatIndex | HnswIndex:
        return self._backing

    @property
    def needs_maintenance(self) -> bool:
        if isinstance(self._backing, FlatIndex):
            return len(self._backing) > self._flat_limit
        return self._backing.needs_rebuild

    def add(self, ids: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Add or replace; see VectorIndex."""
        self._backing.add(ids, vectors)
        if self._changed is not None:
            self._changed.update(ids)

    def remove(self, ids: Iterable[int]) -> int:
        """Remove; see VectorIndex."""
        ids = list(ids)
        if self._changed is not None:
            self._changed.update(ids)
        return self._backing.remove(ids)

    def search(self, vectors: NDArray[np.float32], k: int) -> list[list[Match]]:
        """Search; see VectorIndex."""
        return self._backing.search(vectors, k)

    def export(self) -> tuple[list[int], NDArray[np.float32]]:
        """Live ids and vectors; see VectorIndex."""
        return self._backing.export()

    def maintain(self, lock: AbstractContextManager[object]) -> None:
        """Build the index that should serve and swap it in. Seconds; one caller at a time, off the event loop."""
        with lock:
            ids, vectors = self._backing.export()
            self._changed = set()
        fresh = self._build(ids, vectors)
        with lock:
            changed, self._changed = self._changed, None
            self._catch_up(fresh, changed)
            self._backing = fresh
            self.rebuilds += 1

    def _build(self, ids: list[int], vectors: NDArray[np.float32]) -> FlatIndex | HnswIndex:
        if len(ids) <= self._flat_limit // 2:
            flat = FlatIndex(self._dimension)
            flat.add(ids, vectors)
            return flat
        graph = HnswIndex(self._dimension, self._parameters, capacity=len(ids) + len(ids) // 2)
        for start in range(0, len(ids), _BUILD_BLOCK):
            graph.add(ids[start : start + _BUILD_BLOCK], vectors[start : start + _BUILD_BLOCK])
        return graph

    def _catch_up(self, fresh: FlatIndex | HnswIndex, changed: set[int]) -> None:
        if not changed:
            return
        fresh.remove(changed)
        present = [key for key in changed if key in self._backing]
        if present:
            fresh.add(present, self._backing.vectors_of(present))
