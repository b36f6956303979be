"""What every vector index promises.

Vectors are unit length, float32, shape (dimension,); similarity is the cosine in [-1, 1]. Ids are non-negative Python
ints: indexes whose ids came back as numpy.uint64 matched no row of their owner's table and never hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Match", "VectorIndex"]


class Match(NamedTuple):
    """One neighbour: the id as given to `add`, and its cosine similarity."""

    id: int
    similarity: float


class VectorIndex(Protocol):
    """Not thread-safe unless the class says so; its owner holds a lock."""

    def __len__(self) -> int:
        """Live vectors."""

    def add(self, ids: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Add vectors, shape (len(ids), dimension). An id that is present is replaced."""

    def remove(self, ids: Iterable[int]) -> int:
        """Remove; unknown ids are skipped. Returns how many were there."""

    def search(self, vectors: NDArray[np.float32], k: int) -> list[list[Match]]:
        """For each row of `vectors` the at most k nearest live ids, similarity descending, then id. Never raises."""

    def export(self) -> tuple[list[int], NDArray[np.float32]]:
        """All live ids and their vectors, shape (n, dimension), for a snapshot or a rebuild."""
