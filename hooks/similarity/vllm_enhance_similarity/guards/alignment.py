"""How two token sequences differ: what only one has, and whether one plain substitution explains it all."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import lru_cache

import msgspec

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.facts import is_cjk, stem
from vllm_enhance_similarity.guards.numbers import read_numbers
from vllm_enhance_similarity.guards.questions import QUESTION_WORDS

__all__ = ["Alignment", "align"]


class Alignment(msgspec.Struct, frozen=True):
    """Differences of two token sequences.

    `only_one` and `only_other` hold the tokens whose stem the other side lacks. `substitutes`: a content word, or a
    run of at most three, stands in the place of another in otherwise equal texts, and it is not a typing error.
    `swaps_question_word`: nothing differs but one question word ("who" for "where").
    """

    only_one: tuple[str, ...]
    only_other: tuple[str, ...]
    text_only_one: str
    text_only_other: str
    near_identical: bool
    substitutes: bool
    swaps_question_word: bool


@lru_cache(maxsize=1024)
def align(one: tuple[str, ...], other: tuple[str, ...]) -> Alignment:
    """Compare two token sequences; tens of microseconds for questions, quadratic parts are capped."""
    mine, theirs = {stem(token) for token in one}, {stem(token) for token in other}
    only_one = tuple(token for token in one if stem(token) not in theirs)
    only_other = tuple(token for token in other if stem(token) not in mine)
    # One substitution needs few differing words; looking for it in other pairs would be most of the cost.
    close = len(only_one) <= 4 and len(only_other) <= 4
    replaced = _replacements(one, other) if close else [(only_one, only_other)]
    return Alignment(
        only_one=only_one,
        only_other=only_other,
        text_only_one="".join(token for pair in replaced for token in pair[0]),
        text_only_other="".join(token for pair in replaced for token in pair[1]),
        near_identical=2 * (len(only_one) + len(only_other)) <= len(one) + len(other),
        substitutes=close and _substitutes(one, other, replaced),
        swaps_question_word=close and _swaps_question_word(replaced),
    )


_Replacement = tuple[tuple[str, ...], tuple[str, ...]]


def _replacements(one: tuple[str, ...], other: tuple[str, ...]) -> list[_Replacement]:
    """Runs that differ, as (mine, theirs); a run may be empty on one side."""
    if len(one) > 200 or len(other) > 200:
        return []
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return [(one[i1:i2], other[j1:j2]) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal"]


def _substitutes(one: tuple[str, ...], other: tuple[str, ...], replaced: list[_Replacement]) -> bool:
    limit = 4 if any(is_cjk(token) for token in one) else 3
    changes = [(_content(mine), _content(theirs)) for mine, theirs in replaced]
    changes = [(mine, theirs) for mine, theirs in changes if mine or theirs]
    if len(changes) != 1:
        return False
    mine, theirs = changes[0]
    if not mine or not theirs or len(mine) > limit or len(theirs) > limit:
        return False
    if len(mine) == len(theirs) and all(_same_word(a, b) for a, b in zip(mine, theirs, strict=True)):
        return False
    if _same_word("".join(mine), "".join(theirs)) or _same_number(mine, theirs):
        return False
    return len(one) - len(mine) >= 1


def _swaps_question_word(replaced: list[_Replacement]) -> bool:
    if len(replaced) != 1:
        return False
    mine, theirs = (set(side) & QUESTION_WORDS for side in replaced[0])
    return bool(mine and theirs) and (mine | theirs) not in ({"what", "which"}, {"who", "whom"}) and mine != theirs


def _same_number(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    found = [read_numbers(side, "".join(side) if any(map(is_cjk, side)) else "") for side in (mine, theirs)]
    return bool(found[0]) and found[0] == found[1]


def _content(tokens: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(token for token in tokens if token not in lexicon.FUNCTION_WORDS)


def _same_word(one: str, other: str) -> bool:
    """Inflections of one word, or one typing error in a word that no table knows."""
    if stem(one) == stem(other):
        return True
    known = one in _KNOWN and other in _KNOWN
    return not known and min(len(one), len(other)) >= 4 and one[0] == other[0] and _one_edit(one, other)


_KNOWN = lexicon.ENTITIES | frozenset(lexicon.ANTONYMS) | frozenset(lexicon.UNITS) | frozenset(lexicon.NUMBER_WORDS)


def _one_edit(one: str, other: str) -> bool:
    """True within one insertion, deletion, substitution or swap of neighbours."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])
