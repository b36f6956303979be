"""Judges: do two answers to near questions say the same? Their verdicts are the labels that a policy learns from.

A judge may decline (None); a label that is missing does less harm than one that is wrong.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllm_enhance_similarity.embedder import Embedder

__all__ = ["AnswerSimilarityJudge", "CallableJudge", "EqualTextJudge", "Judge", "ServedModelJudge"]


class Judge(Protocol):
    """Compares two answers. Called in the background, one call at a time."""

    name: str
    errs: bool
    """True if verdicts may be wrong; such a judge is tested on known pairs now and then."""

    async def same(self, question: str, one: str, other: str) -> bool | None:
        """True, False, or None when it cannot tell. `question` is what `one` answers."""


class EqualTextJudge:
    """Equal up to case, spacing and final punctuation. Right when it says "same"; fit for greedy decoding."""

    name = "equal"
    errs = False

    async def same(self, question: str, one: str, other: str) -> bool | None:
        return _normal(one) == _normal(other)


class AnswerSimilarityJudge:
    """Compares the embeddings of the answers: near is the same, far is different, in between is no verdict.

    Args:
        same_above, different_below: cosine similarities in [-1, 1].
    """

    name = "embedding"
    errs = True

    def __init__(self, embedder: Embedder, *, same_above: float = 0.92, different_below: float = 0.75) -> None:
        self._embedder = embedder
        self._same_above = same_above
        self._different_below = different_below

    async def same(self, question: str, one: str, other: str) -> bool | None:
        if _normal(one) == _normal(other):
            return True
        first, second = await self._embedder.embed(one), await self._embedder.embed(other)
        if first.vector is None or second.vector is None:
            return None
        similarity = float(first.vector @ second.vector)
        if similarity >= self._same_above:
            return _numbers(one) == _numbers(other)
        return False if similarity < self._different_below else None


class CallableJudge:
    """A function of the operator's: (question, one, other) -> verdict."""

    def __init__(
        self, function: Callable[[str, str, str], Awaitable[bool | None]], *, name: str = "custom", errs: bool = True
    ) -> None:
        self._function = function
        self.name = name
        self.errs = errs

    async def same(self, question: str, one: str, other: str) -> bool | None:
        return await self._function(question, one, other)


class ServedModelJudge:
    """Asks the served model for yes or no when it has nothing else to do.

    Args:
        generate: prompt and number of tokens -> text, or None when the engine stayed busy.
        max_chars: of each answer shown to the model; longer ones get no verdict, since a cut could hide a difference.
    """

    name = "model"
    errs = True

    def __init__(self, generate: Callable[[str, int], Awaitable[str | None]], *, max_chars: int = 4000) -> None:
        self._generate = generate
        self._max_chars = max_chars

    async def same(self, question: str, one: str, other: str) -> bool | None:
        if _normal(one) == _normal(other):
            return True
        if max(len(question), len(one), len(other)) > self._max_chars:
            return None
        reply = await self._generate(_PROMPT.format(question=question, one=one, other=other), 4)
        return None if reply is None else _yes_or_no(reply)


_PROMPT = (
    "Question:\n{question}\n\nAnswer A:\n{one}\n\nAnswer B:\n{other}\n\n"
    "Do answers A and B say the same to this question, so that either could be given? "
    "Reply with yes or no only.\nReply:"
)


def _yes_or_no(reply: str) -> bool | None:
    word = re.match(r"\W*(yes|no|是|否|不)", reply.lower())
    return None if word is None else word.group(1) in ("yes", "是")


def _normal(answer: str) -> str:
    return " ".join(answer.split()).casefold().rstrip(".!?。！？ ")


def _numbers(answer: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", answer))
