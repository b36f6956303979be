"""Compare two texts: which differences forbid reuse, which only speak against it.

A veto forbids. A hint raises what a threshold demands and is evidence to a learned policy. Numbers, units, negation,
antonyms, quantifiers, direction, question type, language, code, links and symbols are vetoes: an embedding cannot see
them, and a different answer is all but sure. Entities, substitutions, word order and length are hints: on real pairs
they are often harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.alignment import Alignment, align, middle
from vllm_enhance_similarity.guards.direction import reverses
from vllm_enhance_similarity.guards.facts import read_facts
from vllm_enhance_similarity.guards.languages import languages_of
from vllm_enhance_similarity.guards.wording import same_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_enhance_similarity.guards.facts import TextFacts

__all__ = ["GUARDS", "Finding", "Guard", "compare_texts", "same_wording"]

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
    """All objections to answering `asked` with what answered `stored`. Pure; about 15 us."""
    if asked == stored:
        return ()
    one, other = read_facts(asked), read_facts(stored)
    aligned = align(one, other)
    return tuple([_FINDINGS[guard.name] for guard in GUARDS if guard.objects(one, other, aligned)])


def _numbers_differ(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """Other numbers; a lone "one" is read as a pronoun, unless the other side has a 1 for it."""
    if one.numbers == other.numbers:
        return False
    return one.numbers ^ other.numbers != {"1"} or one.wording != other.wording


def _units_differ(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """Two units of one dimension (5 km, 5 miles), or a unit only one side has, behind the same numbers."""
    if one.units == other.units:
        return False
    only_one, only_other = one.units - other.units, other.units - one.units
    shared_dimension = {dimension for dimension, _ in only_one} & {dimension for dimension, _ in only_other}
    return bool(shared_dimension) or bool((only_one or only_other) and one.numbers and not (only_one and only_other))


def _antonyms(one: TextFacts, other: TextFacts, aligned: Alignment) -> bool:
    """A word on one side whose opposite stands on the other, neither on both."""
    mine, theirs = aligned.only_one, aligned.only_other
    for facts, own, against in ((one, mine, theirs), (other, theirs, mine)):
        for word, opposites in facts.opposites:
            if word in own and not opposites.isdisjoint(against):
                return True
    return one.language == "zh" and _chinese_antonyms(one, other, aligned)


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


_QUANTITIES = {
    "all": "all", "every": "all", "each": "all", "both": "all", "any": "any", "either": "any", "some": "some",
    "several": "some", "many": "many", "most": "most", "few": "few", "only": "only", "one": "one",
}  # fmt: skip


def _quantified_otherwise(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """The same words but for "all" in the place of "any", or "only", or "one"."""
    mine, theirs = middle(one.tokens, other.tokens)
    if len(mine) != 1 or len(theirs) != 1:
        return False
    found = {_QUANTITIES.get(mine[0], ""), _QUANTITIES.get(theirs[0], "")}
    return len(found) == 2 and "" not in found and found != {"some", "any"}


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


def _languages_differ(one: TextFacts, other: TextFacts, aligned: Alignment) -> bool:
    """Written in two languages, or about two ("translate into French", "into German"), or to be answered in two."""
    if one.language != other.language:
        return True
    mine, theirs = one.languages_named, other.languages_named
    if (mine and theirs and mine != theirs) or one.reply_in != other.reply_in:
        return True
    if not one.foreign and not other.foreign:
        return False
    # Too short to tell by itself, but what differs is of one language here and of another there: qui / who.
    own, others = languages_of(aligned.only_one), languages_of(aligned.only_other)
    return bool(own and others) and own.isdisjoint(others)


def _entities_differ(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """Each side names something that the other does not mention at all."""
    if one.entities == other.entities:
        return False
    return bool(one.entities - other.entities - other.bag) and bool(other.entities - one.entities - one.bag)


def _entity_extra(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """One side names something more."""
    if one.entities == other.entities:
        return False
    return bool(one.entities - other.entities - other.bag) != bool(other.entities - one.entities - one.bag)


def _length_differs(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    shorter, longer = sorted((len(one.wording), len(other.wording)))
    return shorter * 2 < longer and longer - shorter > 4


def same_wording(one: TextFacts, other: TextFacts) -> bool:
    """The same words and signs, but for what changes no answer; see `wording`."""
    return one.marks == other.marks and same_words(one.wording, other.wording)


GUARDS: tuple[Guard, ...] = (
    Guard("number", "veto", _numbers_differ),
    Guard("unit", "veto", _units_differ),
    Guard("negation", "veto", lambda one, other, _: one.negations != other.negations),
    Guard("antonym", "veto", _antonyms),
    Guard("quantifier", "veto", _quantified_otherwise),
    Guard("direction", "veto", reverses),
    Guard("question_type", "veto", _question_differs),
    Guard("questions", "veto", _asks_more),
    Guard("language", "veto", _languages_differ),
    Guard("code", "veto", lambda one, other, _: one.code != other.code),
    Guard("link", "veto", lambda one, other, _: one.links != other.links),
    Guard("symbol", "veto", lambda one, other, _: one.symbols.contradict(other.symbols)),
    Guard("quoted", "hint", lambda one, other, _: one.quoted != other.quoted and bool(one.quoted and other.quoted)),
    Guard("entity", "hint", _entities_differ),
    Guard("entity_extra", "hint", _entity_extra),
    Guard("substitution", "hint", lambda one, other, aligned: aligned.substitutes),
    Guard("length", "hint", _length_differs),
    Guard("case", "hint", lambda one, other, _: one.cased.contradict(other.cased)),
    Guard("wording", "hint", lambda one, other, _: not same_wording(one, other)),
)

_FINDINGS = {guard.name: Finding(guard.name, guard.strength) for guard in GUARDS}
