"""Questions whose answer depends on when they are asked; never answered by similarity."""

from __future__ import annotations

import re

from vllm_enhance_similarity.guards.lexicon import TIME_BOUND, TIME_BOUND_ZH

__all__ = ["is_time_bound"]

_ENGLISH = re.compile(rf"\b(?:{TIME_BOUND})\b", re.IGNORECASE)
_CHINESE = re.compile("|".join(TIME_BOUND_ZH))


def is_time_bound(text: str) -> bool:
    """True if the text says "today", "latest", 现在 and the like. Pure; microseconds."""
    return _ENGLISH.search(text) is not None or _CHINESE.search(text) is not None
