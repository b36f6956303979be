"""In which language a text is written, and in which it wants its answer.

By script; in Latin letters by the small words that every sentence needs and by letters. Languages without a row below
are taken for English, unless their letters say otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from vllm_enhance_similarity.guards.lexicon_languages import LANGUAGE_LETTERS, LANGUAGE_MARKERS, LANGUAGE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["foreign_words", "languages_of", "read_language", "reply_languages"]

_SCRIPTS = (
    ("zh", re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")),
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
)
_FURTHER_LATIN = re.compile(r"[\u0100-\u024f\u1e00-\u1eff]")  # Polish, Turkish, Vietnamese, ...

_MARKED = {
    word: tuple(code for code, marks in LANGUAGE_MARKERS.items() if word in marks)
    for word in frozenset[str]().union(*LANGUAGE_MARKERS.values())
}


def read_language(lowered: str, tokens: tuple[str, ...], foreign: frozenset[str]) -> str:
    """A code such as "en", "fr", "zh"; "xx" for Latin letters of none that is known here.

    Args:
        foreign: see `foreign_words`.
    """
    ascii_only = lowered.isascii()
    if ascii_only and not foreign:
        return "en"
    return (None if ascii_only else _script(lowered, tokens)) or _latin(lowered, tokens)


def _script(lowered: str, tokens: tuple[str, ...]) -> str | None:
    counts = {name: len(pattern.findall(lowered)) for name, pattern in _SCRIPTS}
    if counts["ja"]:
        return "ja"
    name = max(counts, key=lambda key: counts[key])
    latin = sum(len(token) > 1 and token[0].isalpha() and token[0] < "\u0250" for token in tokens)
    return name if counts[name] and counts[name] * 2 >= latin else None


def _latin(lowered: str, tokens: tuple[str, ...]) -> str:
    marks = [found for token in tokens if (found := _MARKED.get(token))]
    scores = Counter(code for found in marks for code in found)
    for token in tokens:
        if not token.isascii() and token not in _MARKED:
            for code in scores:  # letters add to words; alone they may be a café
                scores[code] += not LANGUAGE_LETTERS.get(code, frozenset[str]()).isdisjoint(token)
    if "¿" in lowered or "¡" in lowered:
        scores["es"] += 2
    best = max(scores, key=lambda code: (scores[code], code == "en"), default="en")
    if best != "en" and scores[best] >= 2 and scores[best] * 4 >= len(tokens):
        # Words that English has, too, say nothing; more of its own must say that it is that one.
        english = sum("en" in found and best not in found for found in marks)
        own = scores[best] - sum("en" in found and best in found for found in marks)
        if own >= english + (2 if english else 1):
            return best
    return "xx" if not scores["en"] and len(_FURTHER_LATIN.findall(lowered)) >= 2 else "en"


def foreign_words(tokens: Iterable[str]) -> frozenset[str]:
    """The tokens that mark another language and not English."""
    return frozenset([token for token in tokens if "en" not in _MARKED.get(token, ("en",))])


def languages_of(words: Iterable[str]) -> frozenset[str]:
    """The languages that most of the telling words are of; empty when no word tells."""
    scores = Counter(code for word in words for code in _MARKED.get(word, ()))
    most = max(scores.values(), default=0)
    return frozenset(code for code, score in scores.items() if score == most)


_NAMES = "|".join(sorted((name for name in LANGUAGE_NAMES if name.isascii()), key=len, reverse=True))
_NAMES_ZH = "|".join(sorted((name for name in LANGUAGE_NAMES if not name.isascii()), key=len, reverse=True))
_REPLY = re.compile(
    r"\b(?:answer|reply|respond|response|explain|write|written|describe|summari[sz]e|output|tell)\b[^.?!;]{0,80}?"
    rf"\bin ({_NAMES})\b|(?:^|[.?!,;:]\s*)(?:please )?in ({_NAMES})(?:,? please)?\s*[.!]*$|"
    rf"[用以]({_NAMES_ZH})(?!怎么[说讲写])"
)


def reply_languages(lowered: str, tokens: tuple[str, ...]) -> frozenset[str]:
    """Names of the languages that an answer is asked for in: "answer in French", 用英语回答."""
    if lowered.isascii() and LANGUAGE_NAMES.isdisjoint(tokens):
        return frozenset()
    return frozenset("".join(groups) for groups in _REPLY.findall(lowered))
