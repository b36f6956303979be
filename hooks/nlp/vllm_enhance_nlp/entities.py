"""Names, code and addresses in a text, found by their shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .language import Language
from .tables import word_set
from .tokens import Token
from .types import Span

__all__ = ["MASK", "Entity", "EntityKind", "find_code", "find_entities", "find_urls", "masked"]

MAX_FOUND: Final = 64
# A letter of no language and no table, so that masked code reads as one unknown word.
MASK: Final = "\u2179"

EntityKind = Literal["name", "acronym", "identifier", "title", "place"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A name as written; `kind` is what its shape says, not what it is."""

    text: str
    kind: EntityKind
    span: Span


_URL: Final = re.compile(
    r"\b(?:https?|ftp|file|ws|wss)://[^\s<>\"'`，。；！？、（）《》]{1,2000}|\bwww\.[^\s<>\"'`，。；！？、（）《》]{1,500}"
    r"|(?<![\w.@+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}",
)
_INLINE_CODE: Final = re.compile(r"`[^`\n]{1,400}`")
# One line that no prose looks like: a definition, a call that ends in ";", a shell prompt, an SQL statement.
_CODE_LINE: Final = re.compile(
    r"^[ \t]{0,40}(?:def \w{1,60}\(|class \w{1,60}[:({]|import \w{1,60}(?:\.\w{1,60}){0,5}$|from \w[\w.]{0,80} import |"
    r"#include\s?[<\"]|(?:public|private|static|const|let|var|func|fn) \w{1,60}|\$ \w|>>> |SELECT .{1,200}FROM |"
    r"(?:if|for|while) ?\(.{1,200}\) ?\{|.{0,200}(?:\);|\{|\};?|=> ?\{)$).{0,2000}$",
    re.MULTILINE,
)
_TITLE: Final = re.compile('《[^》\n]{1,60}》|「[^」\n]{1,60}」|“[^”\n]{1,60}”|"[^"\n]{1,60}"')
_LATIN_IN_HAN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+#.\-]{0,40}(?: [A-Z][A-Za-z0-9+#.\-]{0,40}){0,3}")
_PLACE: Final = re.compile(
    "北京|上海|天津|重庆|广州|深圳|香港|澳门|台湾|台北|杭州|南京|苏州|成都|武汉|西安|青岛|大连|厦门|长沙|昆明|云南|四川|广东|新疆|西藏|"
    "浙江|江苏|山东|河南|河北|湖南|湖北|福建|海南|东京|大阪|京都|首尔|纽约|伦敦|巴黎|柏林|罗马|莫斯科|悉尼|新加坡|中国|美国|英国|法国|德国|"
    "日本|韩国|印度|俄罗斯|巴西|加拿大|澳大利亚|意大利|西班牙|泰国|越南|埃及|欧洲|亚洲|非洲|美洲|长城|故宫|珠穆朗玛峰|长江|黄河"
)
_CONNECTING: Final = word_set("of the de la van von and for")
_NOT_NAMES: Final = word_set(
    "i i'm i've i'll i'd monday tuesday wednesday thursday friday saturday sunday january february "
    "march april may june july "
    "august september october november december mr mrs ms dr please hi hello hey ok okay thanks yes no"
)


def _fences(text: str) -> list[Span]:
    spans: list[Span] = []
    at = text.find("```")
    while at >= 0 and len(spans) < MAX_FOUND:
        end = text.find("```", at + 3)
        stop = end + 3 if end >= 0 else len(text)
        spans.append(Span(at, stop))
        at = text.find("```", stop) if end >= 0 else -1
    return spans


def find_code(text: str) -> tuple[Span, ...]:
    """Spans of fenced blocks, inline code and lines that read as code, in order and disjoint."""
    found = _fences(text) if "```" in text else []
    if "`" in text:
        found += [Span(*match.span()) for match in _INLINE_CODE.finditer(text)][:MAX_FOUND]
    if any(mark in text for mark in "(;{>#$=.") or "SELECT" in text or "import" in text:
        found += [Span(*match.span()) for match in _CODE_LINE.finditer(text)][:MAX_FOUND]
    disjoint: list[Span] = []
    for span in sorted(found, key=lambda one: (one.start, -one.end)):
        if not disjoint or span.start >= disjoint[-1].end:
            disjoint.append(span)
    return tuple(disjoint)


