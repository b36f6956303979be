"""English sub-questions: sort the clauses into questions, requests and context, then make each stand alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from . import lexicon_en as en
from .clause_kinds_en import ClauseKinds, Kind
from .grammar_en import licensed_verb
from .reference_en import Antecedent, anaphora, antecedents, restore
from .tokens import Token
from .types import Clause, Span, SubQuestion

__all__ = ["english_sub_questions"]

_ADVERBIAL_WH: Final = frozenset(("how", "why", "when", "where"))
# What a bare question word may replace without loss: "where … and why?" asks why there.
_SWAPS: Final = {"how": ("why", "when", "where"), "why": ("how", "when", "where"), "what": ("when", "where")}
_ELLIPTICAL: Final = _ADVERBIAL_WH | {"if", "so", "yes", "no", "not", "and", "or", "then", "what", "who", "which"}
# A verb phrase repeats the subject in its prefix; with another one a pronoun may mean that subject.
_OWN_SUBJECTS: Final = (" i ", " you ", " we ", " one ", " to ", "please ")
_END: Final = " \t\r\n,;:.?!"
_MAX_CONTEXT: Final = 1000  # characters of context repeated in front of each sub-question


@dataclass(slots=True)
class _Unit:
    """One question or request: characters `[start, end)`, main clause in tokens `[first, main)`, all to `stop`."""

    kind: Kind
    start: int
    end: int
    first: int
    main: int
    stop: int
    opening: int  # where its clause starts, connective included
    prefix: str = ""
    carrier: str = ""
    context: str = ""
    polite: str = "?"
    offered: list[Antecedent] = field(default_factory=list)
    pronouns: list[int] = field(default_factory=list)
    restored: bool = False


class _Reader:
    """One analysis of one text; holds what every step needs."""

    def __init__(
        self, text: str, tokens: Sequence[Token], sentences: Sequence[tuple[Span, int, int]], clauses: Sequence[Clause]
    ) -> None:
        self.text, self.tokens, self.sentences, self.clauses = text, tokens, sentences, clauses
        self.starts = [token.start for token in tokens]
        self.kinds = ClauseKinds(tokens, self.starts)
        self.units: list[_Unit] = []

    # --- units ---------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Fill `units`, sentence by sentence, with the context that stands in front of each."""
        context = ""
        by_sentence: dict[int, list[Clause]] = {}
        for clause in self.clauses:
            by_sentence.setdefault(clause.sentence, []).append(clause)
        for number, (span, _, _) in enumerate(self.sentences):
            before = len(self.units)
            self._read_sentence(span, by_sentence.get(number, []))
            fresh = self.units[before:]
            if not fresh and not _is_greeting(span.of(self.text)):
                # One past the cap is enough to know that it is too long; never more, or this would be quadratic.
                context = f"{context} {span.of(self.text)}".strip()[: _MAX_CONTEXT + 1]
            for unit in fresh:
                if context and len(context) <= _MAX_CONTEXT:
                    unit.context = f"{context} {unit.context}".strip()
        last_span = self.sentences[-1][0] if self.sentences else Span(0, 0)
        if self.units and self.units[-1].end < last_span.start:
            self.units[-1].end = last_span.end  # a closing statement belongs to the last question

    def _read_sentence(self, span: Span, clauses: Sequence[Clause]) -> None:
        sentence = span.of(self.text)
        asks = sentence.rstrip(" \"')]”’").endswith(("?", "？")) or not sentence.rstrip().endswith((".", "!"))
        head: _Unit | None = None
        previous: Kind = "statement"
        begin = len(self.units)
        if self.units and self._elliptical(span, clauses):
            return
        for clause in clauses:
            kind = self.kinds.kind(clause, asks, head)
            alternative = clause.connective is not None and clause.connective.sense == "alternative"
            joins = head is not None and (
                kind in ("subordinate", "statement")
                or (alternative and clause.connective is not None and clause.connective.role == "coordinator")
                or (kind == "phrase" and (previous == "subordinate" or not self._verb_prefix(head, clause)))
                or (kind == "phrase" and clause.connective is not None and clause.connective.sense == "contrast")
                or (clause.connective is not None and clause.connective.text.startswith("neither"))
            )
            if joins or (kind == "bare" and head is not None and not self._swappable(head, self._bare_word(clause))):
                self.units[-1].end = clause.span.end
                self.units[-1].stop = bisect_left(self.starts, clause.span.end)
            elif kind not in ("subordinate", "statement"):
                unit = self._unit(clause, kind, head, asks)
                self.units.append(unit)
                head = head or unit
            previous = kind
        if asks and head is None and sentence.rstrip().endswith(("?", "？")) and clauses:
            self.units.append(self._unit(clauses[-1], "question", None, asks))
        self._join_fragments(begin)
        self._share_preface(span, begin)

    def _join_fragments(self, begin: int) -> None:
        """Join a unit without any verb to its neighbour: "When, if ever, should …", "At what age, how, and where …"."""
        kept: list[_Unit] = []
        for unit in self.units[begin:]:
            if kept and not (self._has_verb(kept[-1]) and self._has_verb(unit)):
                kept[-1].end, kept[-1].main, kept[-1].stop = unit.end, unit.main, unit.stop
            else:
                kept.append(unit)
        self.units[begin:] = kept

    def _has_verb(self, unit: _Unit) -> bool:
        tokens = self.tokens[unit.first : unit.stop]
        verbs = ("AUX", "V", "VZ", "VD", "VG", "TO")
        return bool(unit.prefix) or any(token.tag in verbs or "'" in token.low for token in tokens)

    def _elliptical(self, span: Span, clauses: Sequence[Clause]) -> bool:
        """Take a sentence that is no question without the one before it: "Why?", "If so, how?", "Why or why not?"."""
        first, stop = bisect_left(self.starts, span.start), bisect_left(self.starts, span.end)
        words = [token for token in self.tokens[first:stop] if token.tag != "PUNCT"]
        if not words or not all(token.low in _ELLIPTICAL for token in words[:5]) or len(words) > 4:
            return False
        last, asked = self.units[-1], words[-1]
        refused = any(token.low in ("no", "not") for token in words)
        if asked.low in _ADVERBIAL_WH and not refused and self._swappable(last, asked.low) and not last.prefix:
            unit = _Unit("bare", asked.start, span.end, stop - 1, stop, stop, span.start, context=last.context)
            self._swap(unit, last)
            self.units.append(unit)
        else:  # "Why or why not?" means nothing alone
            last.end, last.stop = span.end, stop
        return True

    def _bare_word(self, clause: Clause) -> str:
        return self.tokens[self.kinds.body(clause)].low

    def _unit(self, clause: Clause, kind: Kind, head: _Unit | None, asks: bool) -> _Unit:
        first = self.kinds.body(clause)
        stop = bisect_left(self.starts, clause.span.end)
        while first < stop and head is not None and self.tokens[first].low in ("then", "also", "so"):
            first += 1
        start = self.tokens[first].start if first < stop else clause.span.start
        unit = _Unit(kind, start, clause.span.end, first, stop, stop, clause.span.start)
        unit.polite = "?" if asks and kind != "request" else "."
        if kind in ("question", "request"):
            unit.carrier = self._carrier(first, stop)
        if head is not None:
            unit.polite = head.polite
            if kind == "phrase":
                unit.prefix = self._verb_prefix(head, clause)
            elif kind == "embedded":
                unit.prefix = head.carrier
            elif kind == "bare":
                self._swap(unit, head)
        return unit

    def _carrier(self, first: int, stop: int) -> str:
        """What stands in front of an indirect question: "Can you tell me ", "Explain "."""
        tokens = self.tokens
        if first < stop and tokens[first].tag in ("AUX", "V"):
            for k in range(first + 1, min(stop, first + 8)):
                if tokens[k].tag == "WH" and tokens[k - 1].low in en.EMBEDDING_WORDS | {"me", "us", "explain"}:
                    return self.text[tokens[first].start : tokens[k].start]
        return ""

    def _verb_prefix(self, head: _Unit, clause: Clause) -> str:
        """Words of `head` up to its licensed verb: "How do I " for "… and configure TLS"."""
        tokens = self.tokens
        limit = bisect_left(self.starts, clause.span.start)
        verb = licensed_verb(tokens, head.first, min(limit, head.main))
        if verb < 0:
            return ""
        if verb + 2 < head.main and tokens[verb + 1].tag == "TO" and tokens[verb + 2].tag in ("V", "AUX"):
            verb += 2
        # A helper, "that" or "to" in between opens another verb, which the phrase may be parallel to instead.
        inner = tokens[verb + 1 : limit]
        if any(token.tag in ("AUX", "WH", "TO") or token.low == "that" for token in inner):
            return ""
        return self.text[head.start : tokens[verb].start]

    def _swappable(self, head: _Unit, word: str) -> bool:
        """Whether the bare question word `word` can take the place of the one that opens `head`."""
        token = self.tokens[head.first]
        after = self.tokens[head.first + 1] if head.first + 1 < head.main else None
        if after is None or head.kind != "question":
            return False
        if token.tag == "AUX":
            return True
        plain = after.tag == "AUX" and (token.low != "what" or after.low not in en.BE_FORMS)
        return plain and word in _SWAPS.get(token.low, ())

    def _swap(self, unit: _Unit, head: _Unit) -> None:
        token = self.tokens[head.first]
        rest = head.start if token.tag == "AUX" else self.tokens[head.first + 1].start
        word = self.text[unit.start : unit.end].strip(_END)
        body = self.text[rest : self.tokens[head.main - 1].end].strip(_END)
        unit.prefix, unit.restored = f"{word} {body[:1].lower()}{body[1:]}", True
        unit.start = unit.end

    def _share_preface(self, span: Span, begin: int) -> None:
        """Repeat what stands before the first question of a sentence in front of the others."""
        units = self.units[begin:]
        if not units:
            return
        preface = self.text[span.start : units[0].opening].strip(_END)
        if _is_greeting(preface) or len(preface) > _MAX_CONTEXT:
            preface = ""
        first = units[0]
        if preface:
            first.context, first.start = "", span.start
            for unit in units[1:]:
                unit.context = preface + ","

    # --- text ----------------------------------------------------------------------------------------------------

    def resolve(self) -> None:
        """Find for each pronoun what the questions before it offer."""
        for index, unit in enumerate(self.units):
            unit.offered = antecedents(self.text, self.tokens, unit.first, unit.main)
            head = self.tokens[unit.first].low if unit.first < len(self.tokens) else ""
            if not index:
                continue
            before = self.units[index - 1]
            event = before.first < len(self.tokens) and self.tokens[before.first].low in ("why", "how")
            places = anaphora(self.tokens, unit.first, unit.stop, unit.main, event=event) if head else []
            own_subject = unit.kind == "phrase" and not unit.prefix.lower().endswith(_OWN_SUBJECTS)
            unit.pronouns = [] if own_subject else places

    def render(self, index: int) -> SubQuestion:
        """The text of one unit, standing alone."""
        unit = self.units[index]
        edits: list[tuple[int, int, str]] = []
        if unit.pronouns:
            offered = self._offers(index)
            edits = restore(self.text, self.tokens, unit.pronouns, unit.stop, offered)
            if edits and not unit.offered:
                unit.offered = offered
            elif edits:  # a later "it" means the same thing again
                unit.offered = [*offered, *unit.offered]
        pieces, at = [unit.prefix], unit.start
        for start, end, word in edits:
            pieces += [self.text[at:start], word]
            at = end
        pieces.append(self.text[at : unit.end])
        body = "".join(pieces).strip(_END)
        opens = not unit.context.endswith(",")
        text = f"{unit.context} {_capital(body) if opens else body}" if unit.context else body
        restored = bool(edits or (unit.prefix and unit.kind != "request" and index) or unit.context or unit.restored)
        closed = self.text[unit.end - 1 : unit.end] in ".!"
        return SubQuestion(
            _capital(text) + (self.text[unit.end - 1] if closed else unit.polite),
            Span(min(unit.opening, unit.end), unit.end),
            restored,
        )

    def _offers(self, index: int) -> list[Antecedent]:
        for unit in reversed(self.units[max(0, index - 6) : index]):
            if unit.offered:
                return unit.offered
            if unit.pronouns:
                return []
        return []


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _is_greeting(text: str) -> bool:
    words = text.strip(_END).lower()
    return len(words) < 20 and (words in en.GREETINGS or words.startswith(("thank", "thx")))


def _without_greeting(text: str) -> str:
    low = text[:40].lower()
    for greeting in en.GREETINGS:
        if low.startswith(greeting) and text[len(greeting) : len(greeting) + 1] in (",", "!", "."):
            return _capital(text[len(greeting) + 1 :].strip())
    return text


def english_sub_questions(
    text: str,
    tokens: Sequence[Token],
    sentences: Sequence[tuple[Span, int, int]],
    clauses: Sequence[Clause],
    limit: int,
) -> list[SubQuestion]:
    """Questions and requests of `text`, each standing alone, in order; at most `limit` of them."""
    reader = _Reader(text, tokens, sentences, clauses)
    reader.read()
    if not reader.units:
        return []
    if len(reader.units) == 1:
        whole = Span(sentences[0][0].start, sentences[-1][0].end)
        return [SubQuestion(_without_greeting(whole.of(text)), whole)]
    del reader.units[limit:]
    reader.resolve()
    return [reader.render(index) for index in range(len(reader.units))]
