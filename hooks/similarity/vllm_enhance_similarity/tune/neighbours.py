"""For each question the nearest ones asked before it, once for all settings that are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Neighbourhood", "find_neighbours"]

EXACT_UP_TO = 20_000
BLOCK = 1000
M, EF_CONSTRUCTION, EF_SEARCH = 16, 100, 64


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The nearest earlier texts of each text.

    Attributes:
        ids: shape (texts, k), numbers of texts, nearest first; -1 where there are fewer.
        similarities: shape (texts, k), cosine in [-1, 1]; -2 where there are fewer.
    """

    ids: NDArray[np.int64]
    similarities: NDArray[np.float32]


def find_neighbours(
    vectors: NDArray[np.float32],
    partitions: Sequence[int],
    order: Sequence[int],
    k: int,
    *,
    threads: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Neighbourhood:
    """The `k` nearest earlier texts within each text's partition.

    Exact up to 20,000 texts a partition, HNSW above.

    Args:
        vectors: unit length, shape (texts, dimension).
        order: numbers of texts in the order of their first appearance.
        progress: told how many more texts are done.
    """
    ids = np.full((len(vectors), k), -1, dtype=np.int64)
    similarities = np.full((len(vectors), k), -2.0, dtype=np.float32)
    places: dict[int, list[int]] = {}
    for text in order:
        places.setdefault(partitions[text], []).append(text)
    for members in places.values():
        rows = np.array(members, dtype=np.int64)
        search = _Exact(vectors[rows]) if len(rows) <= EXACT_UP_TO else _Graph(vectors[rows], threads)
        for start in range(0, len(rows), BLOCK):
            stop = min(start + BLOCK, len(rows))
            found, near = search.before(start, stop, k)
            ids[rows[start:stop]] = np.where(found >= 0, rows[np.maximum(found, 0)], -1)
            similarities[rows[start:stop]] = near
            progress(stop - start)
    return Neighbourhood(ids, similarities)


def _best(similarities: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> tuple[Any, Any]:
    """The k largest of each row, largest first; -2 marks what is no neighbour."""
    if similarities.shape[1] < k:
        pad = k - similarities.shape[1]
        similarities = np.pad(similarities, ((0, 0), (0, pad)), constant_values=-2.0)
        labels = np.pad(labels, ((0, 0), (0, pad)), constant_values=-1)
    top = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    near = np.take_along_axis(similarities, top, axis=1)
    sort = np.argsort(-near, axis=1, kind="stable")
    near, top = np.take_along_axis(near, sort, axis=1), np.take_along_axis(top, sort, axis=1)
    found = np.take_along_axis(labels, top, axis=1)
    return np.where(near > -1.5, found, -1), near


class _Exact:
    """All earlier vectors, by matrix product."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def before(self, start: int, stop: int, k: int) -> tuple[Any, Any]:
        similarities = self._vectors[start:stop] @ self._vectors[:stop].T
        later = np.arange(stop)[None, :] >= np.arange(start, stop)[:, None]
        similarities[later] = -2.0
        labels = np.broadcast_to(np.arange(stop, dtype=np.int64), similarities.shape)
        return _best(similarities, labels, k)


class _Graph:
    """HNSW over what came before the block, and the block itself by matrix product."""

    def __init__(self, vectors: NDArray[np.float32], threads: int) -> None:
        import hnswlib

        self._vectors, self._threads = vectors, threads
        self._graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self._graph.init_index(max_elements=len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
        self._graph.set_ef(EF_SEARCH)

    def before(self, start: int, stop: int, k: int) -> tuple[Any, Any]:
        block = self._vectors[start:stop]
        inside, near_inside = _Exact(block).before(0, stop - start, k)
        inside = np.where(inside >= 0, inside + start, -1)
        if start >= k:
            found, distances = self._graph.knn_query(block, k=k, num_threads=self._threads)
            labels = np.concatenate([inside, found.astype(np.int64)], axis=1)
            near = np.concatenate([near_inside, (1.0 - distances).astype(np.float32)], axis=1)
            inside, near_inside = _best(near, labels, k)
        self._graph.add_items(block, np.arange(start, stop), num_threads=self._threads)
        return inside, near_inside
