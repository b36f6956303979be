"""vLLM's own client loop over a scripted engine core.

``AsyncLLM.add_request``, ``generate``, ``abort`` and ``OutputProcessor`` are vLLM's; only the engine core process is
replaced, by a script that says which tokens come in which step. So the tests decide what happens when, and what is
compared is what vLLM itself makes of the same engine outputs.
"""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import numpy as np
    import torch
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import RequestOutputKind, SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor
    from vllm.v1.outputs import LogprobsLists, LogprobsTensors

    from vllm_enhance.engine import client, patches
    from vllm_enhance.engine.collector import EnhancedRequestOutputCollector
    from vllm_enhance.engine.runtime import Runtime

from prometheus_client import CollectorRegistry

from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet, new_manager
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable

DELTA, CUMULATIVE, FINAL = RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE, RequestOutputKind.FINAL_ONLY
KINDS = (DELTA, CUMULATIVE, FINAL)
WORDS = (" the", "ab", "bc", "abc", "Hello", "é", "\u4e16", "END", "\n\n", "a b", "b a")
SPECIAL = ("<|bos|>", "<|eos|>", "<|end|>")
WORD_0 = 256
BOS, EOS, END = (WORD_0 + len(WORDS) + index for index in range(3))
VOCABULARY = WORD_0 + len(WORDS) + len(SPECIAL)


