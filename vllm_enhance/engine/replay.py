"""Playing a tape back as vLLM's own outputs.

Streamed kinds go through a private, unregistered ``RequestState``, the very code that made the first answer
(``vllm/v1/engine/output_processor.py``), so deltas, stop strings, held-back text and logprobs come out as they did.
A whole answer needs none of that: its text is on the tape.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import RequestState
from vllm.v1.engine.parallel_sampling import ParentRequest

from vllm_enhance.engine.tape import Position, Tape, TapeChoice

__all__ = ["Reader", "ReplayRequest"]

FINISH_REASONS = {str(reason): reason for reason in FinishReason}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What a replay needs to know of the request that it answers.

    Attributes:
        request_id: external id, as in responses.
        params: the caller's ``SamplingParams``.
        prompt_token_ids: the rendered prompt.
        prompt_text: rendered text, if the renderer made one.
        lora: the request's adapter.
        tokenizer: the server's tokenizer; ``None`` for a server without one.
        stream_interval: the server's ``--stream-interval``.
        chunk: tokens per streamed output.
    """

    request_id: str
    params: SamplingParams
    prompt_token_ids: list[int]
    prompt_text: str | None = None
    lora: Any = None
    tokenizer: Any = None
    stream_interval: int = 1
    chunk: int = 16


