"""What signs say that words do not: the operators of a formula, the marks in C# and .NET, emoji.

The words of "what is 5*3" and "what is 5/3" are the same, and so, nearly, are their embeddings. Sentence punctuation
says nothing ("who is he?", "Who is he"), and a hyphen joins words; so a sign counts by what it is and where it stands.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal, NamedTuple

from vllm_enhance_similarity.guards.lexicon import NUMBER_WORDS

__all__ = ["Symbols", "read_symbols"]

Place = Literal["anywhere", "between", "before", "after_digit", "attached", "word_start", "picture", "nowhere"]

_SIGN = re.compile(r"[^\w\s]")
_EMOTICON = re.compile(r"(?<!\w)[:;]['-]?[()DPp/|](?!\w)")
_WINDOW = 12  # characters looked at on both sides: operands are short, and a long text of signs stays linear
_LAST_WORD, _FIRST_WORD = re.compile(r"[\w']+$"), re.compile(r"^[\w']+")

_WRITTEN_ALIKE = {**dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"), "×": "*", "÷": "/"}
_PLACES: dict[str, Place] = {
    "^": "anywhere",
    "*": "between", "/": "between", "&": "between", "-": "between",
    "~": "before",  # decoration at the end of a Chinese sentence, "about" in front of a number
    "!": "after_digit",
    "#": "attached", "@": "attached",
    ".": "word_start",
    # A degree has the names of units, the others name nobody.
    "°": "nowhere", "©": "nowhere", "®": "nowhere", "™": "nowhere",
}  # fmt: skip


class Symbols(NamedTuple):
    """What a text says by signs.

    `signs`: each with its operands, sorted, so that wording around them does not count. `loose`: those that may also be
    said otherwise or left out, emoji and the dash between two numbers (3-4 months, 3 to 4 months).
    """

    signs: tuple[str, ...] = ()
    loose: frozenset[str] = frozenset()

    def contradict(self, other: Symbols) -> bool:
        """Other signs; or other loose ones, where both have some."""
        return self.signs != other.signs or bool(self.loose and other.loose and self.loose != other.loose)


_NONE = Symbols()


def read_symbols(plain: str) -> Symbols:
    """Read the signs of a text in compatibility form (NFKC). Linear in its length."""
    signs: list[str] = []
    loose: set[str] = set()
    for match in _SIGN.finditer(plain):
        sign = _WRITTEN_ALIKE.get(match.group(), match.group())
        place = _place(sign)
        if place == "picture":
            loose.add(sign)
        elif place != "nowhere":
            start, end = match.span()
            before, after = plain[max(0, start - _WINDOW) : start], plain[end : end + _WINDOW]
            if _counts(sign, place, before, after):
                left, right = _operand(before, left=True), _operand(after, left=False)
                if sign == "-" and left.isdigit() and right.isdigit():
                    loose.add(left + sign + right)
                else:
                    signs.append(left + sign + right)
    if ":" in plain or ";" in plain:
        loose.update(_EMOTICON.findall(plain))
    return Symbols(tuple(sorted(signs)), frozenset(loose)) if signs or loose else _NONE


@lru_cache(maxsize=4096)
def _place(sign: str) -> Place:
    """Where a sign means something. Mathematical symbols do everywhere; emoji are pictures."""
    known = _PLACES.get(sign)
    if known is not None:
        return known
    category = unicodedata.category(sign)
    return "anywhere" if category == "Sm" else "picture" if category == "So" else "nowhere"


def _counts(sign: str, place: Place, before: str, after: str) -> bool:
    left, right = before[-1:], after[:1]
    if place == "between":
        if _operand(before, left=True) and _operand(after, left=False):
            return True
        return sign == "-" and right.isdigit() and not left.isalnum()  # a sign, not a hyphen
    if place == "before":
        return bool(_operand(after, left=False))
    if place == "after_digit":
        return left.isdigit()
    if place == "attached":  # C#, #1, @property; the @ of an address is a link's
        return right.isalnum() != left.isalnum()
    if place == "word_start":
        return right.isalpha() and (not left or left.isspace())
    return True


def _operand(side: str, *, left: bool) -> str:
    """What is next to a sign if it is an operand's: a digit, a single letter, a bracket, another sign. Else nothing."""
    side = side.rstrip() if left else side.lstrip()
    if not side:
        return ""
    near = side[-1] if left else side[0]
    if not near.isalnum():
        opening = "(" if not left else ")"
        return near if near == opening or _place(near) in ("anywhere", "between") else ""
    word = (_LAST_WORD if left else _FIRST_WORD).search(side)
    found = word.group().lower() if word else ""
    if found in NUMBER_WORDS:
        return f"{NUMBER_WORDS[found]:g}"[-1 if left else 0]
    return near.lower() if len(found) == 1 or any(each.isdigit() for each in found) else ""