@functools.cache
def tokenizer() -> Any:
    """Byte-level: ids 0 to 255 are bytes, so parts of UTF-8 characters are tokens; then words, then special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    letters = [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]
    vocabulary = {letter: byte for byte, letter in enumerate(letters)}
    for index, word in enumerate(WORDS):
        vocabulary["".join(letters[byte] for byte in word.encode())] = WORD_0 + index
    for index, word in enumerate(SPECIAL):
        vocabulary[word] = WORD_0 + len(WORDS) + index
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        additional_special_tokens=[SPECIAL[2]],
        model_max_length=4096,
    )


# --------------------------------------------------------------------------- engine core outputs


@dataclass
class Step:
    """What the engine makes for one choice in one step."""

    tokens: Sequence[int]
    finish: str | None = None
    stop: int | str | None = None


def core_output(
    request_id: str,
    step: Step,
    *,
    logprobs: int | None = None,
    prompt_logprobs: tuple[Sequence[int], int] | None = None,
    seed: int = 0,
) -> EngineCoreOutput:
    """An ``EngineCoreOutput`` as the scheduler makes it, with made-up but repeatable logprobs."""
    finish = None if step.finish is None else {str(reason): reason for reason in FinishReason}[step.finish]
    return EngineCoreOutput(
        request_id=request_id,
        new_token_ids=list(step.tokens),
        new_logprobs=None if logprobs is None else _lists(step.tokens, logprobs, seed),
        new_prompt_logprobs_tensors=None if prompt_logprobs is None else _tensors(*prompt_logprobs),
        finish_reason=finish,
        stop_reason=step.stop,
    )


def _rows(tokens: Sequence[int], width: int, seed: int) -> tuple[list[list[int]], list[list[float]], list[int]]:
    ids, values, ranks = [], [], []
    for place, token in enumerate(tokens):
        rng = np.random.default_rng([seed, token, place])
        # The sampled token comes first and may be among the most likely, as in vLLM's sampler.
        others = [each for each in map(int, rng.permutation(VOCABULARY)[: width + 1]) if each != token][:width]
        if width and token % 2:
            others[0] = token
        row = [float(each) for each in -rng.random(width + 1).astype(np.float32)]
        if width and token % 2:
            row[1] = row[0]
        ids.append([token, *others])
        values.append(row)
        ranks.append(int(rng.integers(1, 50)))
    return ids, values, ranks


def _lists(tokens: Sequence[int], width: int, seed: int) -> LogprobsLists:
    ids, values, ranks = _rows(tokens, width, seed)
    shape = (len(tokens), width + 1)
    return LogprobsLists(
        np.array(ids, np.int32).reshape(shape), np.array(values, np.float32).reshape(shape), np.array(ranks, np.int32)
    )


def _tensors(tokens: Sequence[int], width: int) -> LogprobsTensors:
    ids, values, ranks = _rows(tokens[1:], width, 7)
    shape = (len(tokens) - 1, width + 1)
    return LogprobsTensors(
        torch.tensor(ids, dtype=torch.int32).reshape(shape),
        torch.tensor(values, dtype=torch.float32).reshape(shape),
        torch.tensor(ranks, dtype=torch.int32),
    )


# --------------------------------------------------------------------------- the engine core


class ScriptedCore:
    """What ``AsyncLLM`` asks of the engine core process.

    Each added request is in :attr:`running` until its script has ended; :meth:`step` hands out engine outputs.

    Args:
        script: steps of a request, by prompt; used by :meth:`run` and by ``autorun``.
        autorun: each request runs through its script by itself, one step per turn of the loop.
    """

    def __init__(self, script: Callable[[EngineCoreRequest], Iterable[Step]] | None = None, *, autorun: bool = False):
        self.script = script or (lambda request: [Step([104]), Step([105]), Step([EOS], "stop")])
        self.autorun = autorun
        self.added: list[EngineCoreRequest] = []
        self.aborted: list[str] = []
        self.running: dict[str, EngineCoreRequest] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.gate: asyncio.Event | None = None
        self.refusal: BaseException | None = None
        self.resources = SimpleNamespace(engine_dead=False)
        self._outputs: asyncio.Queue[EngineCoreOutputs | Exception] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.added.append(request)
        self.running[request.request_id] = request
        if self.autorun:
            task = asyncio.create_task(self.run(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def abort_requests_async(self, ids: Sequence[str]) -> None:
        for name in ids:
            if self.running.pop(name, None) is not None:
                self.aborted.append(name)

    async def get_output_async(self) -> EngineCoreOutputs:
        outputs = await self._outputs.get()
        if isinstance(outputs, Exception):
            raise outputs
        return outputs

    def shutdown(self, timeout: float | None = None) -> None:
        for task in self._tasks:
            task.cancel()

    def __getattr__(self, name: str) -> Any:
        """Utility calls (``sleep_async``, ``collective_rpc_async``, ...): noted, answered with ``None``."""
        if not name.endswith("_async"):
            raise AttributeError(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args))
            answer = self.answers.get(name)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call

    answers: dict[str, Any] = {}  # noqa: RUF012

    # ------------------------------------------------------------------ the script's side

    def say(self, request: EngineCoreRequest, step: Step, *, first: bool = False) -> None:
        """Hand out one step of one request (a child of ``n``, where ``n > 1``)."""
        params = request.sampling_params
        assert params is not None
        prompt = None
        if first and params.prompt_logprobs is not None:
            prompt = (request.prompt_token_ids or [], params.prompt_logprobs)
        output = core_output(
            request.request_id, step, logprobs=params.logprobs, prompt_logprobs=prompt, seed=params.seed or 0
        )
        self._outputs.put_nowait(EngineCoreOutputs(outputs=[output]))
        if step.finish is not None:
            self.running.pop(request.request_id, None)

    def die(self, error: Exception) -> None:
        """The engine core process is gone."""
        self.resources.engine_dead = True
        self._outputs.put_nowait(error)

    async def run(self, request: EngineCoreRequest) -> None:
        """Run one request through its script, a step per turn of the loop."""
        for index, step in enumerate(self.script(request)):
            await asyncio.sleep(0)
            if request.request_id not in self.running:
                return
            self.say(request, step, first=index == 0)
            await asyncio.sleep(0)

    async def run_all(self) -> None:
        for request in list(self.running.values()):
            await self.run(request)


class _Inputs:
    """``InputProcessor``, without a model: rendered token prompts to engine requests."""

    assign_request_id = staticmethod(InputProcessor.assign_request_id)

    def __init__(self) -> None:
        self.refusal: Exception | None = None

    def process_inputs(self, request_id: str, prompt: Any, params: SamplingParams, **kwargs: Any) -> EngineCoreRequest:
        if self.refusal is not None:
            raise self.refusal
        cloned = params.clone()
        if cloned.max_tokens is None:
            cloned.max_tokens = 4096 - len(prompt["prompt_token_ids"])
        cloned.update_from_generation_config({}, EOS)
        return EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=prompt["prompt_token_ids"],
            mm_features=None,
            sampling_params=cloned,
            pooling_params=None,
            arrival_time=kwargs.get("arrival_time") or 0.0,
            lora_request=kwargs.get("lora_request"),
            cache_salt=prompt.get("cache_salt"),
            data_parallel_rank=None,
        )


class _Renderer:
    mm_processor_cache = None

    def __init__(self, made: Any) -> None:
        self.tokenizer = made

    def stat_mm_cache(self) -> None:
        return None

    def shutdown(self) -> None:
        return None

    async def clear_mm_cache_async(self) -> None:
        return None


def _dress(self: Any, core: ScriptedCore, stream_interval: int = 1) -> None:
    self.model_config = SimpleNamespace(
        max_model_len=4096,
        served_model_name="scripted",
        model="scripted",
        tokenizer="scripted",
        is_encoder_decoder=False,
        hf_config=SimpleNamespace(),
        get_diff_sampling_param=dict,
    )
    self.scheduler_config = SimpleNamespace(
        stream_interval=stream_interval, max_num_seqs=256, max_num_queued_reqs=None, max_num_queued_tokens=None
    )
    self.vllm_config = SimpleNamespace(
        model_config=self.model_config,
        scheduler_config=self.scheduler_config,
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        parallel_config=SimpleNamespace(),
        speculative_config=None,
        structured_outputs_config=None,
        compute_hash=lambda: "scripted",
    )
    self.observability_config = SimpleNamespace(otlp_traces_endpoint=None)
    self.renderer = _Renderer(tokenizer())
    self.input_processor = _Inputs()
    self.output_processor = OutputProcessor(tokenizer(), log_stats=False, stream_interval=stream_interval)
    self.engine_core = core
    self.output_handler = None
    self.log_requests = False
    self.log_stats = False
    self.logger_manager = None
    self.admission_stats = None


class PlainLLM(AsyncLLM):
    """vLLM's ``AsyncLLM`` over a :class:`ScriptedCore`."""

    def __init__(self, core: ScriptedCore, stream_interval: int = 1) -> None:
        _dress(self, core, stream_interval)

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self, timeout: float | None = None) -> None:
        handler = getattr(self, "output_handler", None)
        if handler is not None:
            handler.cancel()


