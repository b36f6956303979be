"""Context enrichment: stored answers to the parts of a compound question, in its prompt or instead of generating.

The similarity hook offers the search (`SIMILAR_SEARCH`), which sees nothing but the request's own partition. Asked
after the cache, and bounded in time and number: a request that finds no time or room goes on as it came.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from vllm_enhance.throttle import Throttle
from vllm_enhance.types import SIMILAR, SIMILAR_SEARCH, Found, Neighbour, RequestContext, Respond, Rewrite, Source

from .analysis import analyze
from .composing import Composed, compose_answers, only_questions, takes_composed
from .enrich import DEFAULT_TEMPLATE, Reference, ReferenceBlock, Template, compose_references, parse_template
from .placing import Placed, Unplaceable, place_before, room_for

if TYPE_CHECKING:
    from vllm_enhance.context import HookContext
    from vllm_enhance.types import SearchFunction

    from .options import ContextOptions, NLPOptions

__all__ = ["ContextEnricher", "read_template"]

logger = logging.getLogger("vllm_enhance.nlp")

T = TypeVar("T")

SHARE_OF_DEADLINE: Final = 0.8
THREADS: Final = 2
MAX_TEMPLATE_BYTES: Final = 65_536
_THOUGHTS: Final = re.compile(r"\A.*</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A compound question: its text, its parts, and whether answers to the parts answer all of it."""

    text: str
    parts: tuple[str, ...]
    only_questions: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """A prompt with references in it, what they are, and the tokens of the block."""

    prompt: Placed
    used: list[Found]
    tokens: int


