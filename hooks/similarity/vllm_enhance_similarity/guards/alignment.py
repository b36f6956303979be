"""How two token sequences differ: what only one has, and whether one plain substitution explains it all."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import msgspec

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.numbers import read_numbers
from vllm_enhance_similarity.guards.questions import QUESTION_WORDS
from vllm_enhance_similarity.guards.stems import american, is_cjk, stem

if TYPE_CHECKING:
    from vllm_enhance_similarity.guards.facts import TextFacts

__all__ = ["Alignment", "align", "middle"]


class Alignment(msgspec.Struct, frozen=True):
    """Differences of two token sequences.

    `only_one` and `only_other` hold the tokens whose stem the other side lacks. `text_only_one` and `text_only_other`
    are what differs in place, for Chinese. `substitutes`: a content word, or a run of at most three, stands in the
    place of another in otherwise equal texts, and it is not a typing error. `swaps_question_word`: nothing differs but
    one question word ("who" for "where").
    """

    only_one: tuple[str, ...]
    only_other: tuple[str, ...]
    text_only_one: str
    text_only_other: str
    near_identical: bool
    substitutes: bool
    swaps_question_word: bool


def align(one: TextFacts, other: TextFacts) -> Alignment:
    """Compare two token sequences; microseconds for most pairs, quadratic parts are capped."""
    only_one, only_other = _lacking(one, other.bag), _lacking(other, one.bag)
    chinese = one.language == "zh"
    # One substitution needs few differing words; looking for it in other pairs would be most of the cost.
    close = len(only_one) <= 4 and len(only_other) <= 4 and len(one.tokens) <= 200 and len(other.tokens) <= 200
    word, question_word = close and _substitutes(one, other), close and _swaps_question_word(one, other)
    replaced = _replacements(one.tokens, other.tokens) if word or question_word or (close and chinese) else []
    in_place = replaced if close else [(only_one, only_other)]
    return Alignment(
        only_one=only_one,
        only_other=only_other,
        text_only_one="".join(token for pair in in_place for token in pair[0]) if chinese else "",
        text_only_other="".join(token for pair in in_place for token in pair[1]) if chinese else "",
        near_identical=2 * (len(only_one) + len(only_other)) <= len(one.tokens) + len(other.tokens),
        substitutes=word and sum(_has_content(pair) for pair in replaced) == 1,
        swaps_question_word=question_word and len(replaced) == 1,
    )


def _lacking(facts: TextFacts, bag: frozenset[str]) -> tuple[str, ...]:
    return tuple([token for token, its in zip(facts.tokens, facts.stems, strict=True) if its not in bag])


_Replacement = tuple[tuple[str, ...], tuple[str, ...]]


def _replacements(one: tuple[str, ...], other: tuple[str, ...]) -> list[_Replacement]:
    """Runs that differ, as (mine, theirs), without a common token; a run may be empty on one side."""
    run = middle(one, other)
    if len({*one}) == len(one) and len({*other}) == len(other) and {*run[0]}.isdisjoint(run[1]):
        return [run] if any(run) else []  # where no token repeats, this is what the matcher finds, at its leisure
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return [(one[i1:i2], other[j1:j2]) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal"]


def _has_content(pair: _Replacement) -> bool:
    return any(token not in lexicon.FUNCTION_WORDS for side in pair for token in side)


def middle(one: tuple[str, ...], other: tuple[str, ...]) -> _Replacement:
    """What is left without the common start and end. If one run alone was replaced, it is that run."""
    start, longest = 0, min(len(one), len(other))
    while start < longest and one[start] == other[start]:
        start += 1
    end, longest = 0, longest - start
    while end < longest and one[-1 - end] == other[-1 - end]:
        end += 1
    return one[start : len(one) - end], other[start : len(other) - end]


def _substitutes(one: TextFacts, other: TextFacts) -> bool:
    """Whether the content words could differ by one substitution; the whole texts have to bear it out."""
    mine, theirs = middle(one.content, other.content)
    if not mine or not theirs:
        return False
    limit = 4 if any(map(is_cjk, one.tokens)) else 3
    if len(mine) > limit or len(theirs) > limit:
        return False
    if len(mine) == len(theirs) and all(_same_word(a, b) for a, b in zip(mine, theirs, strict=True)):
        return False
    if _same_word("".join(mine), "".join(theirs)) or _same_number(mine, theirs):
        return False
    return len(one.tokens) - len(mine) >= 1


def _swaps_question_word(one: TextFacts, other: TextFacts) -> bool:
    """The same for question words."""
    if QUESTION_WORDS.isdisjoint(one.tokens) or QUESTION_WORDS.isdisjoint(other.tokens):
        return False
    mine, theirs = (QUESTION_WORDS.intersection(side) for side in middle(one.tokens, other.tokens))
    return bool(mine and theirs) and (mine | theirs) not in ({"what", "which"}, {"who", "whom"}) and mine != theirs


def _same_number(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    found = [read_numbers(side, "".join(side) if any(map(is_cjk, side)) else "") for side in (mine, theirs)]
    return (bool(found[0]) and found[0] == found[1]) or {mine, theirs} == {("1",), ("one",)}


def _same_word(one: str, other: str) -> bool:
    """Inflections or spellings of one word, or one typing error in a word that no table knows."""
    if stem(american(one)) == stem(american(other)):
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
