"""Compare two texts: which differences forbid reuse, which only speak against it.

A veto forbids. A hint raises what a threshold demands and is evidence to a learned policy. Numbers, units, negation,
antonyms, direction, question type, language, code and links are vetoes: an embedding cannot see them, and a different
answer is all but sure. Entities, substitutions, word order and length are hints: on real pairs they are often harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.alignment import Alignment, align
from vllm_enhance_similarity.guards.direction import reverses
from vllm_enhance_similarity.guards.facts import read_facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_enhance_similarity.guards.facts import TextFacts

__all__ = ["GUARDS", "Finding", "Guard", "compare_texts"]

Strength = Literal["veto", "hint"]


class Finding(msgspec.Struct, frozen=True):
    """One objection to reuse. `guard` is a stable label for metrics; it never holds text."""

    guard: str
    strength: Strength


class Guard(msgspec.Struct, frozen=True):
    """A named check of two texts; True objects."""

    name: str
    strength: Strength
    objects: Callable[[TextFacts, TextFacts, Alignment], bool]


def compare_texts(asked: str, stored: str) -> tuple[Finding, ...]:
    """All objections to answering `asked` with what answered `stored`. Pure; about 0.1 ms."""
    if asked == stored:
        return ()
    one, other = read_facts(asked), read_facts(stored)
    aligned = align(one.tokens, other.tokens)
    return tuple(Finding(guard.name, guard.strength) for guard in GUARDS if guard.objects(one, other, aligned))


def _units_differ(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """Two units of one dimension (5 km, 5 miles), or a unit only one side has, behind the same numbers."""
    only_one, only_other = one.units - other.units, other.units - one.units
    shared_dimension = {dimension for dimension, _ in only_one} & {dimension for dimension, _ in only_other}
    return bool(shared_dimension) or bool((only_one or only_other) and one.numbers and not (only_one and only_other))


def _antonyms(one: TextFacts, other: TextFacts, aligned: Alignment) -> bool:
    """A word on one side whose opposite stands on the other, neither on both."""
    mine, theirs = set(aligned.only_one), set(aligned.only_other)
    if any(word in lexicon.ANTONYMS and not theirs.isdisjoint(lexicon.ANTONYMS[word]) for word in mine):
        return True
    if not theirs.isdisjoint(_without_prefix(mine)) or not mine.isdisjoint(_without_prefix(theirs)):
        return True
    return one.language == "zh" and _chinese_antonyms(one, other, aligned)


def _without_prefix(words: set[str]) -> set[str]:
    """What is left of words that begin like an opposite: "unhealthy" -> "healthy". At least four letters."""
    prefixes = lexicon.PREFIXES_OF_OPPOSITES
    candidates = [word for word in words if len(word) > 4 and word.startswith(prefixes)]
    rests = {word[len(prefix) :] for word in candidates for prefix in prefixes if word.startswith(prefix)}
    return {rest for rest in rests if len(rest) >= 4}


_ANTONYMS_ZH = tuple((word, opposites) for word, opposites in lexicon.ANTONYMS.items() if not word.isascii())


def _chinese_antonyms(asked: TextFacts, stored: TextFacts, aligned: Alignment) -> bool:
    """Words are looked for in the whole texts, single characters only where the texts differ."""
    mine, theirs = "".join(asked.tokens), "".join(stored.tokens)
    for word, opposites in _ANTONYMS_ZH:
        if len(word) == 1:
            if word in aligned.text_only_one and any(opposite in aligned.text_only_other for opposite in opposites):
                return True
        elif word in mine and word not in theirs and any(one in theirs and one not in mine for one in opposites):
            return True
    return False


_ASKS_ANYTHING = frozenset(("what", "which", "statement", "yes_no"))
_INTERCHANGEABLE = (
    {"how", "what"},
    {"how", "statement"},
    {"how_many", "how_long"},
    {"where", "which"},
    {"who", "which"},
)


def _question_differs(one: TextFacts, other: TextFacts, aligned: Alignment) -> bool:
    """Two explicit, incompatible kinds of question; or the same words behind another question word."""
    if aligned.swaps_question_word:
        return True
    if one.question == other.question:
        return False
    if one.question in _ASKS_ANYTHING or other.question in _ASKS_ANYTHING:
        return (
            one.language == "zh" and aligned.near_identical and {one.question, other.question}.isdisjoint({"statement"})
        )
    return {one.question, other.question} not in _INTERCHANGEABLE


def _asks_more(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """One side asks several things, the other fewer: a part's answer does not answer the whole."""
    return one.questions != other.questions and max(one.questions, other.questions) > 1


def _languages_differ(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """Written in two languages, or about two ("translate into French", "into German")."""
    if one.language != other.language:
        return True
    mine, theirs = (facts.entities & lexicon.LANGUAGE_NAMES for facts in (one, other))
    return bool(mine and theirs and mine != theirs)


def _entities_differ(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """Each side names something that the other does not mention at all."""
    mine = {name for name in one.entities - other.entities if name not in other.bag}
    theirs = {name for name in other.entities - one.entities if name not in one.bag}
    return bool(mine and theirs)


def _entity_extra(one: TextFacts, other: TextFacts, aligned: Alignment) -> bool:
    """One side names something more."""
    if _entities_differ(one, other, aligned):
        return False
    return bool(one.entities - other.entities - other.bag) or bool(other.entities - one.entities - one.bag)


def _length_differs(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    shorter, longer = sorted((len(one.tokens), len(other.tokens)))
    return shorter * 2 < longer and longer - shorter > 4


GUARDS: tuple[Guard, ...] = (
    Guard("number", "veto", lambda one, other, _: one.numbers != other.numbers),
    Guard("unit", "veto", _units_differ),
    Guard("negation", "veto", lambda one, other, _: one.negations != other.negations),
    Guard("antonym", "veto", _antonyms),
    Guard("direction", "veto", reverses),
    Guard("question_type", "veto", _question_differs),
    Guard("questions", "veto", _asks_more),
    Guard("language", "veto", _languages_differ),
    Guard("code", "veto", lambda one, other, _: one.code != other.code),
    Guard("link", "veto", lambda one, other, _: one.links != other.links),
    Guard("quoted", "hint", lambda one, other, _: one.quoted != other.quoted and bool(one.quoted and other.quoted)),
    Guard("entity", "hint", _entities_differ),
    Guard("entity_extra", "hint", _entity_extra),
    Guard("substitution", "hint", lambda one, other, aligned: aligned.substitutes),
    Guard("length", "hint", _length_differs),
)
