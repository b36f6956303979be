"""Direction: "A to B" is not "B to A", and "does A cause B" is not "does B cause A"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.stems import stem

if TYPE_CHECKING:
    from vllm_enhance_similarity.guards.alignment import Alignment
    from vllm_enhance_similarity.guards.facts import TextFacts

__all__ = ["directed", "ordered", "reverses"]

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
    mine, theirs = one.ordered, other.ordered
    if mine == theirs or len(mine) > 60 or len(theirs) > 60:
        return False
    if len(mine) == len(theirs) and sorted(mine) == sorted(theirs):
        return _exchanged(mine, theirs)
    # Other words too, but the two things about a directed word ("from", "to", "than") have changed places.
    sides = other.directed
    return any(first != second and sides.get(word) == (second, first) for word, (first, second) in one.directed.items())


def ordered(stems: tuple[str, ...]) -> tuple[str, ...]:
    """The stems whose order counts: politeness and articles move freely, prepositions and verbs carry the direction."""
    return tuple([token for token in stems if token not in _FREE])


def directed(stems: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """The things next to each directed word where it stands first, function words aside; both must be there."""
    found: dict[str, tuple[str, str]] = {}
    seen: dict[str, str] = {}  # the thing before each directed word
    waiting: list[str] = []
    before = ""
    for token in stems:
        thing = token not in lexicon.FUNCTION_WORDS
        if thing and waiting:
            found.update((word, (seen[word], token)) for word in waiting)
            waiting.clear()
        if token in _DIRECTED and token not in seen:
            seen[token] = before
            if before:
                waiting.append(token)
        if thing:
            before = token
    return found


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


def _exchanged(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
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
