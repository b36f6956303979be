"""Chinese connectives: one pass of a table, then position, pairs and word boundaries decide.

Chinese has no spaces, so single characters are looked up together with the longer words that contain them
(和平, 成就, 但愿): the longest match wins and a word that is no connective is dropped. When jieba's word boundaries
are given, a single character counts only where a word starts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, cast

from . import lexicon_zh as zh
from .types import Connective, Role, Sense, Span

__all__ = ["chinese_connectives"]

PAIR_DISTANCE: Final = 120  # characters between the two parts of a pair, at most


class _Hit(NamedTuple):
    word: str
    start: int
    end: int


_FIRST_PARTS: Final = frozenset(word for firsts, _, _ in zh.PAIRS for word in firsts)
_SECOND_PARTS: Final = frozenset(word for _, seconds, _ in zh.PAIRS for word in seconds)
_SINGLE: Final = {**zh.ANYWHERE, **zh.CLAUSE_INITIAL, **zh.POSTPOSED}
_CANDIDATES: Final = frozenset(_SINGLE) | _FIRST_PARTS | _SECOND_PARTS
_WORDS: Final = sorted(_CANDIDATES | zh.SKIP_WORDS, key=lambda word: (-len(word), word))
_SCAN: Final = re.compile("|".join(map(re.escape, _WORDS)))
_EDGE: Final = frozenset('，,；;：:。！？!?、 \t\n“"（(—…')
_CLAUSE_EDGE: Final = frozenset("，,；;。！？!?\n：:")
_QUESTION: Final = re.compile("[？?]|吗|呢")
_ASKED_AFTER: Final = re.compile("怎么|如何|为什么|怎样|何时|是否|什么时候|它|他|她")
_JOINED_QUESTION: Final = re.compile("(?<=.)(和|与)(?=怎么|如何|为什么|怎样|何时|是否|什么时候)")
_ASKED_BEFORE: Final = re.compile("什么|怎么|如何|怎样|为什么|谁|哪|多少")
_STILL_AFTER: Final = re.compile("很|没|不|会|有点|觉得|那么|一样|无法|连不|打不|老样|喜欢")
_NUMERAL_NEXT: Final = re.compile(
    "[个只条张种次年天些点样直定下起般共月日名位本家台首款部件把份周段句块切笔场道项阵群双对顿趟遍声口碗杯瓶包盒箱门栋座棵朵根支枝幅架辆艘匹头颗粒滴堆批组套系会向律概再贯模举味览两]|[一二三四五六七八九十百千万亿0-9]"
)
_ADVERSATIVE_FIRST: Final = re.compile("虽然|尽管|即使|虽说|哪怕|就算")


def _initial(text: str, first: int, at: int) -> bool:
    return at == first or text[at - 1] in _EDGE


def _clause_start(text: str, first: int, at: int) -> int:
    low = max(first, at - PAIR_DISTANCE)
    for index in range(at - 1, low - 1, -1):
        if text[index] in _CLAUSE_EDGE:
            return index + 1
    return low


def _alternative(text: str, first: int, hit: _Hit, stop: int) -> bool:
    """还是 as "or" (alternative question), not as "still"."""
    before = text[_clause_start(text, first, hit.start) : hit.start]
    if not before or not _QUESTION.search(text, hit.end, min(stop + 1, hit.end + PAIR_DISTANCE)):
        return False
    if _ADVERSATIVE_FIRST.search(text, first, hit.start):
        return False
    return "是" in before or not _STILL_AFTER.match(text, hit.end)


def _postposed(text: str, first: int, hit: _Hit) -> bool:
    """之前 and its like after a clause ("换机油以后"), not after a date ("三天之前")."""
    before = text[_clause_start(text, first, hit.start) : hit.start]
    if text.startswith("的", hit.end):
        return False  # "以前的号码"
    return len(before) >= 2 and not before.endswith(zh.TIME_UNITS)


def _stands(text: str, first: int, hit: _Hit, stop: int) -> bool:
    """Whether a single word of the tables is a connective where it stands."""
    word = hit.word
    if word == "还是":
        return _alternative(text, first, hit, stop)
    if word in zh.POSTPOSED and not _initial(text, first, hit.start):
        return _postposed(text, first, hit)
    if word == "以及":
        return hit.start > first and (_initial(text, first, hit.start) or bool(_ASKED_AFTER.match(text, hit.end)))
    if word == "另外":
        return _initial(text, first, hit.start) and not text.startswith(("一", "的"), hit.end)
    if word == "的话":
        return hit.end < stop and text[hit.end] in _EDGE
    if word in zh.ANYWHERE:
        return True
    if word in zh.CLAUSE_INITIAL:
        return _initial(text, first, hit.start) and (hit.start > first or len(word) > 1)
    return False


def _starts_word(hit: _Hit, boundaries: Collection[int] | None) -> bool:
    if boundaries is None or hit.end - hit.start > 1:
        return True
    # Segmenters glue what follows (并举, 还要), so only the left edge must be one.
    return hit.start in boundaries


def _scan(text: str, span: Span, boundaries: Collection[int] | None) -> list[_Hit]:
    hits = (_Hit(match.group(), *match.span()) for match in _SCAN.finditer(text, span.start, span.end))
    return [hit for hit in hits if hit.word in _CANDIDATES and _starts_word(hit, boundaries)]


def _opens_pair(text: str, span: Span, hit: _Hit) -> bool:
    """Conditions on the first part of a pair beyond being there."""
    word = hit.word
    if word == "一":
        return not _NUMERAL_NEXT.match(text, hit.end) and text[hit.start - 1 : hit.start] not in ("第", "十", "周")
    if word in ("与", "和", "跟", "同", "虽", "若"):
        return _initial(text, span.start, hit.start)
    if word == "先":
        return hit.end < span.end
    return True


def _closes_pair(text: str, one: _Hit, two: _Hit, stop: int) -> bool:
    """Conditions on the second part: the right distance, and a later clause where the word is common."""
    if two.start < one.end + 1 or two.start - one.end > PAIR_DISTANCE:
        return False
    between = text[one.end : two.start]
    if two.word == "时":
        return two.end < stop and text[two.end] in _EDGE
    if two.word == "相比":
        return not any(mark in _CLAUSE_EDGE for mark in between)
    if one.word in ("一", "刚") and two.word == "就":
        return len(between) <= 20
    if one.word == "是":
        return not any(mark in _CLAUSE_EDGE for mark in between)
    return True


def _pairs(text: str, span: Span, hits: Sequence[_Hit]) -> tuple[list[Connective], set[int]]:
    """Paired connectives of one sentence, and the starts of the hits they use."""
    found: list[Connective] = []
    used: set[int] = set()
    words = {hit.word for hit in hits}
    for firsts, seconds, sense in zh.PAIRS:
        if words.isdisjoint(firsts) or words.isdisjoint(seconds):
            continue
        for index, one in enumerate(hits):
            if one.word not in firsts or one.start in used or not _opens_pair(text, span, one):
                continue
            two = _partner(text, span, hits[index + 1 : index + 1 + 30], one, seconds, used)
            if two is not None:
                used.update((one.start, two.start))
                spans = (Span(one.start, one.end), Span(two.start, two.end))
                role: Role = "phrase" if two.word == "相比" else "subordinator"
                found.append(Connective(f"{one.word}…{two.word}", cast(Sense, sense), spans, role))
    return found, used


def _partner(
    text: str, span: Span, hits: Sequence[_Hit], one: _Hit, seconds: tuple[str, ...], used: set[int]
) -> _Hit | None:
    for word in seconds:
        for two in hits:
            if two.word != word or two.start in used or not _closes_pair(text, one, two, span.end):
                continue
            if word == "还是" and one.word == "是" and not _alternative(text, span.start, two, span.end):
                continue
            return two
    return None


def _joined_questions(text: str, span: Span) -> list[Connective]:
    """和 between two questions in one clause ("什么是TCP和怎么使用它")."""
    found = []
    for match in _JOINED_QUESTION.finditer(text, span.start, span.end):
        if _ASKED_BEFORE.search(text, max(span.start, match.start() - PAIR_DISTANCE), match.start()):
            found.append(Connective(match.group(), "conjunction", (Span(*match.span()),), "coordinator"))
    return found


def _role(word: str) -> Role:
    if word in zh.PREPOSED_PHRASES:
        return "phrase"
    sense = _SINGLE[word]
    if word in ("并", "且", "以及", "而且", "并且", "或者", "或", "还是", "但", "但是", "可是", "可", "而"):
        return "coordinator"
    return "adverb" if sense in ("conjunction", "comparison") else "subordinator"


def _doubled(text: str, hit: _Hit, local: Sequence[Connective]) -> bool:
    """却 in a clause that a contrast connective already opens ("而老板却不见了") adds nothing."""
    return hit.word == "却" and any(
        one.sense == "contrast"
        and 0 < hit.start - one.spans[-1].end <= 12
        and not any(mark in _CLAUSE_EDGE for mark in text[one.spans[-1].end : hit.start])
        for one in local[-2:]
    )


def chinese_connectives(
    text: str, sentences: Sequence[Span], boundaries: Collection[int] | None = None
) -> list[Connective]:
    """Connectives of the sentences of `text`, in order.

    Args:
        text: The whole text.
        sentences: Spans of its sentences.
        boundaries: Offsets where words start or end, from a segmenter; None works from the characters alone.
    """
    found: list[Connective] = []
    for span in sentences:
        hits = _scan(text, span, boundaries)
        local, used = _pairs(text, span, hits)
        for hit in hits:
            if hit.start in used or hit.word not in _SINGLE or _doubled(text, hit, local):
                continue
            if _stands(text, span.start, hit, span.end):
                sense = cast(Sense, _SINGLE[hit.word])
                local.append(Connective(hit.word, sense, (Span(hit.start, hit.end),), _role(hit.word)))
        local.extend(_joined_questions(text, span))
        found.extend(sorted(local, key=lambda connective: connective.spans))
    return found
