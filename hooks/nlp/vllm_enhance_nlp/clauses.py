"""Clauses: stretches with a predicate of their own, cut at connectives and at the punctuation between clauses."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from . import lexicon_zh as zh
from .grammar_en import WINDOW, clause_starts, finite_verb_at, gerund_starts, has_verb_before
from .tokens import Token
from .types import Clause, Connective, Span

__all__ = ["chinese_clauses", "english_clauses"]

_TRIM: Final = " \t\r\n\u3000,，;；:：.。!！?？、…"
_ZH_CUT: Final = re.compile("[，；;]|(?<=[^\x00-\x7f]),|,(?=[^\x00-\x7f])|：(?=.{4})")
_ZH_QUOTED: Final = re.compile('《[^》]{0,80}》|“[^”]{0,80}”|「[^」]{0,80}」|（[^）]{0,80}）|"[^"]{0,80}"')
_ZH_PREDICATE: Final = re.compile(
    "了|要|会|能|有|是|没|不|想|可以|应该|" + "|".join(verb for verb in zh.VERBS if len(verb) > 1)
)


def _trimmed(text: str, start: int, end: int) -> Span | None:
    while start < end and text[start] in _TRIM:
        start += 1
    while end > start and text[end - 1] in _TRIM:
        end -= 1
    return Span(start, end) if any(char.isalnum() for char in text[start:end]) else None


def _cut(text: str, sentence: Span, number: int, cuts: Iterable[int], openers: dict[int, Connective]) -> list[Clause]:
    edges = sorted({sentence.start, sentence.end, *(cut for cut in cuts if sentence.start < cut < sentence.end)})
    clauses = []
    for start, end in itertools.pairwise(edges):
        span = _trimmed(text, start, end)
        if span is not None:
            clauses.append(Clause(span, number, openers.get(span.start)))
    return clauses


# --- English ---------------------------------------------------------------------------------------------------


def _opens_clause(
    tokens: Sequence[Token], starts: Sequence[int], connective: Connective, part: Span, stop: int
) -> bool:
    """Whether the part of a connective at `part` opens a clause of its own."""
    if connective.role in ("coordinator", "subordinator"):
        return True
    after = bisect_left(starts, part.end)
    return connective.role == "phrase" and gerund_starts(tokens, after, stop)


def _comma_starts_clause(tokens: Sequence[Token], first: int, at: int, stop: int, *, fronted: bool) -> bool:
    """Whether a clause starts after the comma at `at`."""
    after = at + 1
    if after >= stop:
        return False
    if tokens[after].low in (";", "and", "or", "but", "so"):
        return False  # the connective itself cuts, when it joins clauses
    if fronted:
        return clause_starts(tokens, after, stop, bare=True) or tokens[after].tag in ("V", "WH", "AUX", "PRON")
    if not has_verb_before(tokens, first, at):
        return False
    if tokens[after].tag == "WH":
        # "which" after a comma is a relative clause unless an inverted verb or a noun follows
        following = tokens[after + 1].tag if after + 1 < stop else "PUNCT"
        relative = {"which": ("AUX", "VZ", "VD"), "where": ("PRON", "DET", "N"), "when": ("PRON", "DET", "N")}
        if tokens[after].low in ("who", "whose", "whom") or following in relative.get(tokens[after].low, ()):
            return False
        return clause_starts(tokens, after, stop)
    if tokens[after].tag in ("AUX", "PRON"):
        return clause_starts(tokens, after, stop)
    if tokens[after].tag == "V" and tokens[first].tag in ("WH", "AUX", "V"):
        follow = tokens[after + 1].tag if after + 1 < stop else "PUNCT"
        return follow in ("DET", "OBJ", "PRON", "TO")  # "…, activate it, and …"
    return finite_verb_at(tokens, after, min(stop, after + 6), bare=False) >= 0


def _english_cuts(
    tokens: Sequence[Token], starts: Sequence[int], first: int, stop: int, connectives: Sequence[Connective]
) -> tuple[set[int], dict[int, Connective]]:
    cuts: set[int] = set()
    openers: dict[int, Connective] = {}
    subordinate: set[int] = set()
    phrases: set[int] = set()
    for connective in connectives:
        for part in connective.spans:
            openers.setdefault(part.start, connective)
            if _opens_clause(tokens, starts, connective, part, stop):
                cuts.add(part.start)
                if connective.role != "coordinator":
                    subordinate.add(part.start)
            elif connective.role == "phrase":
                phrases.add(part.start)
    begin = first
    for at in range(first, stop):
        token = tokens[at]
        if token.start in cuts and not _follows_coordinator(tokens, at, first, cuts):
            begin = at
        if token.low == ";":
            cuts.add(token.end)
            begin = at + 1
        elif token.low in (",", "—", "–", "--"):
            fronted = tokens[begin].start in subordinate or (
                begin + 1 < at and tokens[begin].tag == "CC" and tokens[begin + 1].start in subordinate
            )
            if tokens[begin].start in phrases:
                continue  # "Compared with oil, how clean …": the phrase has no predicate of its own
            if _comma_starts_clause(tokens, begin, at, stop, fronted=fronted):
                after_coordinator = fronted and tokens[begin].tag == "CC"
                if not after_coordinator:
                    cuts.add(token.end)
                begin = at + 1
    return _without_doubles(tokens, first, stop, cuts), openers


def _follows_coordinator(tokens: Sequence[Token], at: int, first: int, cuts: set[int]) -> bool:
    return at > first and tokens[at - 1].start in cuts and tokens[at - 1].tag == "CC"


def _without_doubles(tokens: Sequence[Token], first: int, stop: int, cuts: set[int]) -> set[int]:
    """Drop a cut that follows another with only a coordinator or comma between ("and after …", "and, if so")."""
    for at in range(first, stop):
        if tokens[at].start in cuts and tokens[at].tag == "CC":
            follow = at + 1
            if follow < stop and tokens[follow].low == ",":
                follow += 1
            if follow < stop:
                cuts.discard(tokens[follow].start)
                cuts.discard(tokens[follow - 1].end)
    return cuts


def english_clauses(
    text: str, tokens: Sequence[Token], sentences: Sequence[tuple[Span, int, int]], connectives: Sequence[Connective]
) -> list[Clause]:
    """Clauses in order.

    Args:
        text: The whole text.
        tokens: Its tokens.
        sentences: Span, first token and one past the last token of each sentence.
        connectives: Those found in the text, in order.
    """
    starts = [token.start for token in tokens]
    heads = [connective.spans[0].start for connective in connectives]
    clauses: list[Clause] = []
    for number, (span, first, stop) in enumerate(sentences):
        if first >= stop:
            continue
        local = connectives[bisect_left(heads, span.start) : bisect_left(heads, span.end)]
        cuts, openers = _english_cuts(tokens, starts, first, stop, local)
        clauses.extend(_cut(text, span, number, cuts, openers))
    return clauses


# --- Chinese ---------------------------------------------------------------------------------------------------


def _fragment(piece: str, opener: Connective | None) -> bool:
    """Whether a piece before a comma has no predicate and belongs to what follows it."""
    piece = piece.strip(_TRIM)
    if (piece.endswith(zh.GREETINGS) and len(piece) <= 8) or piece in (
        "请问",
        "首先",
        "其次",
        "最后",
        "那么",
        "所以",
        "因此",
    ):
        return True
    if opener is not None:
        if opener.role == "phrase":
            return True
        return len(opener.spans) == 1 and opener.spans[0].end - opener.spans[0].start >= len(piece)
    return piece.startswith(zh.FRONTED) and len(piece) <= 12 and not _ZH_PREDICATE.search(piece)


def _chinese_cuts(text: str, span: Span, openers: dict[int, Connective]) -> list[int]:
    masked = [match.span() for match in _ZH_QUOTED.finditer(text, span.start, span.end)]
    cuts: list[int] = []
    begin, mask = span.start, 0
    for match in _ZH_CUT.finditer(text, span.start, span.end):
        at = match.start()
        while mask < len(masked) and masked[mask][1] <= at:
            mask += 1
        if mask < len(masked) and masked[mask][0] <= at:
            continue
        head = _trimmed(text, begin, at)
        if head is None or not _fragment(
            text[head.start : min(head.end, head.start + WINDOW)], openers.get(head.start)
        ):
            cuts.append(match.end())
            begin = match.end()
    return cuts


def chinese_clauses(text: str, sentences: Sequence[Span], connectives: Sequence[Connective]) -> list[Clause]:
    """Clauses in order: cut at commas and semicolons, a fronted phrase without a predicate kept with its clause."""
    openers: dict[int, Connective] = {}
    joins: list[int] = []
    for connective in connectives:
        for part in connective.spans:
            openers.setdefault(part.start, connective)
        if connective.text in ("和", "与"):
            joins.append(connective.spans[0].start)
    clauses: list[Clause] = []
    for number, span in enumerate(sentences):
        low, high = bisect_left(joins, span.start), bisect_left(joins, span.end)
        cuts = [*_chinese_cuts(text, span, openers), *joins[low:high]]
        clauses.extend(_cut(text, span, number, cuts, openers))
    return clauses
