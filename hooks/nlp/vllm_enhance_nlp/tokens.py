"""English tokens with a coarse part of speech, from tables and endings alone.

A trained tagger would be surer about open classes, and ten times slower; the rules that read these tags ask mostly
about closed classes (question words, auxiliaries, pronouns, determiners), where tables are exact.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from . import lexicon_en as en
from .tables import word_set

__all__ = ["Tag", "Token", "tokenize"]

Tag = Literal["WH", "AUX", "PRON", "OBJ", "DET", "PREP", "TO", "CC", "V", "VZ", "VD", "VG", "ADV", "NUM", "PUNCT", "N"]


class Token(NamedTuple):
    """A word, number or single punctuation mark; `start` and `end` are offsets into the text, `low` is case-folded."""

    text: str
    low: str
    start: int
    end: int
    tag: Tag


# Words keep inner apostrophes, hyphens and dots (don't, two-factor, 22.04, e.g); all else is one mark a token.
_TOKEN: Final = re.compile(r"[^\W_](?:[\w]|['’\-./@:+#&](?=\w)|[+#](?!\w))*|\S")
_NUMBER: Final = re.compile(r"[\d.,:/\-]+(?:st|nd|rd|th|%)?$")
_ADVERBS: Final = word_set(
    "also then not just only even still already always never often usually really too now soon "
    "again later easily "
    "instead maybe perhaps generally actually"
)
# Forms that are far more often nouns or adjectives than verbs when nothing licenses the verb.
_POSSESSIVE_OR_ARTICLE: Final = word_set(
    "a an the my your his her its our their these those some any no every each another 's"
)


def _closed_class() -> dict[str, Tag]:
    table: dict[str, Tag] = {}
    groups: tuple[tuple[Tag, frozenset[str]], ...] = (
        ("PREP", en.PREPOSITIONS),
        ("OBJ", en.OBJECT_PRONOUNS),
        ("DET", en.DETERMINERS),
        ("PRON", en.SUBJECT_PRONOUNS),
        ("AUX", en.AUXILIARIES),
        ("WH", en.WH_WORDS),
        ("ADV", _ADVERBS),
        ("CC", frozenset({"and", "or", "but", "nor"})),
        ("TO", frozenset({"to"})),
    )
    for tag, words in groups:
        for word in words:
            table[word] = tag
    return table


_CLOSED: Final = _closed_class()


def _stems(word: str, ending: str) -> tuple[str, ...]:
    stem = word[: -len(ending)]
    doubled = stem[:-1] if len(stem) > 3 and stem[-1] == stem[-2] else stem
    return (stem, stem + "e", doubled, stem[:-1] + "y" if stem.endswith("i") else stem)


@lru_cache(maxsize=8192)
def _open_class(word: str) -> Tag:
    """Tag of a word that is in no closed class, without context."""
    if word in en.IRREGULAR_PAST and word not in en.BASE_VERBS:
        return "VD"
    if word in en.BASE_VERBS:
        return "V"
    if word.endswith("ing") and len(word) > 4:
        return "VG" if any(stem in en.BASE_VERBS for stem in _stems(word, "ing")) else "N"
    if word.endswith("ed") and len(word) > 3:
        return "VD" if any(stem in en.BASE_VERBS for stem in (*_stems(word, "ed"), word[:-1])) else "N"
    if word.endswith("s") and len(word) > 3:
        stems = (word[:-1], word[:-2], word[:-3] + "y" if word.endswith("ies") else word[:-1])
        return "VZ" if any(stem in en.BASE_VERBS for stem in stems) else "N"
    if word.endswith("ly") and len(word) > 4:
        return "ADV"
    return "N"


def _tag(low: str, previous: Token | None) -> Tag:
    closed = _CLOSED.get(low)
    if closed is not None:
        return closed
    first = low[0]
    if not (first.isalnum() or first == "_"):
        return "PUNCT"
    if first.isdigit() and _NUMBER.match(low):
        return "NUM"
    if len(low) > 40:
        return "N"
    tag = _open_class(low)
    # After an article or possessive a verb form is a noun: "the train", "a good drive" keeps its guess.
    if previous is None or tag not in ("V", "VZ"):
        return tag
    nominal = previous.low in _POSSESSIVE_OR_ARTICLE or (previous.tag == "PREP" and tag == "V")
    return "N" if nominal else tag


def tokenize(text: str) -> list[Token]:
    """Tokens of `text` in order, tagged; linear in the length of the text."""
    tokens: list[Token] = []
    previous: Token | None = None
    for match in _TOKEN.finditer(text):
        word = match.group()
        low = word.lower().replace("’", "'")
        previous = Token(word, low, match.start(), match.end(), _tag(low, previous))
        tokens.append(previous)
    return tokens