class Reader:
    """One caller's place on a tape.

    Args:
        tape: finished, or still being written.
        request: the caller's request.
        whole_prompt_cached: report all prompt tokens as cached, which is what a stored answer costs.
    """

    def __init__(self, tape: Tape, request: ReplayRequest) -> None:
        self._tape = tape
        self._request = request
        self._kind = request.params.output_kind
        self._final_only = self._kind == RequestOutputKind.FINAL_ONLY
        self._states: list[RequestState] = []
        self._parent: ParentRequest | None = None
        self._places = [0] * len(tape.choices)
        self._ended = [False] * len(tape.choices)
        self._turn = 0
        self.done = False

    @property
    def tape(self) -> Tape:
        """What it reads."""
        return self._tape

    @property
    def final_only(self) -> bool:
        """Whether this caller reads nothing before the end."""
        return self._final_only

    def read(self) -> RequestOutput | None:
        """The next output, fresh objects each time, or ``None`` when there is nothing new yet."""
        if self.done:
            return None
        if self._final_only:
            return self._whole() if self._tape.finished else None
        if self._fits_one_output():
            return self._whole()
        idle = 0
        while idle < len(self._places):
            index, self._turn = self._turn, (self._turn + 1) % len(self._places)
            place, ended = self._places[index], self._ended[index]
            output = self._advance(index)
            if output is not None:
                self.done = output.finished
                return output
            # A chunk may be held back (``stream_interval``): only a tape with nothing new is a reason to stop.
            moved = (place, ended) != (self._places[index], self._ended[index])
            idle = 0 if moved else idle + 1
        return None

    def _fits_one_output(self) -> bool:
        """Whether all of a finished answer goes out at once: then its text is at hand and nothing is detokenized."""
        choices = self._tape.choices
        return (
            self._tape.finished
            and not self._states
            and len(choices) == 1
            and len(choices[0].token_ids) <= self._request.chunk
            and self._request.stream_interval <= 1
        )

    def aborted(self) -> RequestOutput:
        """A last output with finish reason ``abort``, as vLLM gives a caller whose request was aborted."""
        self.done = True
        delta = self._kind == RequestOutputKind.DELTA
        outputs = [
            CompletionOutput(
                index=index,
                text="" if delta else choice.text,
                token_ids=[] if delta else list(choice.token_ids),
                cumulative_logprob=choice.cumulative_logprob,
                logprobs=None,
                finish_reason=str(FinishReason.ABORT),
            )
            for index, choice in enumerate(self._tape.choices)
        ]
        return self._output(outputs)

    # ------------------------------------------------------------------ whole answers

    def _whole(self) -> RequestOutput:
        self.done = True
        outputs = [self._completion(index, choice) for index, choice in enumerate(self._tape.choices)]
        output = self._output(outputs)
        output.prompt_logprobs = self._logprobs(self._tape.prompt_logprobs)
        return output

    def _logprobs(self, positions: Sequence[Position] | None) -> Any:
        """Fresh logprobs in the container that the request asked for."""
        if positions is None:
            return None
        fresh: Any = FlatLogprobs() if self._request.params.flat_logprobs else []
        fresh.extend(_fresh(position) for position in positions)
        return fresh

    def _completion(self, index: int, choice: TapeChoice) -> CompletionOutput:
        completion = CompletionOutput(
            index=index,
            text=choice.text,
            token_ids=list(choice.token_ids),
            cumulative_logprob=choice.cumulative_logprob,
            logprobs=self._logprobs(choice.logprobs),
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
        )
        version = self._tape.weight_version
        if version is not None and hasattr(completion, "weight_versions"):
            completion.weight_versions = _spans(version, len(choice.token_ids))
        return completion

    def _output(self, outputs: list[CompletionOutput]) -> RequestOutput:
        request, tape = self._request, self._tape
        output = RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt_text,
            prompt_token_ids=request.prompt_token_ids,
            prompt_logprobs=None,
            outputs=outputs,
            finished=True,
            lora_request=request.lora,
            num_cached_tokens=tape.num_cached_tokens or 0,
        )
        if hasattr(output, "num_cache_creation_tokens"):
            output.num_cache_creation_tokens = tape.num_cache_creation_tokens or 0
        return output

    # ------------------------------------------------------------------ streamed answers

    def _advance(self, index: int) -> RequestOutput | None:
        choice, place = self._tape.choices[index], self._places[index]
        if self._ended[index]:
            return None
        end = min(place + self._request.chunk, len(choice.token_ids))
        last = choice.finish_reason is not None and end == len(choice.token_ids)
        if end == place and not last:
            return None
        if not self._states:
            self._open()
        state, ids = self._states[index], choice.token_ids[place:end]
        self._places[index], self._ended[index] = end, last
        if not last:
            finish, stop = None, None
        else:
            finish, stop = FINISH_REASONS[choice.finish_reason or "stop"], choice.stop_reason
        # For a stop *string* the engine itself reported no finish; True would drop the last token's text.
        matched = state.detokenizer.update(list(ids), finish == FinishReason.STOP and not isinstance(stop, str))
        if matched is not None and not last:
            # vLLM before 0.32 keeps tokens that came in the same step behind a stop string; they have no text.
            ids, end = choice.token_ids[place:], len(choice.token_ids)
            state.detokenizer.token_ids.extend(ids[self._places[index] - place :])
            self._places[index], self._ended[index] = end, True
            finish, stop = FINISH_REASONS[choice.finish_reason or "stop"], choice.stop_reason
        self._append_logprobs(state, choice, place, end)
        return state.make_request_output(ids, None, finish, stop)

    def _append_logprobs(self, state: RequestState, choice: TapeChoice, place: int, end: int) -> None:
        if choice.logprobs is None or state.logprobs_processor.logprobs is None:
            return
        for token_id, position in zip(choice.token_ids[place:end], choice.logprobs[place:end], strict=False):
            fresh = _fresh(position)
            state.logprobs_processor.logprobs.append(fresh)
            if fresh is not None and token_id in fresh:
                state.logprobs_processor.cumulative_logprob += fresh[token_id].logprob

    def _open(self) -> None:
        request, tape = self._request, self._tape
        stub = EngineCoreRequest(
            request_id=request.request_id,
            external_req_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            mm_features=None,
            sampling_params=request.params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=request.lora,
            cache_salt=None,
            data_parallel_rank=None,
        )
        if len(tape.choices) > 1:
            self._parent = ParentRequest(stub)
        for index in range(len(tape.choices)):
            child = stub
            if self._parent is not None:
                child_id, child_params = self._parent.get_child_info(index)
                child = _with(stub, child_id, child_params)
            state = RequestState.from_new_request(
                tokenizer=request.tokenizer,
                request=child,
                prompt=request.prompt_text,
                parent_req=self._parent,
                request_index=index,
                queue=None,
                log_stats=False,
                stream_interval=request.stream_interval,
            )
            state.num_cached_tokens = tape.num_cached_tokens or 0
            state.is_prefilling = False
            if hasattr(state, "num_cache_creation_tokens"):
                state.num_cache_creation_tokens = tape.num_cache_creation_tokens or 0
            if tape.prompt_logprobs is not None and state.logprobs_processor is not None:
                state.logprobs_processor.prompt_logprobs = self._logprobs(tape.prompt_logprobs)
            if tape.weight_version is not None and hasattr(state, "track_weight_version"):
                state.track_weight_version(tape.weight_version)
            self._states.append(state)


def _with(stub: EngineCoreRequest, request_id: str, params: SamplingParams) -> EngineCoreRequest:
    child = copy.copy(stub)
    child.request_id, child.sampling_params = request_id, params
    return child


def _spans(version: str, tokens: int) -> list[Any]:
    from vllm.outputs import WeightVersionSpan

    return [WeightVersionSpan(version, 0, tokens)]


def _fresh(position: Position) -> Position:
    """A copy: the server clamps ``Logprob`` objects in place (``entrypoints/generate/base/serving.py``)."""
    return None if position is None else {token: replace(entry) for token, entry in position.items()}
