"""Similarity as the engine sees it: one hook. Nothing heavy is imported before `startup`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from vllm_enhance.errors import EnhanceError
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.records import decode_record, encode_record
from vllm_enhance.stores import EntryTags, scope_value
from vllm_enhance.types import (
    SIMILAR_SEARCH,
    AnnotationKey,
    HealthReport,
    InvalidationScope,
    Lookup,
    Outcome,
    RequestContext,
    Respond,
    Source,
    Standby,
)
from vllm_enhance_similarity.account import Account
from vllm_enhance_similarity.meters import METRICS
from vllm_enhance_similarity.options import SETTINGS, SimilarityOptions
from vllm_enhance_similarity.reach import Reach
from vllm_enhance_similarity.search import similar_search

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_enhance.context import HookContext
    from vllm_enhance.records import GenerationRecord
    from vllm_enhance.settings import Setting
    from vllm_enhance_similarity.feedback import Feedback
    from vllm_enhance_similarity.judges import Judge
    from vllm_enhance_similarity.service import Consideration, SimilarityService

__all__ = ["CONSIDERED", "SimilarityHook"]

logger = logging.getLogger("vllm_enhance.similarity")

CONSIDERED: AnnotationKey[Consideration] = AnnotationKey("similarity")
_ADMITTED: AnnotationKey[int] = AnnotationKey("similarity_generation")

_TICK_SECONDS = 1.0
_LOAD_SECONDS = 600.0
_SAVE_SECONDS = 2.0


class SimilarityHook:
    """Reuse of answers to similar questions.

    Args:
        options: instead of settings.
        judge: the operator's own, for `--enhance-similarity-judge auto`; see `judges.CallableJudge`.
    """

    def __init__(self, options: SimilarityOptions | None = None, judge: Judge | None = None) -> None:
        self._options = options
        self._judge = judge
        self._service: SimilarityService | None = None
        self._account: Account | None = None
        self._feedback: Feedback | None = None
        self._off_because = "similarity has not started"
        self._reach = Reach()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = time.time

    # ------------------------------------------------------------------ traffic

    @hookimpl(inline=True)
    def pre_request(self, request: RequestContext) -> Lookup | None:
        """Offer a lookup, for requests that similarity may serve at all."""
        if self._service is None or self._service.matcher is None or not _eligible(request):
            return None
        request.annotations.set(_ADMITTED, self._reach.horizon.generation)
        if request.directives.no_cache:
            return None
        request.annotations.set(SIMILAR_SEARCH, similar_search(self._service, request, self._clock, self._reach.admits))
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
        if not self._reach.admits(entry):
            request.note("similarity", "not served: forgotten")  # its purge is under way
            return None
        if service.corrections.pins(considered.partition, request.key or b"", now):
            request.note("similarity", "not served: a similar answer to it was called wrong")
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
        question = await request.load_question()
        if question is None:
            request.note("similarity", "no question that may vary")
            return None
        started = time.monotonic()
        considered = await service.consider(question.text, question.partition)
        if self._account is not None:
            self._account.decided(request, considered, time.monotonic() - started)
        request.annotations.set(CONSIDERED, considered)
        return considered

    @hookimpl
    async def post_output(self, request: RequestContext, record: GenerationRecord, outcome: Outcome) -> None:
        """Learn from what the engine generated, and store it for similar questions."""
        service = self._service
        if service is None or service.matcher is None or not _eligible(request):
            return
        if outcome.source is Source.SIMILAR:
            self._remember_hit(request)
        if outcome.source is not Source.ENGINE:
            return
        considered = request.annotations.get(CONSIDERED) or await self._consider(request)
        if considered is None:
            return
        storable = outcome.storable and not request.directives.no_store
        answer = record.choices[0].text if record.choices else ""

        def store(group: bytes) -> None:
            self._store(request, record, considered, group)

        same = await service.learn(considered, answer, _answer_text, store if storable else None)
        if same is not None and self._account is not None:
            self._account.judged(request, same)

    def _remember_hit(self, request: RequestContext) -> None:
        considered = request.annotations.get(CONSIDERED)
        if considered is None or considered.result.entry is None or considered.result.decision.action != "reuse":
            return  # another hook has answered it from what the index holds
        if self._feedback is not None and request.key is not None:
            self._feedback.served(request.key, considered, considered.result.entry)

    @hookimpl
    async def feedback(self, key: bytes, verdict: str) -> int:
        """Learn from a verdict on a similar answer, wherever it was served, and let every process know."""
        if self._feedback is None or verdict not in ("right", "wrong"):
            return 0
        message = await self._feedback.take(key, verdict)
        exchange = self._reach.exchange
        if exchange is not None and message is not None:
            exchange.tell_verdict(message)
        elif exchange is not None and not self._feedback.knows(key):
            exchange.ask_others(key, verdict)
        if self._account is not None:
            self._account.marked(verdict, message is not None)
        return int(message is not None)

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
        generation = request.annotations.get(_ADMITTED, 0) or 0
        if not self._reach.horizon.admits(generation, request.key, tags):
            request.note("similarity", "not stored: forgotten meanwhile")
            return
        entry = service.matcher.remember(
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
            generation=generation,
        )
        if entry is not None:
            self._reach.tell_entry(entry, considered.vector)

    # ------------------------------------------------------------------ life cycle

    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return SETTINGS

    @hookimpl
    async def startup(self, context: HookContext) -> Standby | None:
        """Begin to load the model in the background; requests are served plainly until it is there."""
        for metric in METRICS:
            context.metrics.declare(metric)
        self._clock = context.clock
        self._account = Account(context.metrics, show_text=bool(context.settings.get("log-prompts", False)))
        options = self._options or SimilarityOptions.from_settings(context.settings)
        if options.off_because is not None:
            self._off_because = options.off_because
            logger.info("%s", options.off_because)
            return Standby()
        service, self._feedback = await asyncio.to_thread(_make_service, options, context, self._judge)
        service.start()
        self._service = service
        self._off_because = ""
        self._run(self._open(service, context), "enhance-similarity-open")
        return None

    async def _open(self, service: SimilarityService, context: HookContext) -> None:
        try:
            entries = await asyncio.to_thread(service.open, _LOAD_SECONDS)
        except EnhanceError as fault:
            self._service, self._off_because = None, str(fault)
            logger.warning("%s", fault)
            await asyncio.to_thread(service.close)
            return
        judge = service.judge.name if service.judge is not None else "none"
        logger.info(
            "similarity is %s: model %s (%s), policy %s, judge %s, %d entries restored (%s)",
            service.options.similarity_mode,
            service.embedder.identity.name if service.embedder.identity else "",
            service.embedder.identity.backend if service.embedder.identity else "",
            service.policy.name,
            judge,
            entries,
            service.restore_reason,
        )
        await self._reach.restored(service)
        await self._tick(service, context)

    async def _tick(self, service: SimilarityService, context: HookContext) -> None:
        saved = time.monotonic()
        while True:
            try:
                if self._feedback is not None and self._account is not None:
                    await self._reach.join(service, context, self._feedback, self._account)
                look = await service.tend()
                if look is not None and self._account is not None:
                    self._account.looked(look)
                if time.monotonic() - saved >= service.options.similarity_save_every:
                    saved = time.monotonic()
                    await service.save_in_background()
                    self._reach.save_soon()
            except Exception:  # the next tick tries again
                logger.exception("similarity: housekeeping failed")
            await asyncio.sleep(_TICK_SECONDS)

    @hookimpl
    async def shutdown(self) -> None:
        service, self._service = self._service, None
        self._off_because = "similarity was shut down"
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if service is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAVE_SECONDS):
                    await self._reach.save()
            await self._reach.close()
            await asyncio.to_thread(service.close)

    @hookimpl(inline=True)
    def health(self) -> list[HealthReport]:
        service = self._service
        if service is None:
            status = "healthy" if "--enhance" in self._off_because else "degraded"
            return [HealthReport("similarity", status, self._off_because)]
        embedder = service.embedder.health()
        status = "healthy" if embedder.state == "ready" else "degraded"  # requests are served all the same
        return [
            HealthReport("similarity", status, embedder.detail or f"{service.options.similarity_mode}, {self._reach}")
        ]

    @hookimpl
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
            "corrections": len(service.corrections),
            "shared": self._reach.stats(),
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
            self._reach.forget(scope, now)
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


def _make_service(
    options: SimilarityOptions, context: HookContext, judge: Judge | None
) -> tuple[SimilarityService, Feedback]:
    from vllm_enhance_similarity.feedback import Feedback
    from vllm_enhance_similarity.service import SimilarityService

    service = SimilarityService(
        options,
        generate_idle=context.generate_idle,
        clock=context.clock,
        process=context.api_process[0],
        judge=judge,
    )
    return service, Feedback(service, options.similarity_ttl, context.clock)
