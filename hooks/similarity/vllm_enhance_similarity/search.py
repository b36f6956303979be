"""Stored questions with their answers, for hooks that put context into a prompt (the `SIMILAR_SEARCH` annotation)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllm_enhance.errors import EnhanceError
from vllm_enhance.records import decode_record
from vllm_enhance.throttle import Throttle
from vllm_enhance.types import Found, RequestContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from vllm_enhance.types import SearchFunction
    from vllm_enhance_similarity.index.entries import Entry
    from vllm_enhance_similarity.matcher import Match
    from vllm_enhance_similarity.service import SimilarityService

__all__ = ["MAX_RESULTS", "MAX_TEXTS", "similar_search"]

logger = logging.getLogger("vllm_enhance.similarity")
_throttle = Throttle(60.0)

MAX_TEXTS = 32
MAX_RESULTS = 16


def similar_search(
    service: SimilarityService, request: RequestContext, clock: Callable[[], float], admits: Callable[[Entry], bool]
) -> SearchFunction:
    """The search that a request carries: its own partition, its own tenant, answers as old as it accepts.

    Texts beyond `MAX_TEXTS` find nothing, and no text finds more than `MAX_RESULTS`. Only whole answers are found: one
    that was cut by a limit can say the opposite of the rest, and none that has been forgotten, by what `admits` says.
    The search never raises.
    """

    async def search(texts: Sequence[str], limit: int) -> list[list[Found]]:
        try:
            found = await _search(service, request, list(texts[:MAX_TEXTS]), min(limit, MAX_RESULTS), clock(), admits)
        except Exception as error:  # whoever wants context goes on without
            if _throttle.allow("search") is not None:
                logger.warning("similarity: a search for context failed (%s)", type(error).__name__)
            found = []
        return found + [[] for _ in range(len(texts) - len(found))]

    return search


async def _search(
    service: SimilarityService,
    request: RequestContext,
    texts: list[str],
    limit: int,
    now: float,
    admits: Callable[[Entry], bool],
) -> list[list[Found]]:
    matcher = service.matcher
    question = await request.load_question()
    if matcher is None or question is None or limit < 1:
        return []
    partition, confident = question.partition, service.options.similarity_mode == "on"
    embedded = await service.embedder.embed_many(texts, timeout=service.options.similarity_deadline)

    def find(text: str, vector: NDArray[np.float32] | None) -> list[Found]:
        if vector is None:
            return []
        matches = matcher.preview(partition, text, vector, limit=limit, now=now)
        return _found([match for match in matches if admits(match.entry)], request, now, confident)

    def find_all() -> list[list[Found]]:
        return [find(text, each.vector) for text, each in zip(texts, embedded, strict=True)]

    return await asyncio.to_thread(find_all)


def _found(matches: Sequence[Match], request: RequestContext, now: float, confident: bool) -> list[Found]:
    found: list[Found] = []
    asked: set[str] = set()
    for match in matches:
        age = max(0.0, now - match.entry.created)
        answer = _whole_answer(match)
        if (
            answer is None
            or match.entry.text in asked
            or match.entry.tenant != request.tenant
            or not request.directives.accepts_age(age)
        ):
            continue
        asked.add(match.entry.text)
        sure = confident and match.confident
        found.append(Found(match.entry.text, answer, match.similarity, sure, match.entry.key, age))
    return found


def _whole_answer(match: Match) -> str | None:
    try:
        record = decode_record(match.entry.payload)
    except EnhanceError:
        return None
    choice = record.choices[0] if record.choices else None
    if choice is None or choice.finish_reason != "stop" or not choice.text.strip():
        return None
    return choice.text
