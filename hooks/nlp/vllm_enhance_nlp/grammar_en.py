"""Small questions about English token sequences: does a clause start here, is there a verb to the left.

All look at most `WINDOW` tokens away, so that a rule applied at every token stays linear in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from . import lexicon_en as en
from .tables import word_set
from .tokens import Token

__all__ = ["WINDOW", "clause_starts", "gerund_starts", "has_verb_before", "licensed_verb", "verb_phrase_starts"]

WINDOW: Final = 40
_STOPPERS: Final = word_set("and or but if because when while although though unless")
_PLURALS: Final = word_set("men women people children police mice feet teeth")
_NON_FINITE: Final = word_set("be been being")
_NOMINAL: Final = frozenset(("N", "PRON", "NUM", "ADV", "OBJ"))
_AFTER_VERB: Final = frozenset(("DET", "PRON", "OBJ", "PREP", "TO", "ADV", "NUM", "AUX", "WH"))
# Bare forms that are at least as often nouns: "search and filter functions".
_NOUNY: Final = word_set(
    "permit demand hope fear need love hate offer request "
    "water test search filter travel train work record land book cook study design plan process "
    "research service sound "
    "smell taste cost trade exercise access use help care report point order change control cover "
    "display market place "
    "rest share stock store support supply target tour value visit wash waste watch wish email "
    "file guide host label "
    "light link list load lock log mark match mine mix model name number paint park pass play "
    "print produce program "
    "project question rate review ride row scale season seat set ship shop show sign sleep smoke "
    "snow step sort"
)


def finite_verb_at(tokens: Sequence[Token], index: int, stop: int, *, bare: bool) -> int:
    """Index of the first finite verb in `[index, stop)` before punctuation or a connective, or -1.

    `bare` also takes a base form after a plural or a pronoun ("until prices fall").
    """
    for at in range(index, min(stop, index + WINDOW)):
        token = tokens[at]
        tag = token.tag
        if (tag == "PUNCT" and token.low not in "\"'()“”") or (at > index and token.low in _STOPPERS):
            return -1
        if tag == "AUX" and token.low not in _NON_FINITE:
            return at
        if at == index:
            continue
        before = tokens[at - 1]
        if before.tag not in _NOMINAL:
            continue
        if tag == "VZ" and (bare or _third_person(tokens, at, stop)):
            return at
        if tag == "VD" and _past_tense(tokens, at, stop):
            return at
        if bare and tag == "V" and (before.tag == "PRON" or before.low.endswith("s") or before.low in _PLURALS):
            return at
    return -1


def _third_person(tokens: Sequence[Token], at: int, stop: int) -> bool:
    """Whether an "-s" form is a verb here ("the sun always looks the same"), not a plural ("rational numbers")."""
    if tokens[at].low[:-1] in _NOUNY or at + 1 >= stop:
        return False
    return tokens[at + 1].tag not in ("PUNCT", "CC") and not (
        tokens[at + 1].tag == "PREP" and tokens[at - 1].tag == "N"
    )


def _past_tense(tokens: Sequence[Token], at: int, stop: int) -> bool:
    """Whether an "-ed" or irregular form is a past tense here, not a participle ("boiled eggs", "the two combined")."""
    if not tokens[at].low.endswith(("ed", "n")):
        return True
    return at + 1 < stop and tokens[at + 1].tag not in ("N", "PUNCT", "V", "VZ")


def clause_starts(tokens: Sequence[Token], index: int, stop: int, *, bare: bool = False) -> bool:
    """Whether a clause with its own subject, or a question, starts at `index`."""
    if index >= stop:
        return False
    token = tokens[index]
    if token.tag == "ADV" and index + 1 < stop:
        return clause_starts(tokens, index + 1, stop, bare=bare) if tokens[index + 1].tag != "ADV" else False
    if token.tag == "WH":
        return _question_starts(tokens, index, stop)
    if token.tag == "AUX":
        return index + 1 < stop and tokens[index + 1].tag not in ("PUNCT", "PREP", "CC")
    if token.tag == "PRON":
        if ("'" in token.low and not token.low.endswith("'s")) or token.low in ("it's", "that's", "there's"):
            return True
        for at in range(index + 1, min(stop, index + 4)):
            if tokens[at].tag in ("AUX", "V", "VZ", "VD"):
                return True
            if tokens[at].tag != "ADV":
                break
    return finite_verb_at(tokens, index, stop, bare=bare or token.tag == "PRON") >= 0


def _question_starts(tokens: Sequence[Token], index: int, stop: int) -> bool:
    if index + 1 >= stop or tokens[index + 1].tag == "PUNCT":
        return True  # a bare "and why?"
    if tokens[index + 1].tag == "CC":
        return False  # "what and how"
    return any(
        tokens[at].tag in ("AUX", "V", "VZ", "VD", "TO") or "'" in tokens[at].low
        for at in range(index, min(stop, index + WINDOW))
    )


def gerund_starts(tokens: Sequence[Token], index: int, stop: int) -> bool:
    """Whether an "-ing" form starts at `index` ("before signing"), an adverb or "not" in front allowed."""
    for at in range(index, min(stop, index + 2)):
        token = tokens[at]
        if token.tag == "VG" or (token.low.endswith("ing") and len(token.low) > 5 and token.tag in ("N", "AUX")):
            return True
        if token.tag != "ADV" and token.low != "not":
            return False
    return False


def has_verb_before(tokens: Sequence[Token], start: int, index: int) -> bool:
    """Whether the stretch `[start, index)` already has a main verb, so that a second clause can follow."""
    low = max(start, index - WINDOW)
    helper = False
    for at in range(low, index):
        token = tokens[at]
        if token.tag in ("V", "VZ", "VD", "VG"):
            return True
        if token.tag in ("AUX", "WH"):
            if token.low in en.BE_FORMS or token.low in ("have", "has", "had") or "'s" in token.low:
                return True
            helper = True
        if "'" in token.low and token.tag == "PRON":
            return True
    return helper and index - low > 4  # an unknown verb may stand after the helper


def licensed_verb(tokens: Sequence[Token], start: int, index: int) -> int:
    """Index of the base verb in `[start, index)` that a later bare verb can be parallel to, or -1.

    It is the first base verb after a modal, "do", "to", "let" or "please", or one that opens the clause.
    """
    licence = -1
    for at in range(max(start, index - WINDOW), index):
        token = tokens[at]
        if token.tag in ("V", "AUX") and at == start and token.tag == "V":
            return at
        if token.low in en.MODAL_LICENSERS:
            licence = at
        elif token.low in ("have", "be", "need") and licence == at - 1 and token.tag == "AUX":
            return at
        elif licence >= 0 and (
            token.tag == "V" or (token.tag == "N" and at - 2 == licence and tokens[at - 1].tag == "PRON")
        ):
            return at  # after "do I" even a word of no table is the verb
    return -1


def verb_phrase_starts(tokens: Sequence[Token], start: int, index: int, after: int, stop: int) -> bool:
    """Whether `after` opens a verb phrase parallel to one in `[start, index)`; `index` is the coordinator.

    Bare verbs that share one object ("peel and chop the carrots") are one predicate, not two.
    """
    at = after
    while at < stop and tokens[at].tag == "ADV":
        at += 1
    if at >= stop or index <= start:
        return False
    verb, left = tokens[at], tokens[index - 1]
    following = tokens[at + 1] if at + 1 < stop else None
    if following is None or following.tag in ("PUNCT", "CC"):
        return False
    if verb.tag == "V" and left.tag != "V":
        if verb.low in _NOUNY and following.tag not in _AFTER_VERB - {"PREP", "AUX", "TO"}:
            return verb.low in ("ride", "sleep", "work") and licensed_verb(tokens, start, index) >= 0
        return licensed_verb(tokens, start, index) >= 0
    if verb.tag == "VZ" and left.tag not in ("VZ", "DET"):
        return (
            following.tag in ("DET", "PRON", "NUM", "OBJ", "N")
            and finite_verb_at(tokens, start, index, bare=False) >= 0
        )
    if verb.tag == "VD" and left.tag != "VD":
        return following.tag in ("DET", "PRON", "PREP", "NUM", "OBJ", "TO") and any(
            tokens[k].tag in ("VD", "AUX") for k in range(max(start, index - WINDOW), index)
        )
    return False
