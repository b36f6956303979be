"""One call that reads a text and returns everything this package sees in it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from .clauses import chinese_clauses, english_clauses
from .connectives_en import english_connectives
from .connectives_zh import chinese_connectives
from .entities import MASK, Entity, find_code, find_entities, find_urls, masked
from .language import Language, detect_language
from .quantities import DateMention, Quantity, find_dates, find_quantities
from .sentences import split_sentences
from .signals import (
    Direction,
    QuestionType,
    find_comparatives,
    find_directions,
    find_negations,
    question_type,
)
from .subquestions_en import english_sub_questions
from .subquestions_zh import chinese_sub_questions
from .tokens import Token, tokenize
from .types import Clause, Connective, Span, SubQuestion
from .words import keywords, segment, word_boundaries

__all__ = ["MAX_CHARACTERS", "MAX_SUB_QUESTIONS", "NLPResult", "analyze"]

MAX_CHARACTERS: Final = 20_000
MAX_SUB_QUESTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class NLPResult:
    """What was found in a text. All spans are character offsets into the text as given.

    Attributes:
        language: `en`, `zh`, or `other`; for `other` only what needs no word table is filled.
        length: characters of the whole text.
        truncated: only the first `analyzed` characters were read.
        question_type: what the first question asks for.
        sub_questions: questions and requests, each standing alone; empty for a statement.
        relative_time: the answer depends on when it is asked ("today", 最新).
    """

    language: Language
    length: int
    analyzed: int
    truncated: bool
    question_type: QuestionType
    sentences: tuple[Span, ...]
    connectives: tuple[Connective, ...]
    clauses: tuple[Clause, ...]
    sub_questions: tuple[SubQuestion, ...]
    keywords: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    dates: tuple[DateMention, ...]
    entities: tuple[Entity, ...]
    negations: tuple[Span, ...]
    comparatives: tuple[Span, ...]
    directions: tuple[Direction, ...]
    code: tuple[Span, ...]
    urls: tuple[Span, ...]

    @property
    def compound(self) -> bool:
        """Whether the text asks more than one thing."""
        return len(self.sub_questions) > 1

    @property
    def relative_time(self) -> bool:
        return any(date.relative for date in self.dates)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists, dictionaries, strings and numbers; spans as `[start, end]`."""
        result = {item.name: _plain(getattr(self, item.name)) for item in fields(self)}
        return {**result, "compound": self.compound, "relative_time": self.relative_time}


def _plain(value: Any) -> Any:
    if isinstance(value, Span):
        return [value.start, value.end]
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class _Structure:
    tokens: Sequence[Token]
    pieces: Sequence[str]
    connectives: Sequence[Connective]
    clauses: Sequence[Clause]
    sub_questions: Sequence[SubQuestion]


def _english(text: str, prose: str, sentences: Sequence[Span], limit: int) -> _Structure:
    tokens = tokenize(prose)
    starts = [token.start for token in tokens]
    ranges = [(span, bisect_left(starts, span.start), bisect_left(starts, span.end)) for span in sentences]
    connectives = english_connectives(tokens, [(first, stop) for _, first, stop in ranges])
    clauses = english_clauses(prose, tokens, ranges, connectives)
    sub_questions = english_sub_questions(text, tokens, ranges, clauses, limit)
    return _Structure(tokens, (), connectives, clauses, sub_questions)


def _chinese(text: str, prose: str, sentences: Sequence[Span], limit: int) -> _Structure:
    pieces = segment(prose)
    connectives = chinese_connectives(prose, sentences, word_boundaries(pieces))
    clauses = chinese_clauses(prose, sentences, connectives)
    sub_questions = chinese_sub_questions(text, sentences, clauses, limit)
    return _Structure((), pieces, connectives, clauses, sub_questions)


def analyze(
    text: str,
    *,
    language: Language | None = None,
    max_characters: int = MAX_CHARACTERS,
    max_sub_questions: int = MAX_SUB_QUESTIONS,
) -> NLPResult:
    """Read `text`. Pure, never raises on any string, and linear in the text's length.

    Args:
        text: A question, or a whole user message.
        language: Skip detection and use this.
        max_characters: Read this many characters; a longer text is marked `truncated`.
        max_sub_questions: Keep this many sub-questions.
    """
    body = text[:max_characters]
    urls, code = find_urls(body), find_code(body)
    prose = masked(body, [*code, *urls])
    if language is None:
        language = detect_language(prose.replace(MASK, " ") if code or urls else body)
    sentences = split_sentences(prose, language)
    if language == "en":
        structure = _english(body, prose, sentences, max_sub_questions)
    elif language == "zh":
        structure = _chinese(body, prose, sentences, max_sub_questions)
    else:
        structure = _Structure((), (), (), (), ())
    tokens = structure.tokens
    known = language != "other"
    return NLPResult(
        language=language,
        length=len(text),
        analyzed=len(body),
        truncated=len(text) > len(body),
        question_type=question_type(prose, language, tokens) if known else "none",
        sentences=sentences,
        connectives=tuple(structure.connectives),
        clauses=tuple(structure.clauses),
        sub_questions=tuple(structure.sub_questions),
        keywords=keywords(language, tokens, structure.pieces),
        quantities=find_quantities(prose),
        dates=find_dates(prose),
        entities=find_entities(prose, language, tokens, frozenset(span.start for span in sentences)) if known else (),
        negations=find_negations(prose, language, tokens),
        comparatives=find_comparatives(prose, language, tokens),
        directions=find_directions(prose, language),
        code=code,
        urls=urls,
    )
