"""Paired English connectives: "not only … but also", "either … or", "if … then"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .grammar_en import WINDOW, clause_starts
from .tokens import Token
from .types import Connective, Role, Sense, Span

__all__ = ["Match", "join_pairs"]


class Match(NamedTuple):
    """A connective at tokens `[start, end)`; `clausal` says that a clause or verb phrase of its own follows."""

    start: int
    end: int
    text: str
    sense: Sense
    role: Role
    clausal: bool


# First part, second part, sense. The second part may itself be a table entry; the pair replaces it.
_PAIRS: Final[tuple[tuple[str, str, Sense], ...]] = (
    ("if", "then", "condition"),
    ("either", "or", "alternative"),
    ("neither", "nor", "conjunction"),
    ("not only", "but also", "conjunction"),
    ("not only", "but", "conjunction"),
    ("on the one hand", "on the other hand", "contrast"),
    ("no sooner", "than", "time"),
)


def _find(tokens: Sequence[Token], words: tuple[str, ...], start: int, stop: int) -> int:
    head = words[0]
    for at in range(start, min(stop, start + 2 * WINDOW)):
        if tokens[at].low == head and tuple(t.low for t in tokens[at : at + len(words)]) == words:
            return at
    return -1


def join_pairs(tokens: Sequence[Token], first: int, stop: int, found: list[Match]) -> list[Connective]:
    """Connectives of one sentence: `found` singly, with the pairs among them and in the tokens joined."""
    taken: set[int] = set()
    joined: list[tuple[int, Connective]] = []
    lows = {token.low for token in tokens[first:stop]}
    for one, two, sense in _PAIRS:
        head, tail = tuple(one.split()), tuple(two.split())
        if head[0] not in lows or tail[0] not in lows:
            continue
        at = _find(tokens, head, first, stop)
        other = _find(tokens, tail, at + len(head), stop) if at >= 0 else -1
        if other < 0 or at in taken or not _pair_holds(tokens, one, first, at, other, stop, found):
            continue
        ends = (at + len(head), other + len(tail))
        taken.update(range(at, ends[0]))
        taken.update(range(other, ends[1]))
        spans = (Span(tokens[at].start, tokens[ends[0] - 1].end), Span(tokens[other].start, tokens[ends[1] - 1].end))
        joined.append((at, Connective(f"{one}…{two}", sense, spans, "coordinator" if one != "if" else "subordinator")))
    for match in found:
        if match.start not in taken:
            span = Span(tokens[match.start].start, tokens[match.end - 1].end)
            joined.append((match.start, Connective(match.text, match.sense, (span,), match.role)))
    return [connective for _, connective in sorted(joined, key=lambda pair: pair[0])]


def _pair_holds(
    tokens: Sequence[Token], one: str, first: int, at: int, other: int, stop: int, found: list[Match]
) -> bool:
    """Whether the pair joins clauses or verb phrases ("not only Python but also Java" does not)."""
    starts = {match.start for match in found}
    if one in ("if", "on the one hand"):
        return at in starts
    if one == "either":
        return other in starts or (at == first and clause_starts(tokens, other + 1, stop))
    if one == "neither":
        between = range(at + 1, other)
        return any(tokens[k].tag in ("V", "VZ", "VD", "AUX") for k in between) and clause_starts(
            tokens, other + 1, stop
        )
    if one == "no sooner":
        return True
    end = at + 2
    verbal = ("V", "VZ", "VD", "AUX")
    after = other + (2 if other + 1 < stop and tokens[other + 1].low == "also" else 1)
    return any(k < stop and tokens[k].tag in verbal for k in (end, after)) or clause_starts(tokens, after, stop)