def find_urls(text: str) -> tuple[Span, ...]:
    """Spans of URLs and mail addresses, without the punctuation that ends their sentence."""
    if "://" not in text and "www." not in text and "@" not in text:
        return ()
    found = []
    for match in _URL.finditer(text):
        start, end = match.span()
        while end > start and text[end - 1] in ".,;:!?)]}":
            end -= 1
        found.append(Span(start, end))
        if len(found) == MAX_FOUND:
            break
    return tuple(found)


def masked(text: str, spans: Sequence[Span]) -> str:
    """`text` with each span replaced by as many `MASK`, so that offsets stay and code is not read as prose."""
    if not spans:
        return text
    pieces, at = [], 0
    for span in sorted(spans):
        if span.start >= at:
            pieces += [text[at : span.start], MASK * (span.end - span.start)]
            at = span.end
    return "".join([*pieces, text[at:]])


def _shape(word: str) -> EntityKind | None:
    letters = [char for char in word if char.isalpha()]
    if not letters:
        return None
    upper = sum(char.isupper() for char in letters)
    if len(letters) >= 2 and upper == len(letters):
        return "acronym"
    if upper and (any(char.isdigit() for char in word) or any(char.isupper() for char in word[1:])):
        return "identifier"
    return "name" if word[0].isupper() else None


def _english(text: str, tokens: Sequence[Token], sentence_starts: frozenset[int]) -> list[Entity]:
    found: list[Entity] = []
    at = 0
    while at < len(tokens) and len(found) < MAX_FOUND:
        token = tokens[at]
        kind = None if token.low in _NOT_NAMES or token.tag == "PUNCT" else _shape(token.text)
        if kind is None or (token.start in sentence_starts and kind == "name" and not _starts_name(tokens, at)):
            at += 1
            continue
        end = at + 1
        while end < len(tokens) and end - at < 8:
            if (
                _shape(tokens[end].text) is not None
                and tokens[end].tag != "PUNCT"
                and tokens[end].low not in _NOT_NAMES
            ) or (tokens[end].low in ("of", "de", "van", "von", "the") and _name_follows(tokens, end)):
                end += 1
            else:
                break
        span = Span(token.start, tokens[end - 1].end)
        found.append(Entity(span.of(text), kind if end == at + 1 else "name", span))
        at = end
    return found


def _name_follows(tokens: Sequence[Token], at: int) -> bool:
    return at + 1 < len(tokens) and tokens[at + 1].tag == "N" and tokens[at + 1].text[:1].isupper()


def _starts_name(tokens: Sequence[Token], at: int) -> bool:
    """Whether a capitalised first word is a name: an unknown word, followed by another capital or a verb."""
    if tokens[at].tag != "N" or at + 1 >= len(tokens):
        return False
    return tokens[at + 1].text[:1].isupper() or tokens[at + 1].tag in ("AUX", "VZ", "VD")


def _chinese(text: str) -> list[Entity]:
    found = [
        Entity(m.group(), _shape(m.group()) or "identifier", Span(*m.span())) for m in _LATIN_IN_HAN.finditer(text)
    ]
    return found + [Entity(m.group(), "place", Span(*m.span())) for m in _PLACE.finditer(text)]


def find_entities(
    text: str, language: Language, tokens: Sequence[Token], sentence_starts: frozenset[int]
) -> tuple[Entity, ...]:
    """Names of `text`, in order and disjoint, at most `MAX_FOUND`.

    Args:
        text: The text, code and URLs masked.
        language: Its language; Chinese uses Latin runs, title marks and a short list of places.
        tokens: English tokens; unused for Chinese.
        sentence_starts: Offsets where sentences start: a capital there says nothing.
    """
    found = _chinese(text) if language == "zh" else _english(text, tokens, sentence_starts)
    found += [Entity(m.group()[1:-1], "title", Span(*m.span())) for m in _TITLE.finditer(text)][:MAX_FOUND]
    disjoint: list[Entity] = []
    for entity in sorted(found, key=lambda one: (one.span.start, -one.span.end)):
        if not disjoint or entity.span.start >= disjoint[-1].span.end:
            disjoint.append(entity)
    return tuple(disjoint[:MAX_FOUND])