class ContextEnricher:
    """Decides on one request after the other; see `decide`.

    Args:
        options, reading: settings.
        context: of the hook's start-up.
        template: from `read_template`.
    """

    def __init__(
        self, options: ContextOptions, reading: NLPOptions, context: HookContext, template: Template = DEFAULT_TEMPLATE
    ) -> None:
        self._options = options
        self._reading = reading
        self._context = context
        self._template = template
        self._seconds = SHARE_OF_DEADLINE * context.settings["hook-deadline"]
        self._show_text = bool(context.settings["log-prompts"])
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="enhance-context")
        self._throttle = Throttle(60.0, context.monotonic)
        self._in_flight = 0
        self.counts: dict[str, int] = {}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def decide(self, request: RequestContext) -> Rewrite | Respond | None:
        """A prompt with references, a composed answer, or nothing. Never raises, and ends within the hook deadline."""
        search = request.annotations.get(SIMILAR_SEARCH)
        if search is None:
            return None
        if self._in_flight >= self._reading.max_concurrent_tasks:
            self._count("busy")
            return None
        self._in_flight += 1
        started = self._context.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                return await self._decide(request, search)
        except TimeoutError:
            self._end(request, "late")
        except Exception as error:
            self._end(request, "failed")
            if self._throttle.allow("failed") is not None:
                logger.warning("a request goes on without context: %s", type(error).__name__)
        finally:
            self._in_flight -= 1
            self._context.metrics.observe("vllm_enhance_context_seconds", self._context.monotonic() - started)
        return None

    async def _decide(self, request: RequestContext, search: SearchFunction) -> Rewrite | Respond | None:
        asked = await self._in_pool(lambda: self._read(request))
        if asked is None:
            self._count("single")
            return None
        found = await search([asked.text, *asked.parts], self._options.max_results)
        if self._options.compose and asked.only_questions:
            composed = await self._in_pool(lambda: self._composed(request, found[1:]))
            if composed is not None:
                return self._answered(request, composed)
        if not self._options.references or request.directives.only_if_cached or not any(found):
            self._end(request, "none")
            return None
        try:
            written = await self._in_pool(lambda: self._written(request, asked, found))
        except Unplaceable as error:
            self._end(request, "unplaceable", str(error))
            return None
        if written is None:
            self._end(request, "none")
            return None
        self._show(request, written.used)
        self._end(request, "enriched", f"{len(written.used)} references, {written.tokens} tokens")
        return Rewrite(prompt_text=written.prompt.text, prompt_token_ids=written.prompt.token_ids, keep_key=True)

    def _answered(self, request: RequestContext, composed: Composed) -> Respond:
        self._show(request, composed.used)
        self._end(request, "composed", f"of {len(composed.used)} answers")
        return Respond(
            text=composed.text,
            source=Source.SIMILAR,
            similarity=composed.similarity,
            age=composed.age,
            detail="composed",
        )

    async def _in_pool(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    # ------------------------------------------------------------------ in a pool thread

    def _read(self, request: RequestContext) -> _Asked | None:
        question = request.question
        if question is None:
            return None
        reading = self._reading
        result = analyze(question.text, language=reading.language, max_characters=reading.max_characters)
        if not result.compound:
            return None
        parts = tuple(sub.text for sub in result.sub_questions)
        return _Asked(question.text, parts, only_questions(question.text, result))

    def _composed(self, request: RequestContext, found: Sequence[Sequence[Found]]) -> Composed | None:
        if not takes_composed(request.params):
            return None
        limit = getattr(request.params, "max_tokens", None)
        return compose_answers(found, max_tokens=limit, count_tokens=self._context.count_tokens)

    def _written(self, request: RequestContext, asked: _Asked, found: Sequence[Sequence[Found]]) -> _Written | None:
        tokenize = self._context.tokenize
        block, used = self._block(request, asked, found)
        if not block.text or tokenize is None:
            return None
        placed = place_before(asked.text, block.text, request.prompt_text, request.prompt_token_ids, tokenize)
        return _Written(placed, used, block.tokens)

    def _block(
        self, request: RequestContext, asked: _Asked, found: Sequence[Sequence[Found]]
    ) -> tuple[ReferenceBlock, list[Found]]:
        sources: dict[Reference, Found] = {}
        for one in (one for each in found for one in each):
            answer = _THOUGHTS.sub("", one.answer)
            if one.similarity >= self._options.min_similarity:
                sources.setdefault(Reference(one.question, answer, one.similarity), one)
        room = room_for(
            self._options.max_tokens,
            len(request.prompt_token_ids),
            getattr(request.params, "max_tokens", None),
            self._context.max_model_len,
        )
        block = compose_references(
            asked.text,
            asked.parts,
            sources,
            max_tokens=room,
            count_tokens=self._context.count_tokens,
            template=self._template,
        )
        return block, [sources[reference] for reference in block.used]

    # ------------------------------------------------------------------ books

    def _show(self, request: RequestContext, used: Sequence[Found]) -> None:
        shown = {one.key: Neighbour(one.key, one.similarity, one.question if self._show_text else "") for one in used}
        request.annotations.set(SIMILAR, list(shown.values()))

    def _end(self, request: RequestContext, result: str, detail: str = "") -> None:
        request.note("context", f"{result}: {detail}" if detail else result)
        self._count(result)

    def _count(self, result: str) -> None:
        self.counts[result] = self.counts.get(result, 0) + 1
        self._context.metrics.count("vllm_enhance_context_requests", 1, result)


def read_template(path: str) -> Template:
    """The operator's template: a JSON object with the texts `frame` and `item`; the built-in one for an empty path.

    Raises:
        ValueError: the file cannot be read, or says something else; the message says what.
    """
    if not path:
        return DEFAULT_TEMPLATE
    try:
        with Path(path).open("rb") as file:
            fields = json.loads(file.read(MAX_TEMPLATE_BYTES))
    except (OSError, ValueError) as error:
        raise ValueError(f"the template file {path} cannot be read: {error}") from error
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) for name in ("frame", "item")):
        raise ValueError(f"the template file {path} must hold a JSON object with the texts frame and item")
    return parse_template(fields["frame"], fields["item"])
