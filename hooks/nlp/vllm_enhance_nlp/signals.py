"""Negation, comparison, direction and question type: what an embedding blurs and a guard needs to see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from . import lexicon_en as en
from . import lexicon_zh as zh
from .language import Language
from .tables import word_set
from .tokens import Token
from .types import Span

__all__ = ["Direction", "QuestionType", "find_comparatives", "find_directions", "find_negations", "question_type"]

MAX_FOUND: Final = 64

QuestionType = Literal[
    "what", "who", "whose", "which", "when", "where", "why", "how", "quantity", "yes_no", "choice", "request", "none"
]


@dataclass(frozen=True, slots=True)
class Direction:
    """From `source` to `target`; the reverse is another question."""

    source: str
    target: str
    span: Span


# Longer words that hold a negating character and negate nothing; they come first so that they win.
_ZH_NEGATION: Final = re.compile(
    r"(?P<skip>([\u4e00-\u9fff])[不没]\2|不但|不仅|不过|不管|不论|不只|不光|不妨|差不多|不错|非常|非洲|无论|未来|没关系|"
    "不同|特别|区别|级别|性别|类别|分别|告别|别人|别的|别墅|无人机|无线|莫斯科|不锈钢|是非|有没有|可不可以)|"
    + "|".join(sorted(zh.NEGATIONS, key=lambda word: -len(word)))
)
_ZH_COMPARATIVE: Final = re.compile("|".join(sorted(zh.COMPARATIVES, key=lambda word: -len(word))))
_ENDINGS: Final = ("er", "est", "ier", "iest")
# Bounded parts: each start costs at most the product of the bounds.
_FROM_TO: Final = re.compile(
    r"\bfrom\s([^\n,.?!;]{1,40}?)\s(?:to|into|till|until)\s([^\n,.?!;]{1,40}?)(?=[,.?!;\n]|\s(?:by|in|with|for|on|and|or|"
    r"using|without|take|cost|via)\b|$)",
    re.IGNORECASE,
)
_CONVERT: Final = re.compile(
    r"\b(?:convert|translate|change|turn|transform|migrate|switch|map|cast|transfer)(?:s|ing|ed)?\s([^\n,.?!;]{1,40}?)\s(?:to|into)\s"
    r"([^\n,.?!;]{1,40}?)(?=[,.?!;\n]|\s(?:by|in|with|for|on|and|using|without)\b|$)",
    re.IGNORECASE,
)
_ARROW: Final = re.compile(r"([\w.+#-]{1,30})\s?(?:->|→|=>|⇒)\s?([\w.+#-]{1,30})")
_ZH_FROM_TO: Final = re.compile(
    "(?:从|由)([^，。？！,\n]{1,20}?)(?:到|至|往|去|飞|转到|转)([^，。？！,\n]{1,20}?)(?=[0-9]|坐|乘|开|要|需|有|怎|如|多|的|最|[，。？！,\n]|$)"
)
_ZH_CONVERT: Final = re.compile(
    "(?:把|将)([^，。？！,\n]{1,20}?)(?:翻译成|译成|转换成|转换为|转成|转为|换成|改成|变成|迁移到|合并到|换算成)([^，。？！,\n]{1,20})"
)


def find_negations(text: str, language: Language, tokens: Sequence[Token]) -> tuple[Span, ...]:
    """Spans of the words that negate, in order, at most `MAX_FOUND`; "don't" counts whole."""
    if language == "zh":
        spans = (Span(*m.span()) for m in _ZH_NEGATION.finditer(text) if m.group("skip") is None)
        return tuple(span for _, span in zip(range(MAX_FOUND), spans, strict=False))
    found = [Span(t.start, t.end) for t in tokens if t.low in en.NEGATIONS or t.low.endswith("n't")]
    return tuple(found[:MAX_FOUND])


def _compares(token: Token, following: Token | None) -> bool:
    low = token.low
    if low in en.COMPARATIVES or low in en.IRREGULAR_COMPARATIVES:
        return not (low in ("more", "most", "further") and following is None)
    if not low.endswith(_ENDINGS) or len(low) < 5 or low in en.NOT_COMPARATIVE or token.tag != "N":
        return False
    return (
        low.endswith("est")
        or following is None
        or following.low == "than"
        or following.tag in ("PUNCT", "N", "CC", "PREP")
    )


def find_comparatives(text: str, language: Language, tokens: Sequence[Token]) -> tuple[Span, ...]:
    """Spans of comparing words (comparative, superlative, "than", 比, 更), in order, at most `MAX_FOUND`."""
    if language == "zh":
        spans = (Span(*m.span()) for m in _ZH_COMPARATIVE.finditer(text))
        return tuple(span for _, span in zip(range(MAX_FOUND), spans, strict=False))
    found = []
    for at, token in enumerate(tokens):
        if token.tag in ("N", "ADV", "DET", "PREP", "V", "VD") and _compares(
            token, tokens[at + 1] if at + 1 < len(tokens) else None
        ):
            found.append(Span(token.start, token.end))
            if len(found) == MAX_FOUND:
                break
    return tuple(found)


def find_directions(text: str, language: Language) -> tuple[Direction, ...]:
    """ "from A to B", "convert A to B", "A -> B", 从A到B, 把A换成B, in order and disjoint, at most `MAX_FOUND`."""
    patterns = [_ARROW] if "->" in text or "→" in text or "=>" in text or "⇒" in text else []
    patterns += [_ZH_FROM_TO, _ZH_CONVERT] if language == "zh" else [_FROM_TO, _CONVERT]
    found: list[Direction] = []
    for pattern in patterns:
        for match in pattern.finditer(text):
            source, target = match.group(1).strip(), match.group(2).strip()
            if source and target:
                found.append(Direction(source, target, Span(*match.span())))
            if len(found) >= MAX_FOUND:
                break
    disjoint: list[Direction] = []
    for one in sorted(found, key=lambda direction: direction.span):
        if not disjoint or one.span.start >= disjoint[-1].span.end:
            disjoint.append(one)
    return tuple(disjoint)


# Most telling first: 为什么 holds 什么, and "how many" is no "how".
_ZH_TYPES: Final[tuple[tuple[re.Pattern[str], QuestionType], ...]] = (
    (re.compile("为什么|为何|为啥|怎么会|什么原因"), "why"),
    (re.compile("什么时候|何时|哪[一]?[年天月日]|几点|几号|几时"), "when"),
    (re.compile("哪里|哪儿|什么地方|在哪|何处"), "where"),
    (re.compile("多少|几(?!乎)|多[久长大高远快重深宽厚]"), "quantity"),
    (re.compile("怎么|怎样|如何|咋"), "how"),
    (re.compile("哪"), "which"),
    (re.compile("谁的"), "whose"),
    (re.compile("谁"), "who"),
    (re.compile("还是.{1,40}"), "choice"),
    (re.compile(r"吗|是否|能否|可否|([\u4e00-\u9fff])[不没]\1|有没有|可不可以"), "yes_no"),
    (re.compile("什么|啥|何"), "what"),
)
_ZH_REQUEST: Final = re.compile("^(?:请(?!问)|" + "|".join(map(re.escape, zh.REQUEST_VERBS[3:])) + ")")
_EN_TYPES: Final[dict[str, QuestionType]] = {
    "what": "what",
    "what's": "what",
    "who": "who",
    "whom": "who",
    "who's": "who",
    "whose": "whose",
    "which": "which",
    "when": "when",
    "when's": "when",
    "where": "where",
    "where's": "where",
    "why": "why",
    "why's": "why",
    "how": "how",
    "how's": "how",
}
_QUANTITY_AFTER_HOW: Final = word_set("many much long far old tall big large deep high often fast heavy wide few")


def question_type(text: str, language: Language, tokens: Sequence[Token]) -> QuestionType:
    """What the text asks for, from its first question word; `"none"` for a statement."""
    return _chinese_type(text[:2000]) if language == "zh" else _english_type(text, tokens)


def _chinese_type(text: str) -> QuestionType:
    best: tuple[int, int, QuestionType] | None = None
    for rank, (pattern, kind) in enumerate(_ZH_TYPES):
        match = pattern.search(text)
        if match is not None and (best is None or match.start() < best[0]):
            best = (match.start(), rank, kind)
    if best is not None:
        return best[2]
    if _ZH_REQUEST.match(text):
        return "request"
    return "yes_no" if text.rstrip().endswith(("？", "?")) else "none"


def _english_type(text: str, tokens: Sequence[Token]) -> QuestionType:
    asks = "?" in text or "？" in text
    for at, token in enumerate(tokens[:200]):
        opens = at == 0 or tokens[at - 1].tag in ("PUNCT", "CC")
        if token.tag == "WH" and (asks or opens):
            if token.low == "how" and at + 1 < len(tokens) and tokens[at + 1].low in _QUANTITY_AFTER_HOW:
                return "quantity"
            if (
                token.low in ("when", "which", "who", "whose", "where")
                and asks
                and not opens
                and not _asks_later(tokens, at)
            ):
                continue  # "the tool which …", "when it rains" inside another question
            return _EN_TYPES.get(token.low, "what")
        if token.tag == "AUX" and opens and asks:
            return "choice" if any(t.low == "or" for t in tokens[at : at + 40]) else "yes_no"
        if at == 0 and token.tag == "V" and not asks:
            return "request"
    return "yes_no" if asks else "none"


def _asks_later(tokens: Sequence[Token], at: int) -> bool:
    return at + 1 < len(tokens) and tokens[at + 1].tag == "AUX"
