"""What the engine client of one process shares between its requests."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import vllm_enhance
from vllm_enhance.context import HookContext
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.engine.call import Call
from vllm_enhance.engine.collector import EnhancedRequestOutputCollector
from vllm_enhance.engine.control import Control
from vllm_enhance.engine.epoch import Epoch
from vllm_enhance.engine.identity import lora_identity, model_identity
from vllm_enhance.engine.idle import IdleGenerator
from vllm_enhance.engine.inflight import Generation, InflightTable
from vllm_enhance.engine.media import media_obstacle
from vllm_enhance.engine.nearest import HEAD
from vllm_enhance.engine.peers import Peers
from vllm_enhance.engine.pins import Pins
from vllm_enhance.engine.tracing import RequestTracer, make_tracer
from vllm_enhance.explain import ExplainLog, annotations_shown
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet
from vllm_enhance.records import GenerationRecord
from vllm_enhance.scope import Decision
from vllm_enhance.settings import Settings
from vllm_enhance.throttle import Throttle
from vllm_enhance.types import Outcome, Source

__all__ = ["Runtime"]

logger = logging.getLogger("vllm_enhance")

T = TypeVar("T")

FUSE_FAULTS = 20
FUSE_WINDOW = 60.0
STOP_DEADLINE = 10.0
PUBLISH_SECONDS = 0.25
MAX_QUESTION = 2000


class Runtime:
    """Settings, hooks, the in-flight table, the epoch and the books of one engine client.

    Args:
        client: the ``AsyncLLM`` that it serves.
        settings, plugins, metrics: as resolved at activation.
        epoch_path: file of the shared epoch; ``None`` for a single process. The processes ask each other in its folder.
        monotonic, clock: seconds; tests pass their own.
    """

    def __init__(
        self,
        client: Any,
        settings: Settings,
        plugins: PluginSet,
        metrics: Metrics,
        *,
        epoch_path: Path | None = None,
        api_process: tuple[int, int] = (0, 1),
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.client = client
        self.settings = settings
        self.plugins = plugins
        self.metrics = metrics
        self.monotonic = monotonic
        self.clock = clock
        self.api_process = api_process
        self.epoch = Epoch(epoch_path)
        self.table = InflightTable()
        self.pins = Pins(float(settings.get("cache-ttl", 3600.0)), monotonic)
        self.explain = ExplainLog(settings["explain-entries"])
        self.peers = Peers(None if epoch_path is None else epoch_path.parent, api_process, metrics, monotonic)
        self.dispatcher = Dispatcher(plugins.manager, metrics, deadline=settings["hook-deadline"], monotonic=monotonic)
        self.coalesce: bool = settings["coalesce"]
        self.cache_sampled: bool = settings["cache-sampled"]
        chunk = settings["replay-chunk"]
        self.replay_chunk = 64 if chunk == "auto" else max(1, int(chunk))
        config = client.vllm_config
        self.identity = model_identity(config)
        self.stream_interval = int(getattr(config.scheduler_config, "stream_interval", 1) or 1)
        self.max_model_len: int = client.model_config.max_model_len
        self.max_num_seqs: int = getattr(config.scheduler_config, "max_num_seqs", 256)
        self.media_obstacle = media_obstacle(client)
        observability = getattr(config, "observability_config", None)
        self.tracer = make_tracer(getattr(observability, "otlp_traces_endpoint", None), clock)
        self.started_at = clock()
        self._loras: dict[tuple[str, int, str], bytes] = {}
        self._throttle = Throttle(60.0, monotonic)
        self._faults: list[float] = []
        self.races: set[asyncio.Task[Any]] = set()
        self._open = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._started = False
        self._publisher: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ life cycle

    @property
    def active(self) -> bool:
        """Whether requests go through the plugin; off after too many faults, or after shutdown."""
        return self._open

    @property
    def started(self) -> bool:
        return self._started

    async def start(self) -> None:
        """Start the hooks, once; concurrent callers wait for the same start."""
        if self._started or not self._open:
            return
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        context = HookContext(
            settings=self.settings,
            metrics=self.metrics,
            model=self.model_name(None),
            identity=self.identity,
            clock=self.clock,
            monotonic=self.monotonic,
            count_tokens=lambda text: len(self.tokenizer.encode(text)) if self.tokenizer else len(text),
            tokenize=(lambda text: self.tokenizer.encode(text, add_special_tokens=False)) if self.tokenizer else None,
            queue_depth=self.queue_depth,
            generate_idle=None if self.tokenizer is None else IdleGenerator(self.client, self.queue_depth).generate,
            api_process=self.api_process,
            max_model_len=self.max_model_len,
        )
        await self.dispatcher.startup(context, self.plugins.drop)
        await self.peers.listen(Control(self).answer)
        self.metrics.gauge("vllm_enhance_enabled", 1)
        table = self.table
        self.metrics.watch("vllm_enhance_inflight_generations", lambda: len(table))
        self.metrics.watch("vllm_enhance_joined_requests", lambda: table.num_joined)
        self.metrics.hold()
        self._publish()
        self._started = True
        logger.info(
            "vllm-enhance %s is on: hooks %s; joined generations %s; sampled answers are %s; identity %s",
            vllm_enhance.__version__,
            ", ".join(plugin.name for plugin in self.plugins.loaded) or "none",
            "on" if self.coalesce else "off",
            "reused too (--enhance-cache-sampled off reuses only greedy and seeded ones)"
            if self.cache_sampled
            else "not reused",
            self.identity.hex()[:8],
        )
        for name, reason in self.plugins.broken.items():
            logger.error("hook package %s is left out: %s", name, reason)

    async def stop(self) -> None:
        """Stop the hooks; requests go past the plugin from now on. Safe to call twice."""
        self._open = False
        if self._started:
            self._started = False
            await self.peers.close()
            await self.dispatcher.shutdown()
            self.metrics.gauge("vllm_enhance_enabled", 0)
            if self._publisher is not None:
                self._publisher.cancel()
            self.metrics.release()

    def _publish(self) -> None:
        self.metrics.publish()
        # Weak: an engine that its user has dropped goes, and the loop must not hold it.
        self._publisher = asyncio.get_running_loop().call_later(PUBLISH_SECONDS, _publish_again, weakref.ref(self))

    def stop_from_any_thread(self) -> None:
        """Stop the hooks as far as can be from here: waits when called beside the loop, schedules when called on it."""
        loop = self._loop
        if not self._started or loop is None or loop.is_closed() or not loop.is_running():
            self._open = False
            return
        try:
            on_loop = asyncio.get_running_loop() is loop
        except RuntimeError:
            on_loop = False
        if on_loop:
            task = loop.create_task(self.stop())
            self.races.add(task)
            task.add_done_callback(self.races.discard)
            return
        try:
            asyncio.run_coroutine_threadsafe(self.stop(), loop).result(STOP_DEADLINE)
        except Exception as error:
            logger.warning("the hooks did not stop cleanly: %s", type(error).__name__)

    # ------------------------------------------------------------------ what the engine is

    @property
    def tokenizer(self) -> Any:
        """The server's tokenizer, or ``None`` when it was started without."""
        return self.client.renderer.tokenizer

    def detokenize(self, ids: Sequence[int]) -> str:
        return "" if self.tokenizer is None else str(self.tokenizer.decode(list(ids)))

    @property
    def verify_arguments(self) -> tuple[Any, ...]:
        """What ``SamplingParams.verify`` wants in this vLLM."""
        config = self.client.vllm_config
        return (
            self.client.model_config,
            config.speculative_config,
            config.structured_outputs_config,
            self.tokenizer,
        )

    def model_name(self, lora: Any) -> str:
        """Served model name, or the adapter's."""
        if lora is not None:
            return str(lora.lora_name)
        names = self.client.model_config.served_model_name
        return str(names if isinstance(names, str) else names[0]) if names else str(self.client.model_config.model)

    def lora_identity(self, lora: Any) -> bytes:
        """Identity of an adapter, read from its files once per load."""
        if lora is None:
            return b""
        name = (lora.lora_name, lora.lora_int_id, str(lora.lora_path))
        if name not in self._loras:
            if len(self._loras) >= 1024:
                self._loras.clear()
            self._loras[name] = lora_identity(lora)
        return self._loras[name]

    def forget_adapters(self) -> None:
        """Read the files of each adapter again at its next use."""
        self._loras.clear()

    def queue_depth(self) -> int:
        """Requests of this process that the engine has not finished."""
        return int(self.client.output_processor.get_num_unfinished_requests())

    # ------------------------------------------------------------------ faults

    def fault(self, where: str, error: BaseException, *, ours: bool = True) -> None:
        """Count a fault; too many of ours in a short time and the plugin stands aside until the next start.

        Args:
            ours: not so for an answer of a hook or store that cannot be played: that is a miss.
        """
        try:
            self.metrics.count("vllm_enhance_faults", 1, where)
        except Exception:
            logger.exception("a fault could not be counted")
        held = self._throttle.allow(where)
        if held is not None:
            logger.error(
                "fault in %s, served by plain vLLM (%s more since the last such line)", where, held, exc_info=error
            )
        if not ours:
            return
        now = self.monotonic()
        self._faults = [*[at for at in self._faults if now - at < FUSE_WINDOW][-FUSE_FAULTS:], now]
        if len(self._faults) > FUSE_FAULTS:
            self.stand_aside(f"{len(self._faults)} faults in a minute")

    def stand_aside(self, why: str) -> None:
        """Let requests go past the plugin until the next start of the server."""
        if self._open:
            self._open = False
            self.metrics.gauge("vllm_enhance_enabled", 0)
            logger.error("vllm-enhance stands aside (%s); vLLM serves plain", why)

    def safely(self, function: Callable[[], T], default: T) -> T:
        """``function()``, or ``default`` with a counted fault when it raises."""
        try:
            return function()
        except Exception as error:
            self.fault("safely", error)
            return default

    def forget(self, cause: str, *, count: bool = True) -> None:
        """Stored answers are no longer what the engine would say."""
        self.epoch.bump()
        self._loras.clear()
        if count:
            self.metrics.count("vllm_enhance_invalidations", 1, cause)
            logger.info("stored answers are forgotten: %s", cause)

    # ------------------------------------------------------------------ books

    def decide(self, call: Call, collector: EnhancedRequestOutputCollector | None, decision: Decision) -> None:
        """Tell everybody how a request will be answered, once. Never raises: a book is not worth a request."""
        if "decided" not in call.marks:
            self.safely(lambda: self._decide(call, collector, decision), None)

    def _decide(self, call: Call, collector: EnhancedRequestOutputCollector | None, decision: Decision) -> None:
        call.marks["decided"] = now = self.monotonic()
        seconds = now - call.marks["arrived"]
        if collector is not None:
            collector.decision = decision
        context = call.context
        self.metrics.count("vllm_enhance_requests", 1, decision.source.value, decision.reason or "")
        self.metrics.observe("vllm_enhance_decide_seconds", seconds)
        if decision.hit:
            self.metrics.observe("vllm_enhance_hit_age_seconds", decision.age)
        if context.scope is not None:
            context.scope.decide(decision)
        self.explain.write(
            context.request_id,
            at=self.clock(),
            model=context.model,
            source=decision.source.value,
            reason=decision.reason,
            age=decision.age if decision.hit else None,
            similarity=decision.similarity,
            stored=decision.stored,
            key=None if call.key is None else call.key.digest,
            parts=None if call.key is None else call.key.parts,
            params=None if call.key is None else context.params,
            head=None if call.key is None else context.prompt_token_ids[:HEAD],
            prompt_tokens=len(context.prompt_token_ids),
            tenant=context.tenant,
            notes=context.notes,
            decided_seconds=seconds,
            **self._question_shown(call),
        )
        if self.tracer is not None:
            self._trace_decision(self.tracer, call, decision, seconds)

    def _trace_decision(self, tracer: RequestTracer, call: Call, decision: Decision, seconds: float) -> None:
        tracer.decided(
            call.kwargs.get("trace_headers"),
            seconds,
            {
                "request_id": call.context.request_id,
                "source": decision.source.value,
                "reason": decision.reason,
                "similarity": decision.similarity,
                "age": decision.age if decision.hit else None,
            },
        )

    def _question_shown(self, call: Call) -> dict[str, str]:
        """The question as text, if the operator allows that."""
        if not self.settings["log-prompts"]:
            return {}
        question = self.safely(lambda: call.context.question, None)
        return {} if question is None else {"question": question.text[:MAX_QUESTION]}

    def _trace_reuse(self, call: Call, record: GenerationRecord, outcome: Outcome) -> None:
        tracer = self.tracer
        if tracer is None:
            return
        attributes = {
            "request_id": call.context.request_id,
            "prompt_tokens": len(call.context.prompt_token_ids),
            "output_tokens": record.num_tokens,
            "source": outcome.source.value,
            "similarity": outcome.similarity,
        }
        headers = call.kwargs.get("trace_headers")
        self.safely(lambda: tracer.reused(headers, outcome.seconds, attributes), None)

    def saved(self, record: GenerationRecord) -> None:
        """Book what a reused answer did not cost."""
        self.metrics.count("vllm_enhance_saved_tokens", record.num_tokens)
        self.metrics.count("vllm_enhance_saved_engine_seconds", record.engine_seconds)

    def finished(self, call: Call, record: GenerationRecord, outcome: Outcome) -> None:
        """Tell the hooks that a request has its answer."""
        if outcome.source is Source.ENGINE and outcome.reason is not None:
            self.metrics.count("vllm_enhance_not_stored", 1, outcome.reason)
        if outcome.source is not Source.ENGINE:
            self.saved(record)
            self._trace_reuse(call, record, outcome)
        self.explain.write(
            call.context.request_id,
            seconds=outcome.seconds,
            storable=outcome.storable,
            not_stored=outcome.reason if not outcome.storable else None,
            output_tokens=record.num_tokens,
            **annotations_shown(call.context.annotations, prompts=self.settings["log-prompts"]),
        )
        self.dispatcher.post_output(call.context, record, outcome)

    def unstorable(self, generation: Generation) -> str | None:
        """Why a finished generation must not be kept, or ``None``."""
        context, tape = generation.context, generation.tape
        if context.key is None:
            return context.bypass_reason or "bypass"
        if tape.unusable is not None:
            return tape.unusable
        if context.directives.no_store:
            return "no_store"
        if context.epoch != self.epoch.value or self.epoch.state:
            return "weights_changed"
        return self._cut_by_server(generation)

    def _cut_by_server(self, generation: Generation) -> str | None:
        """An answer cut by a limit of the server, not of the request, is not the answer."""
        context = generation.context
        limit, prompt = context.params.max_tokens, len(context.prompt_token_ids)
        for choice in generation.tape.choices:
            tokens = len(choice.token_ids)
            if choice.finish_reason == "length" and (
                limit is None or tokens < limit or prompt + tokens >= self.max_model_len
            ):
                return "cut_by_server"
        return None

    def new_record(self, generation: Generation) -> GenerationRecord:
        """The record of a finished generation; one for all who read it."""
        if generation.record is not None:
            return generation.record
        now = self.monotonic()
        first = generation.first_token_at or now
        generation.record = generation.tape.record(
            prompt_tokens=generation.context.num_asked_tokens,
            created_at=self.clock(),
            seconds=now - generation.started_at,
            first_token_seconds=first - generation.started_at,
            model=generation.context.model,
        )
        return generation.record


def _publish_again(runtime: weakref.ref[Runtime]) -> None:
    alive = runtime()
    if alive is not None:
        alive._publish()
