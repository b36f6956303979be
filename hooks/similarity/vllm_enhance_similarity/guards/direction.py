"""Direction: "A to B" is not "B to A", and "does A cause B" is not "does B cause A"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.facts import stem

if TYPE_CHECKING:
    from vllm_enhance_similarity.guards.alignment import Alignment
    from vllm_enhance_similarity.guards.facts import TextFacts

__all__ = ["reverses"]

# What stands between two things gives them a direction; "and", "or", "vs" do not.
_DIRECTED = frozenset(
    [
        "to",
        "into",
        "onto",
        "from",
        "than",
        "over",
        "under",
        "before",
        "after",
        "by",
        "of",
        "for",
        "with",
        "without",
        "on",
        "in",
        "as",
        "cause",
        "causes",
        "affect",
        "affects",
        "beat",
        "beats",
        "follow",
        "follows",
        "precede",
        "precedes",
        "replace",
        "replaces",
        "convert",
        "converts",
        "become",
        "becomes",
        "include",
        "includes",
        "contain",
        "contains",
        "imply",
        "implies",
        "lead",
        "leads",
        "exceed",
        "exceeds",
        "eat",
        "eats",
        "kill",
        "kills",
        "love",
        "loves",
        "hate",
        "hates",
        "defeat",
        "defeats",
        "leave",
        "leaves",
        "owe",
        "owes",
        "own",
        "owns",
        "import",
        "imports",
        "export",
        "exports",
        "visit",
        "visits",
        "invade",
        "invades",
        "attack",
        "attacks",
        "到",
        "至",
        "往",
        "从",
        "比",
        "成",
        "为",
        "换",
        "转",
        "给",
        "被",
        "把",
        "向",
        "对",
    ]
)
_SYMMETRIC = frozenset(["and", "or", "vs", "versus", "between", "&", "和", "与", "或", "跟", "及", "、"])


def reverses(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """True if the two say the same words with two of them exchanged, in a way that has a direction."""
    mine, theirs = _content(one), _content(other)
    if mine == theirs or len(mine) > 60 or len(theirs) > 60:
        return False
    if sorted(mine) == sorted(theirs):
        return _exchanged(mine, theirs)
    return _reversed_about_connective(one, other)


def _content(facts: TextFacts) -> list[str]:
    # Politeness and articles move freely; prepositions and verbs stay, since they carry the direction.
    return [token for token in facts.stems if token not in _FREE]


_FREE = frozenset(
    stem(word)
    for word in [
        "a",
        "an",
        "the",
        "please",
        "i",
        "do",
        "does",
        "did",
        "is",
        "are",
        "was",
        "can",
        "could",
        "would",
        "you",
        "me",
        "my",
    ]
)


def _exchanged(mine: list[str], theirs: list[str]) -> bool:
    """Same words in another order: harmless only if one block moved, or if a symmetric word joins what changed."""
    start = 0
    while mine[start] == theirs[start]:
        start += 1
    end = len(mine)
    while mine[end - 1] == theirs[end - 1]:
        end -= 1
    block, other = mine[start:end], theirs[start:end]
    between = set(block[1:-1])
    if between & _SYMMETRIC and not between & _DIRECTED:
        return False
    if len(block) == 2:
        return block[0] in lexicon.ENTITIES and block[1] in lexicon.ENTITIES
    # "in Python, sort" -> "sort in Python" moves one block; "A to B" -> "B to A" needs more than one move.
    return not any(block[cut:] + block[:cut] == other for cut in range(1, len(block)))


def _reversed_about_connective(one: TextFacts, other: TextFacts) -> bool:
    """Other words too, but the two things about a directed word ("from", "to", "than") have changed places."""
    for connective in set(one.stems) & set(other.stems) & _DIRECTED:
        first, second = _sides(one.stems, connective), _sides(other.stems, connective)
        if first and second and first != second and first == second[::-1]:
            return True
    return False


def _sides(stems: tuple[str, ...], connective: str) -> tuple[str, str] | None:
    position = stems.index(connective)
    before = [token for token in stems[:position] if token not in lexicon.FUNCTION_WORDS]
    after = [token for token in stems[position + 1 :] if token not in lexicon.FUNCTION_WORDS]
    return (before[-1], after[0]) if before and after else None
