"""Tokens: what is a character, and which inflections are one word."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["is_cjk", "stem"]


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
            if ending == "es" and not base.endswith(_TAKES_ES):
                continue  # rules are rule + s
            if len(base) > 3 and base[-1] == base[-2] and base[-1] not in "elsz":
                return base[:-1]
            return _without_e(base)
    return _without_e(token)


_TAKES_ES = ("s", "x", "z", "ch", "sh", "o")


def _without_e(base: str) -> str:
    return base[:-1] if len(base) > 3 and base[-1] == "e" and base[-2] != "e" else base
