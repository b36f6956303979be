"""Direction: "A to B" is not "B to A", and "does A cause B" is not "does B cause A"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.alignment import middle
from vllm_enhance_similarity.guards.stems import stem

if TYPE_CHECKING:
    from vllm_enhance_similarity.guards.alignment import Alignment
    from vllm_enhance_similarity.guards.facts import TextFacts

__all__ = ["AskedPart", "asked_part", "directed", "ordered", "reverses"]

AskedPart = Literal["subject", "object", ""]

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
_IN_TURN = frozenset(["then", "not", "befor", "after"])
_SYMMETRIC = frozenset(["and", "or", "vs", "versus", "between", "&", "和", "与", "或", "跟", "及", "、"])


def reverses(one: TextFacts, other: TextFacts, _: Alignment) -> bool:
    """True if the two say the same words with two of them exchanged, in a way that has a direction."""
    mine, theirs = one.ordered, other.ordered
    if len(mine) > 60 or len(theirs) > 60:
        return False
    if _turns_round(one.tokens, other.tokens) or _swaps_names(one.tokens, other.tokens):
        return True
    if mine == theirs:
        return False
    if {one.asks, other.asks} == {"subject", "object"} and len({*mine} ^ {*theirs} - {"whom"}) <= _ONE_VERB:
        return True
    if _is_turned_by(mine, theirs) or _is_turned_by(theirs, mine):
        return True
    if len(mine) == len(theirs) and sorted(mine) == sorted(theirs):
        return _exchanged(mine, theirs, names_join="yes_no" not in (one.question, other.question))
    # Other words too, but the two things about a directed word ("from", "to", "than") have changed places.
    sides = other.directed
    return any(first != second and sides.get(word) == (second, first) for word, (first, second) in one.directed.items())


_OPPOSITE_WAYS = ({"to", "from"}, {"to", "by"})


def _turns_round(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """ "upgrade to version 2", "upgrade from version 2": one preposition stands for another, all else is equal."""
    if len(one) != len(other):
        return False
    pairs = [{mine, theirs} for mine, theirs in zip(one, other, strict=True) if mine != theirs]
    return len(pairs) == 1 and pairs[0] in _OPPOSITE_WAYS


def _swaps_names(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """ "is A greater than B", "is B greater than A"; "range(2, 10)", "range(10, 2)": letters and numbers are names."""
    mine, theirs = (tuple([each for each in side if each.isascii() and _is_name(each)]) for side in (one, other))
    return mine != theirs and len(one) == len(other) and sorted(one) == sorted(other)


def _is_name(token: str) -> bool:
    return len(token) == 1 or token[0].isdigit()


def asked_part(tokens: tuple[str, ...]) -> AskedPart:
    """ "who beat Brazil" asks for the subject, "who did Brazil beat" for the object; other questions for neither."""
    at = next((place for place, token in enumerate(tokens) if token in _ASKS_FOR_NAME), -1)
    if at < 0 or at + 1 == len(tokens):
        return ""
    if not _DO.isdisjoint(tokens[at + 1 : at + 4]):
        return "object"
    return "" if tokens[at + 1] in lexicon.FUNCTION_WORDS else "subject"


_ASKS_FOR_NAME = frozenset(("who", "whom", "what", "which"))
_DO = frozenset(("do", "does", "did"))


_ONE_VERB = 2  # "who taught Plato", "who did Plato teach": two forms that no stem joins


def _is_turned_by(longer: tuple[str, ...], shorter: tuple[str, ...]) -> bool:
    """ "who was taught by Plato" for "who taught Plato", "who is Anna the mother of" for "who is Anna's mother"."""
    if len(longer) != len(shorter) + 1:
        return False
    at = longer.index("by") if "by" in longer else len(longer) - 1 if longer[-1] == "of" else -1
    return at >= 0 and longer[:at] + longer[at + 1 :] == shorter


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


def _exchanged(mine: tuple[str, ...], theirs: tuple[str, ...], *, names_join: bool) -> bool:
    """Same words in another order: harmless only if a block moved that may, or if a symmetric word joins what changed.

    Args:
        names_join: two words side by side may change places ("free online games"); not in "is a square a rectangle".
    """
    block, other = middle(mine, theirs)
    for at, word in enumerate(block):
        if word in _SYMMETRIC and (*block[at + 1 :], word, *block[:at]) == other and _IN_TURN.isdisjoint(block):
            return False
    if len(block) == 2:
        return not names_join or (block[0] in lexicon.ENTITIES and block[1] in lexicon.ENTITIES)
    # "in Python, sort" -> "sort in Python" moves one block; "A to B" -> "B to A" needs more than one move.
    cut = next((cut for cut in range(1, len(block)) if block[cut:] + block[:cut] == other), 0)
    if not cut:
        return True
    # A phrase moves with its preposition; what ends with one has lost its object: "bigger than the sun".
    return block[cut - 1] in _DIRECTED or block[-1] in _DIRECTED
