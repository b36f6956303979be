# ruff: noqa: E501 - tables read better in long lines
"""What a question asks for: a person, a time, a place, a reason, a way, an amount, yes or no."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["QUESTION_WORDS", "QuestionType", "question_type", "questions_asked"]

QuestionType = Literal[
    "who", "when", "where", "why", "how", "how_many", "how_long", "what", "which", "yes_no", "statement"
]

QUESTION_WORDS = frozenset(("who", "whom", "whose", "when", "where", "why", "how", "what", "which"))

# First match wins. "What is the reason" asks why, whatever its first word. In between: what a match contains, one of
# these; to look for that is quicker than to try the pattern.
_ENGLISH: tuple[tuple[QuestionType, str, str], ...] = (
    (
        "how_many",
        "how , the ,percentage",
        r"\bhow (?:many|much|old|tall|far|big|large|high|deep|heavy|fast|often)\b|what (?:is|'s|are) the (?:number|amount|price|cost|age|height|distance|population|salary)\b|what percentage",
    ),
    ("how_long", "how long,duration", r"\bhow long\b|what is the duration"),
    (
        "why",
        "why,how come,reason,cause,purpose,what makes",
        r"\bwhy\b|\bhow come\b|\bwhat (?:is|are|was|were|'s) the (?:\w+ )?(?:reasons?|causes?|purpose)\b|\bwhat causes?\b|for what reason|\bwhat makes\b",
    ),
    (
        "when",
        "when,what t,what d,what y,what m",
        r"\bwhen (?:is|was|were|are|do|does|did|will|would|should|can|could|has|have)\b|\bwhat (?:time|date|year|day|month)\b|^when\b",
    ),
    ("where", "where,place,city,country,location", r"\bwhere\b|\b(?:what|which) (?:place|city|country|location)\b"),
    ("who", "who,what pe", r"\bwho\b|\bwhose\b|\bwhom\b|\bwhat (?:person|people)\b"),
    (
        "how",
        "how,way,method,step,procedure,process,tips,should i do,can i do",
        r"\bhow\b|what (?:is|are|'s)(?: some of)? (?:the|a|some) (?:\w+ )?(?:ways?|methods?|steps|procedure|process|tips)\b|what should i do|what can i do|\bways to\b",
    ),
    ("which", "which", r"\bwhich\b"),
    ("what", "what", r"\bwhat\b"),
    (
        "yes_no",
        "",
        r"^(?:please |so |and |but )*(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have|had|may|might|am|shall)\b",
    ),
)
_CHINESE: tuple[tuple[QuestionType, str], ...] = (
    ("how_long", r"多久|多长时间|几天|几个月|几年"),
    ("how_many", r"多少|几[个岁次种条人位元块]|多[大高远重长宽深快]|哪些?数"),
    ("when", r"什么时候|何时|几点|哪[一]?[年天月]|几号|啥时候|什么时间"),
    ("why", r"为什么|为何|为啥|怎么会|什么原因|原因是|凭什么|干嘛"),
    ("who", r"谁|哪位|什么人|哪个人"),
    ("where", r"哪里|哪儿|在哪|什么地方|何处|去哪"),
    ("how", r"怎么|如何|怎样|咋|什么方法|什么办法|怎"),
    ("which", r"哪个|哪种|哪些|哪一"),
    ("what", r"什么|啥|何"),
    ("yes_no", r"吗|是否|(.)不\1|有没有|能否|可否|没有\?|没有？"),
)


_ENGLISH_PATTERNS = tuple((kind, parts.split(","), re.compile(pattern)) for kind, parts, pattern in _ENGLISH)
_CHINESE_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _CHINESE)


_PART_ENDS = re.compile(r"[?？;；。!！]+|[,，、]\s*|\b(?:and|or|but|then)\b")
_OPENS_QUESTION = re.compile(
    r"\s*(?:also |so |then |please |and )*(?:who|whom|whose|what|when|where|why|how|which"
    r"|is|are|was|were|do|does|did|can|could|should|will|would|has|have)\b"
)


def questions_asked(lowered: str, chinese: bool) -> int:
    """How many parts of a text ask something of their own; 0 when none says so in words.

    "What is TCP and when was it made" asks two things, and the answer to one of them is not the answer to it.
    """
    parts = _PART_ENDS.split(lowered)
    if chinese:
        return sum(any(pattern.search(part) for _, pattern in _CHINESE_PATTERNS) for part in parts)
    return sum(_OPENS_QUESTION.match(part) is not None for part in parts)


def question_type(lowered: str, tokens: tuple[str, ...], chinese: bool) -> QuestionType:
    """Classify by explicit words only; `statement` when there are none."""
    if chinese:
        return next((kind for kind, pattern in _CHINESE_PATTERNS if pattern.search(lowered)), "statement")
    text = " ".join(tokens)
    for kind, parts, pattern in _ENGLISH_PATTERNS:
        if any(part in text for part in parts) and pattern.search(text):
            return kind
    return "statement"
