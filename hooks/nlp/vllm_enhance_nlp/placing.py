"""Putting a block of text into a rendered prompt, as text and as token ids. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .enrich import defused

__all__ = ["Placed", "Unplaceable", "place_before", "room_for"]

MAX_ADDED: Final = 4  # special tokens that a tokenizer puts around a text
SHARE: Final = 4  # of what the prompt leaves free, references take at most one part in this many


class Unplaceable(Exception):
    """The block cannot be put in; the message is a label without prompt text."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The prompt with the block in it."""

    text: str
    token_ids: list[int]


def place_before(
    question: str,
    block: str,
    prompt: str,
    prompt_ids: Sequence[int],
    tokenize: Callable[[str], Sequence[int]],
) -> Placed:
    """`prompt` with `block` and a blank line in front of the last place where `question` stands.

    What the tokenizer had put around the prompt (BOS, say) stays around it.

    Args:
        question: The last user text.
        prompt: The rendered prompt, and `prompt_ids` the same as the engine would get it.
        tokenize: Ids of a text, without special tokens around it.

    Raises:
        Unplaceable: the question is not in the prompt, the prompt is a chat that was rendered elsewhere, or its text
            does not tokenize back to its ids.
    """
    start = prompt.rfind(question)
    if start < 0:
        raise Unplaceable("question_not_in_prompt")
    if start == 0 and defused(prompt) != prompt:
        raise Unplaceable("rendered_elsewhere")  # its roles are inside the text, and the block would come before them
    before, after = _around(list(prompt_ids), list(tokenize(prompt)))
    text = f"{prompt[:start]}{block}\n\n{prompt[start:]}"
    return Placed(text, [*before, *tokenize(text), *after])


def _around(ids: list[int], plain: list[int]) -> tuple[list[int], list[int]]:
    """What stands before and after `plain` in `ids`."""
    added = len(ids) - len(plain)
    if 0 <= added <= MAX_ADDED and plain:
        for first in range(added + 1):
            if ids[first : first + len(plain)] == plain:
                return ids[:first], ids[first + len(plain) :]
    raise Unplaceable("prompt_does_not_tokenize_back")


def room_for(max_tokens: int, prompt_tokens: int, answer_tokens: int | None, max_model_len: int) -> int:
    """How many tokens of references a prompt has room for, at most `max_tokens`.

    An answer whose length the client named keeps all of it. Where the client named none (then vLLM sets all that the
    prompt leaves free) references take at most a quarter of that.

    Args:
        answer_tokens: `max_tokens` of the request.
        max_model_len: Of prompt and answer together; 0 when unknown.
    """
    if max_model_len <= 0:
        return max_tokens
    free = max_model_len - prompt_tokens
    if answer_tokens is not None and answer_tokens < free:
        return max(0, min(max_tokens, free - answer_tokens))
    return max(0, min(max_tokens, free // SHARE))
