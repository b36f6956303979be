"""Plain values that the text functions hand to each other and to other hooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Clause", "Connective", "Role", "Sense", "Span", "SubQuestion"]

Sense = Literal["conjunction", "contrast", "cause", "condition", "time", "alternative", "purpose", "comparison"]
Role = Literal["coordinator", "subordinator", "phrase", "adverb"]


class Span(NamedTuple):
    """Half-open range `[start, end)` of character offsets into the analysed text."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """The stretch of `text` this span covers."""
        return text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Connective:
    """A discourse connective.

    `text` is its table form, parts of a paired form joined by `…` ("not only…but also"); `spans` has one span a part.
    `role` says what it joins: coordinators and subordinators open a clause, phrases take a noun, adverbs float.
    """

    text: str
    sense: Sense
    spans: tuple[Span, ...]
    role: Role


@dataclass(frozen=True, slots=True)
class Clause:
    """A stretch with a predicate of its own, from its connective to its last word; `sentence` numbers its sentence."""

    span: Span
    sentence: int
    connective: Connective | None = None


@dataclass(frozen=True, slots=True)
class SubQuestion:
    """One question or request that stands alone; `span` is where it was asked, `restored` says words were put back."""

    text: str
    span: Span
    restored: bool = False
