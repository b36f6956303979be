"""The NLP hook: reads each question in a bounded pool beside its generation, never in front of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.throttle import Throttle
from vllm_enhance.types import NLP_RESULT, HealthReport, RequestContext, Respond, Rewrite, Standby

from .meters import METRICS
from .options import SETTINGS, ContextOptions, NLPOptions

if TYPE_CHECKING:
    from vllm_enhance.context import HookContext
    from vllm_enhance.metrics import Metrics
    from vllm_enhance.settings import Setting

    from .context import ContextEnricher

__all__ = ["METRICS", "NLPHook"]

logger = logging.getLogger("vllm_enhance.nlp")


@dataclass(slots=True)
class _Counts:
    done: int = 0
    dropped: int = 0
    late: int = 0
    failed: int = 0
    none: int = 0


class NLPHook:
    """Leaves what it reads in a question as the `nlp_result` annotation of the request.

    `pre_request` only hands the request to the pool and returns, so the engine never waits. The annotation appears a
    few milliseconds later, set on the event loop; whoever reads it earlier finds none. A question beyond
    `max_concurrent_tasks` is not read, and neither is one that waited past the deadline: both are counted.

    Args:
        options: instead of settings; then `startup` leaves them alone.
        context: the same for context enrichment.
        monotonic: clock for the deadline, in seconds.
    """

    def __init__(
        self,
        options: NLPOptions | None = None,
        *,
        context: ContextOptions | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._given = options
        self._given_context = context
        self._enricher: ContextEnricher | None = None
        self._options = options or NLPOptions()
        self._monotonic = monotonic
        self._pool: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._metrics: Metrics | None = None
        self._throttle = Throttle(60.0, monotonic)
        self._in_flight = 0
        self._counts = _Counts()
        self._backends: Mapping[str, bool] = {}

    # ------------------------------------------------------------------ traffic

    @hookimpl(inline=True)
    def pre_request(self, request: RequestContext) -> None:
        """Hand the question to the pool."""
        pool = self._pool
        if pool is None:
            return
        if self._in_flight >= self._options.max_concurrent_tasks:
            self._count("dropped")
            return
        self._in_flight += 1
        try:
            pool.submit(self._read, request, self._monotonic())
        except RuntimeError:  # the pool was shut down
            self._in_flight -= 1
            self._count("dropped")

    @hookimpl(specname="pre_request", trylast=True)
    async def enrich(self, request: RequestContext) -> Rewrite | Respond | None:
        """After the cache: put stored answers to the parts of the question into the prompt, or answer from them."""
        return None if self._enricher is None else await self._enricher.decide(request)

    def _read(self, request: RequestContext, arrived: float) -> None:
        """In a pool thread: analyse, and report on the event loop."""
        outcome, result, seconds = "failed", None, 0.0
        try:
            from .analysis import analyze

            began = self._monotonic()
            if began - arrived > self._options.deadline:
                outcome = "late"
            elif (question := request.question) is None or not question.text.strip():
                outcome = "none"
            else:
                options = self._options
                found = analyze(question.text, language=options.language, max_characters=options.max_characters)
                result = found.to_dict()
                ended = self._monotonic()
                seconds = ended - began
                outcome = "done" if ended - arrived <= options.deadline else "late"
        except Exception as error:
            if self._throttle.allow("failed") is not None:
                logger.warning("a question could not be read: %s", type(error).__name__)
        finally:
            self._report(request, outcome, result if outcome == "done" else None, seconds)

    def _report(self, request: RequestContext, outcome: str, result: Mapping[str, Any] | None, seconds: float) -> None:
        loop = self._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._finish, request, outcome, result, seconds)
        except RuntimeError:  # the loop is closed: nobody is left to read the result
            self._in_flight -= 1

    def _finish(self, request: RequestContext, outcome: str, result: Mapping[str, Any] | None, seconds: float) -> None:
        """On the event loop: the annotation table is not shared with threads."""
        self._in_flight -= 1
        self._count(outcome)
        if result is None:
            return
        request.annotations.set(NLP_RESULT, result)
        request.note(
            "nlp", f"{result['language']}, {result['question_type']}, {len(result['sub_questions'])} sub-questions"
        )
        if self._metrics is not None:
            self._metrics.observe("vllm_enhance_nlp_seconds", seconds)

    def _count(self, outcome: str) -> None:
        setattr(self._counts, outcome, getattr(self._counts, outcome) + 1)
        if self._metrics is not None:
            self._metrics.count("vllm_enhance_nlp_questions", 1, outcome)

    # ------------------------------------------------------------------ life cycle

    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return SETTINGS

    @hookimpl
    async def startup(self, context: HookContext) -> Standby | None:
        """Read the settings and, when switched on, load word lists before the first request."""
        self._options = self._given or NLPOptions.from_settings(context.settings)
        chosen = self._given_context or ContextOptions.from_settings(context.settings)
        if not (self._options.enabled or chosen.enabled):
            return Standby()
        for metric in METRICS:
            context.metrics.declare(metric)
        if chosen.enabled:
            await self._start_enricher(chosen, context)
        if not self._options.enabled:
            return None
        self._metrics = context.metrics
        self._loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(self._options.threads, thread_name_prefix="enhance-nlp")
        self._backends = await self._loop.run_in_executor(pool, _warm)
        missing = [name for name, there in self._backends.items() if not there]
        if missing:
            logger.info("language analysis goes on without %s: words are cut less finely", " and ".join(missing))
        self._pool = pool
        return None

    async def _start_enricher(self, options: ContextOptions, context: HookContext) -> None:
        from .context import ContextEnricher, read_template

        template = await asyncio.to_thread(read_template, options.template)
        await asyncio.to_thread(_warm)
        self._enricher = ContextEnricher(options, self._options, context, template)

    @hookimpl
    async def shutdown(self) -> None:
        if self._enricher is not None:
            self._enricher.close()
            self._enricher = None
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
            self._in_flight = 0

    @hookimpl(inline=True)
    def health(self) -> HealthReport:
        if self._pool is None:
            return HealthReport("nlp", "healthy", "off")
        if self._in_flight >= self._options.max_concurrent_tasks:
            return HealthReport("nlp", "degraded", f"{self._in_flight} questions wait, more are not read")
        return HealthReport(
            "nlp", "healthy", ", ".join(f"{k}: {'yes' if v else 'no'}" for k, v in self._backends.items())
        )

    @hookimpl(inline=True)
    def stats(self) -> Mapping[str, Any]:
        return {
            "enabled": self._pool is not None,
            "in_flight": self._in_flight,
            "max_concurrent_tasks": self._options.max_concurrent_tasks,
            "backends": dict(self._backends),
            "context": None if self._enricher is None else dict(self._enricher.counts),
            **asdict(self._counts),
        }


def _warm() -> Mapping[str, bool]:
    from .analysis import analyze
    from .words import backends, warm

    warm()
    for text in ("What is TCP and when should I use it?", "什么是人工智能，它有哪些应用？"):
        analyze(text)
    return backends()
