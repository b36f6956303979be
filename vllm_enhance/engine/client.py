"""The engine client: vLLM's own ``AsyncLLM``, which looks before it generates.

Read :meth:`EnhancedAsyncLLM.add_request` from top to bottom: it is the order in which a request is treated.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import secrets
import weakref
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM

from vllm_enhance.engine.answers import hit, record_of
from vllm_enhance.engine.api import PythonAPI, construction
from vllm_enhance.engine.call import Call, admit
from vllm_enhance.engine.collector import EnhancedRequestOutputCollector, leading
from vllm_enhance.engine.inflight import Generation
from vllm_enhance.engine.invalidation import watched
from vllm_enhance.engine.lookups import first_answer
from vllm_enhance.engine.refusal import refuse
from vllm_enhance.engine.replay import Reader
from vllm_enhance.engine.runtime import Runtime
from vllm_enhance.engine.tape import Tape, answers
from vllm_enhance.errors import DirectiveError, RequestRejected
from vllm_enhance.records import GenerationRecord
from vllm_enhance.scope import Decision, current_scope
from vllm_enhance.types import Lookup, Outcome, Reject, Respond, Source, Waiting

__all__ = ["EnhancedAsyncLLM"]

logger = logging.getLogger("vllm_enhance")

PARAMETERS = tuple(inspect.signature(AsyncLLM.add_request).parameters)[4:]
"""Names after ``self, request_id, prompt, params``; their order changes between vLLM versions, so we go by name."""


@watched
class EnhancedAsyncLLM(PythonAPI, AsyncLLM):
    """``AsyncLLM`` with the cache in front; a drop-in for it.

    ``EnhancedAsyncLLM(model=…, handler_config=…)`` makes one from engine arguments (those of ``AsyncEngineArgs``).

    Attributes:
        enhance: the plugin's side, or ``None`` while this client serves plain.
    """

    enhance: Runtime | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs, self.assembly = construction(args, kwargs)
        super().__init__(*args, **kwargs)
        from vllm_enhance.engine.activation import make_runtime

        self.enhance = make_runtime(self, kwargs, self.assembly)

    # ------------------------------------------------------------------ requests

    @functools.wraps(AsyncLLM.add_request)
    async def add_request(
        self, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> EnhancedRequestOutputCollector:
        self._check_open()
        arrived = self._now()
        return self._given_out(await self._take(request_id, prompt, params, *args, **kwargs), request_id, arrived)

    async def _take(
        self, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> EnhancedRequestOutputCollector:
        runtime = self.enhance
        reason = _passes(runtime, prompt, params)
        if runtime is None or reason is not None or self.errored:
            scope = current_scope.get()
            if scope is not None and reason is not None:
                scope.decide(Decision(Source.ENGINE, reason=reason))
            return await super().add_request(request_id, prompt, params, *args, **kwargs)
        arrived = runtime.monotonic()
        named = _by_name(args, kwargs)
        engine_input = prompt
        if not (isinstance(prompt, dict) and "type" in prompt):
            engine_input = await self._render(prompt, named.get("tokenization_kwargs"))
        if engine_input is None:
            return await super().add_request(request_id, prompt, params, *args, **kwargs)
        try:
            if not runtime.started:
                await runtime.start()
            call = admit(runtime, request_id, engine_input, params, named)
        except DirectiveError as error:
            return refuse(request_id, params, RequestRejected(HTTPStatus.BAD_REQUEST, str(error)))
        except Exception as error:
            runtime.fault("admit", error)
            return await super().add_request(request_id, prompt, params, *args, **kwargs)
        call.marks["arrived"] = arrived
        return await self._serve(runtime, call)

    async def _render(self, prompt: Any, tokenization_kwargs: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Render a raw prompt as vLLM would, off the event loop (``v1/engine/input_processor.py``).

        ``None`` when it cannot be rendered: vLLM refuses it in its own words, and that is no fault of ours.
        """
        try:
            parsed = parse_model_prompt(self.model_config, prompt)
            tokenize = self.renderer.default_cmpl_tok_params.with_kwargs(**(tokenization_kwargs or {}))
            (rendered,) = await self.renderer.render_cmpl_async([parsed], tokenize)
        except Exception:
            return None
        return rendered

    async def _serve(self, runtime: Runtime, call: Call) -> EnhancedRequestOutputCollector:
        verdict = await runtime.dispatcher.pre_request(call.context, call.rewrite)
        if isinstance(verdict.decision, Reject):
            runtime.metrics.count("vllm_enhance_requests", 1, "rejected", verdict.plugin)
            rejection = RequestRejected(verdict.decision.status, verdict.decision.message)
            return refuse(call.request_id, call.params, rejection)
        if isinstance(verdict.decision, Respond):
            collector = self._replay(runtime, call, verdict.decision)
            if collector is not None:
                return collector
        if call.context.directives.only_if_cached:
            return await self._only_if_cached(runtime, call, verdict.lookups)
        return await self._join_or_lead(runtime, call, verdict.lookups)

    # ------------------------------------------------------------------ answered from what is stored

    def _replay(self, runtime: Runtime, call: Call, answer: Respond) -> EnhancedRequestOutputCollector | None:
        """Play a stored answer; ``None`` when it cannot be played, which is a counted fault and a miss."""
        try:
            record = record_of(runtime, call, answer)
            if not answers(record, call.params):
                raise ValueError("the answer lacks choices or logprobs that the request asks for")
            tape = Tape(call.params.n)
            tape.load(record)
        except Exception as error:
            runtime.fault("answer", error, ours=False)
            return None
        try:
            collector = self._collector(runtime, call, call.reader(tape))
        except Exception as error:
            runtime.fault("replay", error)
            return None
        runtime.table.enter(collector, call.request_id)
        runtime.decide(call, collector, hit(answer))
        self._watch_replay(runtime, call, collector, record, answer.source, answer.similarity)
        return collector

    def _watch_replay(
        self,
        runtime: Runtime,
        call: Call,
        collector: EnhancedRequestOutputCollector,
        record: GenerationRecord,
        source: Source,
        similarity: float | None,
    ) -> None:
        """Keep the books when the caller has read the last token or gone away."""

        def closed(collector: EnhancedRequestOutputCollector) -> None:
            runtime.table.leave(collector)
            seconds = runtime.monotonic() - call.marks["arrived"]
            runtime.metrics.observe("vllm_enhance_replay_seconds", seconds)
            runtime.finished(call, record, Outcome(source, False, similarity=similarity, seconds=seconds))

        collector.on_close = lambda each: runtime.safely(lambda: closed(each), None)

    async def _only_if_cached(
        self, runtime: Runtime, call: Call, lookups: list[Lookup]
    ) -> EnhancedRequestOutputCollector:
        """RFC 9111, section 5.2.1.7: a stored answer, or 504."""
        answer = await self._waited_for(runtime, lookups) if lookups else None
        collector = None if answer is None else self._replay(runtime, call, answer)
        if collector is not None:
            return collector
        runtime.metrics.count("vllm_enhance_requests", 1, "rejected", "only_if_cached")
        rejection = RequestRejected(HTTPStatus.GATEWAY_TIMEOUT, "only-if-cached: no stored answer fits this request")
        return refuse(call.request_id, call.params, rejection)

    # ------------------------------------------------------------------ answered by the engine, once

    async def _join_or_lead(
        self, runtime: Runtime, call: Call, lookups: list[Lookup]
    ) -> EnhancedRequestOutputCollector:
        shared = runtime.coalesce and call.context.key is not None and not call.context.directives.no_cache
        while shared and (generation := runtime.table.get(call.context.key or b"")) is not None:
            # A generation that the engine has not accepted yet may still be refused; then one of those who wait leads.
            admitted, found = await generation.admitted(), generation.found
            if admitted:
                collector = self._join(runtime, call, generation)
            elif found is not None and call.context.directives.accepts_age(found.age):
                collector = self._replay(runtime, call, found)
            else:
                continue
            if collector is not None:
                return collector
            runtime.table.close(generation)  # nobody can read it any more: one of those who wait leads
        return await self._lead(runtime, call, lookups, shared)

    def _join(self, runtime: Runtime, call: Call, generation: Generation) -> EnhancedRequestOutputCollector | None:
        """Read another request's generation; ``None`` when it has just failed."""
        tape = generation.tape
        if generation.failure is not None or tape.unusable is not None or not (generation.readers or tape.finished):
            return None
        try:
            collector = self._collector(runtime, call, call.reader(generation.tape))
            if not collector.final_only:
                self._report_each_step(generation)
        except Exception as error:
            runtime.fault("join", error)
            return None
        collector.joined, collector.generation = True, generation
        generation.join(collector)
        runtime.table.enter(collector, call.request_id)
        runtime.decide(call, collector, Decision(Source.JOINED))

        def closed(collector: EnhancedRequestOutputCollector) -> None:
            self._left(runtime, collector)
            if generation.tape.finished and generation.tape.unusable is None:
                seconds = runtime.monotonic() - call.marks["arrived"]
                record = runtime.new_record(generation)
                runtime.finished(call, record, Outcome(Source.JOINED, False, seconds=seconds))

        collector.on_close = lambda each: runtime.safely(lambda: closed(each), None)
        return collector

    def _report_each_step(self, generation: Generation) -> None:
        """A caller who streams has joined one who waits for the end: have the engine report every step.

        Only the reporting of a running request changes (``RequestState.output_kind``), and cumulative outputs are what
        the tape takes from a waiting leader anyway. Parallel samples are reported together, at the end.
        """
        if generation.kind == RequestOutputKind.FINAL_ONLY and generation.engine_id is not None:
            state = self.output_processor.request_states.get(generation.engine_id)
            if state is not None:
                state.output_kind = RequestOutputKind.CUMULATIVE

    async def _lead(
        self, runtime: Runtime, call: Call, lookups: list[Lookup], shared: bool
    ) -> EnhancedRequestOutputCollector:
        generation = Generation(call.context, call.params.output_kind, call.params.n)
        if shared and call.context.key is not None:
            runtime.table.open(call.context.key, generation)
        taken = False
        try:
            if lookups and self._waits_for_lookups(runtime, lookups):
                answer = await self._waited_for(runtime, lookups)
                collector = None if answer is None else self._replay(runtime, call, answer)
                if collector is not None:
                    generation.found = answer
                    return collector
                lookups = []
            collector = await self._start_engine(runtime, call, generation, bool(lookups))
            taken = collector.generation is generation
        finally:
            if not taken:  # answered, refused or cancelled: whoever waits to join must try for themselves
                runtime.table.close(generation)
                self._abort_soon(runtime, generation.engine_id)
                runtime.safely(call.context.end, None)
            generation.settle(taken)
        if taken and lookups:
            self._race(runtime, call, generation, lookups)
        return collector

    async def _waited_for(self, runtime: Runtime, lookups: list[Lookup]) -> Respond | None:
        """What lookups find before the engine starts, another process' generation included."""
        answer = await first_answer(lookups, runtime.metrics, runtime.settings["lookup-deadline"])
        if not isinstance(answer, Waiting):
            return answer
        try:
            return await answer.run()
        except Exception as error:
            runtime.fault("wait", error)
            return None

    def _waits_for_lookups(self, runtime: Runtime, lookups: list[Lookup]) -> bool:
        """Whether a lookup goes first: when asked for, and when the request would queue in the engine anyway."""
        return (
            runtime.settings["lookup"] == "blocking"
            or any(lookup.blocking for lookup in lookups)
            or runtime.queue_depth() >= runtime.max_num_seqs
        )

    async def _start_engine(
        self, runtime: Runtime, call: Call, generation: Generation, undecided: bool
    ) -> EnhancedRequestOutputCollector:
        miss = Decision(
            Source.ENGINE,
            reason=call.context.bypass_reason or ("no_cache" if call.context.directives.no_cache else None),
            stored=call.context.key is not None and not call.context.directives.no_store,
        )
        generation.on_finished = lambda each: self._finished(runtime, call, each)
        token = leading.set(weakref.ref(generation))
        try:
            collector = await super().add_request(call.request_id, call.prompt, call.params, **call.kwargs)
        finally:
            leading.reset(token)
        if not isinstance(collector, EnhancedRequestOutputCollector):
            runtime.decide(call, None, miss)
            return collector
        collector.call = call
        collector.make_reader = lambda: call.reader(generation.tape)
        collector.on_fault = runtime.fault
        collector.on_close = lambda each: runtime.safely(lambda: self._left(runtime, each), None)
        runtime.table.enter(collector, call.request_id)
        if undecided and generation.first_token_at is None:
            generation.on_first_token = lambda each: runtime.decide(call, collector, miss)
        else:
            runtime.decide(call, collector, miss)
        return collector

    def _race(self, runtime: Runtime, call: Call, generation: Generation, lookups: list[Lookup]) -> None:
        """Let slow lookups run against the engine's first token."""

        async def race() -> None:
            answer = await first_answer(lookups, runtime.metrics)
            record = answer.record if isinstance(answer, Respond) else None
            try:
                if isinstance(answer, Respond) and record is not None and generation.resolve(answer, record):
                    await self._overtake(runtime, call, generation, answer)
                    return
            except Exception as error:  # a damaged record: the engine is at work already
                runtime.fault("lookup", error, ours=False)
            if decide is not None:
                decide(generation)

        def first_token(each: Generation) -> None:
            task.cancel()
            if decide is not None:
                decide(each)

        if generation.first_token_at is not None:
            return
        decide = generation.on_first_token
        task = asyncio.create_task(race())
        generation.on_first_token = first_token
        runtime.races.add(task)
        task.add_done_callback(runtime.races.discard)

    async def _overtake(self, runtime: Runtime, call: Call, generation: Generation, answer: Respond) -> None:
        """A lookup was faster than the engine's first token: stop the engine's work and keep the books."""
        assert answer.record is not None
        runtime.table.close(generation)
        leader = generation.leader
        runtime.decide(call, leader, hit(answer))
        if leader is not None:
            self._watch_replay(runtime, call, leader, answer.record, answer.source, answer.similarity)
        runtime.safely(call.context.end, None)
        if generation.engine_id is not None:
            await asyncio.sleep(0)  # whoever reads goes first: to abort takes as long as to send the first token
            await super().abort([generation.engine_id], internal=True)

    # ------------------------------------------------------------------ ends

    def _finished(self, runtime: Runtime, call: Call, generation: Generation) -> None:
        """Called from vLLM's output handler: leave at once, do the rest in the next turn of the loop."""
        asyncio.get_running_loop().call_soon(
            lambda: runtime.safely(lambda: self._book(runtime, call, generation), None)
        )

    def _book(self, runtime: Runtime, call: Call, generation: Generation) -> None:
        try:
            if generation.failure is not None or not generation.tape.finished:
                return
            reason = runtime.unstorable(generation)
            if reason in ("aborted", "error", "fault"):
                runtime.metrics.count("vllm_enhance_not_stored", 1, reason)
                return
            seconds = runtime.monotonic() - call.marks["arrived"]
            outcome = Outcome(Source.ENGINE, reason is None, reason, seconds=seconds)
            runtime.finished(call, runtime.new_record(generation), outcome)
        finally:
            runtime.table.close(generation)
            call.context.end()

    def _left(self, runtime: Runtime, collector: EnhancedRequestOutputCollector) -> None:
        """A caller has read to the end (``generate`` closes its collector whatever happened)."""
        engine_id = runtime.table.leave(collector)
        self._abort_soon(runtime, engine_id)

    def _abort_soon(self, runtime: Runtime, engine_id: str | None) -> None:
        if engine_id is not None:
            task = asyncio.ensure_future(super().abort([engine_id], internal=True))
            runtime.races.add(task)
            task.add_done_callback(runtime.races.discard)

    @functools.wraps(AsyncLLM.abort)
    async def abort(self, request_id: str | Iterable[str], internal: bool = False) -> None:
        runtime = self.enhance
        if runtime is None:
            return await super().abort(request_id, internal)
        ids = [request_id] if isinstance(request_id, str) else list(request_id)
        real, foreign = runtime.table.abort(ids, internal)
        if real:
            await super().abort(real, internal=True)
        if foreign:
            await super().abort(foreign, internal)
        return None

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop the hooks, then the engine. Called by vLLM from a worker thread, and again on the loop's thread."""
        runtime: Runtime | None = getattr(self, "enhance", None)
        if runtime is not None:
            runtime.stop_from_any_thread()
        super().shutdown(timeout)

    # ------------------------------------------------------------------ small parts

    def _collector(self, runtime: Runtime, call: Call, reader: Reader) -> EnhancedRequestOutputCollector:
        internal_id = f"{call.request_id}-{secrets.token_hex(4)}"
        collector = EnhancedRequestOutputCollector(call.params.output_kind, internal_id)
        collector.call = call
        collector.on_fault = runtime.fault
        collector.play(reader)  # before it is entered anywhere: a record that cannot be played shows here
        return collector

    @property
    def enhance_control(self) -> Any:
        """What the HTTP routes and the command line talk to."""
        from vllm_enhance.engine.control import Control

        return None if self.enhance is None else Control(self.enhance)


def _by_name(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(PARAMETERS, args, strict=False)), **kwargs} if args else dict(kwargs)


def _passes(runtime: Runtime | None, prompt: Any, params: Any) -> str | None:
    """Why a request goes past the plugin as it is: it is no generation from a prompt, or the plugin stands aside."""
    if runtime is None or not runtime.active:
        return "disabled"
    if not isinstance(params, SamplingParams):
        return "pooling"
    if inspect.isasyncgen(prompt):
        return "streaming_input"
    return "engine_request" if isinstance(prompt, EngineCoreRequest) else None
