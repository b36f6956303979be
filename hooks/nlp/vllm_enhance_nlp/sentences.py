"""Sentence spans for English (Punkt with its defaults when NLTK is there) and Chinese (punctuation)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from .language import Language
from .tables import word_set
from .types import Span

__all__ = ["split_sentences"]

_ABBREVIATIONS: Final = word_set(
    "mr mrs ms dr prof st jr sr vs etc e.g i.e fig no inc ltd co corp dept approx al pvt rs mt gen sen rep capt lt hon "
    "ex eq pp ph.d m.d b.a m.a b.tech m.tech b.sc m.sc bsc msc jan feb mar apr jun jul aug sep sept oct nov dec u.s "
    "u.k a.m p.m ca cf vol"
)
_LIST_MARK: Final = re.compile(r"\(?\d{1,2}[.)、．）](?!\d)\s*|[-*•]\s+")
_INLINE_LIST_MARK: Final = re.compile(r"(?<=[\s?？。.;；])(?=\(?\d{1,2}[.)、．）]\s*[^\W\d])")
_INITIAL: Final = re.compile(r"\.[A-Z]\.$")  # "R.D. Sharma"
_LINE: Final = re.compile(r"[^\r\n\u2028\u2029]+")
# A Latin "?" or "!" ends a Chinese sentence, a "." does not (numbers, versions, names); closing marks stay with it.
_ZH_SENTENCE: Final = re.compile(r"[^。！？!?；;…]*(?:[。！？!?；;…]+[”’」』）)\"']*|$)")
_EN_END: Final = re.compile(r"[.!?]+[\"')\]”’]*(?=\s)|[?!。！？]+")


@lru_cache(maxsize=1)
def _punkt() -> Any:
    """Punkt with no trained model, told our abbreviations; None when NLTK is missing."""
    try:
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    except ImportError:
        return None
    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def _rejoined(line: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Undo a break at a full stop before a small letter or a digit: it ended an abbreviation nobody listed."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        follows = line[start : start + 1]
        abbreviated = (
            joined
            and line[joined[-1][1] - 1] == "."
            and (
                follows.islower()
                or follows.isdigit()
                or _INITIAL.search(line, max(0, joined[-1][1] - 4), joined[-1][1])
            )
        )
        if abbreviated and not _LIST_MARK.match(line, start, end):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _english_breaks(line: str) -> list[tuple[int, int]]:
    punkt = _punkt()
    if punkt is not None:
        return _rejoined(line, punkt.span_tokenize(line))
    breaks, start = [], 0
    for match in _EN_END.finditer(line):
        word = line[max(start, match.start() - 12) : match.start()].rsplit(None, 1)
        if line[match.start()] == "." and word and word[-1].lower() in _ABBREVIATIONS:
            continue
        breaks.append((start, match.end()))
        start = match.end()
    return [*breaks, (start, len(line))]


def _chinese_breaks(line: str) -> list[tuple[int, int]]:
    return [match.span() for match in _ZH_SENTENCE.finditer(line) if match.end() > match.start()]


def _trimmed(text: str, start: int, end: int) -> Span | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    mark = _LIST_MARK.match(text, start, end)
    if mark is not None:  # the number of a list item is no part of its sentence, and no sentence either
        start = mark.end()
    return Span(start, end) if any(char.isalnum() for char in text[start:end]) else None


def _list_items(line: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut one stretch again before inline list marks ("1) What is a stack? 2) What is a queue?")."""
    marks = [match.start() for match in _INLINE_LIST_MARK.finditer(line, start, end) if match.start() > start]
    edges = [start, *marks, end]
    return list(itertools.pairwise(edges))


def split_sentences(text: str, language: Language) -> tuple[Span, ...]:
    """Spans of the sentences of `text`, in order and disjoint, without white space, list marks and empty ones.

    A line break always ends a sentence. Never raises; linear in the length of the text.
    """
    spans: list[Span] = []
    breaks = _chinese_breaks if language == "zh" else _english_breaks
    for line in _LINE.finditer(text):
        offset, body = line.start(), line.group()
        for outer in breaks(body):
            for start, end in _list_items(body, *outer):
                span = _trimmed(text, offset + start, offset + end)
                if span is not None:
                    spans.append(span)
    return tuple(spans)
