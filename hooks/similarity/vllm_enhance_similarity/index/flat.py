"""Exact search: one matrix, one product. Fastest up to a few thousand vectors, and never wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vllm_enhance_similarity.index.base import Match

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["FlatIndex"]

_FIRST_CAPACITY = 8
_QUERY_BLOCK = 256  # bounds the (queries, n) product of a batch search


class FlatIndex:
    """Exact cosine search over a growing matrix; a removed row takes the place of the last."""

    def __init__(self, dimension: int) -> None:
        self._rows = np.empty((_FIRST_CAPACITY, dimension), dtype=np.float32)
        self._ids: list[int] = []
        self._slots: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, key: int) -> bool:
        return key in self._slots

    def add(self, ids: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Add or replace; see VectorIndex."""
        self._reserve(len(self._ids) + len(ids))
        for key, vector in zip(ids, vectors, strict=True):
            slot = self._slots.get(key)
            if slot is None:
                slot = len(self._ids)
                self._ids.append(int(key))
                self._slots[int(key)] = slot
            self._rows[slot] = vector

    def remove(self, ids: Iterable[int]) -> int:
        """Remove; see VectorIndex."""
        removed = 0
        for key in ids:
            slot = self._slots.pop(key, None)
            if slot is None:
                continue
            removed += 1
            last = self._ids.pop()
            if last != key:
                self._rows[slot] = self._rows[len(self._ids)]
                self._ids[slot] = last
                self._slots[last] = slot
        return removed

    def search(self, vectors: NDArray[np.float32], k: int) -> list[list[Match]]:
        """Exact search; see VectorIndex."""
        count = len(self._ids)
        k = min(k, count)
        if k <= 0:
            return [[] for _ in range(len(vectors))]
        found: list[list[Match]] = []
        for start in range(0, len(vectors), _QUERY_BLOCK):
            similarities = vectors[start : start + _QUERY_BLOCK] @ self._rows[:count].T
            found.extend(self._top(row, k) for row in similarities)
        return found

    def export(self) -> tuple[list[int], NDArray[np.float32]]:
        """Copies; see VectorIndex."""
        return list(self._ids), self._rows[: len(self._ids)].copy()

    def vectors_of(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Copies of the vectors of present ids, shape (len(ids), dimension)."""
        return self._rows[[self._slots[key] for key in ids]]

    def _top(self, similarities: NDArray[np.float32], k: int) -> list[Match]:
        slots = np.argpartition(similarities, -k)[-k:] if k < len(similarities) else np.arange(len(similarities))
        matches = [Match(self._ids[slot], float(similarities[slot])) for slot in slots]
        matches.sort(key=lambda match: (-match.similarity, match.id))
        return matches

    def _reserve(self, rows: int) -> None:
        if rows > len(self._rows):
            grown = np.empty((max(rows, 2 * len(self._rows)), self._rows.shape[1]), dtype=np.float32)
            grown[: len(self._ids)] = self._rows[: len(self._ids)]
            self._rows = grown
