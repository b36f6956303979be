"""What is left of a question without its courtesies: the words that two askings of one question share."""

from __future__ import annotations

from vllm_enhance_similarity.guards.lexicon import NUMBER_WORDS

__all__ = ["wording"]

# Taken off at either end, again and again: "Hi, can you please tell me: ... Thanks!" As tokens; Chinese ones are
# characters.
_COURTESIES = tuple(
    tuple(phrase.split())
    for phrase in (
        "hi", "hello", "hey", "dear", "please", "kindly", "pls", "plz", "thanks", "thank you", "tell me",
        "can you", "could you", "would you", "请 问", "你 好", "您 好", "谢 谢", "麻 烦", "劳 驾",
    )
)  # fmt: skip
_FIRST, _LAST = {phrase[0] for phrase in _COURTESIES}, {phrase[-1] for phrase in _COURTESIES}


def wording(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """The tokens without courtesies around them, single number words as digits. Nothing else is taken for the same."""
    start, end = 0, len(tokens)
    while start < end and tokens[start] in _FIRST:
        length = next((len(one) for one in _COURTESIES if tokens[start : start + len(one)] == one), 0)
        if not length:
            break
        start += length
    while end > start and tokens[end - 1] in _LAST:
        length = next((len(one) for one in _COURTESIES if tokens[max(start, end - len(one)) : end] == one), 0)
        if not length:
            break
        end -= length
    kept = tokens[start:end] or tokens
    return tuple([f"{NUMBER_WORDS[token]:g}" if token in NUMBER_WORDS else token for token in kept])
