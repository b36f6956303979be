"""Chinese sub-questions: sort the clauses into questions, requests and context, then make each stand alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from . import lexicon_zh as zh
from .reference_zh import Topic, resume, topic_of
from .types import Clause, Span, SubQuestion

__all__ = ["chinese_sub_questions"]

_END: Final = " \t\r\n\u3000，,；;：:。.！!？?、…"
_MAX_CONTEXT: Final = 500  # characters of context repeated in front of each sub-question
_ASKS: Final = re.compile(
    "|".join(map(re.escape, sorted(zh.QUESTION_MARKERS, key=lambda word: -len(word)))) + r"|([\u4e00-\u9fff])[不没]\1"
)
# Question words that ask nothing here ("搞错了几次", "无论天气如何"); cut out before looking for one that does.
_NOT_ASKING: Final = re.compile(
    "(?:无论|不管|不论)[^，]*|没什么|没有什么|不知道[^，]*|几乎|好几|多少有些|谁都|什么都|哪都|怎么也|几[个天]就|[了过这前后十百千]几|几分钟就"
)
_REQUEST: Final = re.compile("^(?:你好[，,]?)?(?:请(?!问|假|客|教)|" + "|".join(map(re.escape, zh.REQUEST_VERBS)) + ")")
_POLITE: Final = re.compile("^(请问|请帮我|请你|麻烦你|麻烦|请|帮我)")
_LEADING: Final = re.compile("^(?:并且|并|以及|而且|另外|此外|还有|同时|然后|那么|那|和|与|且)[，,]?")
_GREETING: Final = re.compile("^(?:" + "|".join(zh.GREETINGS) + ")[，,！!。 ]+")
_ALTERNATIVE: Final = re.compile("^(?:还是|或者|或|要么)")


@dataclass(slots=True)
class _Unit:
    """One question or request at `[start, end)`, its mark, and the context that stands in front of it."""

    start: int
    end: int
    request: bool
    context: str = ""


def _asks(piece: str, *, first: bool = True) -> bool:
    """Whether a clause asks; a mere 呢 or 么 at its end asks only when nothing before it in the sentence does."""
    return bool(_ASKS.search(_NOT_ASKING.sub("", piece))) or (first and piece.endswith(("呢", "么")))


def _is_subordinate(clause: Clause) -> bool:
    connective = clause.connective
    return (
        connective is not None
        and connective.role == "subordinator"
        and clause.span.start == connective.spans[0].start
        and connective.sense in ("condition", "contrast", "cause", "purpose", "time")
    )


def _kind(text: str, clause: Clause, last_asks: bool, *, is_first: bool, is_last: bool) -> str:
    """`question`, `request` or `context`."""
    piece = text[clause.span.start : clause.span.end]
    if len(piece) > 400:
        piece = piece[-400:]
    subordinate = _is_subordinate(clause)
    if _REQUEST.match(piece) and not piece.endswith(("吗", "呢")):
        return "request"
    if _asks(piece, first=is_first):
        if subordinate and not is_last and not re.search("[怎什哪谁吗]|多少|为何", piece):
            return "context"
        return "question"
    if piece.startswith("并") and _REQUEST.match(piece[1:]):
        return "request"
    return "question" if is_last and last_asks else "context"


def _sentence_units(text: str, sentence: Span, clauses: Sequence[Clause]) -> list[_Unit]:
    """Units of one sentence; its leading context is repeated in front of every unit but the first, which keeps it."""
    asks = sentence.of(text).rstrip().endswith(("？", "?"))
    units: list[_Unit] = []
    preface_end = -1
    pending = -1  # start of context clauses that wait for the next question
    for index, clause in enumerate(clauses):
        start, end = clause.span
        kind = _kind(text, clause, asks and not units, is_first=not units, is_last=index == len(clauses) - 1)
        if kind == "context" and units and units[-1].request:
            kind = "request" if clause.connective is not None and clause.connective.text == "并" else "context"
        if kind == "context":
            if not units or _is_subordinate(clause):
                pending = start if pending < 0 else pending
            else:
                units[-1].end = end
            continue
        if units and _ALTERNATIVE.match(text[start:end]):
            units[-1].end = end
            continue
        if not units:
            preface_end = start
        begin = pending if pending >= 0 and units else start
        units.append(_Unit(begin, end, kind == "request"))
        pending = -1
    if units and pending >= 0:
        units[-1].end = clauses[-1].span.end
    if units and preface_end > sentence.start:
        preface = _GREETING.sub("", text[sentence.start : preface_end]).strip(_END)
        if 0 < len(preface) <= _MAX_CONTEXT:
            for unit in units:
                unit.context = preface + "，"
    return units


def _all_units(text: str, sentences: Sequence[Span], clauses: Sequence[Clause]) -> list[_Unit]:
    by_sentence: dict[int, list[Clause]] = {}
    for clause in clauses:
        by_sentence.setdefault(clause.sentence, []).append(clause)
    units: list[_Unit] = []
    context = ""
    for number, sentence in enumerate(sentences):
        fresh = _sentence_units(text, sentence, by_sentence.get(number, []))
        if units and fresh and _ALTERNATIVE.match(text[fresh[0].start : fresh[0].end]):
            units[-1].end = fresh.pop(0).end  # "…吗？还是…？" is one question
            if not fresh:
                continue
        for unit in fresh if len(context) <= _MAX_CONTEXT else ():
            unit.context = context + unit.context
        if not fresh and sentence.of(text).strip(_END) not in zh.GREETINGS:
            context = (context + sentence.of(text))[: _MAX_CONTEXT + 1]
        units.extend(fresh)
    if units and sentences and units[-1].end < sentences[-1].start:
        units[-1].end = sentences[-1].end
    return units


def _render(text: str, units: Sequence[_Unit]) -> list[SubQuestion]:
    """Texts of two or more units with politeness, topic and mark restored."""
    found: list[SubQuestion] = []
    head = _GREETING.sub("", text[units[0].start : units[0].end].strip(_END))
    polite = _POLITE.match(head)
    topic: Topic | None = None
    for index, unit in enumerate(units):
        body = _GREETING.sub("", text[unit.start : unit.end].strip(_END))
        restored = bool(unit.context) and index > 0
        if index:
            body = _LEADING.sub("", body) or body
            filled = resume(body, topic) if topic is not None and len(body) <= 200 else None
            restored = restored or filled is not None
            body = filled or body
            if polite is not None and not _POLITE.match(body) and _same_register(unit, polite.group()):
                body, restored = polite.group() + body, True
        bare = _POLITE.sub("", body) if body.startswith("请问") else body
        topic = _next_topic(bare, topic) if len(bare) <= 200 else topic
        mark = "。" if unit.request and not _asks(body[-6:]) else "？"
        found.append(SubQuestion(unit.context + body + mark, Span(unit.start, unit.end), restored))
    return found


def _same_register(unit: _Unit, polite: str) -> bool:
    return unit.request != (polite == "请问")


def _next_topic(body: str, topic: Topic | None) -> Topic | None:
    """The topic of the latest question that has one; an earlier noun stays when a later question only names an act."""
    fresh = topic_of(body)
    if fresh is None or (topic is not None and topic.noun and topic.noun in body):
        return topic
    if topic is not None and topic.subject and not fresh.subject:
        return topic
    return fresh


def chinese_sub_questions(
    text: str, sentences: Sequence[Span], clauses: Sequence[Clause], limit: int
) -> list[SubQuestion]:
    """Questions and requests of `text`, each standing alone, in order; at most `limit` of them."""
    units = _all_units(text, sentences, clauses)
    if not units:
        return []
    if len(units) == 1:
        whole = Span(sentences[0].start, sentences[-1].end)
        return [SubQuestion(_GREETING.sub("", whole.of(text)), whole)]
    return _render(text, units[:limit])