class ScriptedLLM(client.EnhancedAsyncLLM):
    """The enhanced client over a :class:`ScriptedCore`.

    Args:
        hooks: objects with hook implementations, in the order of their calls.
        settings: texts of settings.
    """

    def __init__(
        self,
        core: ScriptedCore,
        hooks: Sequence[object] = (),
        stream_interval: int = 1,
        settings: Mapping[str, str] | None = None,
        **runtime: Any,
    ) -> None:
        _dress(self, core, stream_interval)
        plugins = PluginSet(new_manager())
        for index, hook in enumerate(reversed(hooks)):
            plugins.register(hook, f"hook-{len(hooks) - index}", "test")
        table = SettingsTable(CORE_SETTINGS)
        self.metrics = Metrics(registry=CollectorRegistry())
        self.enhance = Runtime(
            self,
            Settings(table, {"replay-chunk": "16", **(settings or {})}, {}),
            plugins,
            self.metrics,
            **runtime,
        )

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self, timeout: float | None = None) -> None:
        handler = getattr(self, "output_handler", None)
        if handler is not None and not handler.get_loop().is_closed():
            handler.cancel()

    async def close(self) -> None:
        """End tasks, as a server's end does."""
        assert self.enhance is not None
        await self.enhance.stop()
        for task in list(self.enhance.races):
            task.cancel()
        handler = self.output_handler
        if handler is not None:
            handler.cancel()
            await asyncio.gather(handler, return_exceptions=True)

    @property
    def source_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for labels, value in self.metrics.snapshot().get("vllm_enhance_requests", {}).items():
            source = labels.split("|")[0]
            counts[source] = counts.get(source, 0) + int(value)
        return counts

    @property
    def faults(self) -> int:
        return sum(int(v) for v in self.metrics.snapshot().get("vllm_enhance_faults", {}).values())


class MemoryHook:
    """The smallest cache that obeys the contract: a dict. The product's own is tested elsewhere."""

    def __init__(self) -> None:
        self.records: dict[bytes, Any] = {}
        self.outcomes: list[Any] = []

    @hookimpl(inline=True)
    def pre_request(self, request: Any) -> Any:
        from vllm_enhance.types import Respond, Source

        if request.key is None or request.directives.no_cache:
            return None
        record = self.records.get(request.key)
        return None if record is None else Respond(record, source=Source.MEMORY)

    @hookimpl(inline=True)
    def post_output(self, request: Any, record: Any, outcome: Any) -> None:
        self.outcomes.append(outcome)
        if outcome.storable and request.key is not None:
            self.records[request.key] = record


