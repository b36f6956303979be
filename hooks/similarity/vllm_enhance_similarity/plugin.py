"""Similarity as the engine sees it: one hook. Nothing heavy is imported before `startup`."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from vllm_enhance.errors import EnhanceError
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.records import decode_record, encode_record
from vllm_enhance.stores import EntryTags, Horizon, scope_value
from vllm_enhance.types import (
    SIMILAR,
    SIMILAR_DECISION,
    SIMILAR_SEARCH,
    SIMILAR_VERDICT,
    AnnotationKey,
    HealthReport,
    InvalidationScope,
    Lookup,
    Neighbour,
    Outcome,
    RequestContext,
    Respond,
    SimilarDecision,
    Source,
    Standby,
)
from vllm_enhance_similarity.meters import METRICS
from vllm_enhance_similarity.options import SETTINGS, SimilarityOptions
from vllm_enhance_similarity.search import similar_search

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_enhance.context import HookContext
    from vllm_enhance.metrics import Metrics
    from vllm_enhance.records import GenerationRecord
    from vllm_enhance.settings import Setting
    from vllm_enhance_similarity.service import Consideration, SimilarityService

__all__ = ["CONSIDERED", "SimilarityHook"]

logger = logging.getLogger("vllm_enhance.similarity")

CONSIDERED: AnnotationKey[Consideration] = AnnotationKey("similarity")
_ADMITTED: AnnotationKey[int] = AnnotationKey("similarity_generation")

_TICK_SECONDS = 1.0
_LOAD_SECONDS = 600.0


class SimilarityHook:
    """Reuse of answers to similar questions.

    Args:
        options: instead of settings.
    """

    def __init__(self, options: SimilarityOptions | None = None) -> None:
        self._options = options
        self._service: SimilarityService | None = None
        self._metrics: Metrics | None = None
        self._off_because = "similarity has not started"
        self._horizon = Horizon()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = time.time
        self._show_text = False

    # ------------------------------------------------------------------ traffic

    @hookimpl(inline=True)
    def pre_request(self, request: RequestContext) -> Lookup | None:
        """Offer a lookup, for requests that similarity may serve at all."""
        if self._service is None or self._service.matcher is None or not _eligible(request):
            return None
        request.annotations.set(_ADMITTED, self._horizon.generation)
        if request.directives.no_cache:
            return None
        request.annotations.set(SIMILAR_SEARCH, similar_search(self._service, request, self._clock))
        return Lookup(run=lambda: self._look_up(request), name="similarity")

    async def _look_up(self, request: RequestContext) -> Respond | None:
        considered = await self._consider(request)
        service = self._service
        if considered is None or service is None:
            return None
        decision, entry = considered.result.decision, considered.result.entry
        if service.options.similarity_mode != "on" or decision.action != "reuse" or entry is None:
            return None
        now = self._clock()
        age = max(0.0, now - entry.created)
        if entry.tenant != request.tenant or not request.directives.accepts_age(age) or decision.choice is None:
            request.note("similarity", "not served: tenant or age")
            return None
        try:
            record = decode_record(entry.payload)
        except EnhanceError:
            request.note("similarity", "not served: damaged record")
            return None
        return Respond(
            record,
            source=Source.SIMILAR,
            age=age,
            ttl=None if entry.expires is None else max(0.0, entry.expires - now),
            similarity=decision.choice.similarity,
            detail="similar",
        )

    async def _consider(self, request: RequestContext) -> Consideration | None:
        service = self._service
        if service is None:
            return None
        question = await asyncio.to_thread(lambda: request.question)
        if question is None:
            request.note("similarity", "no question that may vary")
            return None
        started = time.monotonic()
        considered = await service.consider(question.text, question.partition)
        self._account(request, considered, time.monotonic() - started)
        request.annotations.set(CONSIDERED, considered)
        return considered

    @hookimpl
    async def post_output(self, request: RequestContext, record: GenerationRecord, outcome: Outcome) -> None:
        """Learn from what the engine generated, and store it for similar questions."""
        service = self._service
        if service is None or service.matcher is None or outcome.source is not Source.ENGINE or not _eligible(request):
            return
        considered = request.annotations.get(CONSIDERED) or await self._consider(request)
        if considered is None:
            return
        storable = outcome.storable and not request.directives.no_store
        answer = record.choices[0].text if record.choices else ""

        def store(group: bytes) -> None:
            self._store(request, record, considered, group)

        same = await service.learn(considered, answer, _answer_text, store if storable else None)
        if same is not None:
            self._tell_verdict(request, same)

    def _store(
        self, request: RequestContext, record: GenerationRecord, considered: Consideration, group: bytes
    ) -> None:
        """On the matching thread."""
        service = self._service
        if service is None or service.matcher is None or considered.vector is None or request.key is None:
            return
        tags = EntryTags(request.tenant, request.model, record.created_at)
        payload = encode_record(record)
        if len(payload) > service.options.similarity_max_entry_bytes:
            request.note("similarity", "not stored: too large")
            return
        if not self._horizon.admits(request.annotations.get(_ADMITTED, 0) or 0, request.key, tags):
            request.note("similarity", "not stored: forgotten meanwhile")
            return
        service.matcher.remember(
            considered.partition,
            request.key,
            considered.text,
            considered.vector,
            tenant=request.tenant,
            model=request.model,
            now=record.created_at,
            expires=record.created_at + service.options.similarity_ttl,
            payload=payload,
            group=group,
        )

    # ------------------------------------------------------------------ life cycle

    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return SETTINGS

    @hookimpl
    async def startup(self, context: HookContext) -> Standby | None:
        """Begin to load the model in the background; requests are served plainly until it is there."""
        for metric in METRICS:
            context.metrics.declare(metric)
        self._metrics, self._clock = context.metrics, context.clock
        self._show_text = bool(context.settings.get("log-prompts", False))
        options = self._options or SimilarityOptions.from_settings(context.settings)
        if options.off_because is not None:
            self._off_because = options.off_because
            logger.info("%s", options.off_because)
            return Standby()
        service = await asyncio.to_thread(_make_service, options, context)
        service.start()
        self._service = service
        self._off_because = ""
        self._run(self._open(service), "enhance-similarity-open")
        return None

    async def _open(self, service: SimilarityService) -> None:
        try:
            entries = await asyncio.to_thread(service.open, _LOAD_SECONDS)
        except EnhanceError as fault:
            self._service, self._off_because = None, str(fault)
            logger.warning("%s", fault)
            await asyncio.to_thread(service.close)
            return
        judge = service.judge.name if service.judge is not None else "none"
        logger.info(
            "similarity is %s: model %s, policy %s, judge %s, %d entries restored (%s)",
            service.options.similarity_mode,
            service.embedder.identity.name if service.embedder.identity else "",
            service.policy.name,
            judge,
            entries,
            service.restore_reason,
        )
        await self._tick(service)

    async def _tick(self, service: SimilarityService) -> None:
        saved = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            service.tend()
            self._publish(service)
            if time.monotonic() - saved >= service.options.similarity_save_every:
                saved = time.monotonic()
                await service.save_in_background()

    @hookimpl
    async def shutdown(self) -> None:
        service, self._service = self._service, None
        self._off_because = "similarity was shut down"
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if service is not None:
            await asyncio.to_thread(service.close)

    @hookimpl(inline=True)
    def health(self) -> list[HealthReport]:
        service = self._service
        if service is None:
            status = "healthy" if "--enhance" in self._off_because else "degraded"
            return [HealthReport("similarity", status, self._off_because)]
        embedder = service.embedder.health()
        status = "healthy" if embedder.state == "ready" else "degraded"  # requests are served all the same
        return [HealthReport("similarity", status, embedder.detail or f"{service.options.similarity_mode}")]

    @hookimpl(inline=True)
    def stats(self) -> Mapping[str, Any]:
        service = self._service
        if service is None or service.matcher is None:
            return {"enabled": False, "detail": self._off_because or "loading"}
        import msgspec

        return {
            "enabled": True,
            "mode": service.options.similarity_mode,
            "dimension": service.matcher.index.dimension,
            "index": msgspec.to_builtins(service.matcher.index.stats()),
            "embedder": msgspec.to_builtins(service.embedder.health()),
            "policy": dict(service.policy.report()),
            "judge": service.judge.name if service.judge is not None else None,
            "verdicts": dict(service.verdicts),
        }

    @hookimpl
    async def invalidate(self, scope: InvalidationScope) -> int:
        """Forget. Nothing in `scope` is served once this returns, answers now being generated included.

        Raises:
            DirectiveError: the scope cannot be understood.
        """
        value = scope_value(scope)
        service, now = self._service, self._clock()
        if not scope.dry_run:
            self._horizon = self._horizon.forget(scope, now)
        if service is None or service.matcher is None:
            return 0
        index = service.matcher.index
        kind = {"age": "older_than"}.get(scope.kind, scope.kind)
        wanted: Any = now - float(value) if scope.kind == "age" and isinstance(value, float) else scope.value or ""
        if scope.kind in ("key", "tenant"):
            wanted = bytes.fromhex(scope.value or "")
        return await asyncio.to_thread(index.delete, kind, wanted, dry_run=scope.dry_run)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ inside

    def _run(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell_verdict(self, request: RequestContext, same: bool) -> None:
        decision, told = request.annotations.get(SIMILAR_DECISION), request.annotations.get(SIMILAR_VERDICT)
        if decision is None:
            return
        if self._metrics is not None:
            verdict = "same" if same else "different"
            self._metrics.count("vllm_enhance_similarity_verdicts", 1, decision.action, verdict)
        if told is not None:
            told(decision, same)

    def _account(self, request: RequestContext, considered: Consideration, seconds: float) -> None:
        decision = considered.result.decision
        request.note("similarity", f"{decision.action}: {decision.reason}")
        choice = decision.choice
        request.annotations.set(
            SIMILAR_DECISION,
            SimilarDecision(decision.action, decision.reason)
            if choice is None
            else SimilarDecision(decision.action, decision.reason, choice.text, choice.similarity),
        )
        known: Sequence[Neighbour] = request.annotations.get(SIMILAR) or ()  # what another hook has used
        keys = {each.key for each in known}
        shown = [self._shown(one) for one in considered.result.neighbours if one.key not in keys]
        request.annotations.set(SIMILAR, [*known, *shown])
        if self._metrics is None:
            return
        self._metrics.count("vllm_enhance_similarity_decisions", 1, decision.action, decision.reason)
        self._metrics.observe("vllm_enhance_similarity_match_seconds", seconds)
        for one in considered.result.neighbours[:1]:
            for guard in one.vetoes:
                self._metrics.count("vllm_enhance_similarity_guards", 1, guard)

    def _shown(self, one: Any) -> Neighbour:
        return Neighbour(
            key=one.key,
            similarity=one.similarity,
            question=one.text if self._show_text else "",
            refused_by=one.vetoes[0] if one.vetoes else None,
        )

    def _publish(self, service: SimilarityService) -> None:
        if self._metrics is None or service.matcher is None:
            return
        stats, report = service.matcher.index.stats(), service.policy.report()
        self._metrics.gauge("vllm_enhance_similarity_entries", stats.entries)
        self._metrics.gauge("vllm_enhance_similarity_bytes", stats.bytes)
        if "expected_error" in report:
            self._metrics.gauge("vllm_enhance_similarity_expected_error", report["expected_error"])
            self._metrics.gauge("vllm_enhance_similarity_audited_error_upper", report["audited_error_upper_95"])


def _eligible(request: RequestContext) -> bool:
    """Cacheable, one plain text answer, no log probabilities."""
    params = request.params
    return (
        request.key is not None
        and not request.directives.bypass
        and getattr(params, "logprobs", None) is None
        and getattr(params, "prompt_logprobs", None) is None
        and (getattr(params, "n", 1) or 1) == 1
    )


def _answer_text(payload: bytes) -> str | None:
    try:
        record = decode_record(payload)
    except EnhanceError:
        return None
    return record.choices[0].text if record.choices else None


def _make_service(options: SimilarityOptions, context: HookContext) -> SimilarityService:
    from vllm_enhance_similarity.service import SimilarityService

    return SimilarityService(
        options,
        generate_idle=context.generate_idle,
        clock=context.clock,
        process=context.api_process[0],
    )
