"""Tokens: what is a character, and which inflections are one word."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["american", "is_cjk", "stem"]


def is_cjk(token: str) -> bool:
    """True for a single Chinese character."""
    return len(token) == 1 and "\u3400" <= token <= "\u9fff"


@lru_cache(maxsize=65536)
def stem(token: str) -> str:
    """Strip plain English endings; enough to equate inflections, too little to equate words."""
    if len(token) < 4 or not token.isascii():
        return token
    for ending, replacement in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if token.endswith(ending) and len(token) - len(ending) >= 3 and not token.endswith("ss"):
            base = token[: len(token) - len(ending)] + replacement
            if ending == "s" and _NO_VOWEL.match(base):
                continue  # https is no plural
            if ending == "es" and not base.endswith(_TAKES_ES):
                continue  # rules are rule + s
            if len(base) > 3 and base[-1] == base[-2] and base[-1] not in "elsz":
                return base[:-1]
            return _without_e(base)
    return _without_e(token)


_TAKES_ES = ("s", "x", "z", "ch", "sh", "o")


def _without_e(base: str) -> str:
    return base[:-1] if len(base) > 3 and base[-1] == "e" and base[-2] != "e" else base


_NO_VOWEL = re.compile(r"[^aeiouy]+$")
_ENDINGS = (
    (re.compile(r"(?<=\w{3})is(e|ed|es|ing|er|ers|ation|ations)$"), r"iz\1"),
    (re.compile(r"(?<=al)ys(e|ed|es|ing|er|ers)$"), r"yz\1"),
    (re.compile(r"(?<=\w{2})our(s|ed|ing|ful|less|able|al|ite|ites)?$"), r"or\1"),
    (re.compile(r"(?<=met|lit|ent|eat|ect|fib)re(s?)$"), r"er\1"),
    (re.compile(r"ogue(s?)$"), r"og\1"),
    (re.compile(r"(travel|cancel|label|model|signal|fuel|level|counsel|channel)l(ed|ing|er|ers)$"), r"\1\2"),
)
_AMERICAN = {
    "grey": "gray", "practise": "practice", "licence": "license", "defence": "defense", "offence": "offense",
    "jewellery": "jewelry", "aeroplane": "airplane", "aluminium": "aluminum", "programme": "program", "mum": "mom",
    "mould": "mold", "pyjamas": "pajamas", "yoghurt": "yogurt", "sceptical": "skeptical", "plough": "plow",
    "cosy": "cozy", "storey": "story", "moustache": "mustache", "enrol": "enroll", "fulfil": "fulfill",
    "tyre": "tire", "tyres": "tires", "manoeuvre": "maneuver", "doughnut": "donut", "doughnuts": "donuts",
    "practised": "practiced", "practising": "practicing", "programmes": "programs", "licences": "licenses",
}  # fmt: skip


@lru_cache(maxsize=65536)
def american(word: str) -> str:
    """One spelling for both sides of the Atlantic. "promise" becomes "promize": it serves to compare, not to read."""
    if len(word) < 5 or not word.isascii():
        return _AMERICAN.get(word, word)
    known = _AMERICAN.get(word)
    if known is not None:
        return known
    for ending, its in _ENDINGS:
        word = ending.sub(its, word)
    return word
