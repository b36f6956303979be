"""How common a word is among stored questions. Words are kept as 32-bit checksums: no text, little memory."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["TermCounts"]


class TermCounts:
    """Document frequencies, bounded: when the table is full, terms seen once are forgotten and all counts halve."""

    def __init__(self, max_terms: int = 200_000) -> None:
        self._max_terms = max_terms
        self._counts: dict[int, int] = {}
        self._documents = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, terms: Iterable[str]) -> None:
        """Count one document's distinct terms."""
        self._documents += 1
        for term in terms:
            digest = zlib.crc32(term.encode("utf-8", "surrogatepass"))
            self._counts[digest] = self._counts.get(digest, 0) + 1
        if len(self._counts) > self._max_terms:
            self._counts = {digest: count // 2 for digest, count in self._counts.items() if count > 1}
            self._documents //= 2

    def rarity(self, term: str) -> float:
        """Inverse document frequency, scaled: 1 for a term in no document, 0 for one in all."""
        count = self._counts.get(zlib.crc32(term.encode("utf-8", "surrogatepass")), 0)
        documents = max(self._documents, count)
        return math.log((documents + 1) / (count + 1)) / math.log(documents + 2)

    def dump(self) -> tuple[int, dict[int, int]]:
        return self._documents, dict(self._counts)

    def load(self, documents: int, counts: dict[int, int]) -> None:
        self._documents, self._counts = documents, dict(counts)
