"""Offline use: ``vllm.LLM(...).generate`` and ``chat`` with answers reused between calls and within a batch.

vLLM's ``LLM`` adds all requests of a call to its ``LLMEngine`` and then steps it until none is left
(``vllm/entrypoints/common/offline.py``). So an answer that need not be generated is put beside the engine here and
handed out by the next ``step``, under the id that the request would have had. Key, hooks, tape and replay are the
server's own; the hooks run on an event loop in a thread, since there is none here.
"""

from __future__ import annotations

import functools
import inspect
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.llm_engine import LLMEngine

from vllm_enhance.engine.answers import hit, record_of
from vllm_enhance.engine.call import Call, admit
from vllm_enhance.engine.inflight import Generation
from vllm_enhance.engine.invalidation import EVENTS, Event
from vllm_enhance.engine.lookups import first_answer
from vllm_enhance.engine.loop_thread import LoopThread
from vllm_enhance.engine.replay import Reader
from vllm_enhance.engine.runtime import Runtime
from vllm_enhance.engine.tape import Tape
from vllm_enhance.errors import DirectiveError
from vllm_enhance.scope import Decision
from vllm_enhance.types import Lookup, Outcome, Reject, Respond, Source, Waiting

__all__ = ["EnhancedLLMEngine"]

logger = logging.getLogger("vllm_enhance")

PARAMETERS = tuple(inspect.signature(LLMEngine.add_request).parameters)[4:]
START_SECONDS = 120.0
"""Hooks may load models when they start."""
STOP_SECONDS = 10.0


@dataclass(eq=False)
class Lead:
    """A request that the engine works on, and those who wait for the same answer.

    Attributes:
        engine_id: vLLM's internal id.
        silent: its own caller has gone; it runs for the others.
    """

    call: Call
    engine_id: str
    generation: Generation
    waiting: dict[str, Call] = field(default_factory=dict)
    silent: bool = False


