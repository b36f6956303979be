"""A compound question answered from stored answers to its parts. Pure.

Only where nothing of the question would go unanswered and nothing of how the answer should look would be broken: a
question that this module passes over is generated, which is never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vllm_enhance.types import Found

from .analysis import NLPResult

__all__ = ["Composed", "compose_answers", "only_questions", "takes_composed"]

SEPARATOR: Final = "\n\n"
_ASKED: Final = ("?", "？")
_MARKUP: Final = ("<", "{", "[")
_REASONING: Final = ("</think>", "</reasoning>", "<|channel|>")


@dataclass(frozen=True, slots=True)
class Composed:
    """The joined answer, what it was joined from, in order, the least similarity and the greatest age (seconds)."""

    text: str
    used: tuple[Found, ...]
    similarity: float
    age: float


def only_questions(text: str, result: NLPResult) -> bool:
    """Whether `text` is nothing but questions side by side: no context, no instruction, no relation between them."""
    if result.truncated or not result.compound or result.relative_time:
        return False
    if any(connective.sense != "conjunction" for connective in result.connectives):
        return False
    if any(not sub.text.rstrip().endswith(_ASKED) for sub in result.sub_questions):
        return False
    covered = 0
    for span in sorted(sub.span for sub in result.sub_questions):
        if _says_something(text[covered : span.start]):
            return False
        covered = max(covered, span.end)
    return not _says_something(text[covered:])


def _says_something(text: str) -> bool:
    return any(character.isalnum() for character in text)


def takes_composed(params: Any) -> bool:
    """Whether a text joined from several fits what a request (vLLM's `SamplingParams`) asks for.

    Not where a grammar rules the answer, a stop word could stand at the joint, or special tokens are part of it (as
    tool parsers want).
    """
    return (
        getattr(params, "structured_outputs", None) is None
        and not getattr(params, "stop", None)
        and not getattr(params, "stop_token_ids", None)
        and not getattr(params, "ignore_eos", False)
        and getattr(params, "skip_special_tokens", True)
        and getattr(params, "detokenize", True)
    )


def compose_answers(
    found: Sequence[Sequence[Found]], *, max_tokens: int | None, count_tokens: Callable[[str], int]
) -> Composed | None:
    """The confident answer to each part, joined by blank lines; None unless every part has one.

    Args:
        found: For each part, stored questions, most similar first.
        max_tokens: The longest answer that the request takes.
        count_tokens: Length of a text in the model's tokens.
    """
    used = [next((one for one in each if one.confident and _is_prose(one.answer)), None) for each in found]
    chosen = tuple(one for one in used if one is not None)
    if not chosen or len(chosen) < len(found):
        return None
    text = SEPARATOR.join(dict.fromkeys(one.answer.strip() for one in chosen))
    if max_tokens is not None and count_tokens(text) >= max_tokens:  # the end of an answer is a token too
        return None
    return Composed(text, chosen, min(one.similarity for one in chosen), max(one.age for one in chosen))


def _is_prose(answer: str) -> bool:
    """Not a tool call, not data, not an answer with the model's thoughts in it."""
    return not answer.lstrip().startswith(_MARKUP) and not any(mark in answer for mark in _REASONING)
