"""What an English clause is in its text: a question, a request, context, or a piece of the question before it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Literal, Protocol

from . import lexicon_en as en
from .grammar_en import WINDOW, finite_verb_at
from .tokens import Token
from .types import Clause

__all__ = ["ClauseKinds", "Head", "Kind"]

Kind = Literal["question", "request", "embedded", "phrase", "bare", "subordinate", "statement"]

_KEPT_OPENERS: Final = frozenset(("if so", "in that case", "if not"))


class Head(Protocol):
    """The first question of the sentence; `carrier` is its "Can you tell me ", if it has one."""

    kind: Kind
    carrier: str


class ClauseKinds:
    """Sorts the clauses of one text by their first words.

    Args:
        tokens: Of the whole text.
        starts: Their start offsets.
    """

    def __init__(self, tokens: Sequence[Token], starts: Sequence[int]) -> None:
        self.tokens, self.starts = tokens, starts

    def body(self, clause: Clause) -> int:
        """First token of `clause` behind its coordinator, comma and adverbs of address."""
        at = bisect_left(self.starts, clause.span.start)
        stop = bisect_left(self.starts, clause.span.end)
        connective = clause.connective
        if connective is not None and connective.role != "phrase" and connective.text not in _KEPT_OPENERS:
            part = next((span for span in connective.spans if span.start == clause.span.start), connective.spans[0])
            if connective.role == "coordinator" or connective.role == "adverb" or part != connective.spans[0]:
                at = bisect_left(self.starts, part.end)
        if at + 2 < stop and self.tokens[at + 1].low in (",", "!") and self.tokens[at].low in en.GREETINGS:
            at += 1
        while at < stop and self.tokens[at].tag == "PUNCT" and self.tokens[at].low in ",;:!":
            at += 1
        return at

    def kind(self, clause: Clause, asks: bool, head: Head | None) -> Kind:
        """What `clause` is; `asks` says that its sentence ends in a question mark or in no mark at all."""
        tokens = self.tokens
        at, stop = self.body(clause), bisect_left(self.starts, clause.span.end)
        if at >= stop:
            return "statement"
        connective = clause.connective
        opened = connective is not None and connective.spans[0].start == clause.span.start
        if opened and connective is not None and connective.role in ("subordinator", "phrase"):
            return "subordinate"
        while at < stop and (
            tokens[at].low in ("so", "ok", "okay", "well", "then", "also", "please", "now")
            or (tokens[at].tag == "PUNCT" and tokens[at].low == ",")
        ):
            at += 1
        if at >= stop:
            return "statement"
        if tokens[at].tag == "WH":
            return self._wh_kind(at, stop, asks, head)
        if tokens[at].tag == "AUX":
            leading = tokens[at].low in ("be", "been", "being", "having") or (tokens[at].low == "had" and head is None)
            if asks and not leading and self._subject_follows(at, stop):
                return "question"
            if head is not None and tokens[at].low in ("have", "be", "do"):
                return "phrase"
            return "request" if tokens[at].low in ("do", "don't", "be") and not opened else "statement"
        if tokens[at].tag == "V" and not self._nominal_start(at, stop):
            if head is None:
                return "request" if not opened or clause.connective is None else "statement"
            return "request" if head.kind == "request" else "phrase"
        return "question" if asks and self._asks_after_comma(at, stop) else "statement"

    def _wh_kind(self, at: int, stop: int, asks: bool, head: Head | None) -> Kind:
        tokens = self.tokens
        if at + 1 >= stop:
            return "bare"
        inverted = any(tokens[k].tag == "AUX" for k in range(at + 1, min(stop, at + 6))) or "'s" in tokens[at].low
        direct = tokens[at + 1].tag in ("AUX", "V", "VZ", "VD") or tokens[at].low in ("which", "whose")
        if head is not None and head.carrier and not self._inverted(at, stop):
            return "embedded"
        if tokens[at + 1].tag == "TO" or (tokens[at + 1].tag == "PRON" and not asks):
            return "question" if asks else "statement"
        return "question" if asks or (direct and inverted) else "statement"

    def _inverted(self, at: int, stop: int) -> bool:
        """Whether a helper stands before the subject: "how does it", not "how it does"."""
        for k in range(at + 1, min(stop, at + 6)):
            if self.tokens[k].tag == "AUX":
                return True
            if self.tokens[k].tag in ("PRON", "TO", "V", "VZ", "VD", "DET"):
                return False
        return False

    def _subject_follows(self, at: int, stop: int) -> bool:
        """Whether the helper at `at` is inverted: "is it", "can people", but not "is opposed" or "have no plan"."""
        following = self.tokens[at + 1] if at + 1 < stop else None
        if following is None or following.tag in ("PREP", "AUX", "VD", "CC", "PUNCT", "TO"):
            return False
        if self.tokens[at].low in ("have", "has", "had"):
            return following.tag in ("PRON", "N") or any(
                self.tokens[k].tag == "VD" for k in range(at + 2, min(stop, at + 8))
            )
        if following.tag == "V":
            return any(self.tokens[k].tag in ("V", "VZ", "VD") for k in range(at + 2, min(stop, at + 6)))
        return following.tag != "ADV" or any(
            self.tokens[k].tag in ("PRON", "DET") for k in range(at + 2, min(stop, at + 4))
        )

    def _nominal_start(self, at: int, stop: int) -> bool:
        """Whether a leading base verb is a noun after all: "Water boils at …", "Test results are …"."""
        for k in range(at + 1, min(stop, at + 5)):
            if self.tokens[k].tag == "WH":
                return False
        verb = finite_verb_at(self.tokens, at, min(stop, at + 4), bare=False)
        return verb > at and not (self.tokens[verb].tag == "VZ" and self.tokens[verb - 1].tag != "N")

    def _asks_after_comma(self, at: int, stop: int) -> bool:
        tokens = self.tokens
        for k in range(at, min(stop - 1, at + WINDOW)):
            if tokens[k].low == "," and tokens[k + 1].tag in ("WH", "AUX"):
                return True
        return False