class EnhancedLLMEngine(LLMEngine):
    """``LLMEngine`` with the cache in front."""

    enhance: Runtime | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answers: dict[str, tuple[str, Reader]] = {}
        self._leads: dict[str, Lead] = {}
        self._by_key: dict[bytes, Lead] = {}
        self._thread: LoopThread | None = None
        if self.dp_group is not None:
            logger.warning("ENHANCE has no effect on LLM with data parallelism: its ranks must take the same steps")
            return
        from vllm_enhance.engine.activation import make_runtime

        runtime = make_runtime(self, kwargs)
        if runtime is not None:
            self._thread = LoopThread("enhance-offline")
            self._thread.run(runtime.start(), START_SECONDS)
        self.enhance = runtime

    @property
    def errored(self) -> bool:
        """As ``AsyncLLM.errored``; an offline engine raises where it is used."""
        return False

    # ------------------------------------------------------------------ requests

    @functools.wraps(LLMEngine.add_request)
    def add_request(self, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> str:
        runtime = self.enhance
        if runtime is None or not runtime.active or not self._is_ours(request_id, prompt, params):
            return super().add_request(request_id, prompt, params, *args, **kwargs)
        arrived = runtime.monotonic()
        try:
            named = {**dict(zip(PARAMETERS, args, strict=False)), **kwargs}
            call = admit(runtime, request_id, prompt, params, named)
            call.marks["arrived"] = arrived
            answer = self._ask(runtime, call)
            taken = self._answer(runtime, call, answer) if answer is not None else self._join(runtime, call)
        except (DirectiveError, RefusedError):
            raise
        except Exception as error:
            runtime.fault("offline", error)
            return super().add_request(request_id, prompt, params, *args, **kwargs)
        return self._lead(runtime, call) if taken is None else taken

    def _is_ours(self, request_id: str, prompt: Any, params: Any) -> bool:
        return (
            isinstance(params, SamplingParams)
            and isinstance(prompt, Mapping)
            and "type" in prompt
            and not isinstance(prompt, EngineCoreRequest)
            and isinstance(request_id, str)
            and request_id not in self._leads
        )

    def _ask(self, runtime: Runtime, call: Call) -> Respond | None:
        """Ask the hooks, on their loop, and wait."""
        assert self._thread is not None
        verdict = self._thread.run(_verdict(runtime, call))
        if isinstance(verdict, Reject):
            runtime.metrics.count("vllm_enhance_requests", 1, "rejected", "hook")
            raise RefusedError(verdict.message)
        return verdict

    def _answer(self, runtime: Runtime, call: Call, answer: Respond) -> str | None:
        """Put a stored answer beside the engine; ``None`` when it cannot be played."""
        try:
            record = record_of(runtime, call, answer)
            tape = Tape(call.params.n)
            tape.load(record)
        except Exception as error:
            runtime.fault("replay", error)
            return None
        runtime.decide(call, None, hit(answer))
        engine_id = self._hand_out(call, tape)
        seconds = runtime.monotonic() - call.marks["arrived"]
        outcome = Outcome(answer.source, False, similarity=answer.similarity, seconds=seconds)
        self._on_loop(runtime.finished, call, record, outcome)
        return engine_id

    def _hand_out(self, call: Call, tape: Tape, engine_id: str | None = None) -> str:
        engine_id = engine_id or f"{call.request_id}-{secrets.token_hex(4)}"
        self._answers[engine_id] = (call.request_id, call.reader(tape))
        return engine_id

    def _join(self, runtime: Runtime, call: Call) -> str | None:
        """Wait for the same request of this batch."""
        context = call.context
        lead = self._by_key.get(context.key) if context.key is not None and runtime.coalesce else None
        if lead is None or context.directives.no_cache:
            return None
        engine_id = f"{call.request_id}-{secrets.token_hex(4)}"
        lead.waiting[engine_id] = call
        runtime.decide(call, None, Decision(Source.JOINED))
        return engine_id

    def _lead(self, runtime: Runtime, call: Call) -> str:
        engine_id = super().add_request(call.request_id, call.prompt, call.params, **call.kwargs)
        context = call.context
        lead = Lead(call, engine_id, Generation(context, call.params.output_kind, call.params.n))
        self._leads[call.request_id] = lead
        if context.key is not None and not context.directives.no_cache:
            self._by_key.setdefault(context.key, lead)
        stored = context.key is not None and not context.directives.no_store
        runtime.decide(call, None, Decision(Source.ENGINE, reason=context.bypass_reason, stored=stored))
        return engine_id

    # ------------------------------------------------------------------ steps

    def has_unfinished_requests(self) -> bool:
        return bool(self._answers) or super().has_unfinished_requests()

    def get_num_unfinished_requests(self) -> int:
        waiting = sum(len(lead.waiting) - lead.silent for lead in self._leads.values())
        return len(self._answers) + waiting + super().get_num_unfinished_requests()

    def step(self) -> list[Any]:
        """vLLM's step, and what is there beside it. The engine is not asked when it has nothing to do: it would wait
        for ever."""
        outputs: list[Any] = []
        if super().has_unfinished_requests() or self.should_execute_dummy_batch:
            for output in super().step():
                outputs += self._passed(output)
        for engine_id, (_, reader) in list(self._answers.items()):
            played = reader.read()
            if played is not None:
                outputs.append(played)
            if reader.done or played is None:
                self._answers.pop(engine_id, None)
        return outputs

    def _passed(self, output: Any) -> list[Any]:
        """Record an output of the engine; nothing of ours may keep it from its caller."""
        lead = self._leads.get(output.request_id) if isinstance(output, RequestOutput) else None
        runtime = self.enhance
        if lead is None or runtime is None:
            return [output]
        try:
            lead.generation.feed(output)
        except Exception as error:
            runtime.fault("record", error)
            lead.generation.tape.unusable = "fault"
        if output.finished:
            self._close(runtime, lead)
        return [] if lead.silent else [output]

    def _close(self, runtime: Runtime, lead: Lead) -> None:
        self._forget(lead)
        tape = lead.generation.tape
        for engine_id, call in lead.waiting.items():
            if tape.finished and tape.unusable is None:
                self._hand_out(call, tape, engine_id)
            else:  # what the leader got is no answer for others
                self._again(call, engine_id)
        try:
            self._book(runtime, lead)
        except Exception as error:
            runtime.fault("books", error)
        self._on_loop(lead.call.context.end)

    def _again(self, call: Call, engine_id: str) -> None:
        """Generate for a request that waited in vain."""
        super().add_request(call.request_id, call.prompt, call.params, **call.kwargs)

    def _book(self, runtime: Runtime, lead: Lead) -> None:
        generation = lead.generation
        reason = runtime.unstorable(generation)
        if reason in ("aborted", "error", "fault"):
            runtime.metrics.count("vllm_enhance_not_stored", 1, reason)
            return
        record = runtime.new_record(generation)
        now = runtime.monotonic()
        outcome = Outcome(Source.ENGINE, reason is None, reason, seconds=now - lead.call.marks["arrived"])
        self._on_loop(runtime.finished, lead.call, record, outcome)
        for call in lead.waiting.values():
            joined = Outcome(Source.JOINED, False, seconds=now - call.marks["arrived"])
            self._on_loop(runtime.finished, call, record, joined)

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        """Drop what is beside the engine; a generation that others wait for goes on without its first caller."""
        left = [name for name in request_ids if not self._drop(name, internal)]
        super().abort_request(left, internal)

    def _drop(self, name: str, internal: bool) -> bool:
        """Whether an abort was settled here, without the engine."""

        def matches(engine_id: str, external: str) -> bool:
            return name == (engine_id if internal else external)

        for engine_id, (external, _) in list(self._answers.items()):
            if matches(engine_id, external):
                del self._answers[engine_id]
                return True
        for lead in list(self._leads.values()):
            for engine_id, call in list(lead.waiting.items()):
                if matches(engine_id, call.request_id):
                    del lead.waiting[engine_id]
                    return True
            if matches(lead.engine_id, lead.call.request_id):
                lead.silent = bool(lead.waiting)
                if not lead.silent:
                    self._forget(lead)
                    self._on_loop(lead.call.context.end)
                return lead.silent
        return False

    def _forget(self, lead: Lead) -> None:
        self._leads.pop(lead.call.request_id, None)
        key = lead.call.context.key
        if key is not None and self._by_key.get(key) is lead:
            del self._by_key[key]

    # ------------------------------------------------------------------ the thread

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Tell the hooks, and wait: the next request of this caller must find what was kept."""
        thread, runtime = self._thread, self.enhance
        assert thread is not None
        assert runtime is not None

        async def work() -> None:
            runtime.safely(lambda: function(*arguments), None)

        thread.run(work())

    def __del__(self) -> None:
        thread, runtime = getattr(self, "_thread", None), self.enhance
        if thread is not None and runtime is not None:
            self.enhance = self._thread = None
            thread.end(runtime.stop(), STOP_SECONDS)
        super().__del__()


class RefusedError(ValueError):
    """A hook refuses this prompt; a ``ValueError``, as vLLM raises for prompts that it refuses itself."""


async def _verdict(runtime: Runtime, call: Call) -> Respond | Reject | None:
    verdict = await runtime.dispatcher.pre_request(call.context, call.rewrite)
    if isinstance(verdict.decision, Respond | Reject):
        return verdict.decision
    lookups: list[Lookup] = verdict.lookups
    if not lookups:
        return None
    answer = await first_answer(lookups, runtime.metrics, runtime.settings["lookup-deadline"])
    # Waiting for another process here would keep this one's own batch from being worked on.
    return None if isinstance(answer, Waiting) else answer


# --------------------------------------------------------------------------- invalidation

OFFLINE_EVENTS = (*EVENTS, Event("set_weight_version", "weights"))


def _watch(event: Event, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: EnhancedLLMEngine, *args: Any, **kwargs: Any) -> Any:
        runtime = self.enhance
        if runtime is None:
            return original(self, *args, **kwargs)
        forgets = runtime.safely(lambda: event.forgets(runtime, args, kwargs), default=True)
        if forgets:
            runtime.forget(event.cause)
        if event.enters:
            runtime.epoch.enter(event.enters)
        entered, result = False, None
        try:
            result = original(self, *args, **kwargs)
            entered = True
            return result
        finally:
            if forgets:
                runtime.forget(event.cause, count=False)
            runtime.epoch.leave(event.left(entered, result))

    return method


for _event in OFFLINE_EVENTS:
    _original = vars(LLMEngine).get(_event.method)
    if _original is not None:
        setattr(EnhancedLLMEngine, _event.method, _watch(_event, _original))