class LookupHook:
    """Answers every request with one :class:`~vllm_enhance.types.Lookup`."""

    def __init__(self, run: Callable[[], Any], *, blocking: bool = False) -> None:
        self._run, self._blocking = run, blocking

    @hookimpl(inline=True)
    def pre_request(self, request: Any) -> Any:
        from vllm_enhance.types import Lookup

        return Lookup(self._run, "test", self._blocking)


# --------------------------------------------------------------------------- reading answers


def prompt(text: str = "hello", **more: Any) -> dict[str, Any]:
    """A rendered ``EngineInput``."""
    return {"type": "token", "prompt_token_ids": list(text.encode()), "prompt": text, **more}


@dataclass
class Read:
    """One choice as a caller has read it to the end, whatever the kind of output."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] | None = None
    cumulative_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


def read_all(outputs: Sequence[RequestOutput], kind: RequestOutputKind, n: int = 1) -> list[Read]:
    """Concatenate what was streamed, per choice."""
    reads = [Read() for _ in range(n)]
    for output in outputs:
        for each in output.outputs:
            _take(reads[each.index], each, kind == DELTA)
    return reads


def _take(read: Read, each: CompletionOutput, delta: bool) -> None:
    read.text = read.text + each.text if delta else each.text
    read.token_ids = [*read.token_ids, *each.token_ids] if delta else list(each.token_ids)
    if each.logprobs is not None:
        entries = [each.logprobs[place] for place in range(len(each.logprobs))]
        read.logprobs = [*(read.logprobs or []), *entries] if delta else entries
    read.cumulative_logprob = each.cumulative_logprob
    read.finish_reason, read.stop_reason = each.finish_reason, each.stop_reason


def prompt_logprobs_of(outputs: Sequence[RequestOutput]) -> list[Any] | None:
    """The prompt's logprobs, wherever in the stream they came."""
    found = [output.prompt_logprobs for output in outputs if output.prompt_logprobs]
    return None if not found else [found[0][place] for place in range(len(found[0]))]


async def collect(
    llm: Any, params: SamplingParams, text: str = "hello", request_id: str = "r", **kwargs: Any
) -> list[RequestOutput]:
    """Read a generation to the end. Copies are taken as a caller would see them at that moment."""
    return [_frozen(output) async for output in llm.generate(prompt(text), params, request_id, **kwargs)]


def _frozen(output: RequestOutput) -> RequestOutput:
    """Cumulative outputs alias vLLM's growing lists: keep what they said when they were yielded."""
    for each in output.outputs:
        each.token_ids = list(each.token_ids)
        if isinstance(each.logprobs, list):
            each.logprobs = list(each.logprobs)
    return output


async def settle(turns: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def stream(llm: Any, params: SamplingParams, text: str = "hello", request_id: str = "r") -> AsyncIterator[Any]:
    async for output in llm.generate(prompt(text), params, request_id):
        yield output


def greedy(kind: RequestOutputKind = DELTA, **fields: Any) -> SamplingParams:
    return SamplingParams(**{"output_kind": kind, "temperature": 0.0, "max_tokens": 64, **fields})


def nothing_left(llm: ScriptedLLM) -> None:
    """No caller, generation, race or engine state is remembered."""
    assert llm.enhance is not None
    table = llm.enhance.table
    assert len(table) == 0
    assert table.num_readers == 0
    assert table.num_joined == 0
    assert not table._by_external
    assert not llm.enhance.races
    assert not llm.output_processor.request_states
    assert not llm.output_processor.parent_requests


__all__ = [
    "BOS",
    "CUMULATIVE",
    "DELTA",
    "END",
    "EOS",
    "FINAL",
    "KINDS",
    "EngineDeadError",
    "EnhancedRequestOutputCollector",
    "LookupHook",
    "MemoryHook",
    "PlainLLM",
    "ScriptedCore",
    "ScriptedLLM",
    "Step",
    "collect",
    "greedy",
    "nothing_left",
    "patches",
    "prompt",
    "prompt_logprobs_of",
    "read_all",
    "settle",
    "stream",
    "tokenizer",
]
