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
            return base[:-1] if len(base) > 3 and base[-1] == base[-2] and base[-1] not in "lsz" else base.rstrip("e")
    return token.rstrip("e") if len(token) > 4 else token
