"""The tape: what a generation has produced so far, or all that a stored one produced.

The collector writes on it as outputs pass; any number of readers play it back, each at its own place
(:mod:`vllm_enhance.engine.replay`). A stored record becomes a finished tape, so replay and joining are one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from vllm_enhance.records import (
    RECORD_VERSION,
    ChoiceRecord,
    GenerationRecord,
    LogprobColumns,
    pack_token_ids,
    unpack_token_ids,
)

__all__ = ["Tape", "TapeChoice", "answers"]

Position = dict[int, Logprob] | None

CLEAN_FINISHES = frozenset({"stop", "length", "repetition"})


@dataclass(slots=True, eq=False)
class TapeChoice:
    """One of the ``n`` answers so far. ``logprobs`` is ``None`` when none were asked for."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[Position] | None = None
    cumulative_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Tape:
    """Tokens of ``n`` choices, growing until finished.

    Attributes:
        choices: one per ``n``.
        finished: every choice has ended.
        unusable: why this generation must not be stored, or ``None``.
        weight_version: vLLM's label of the weights, if reported.
    """

    def __init__(self, n: int = 1) -> None:
        self.choices = [TapeChoice() for _ in range(n)]
        self.finished = False
        self.unusable: str | None = None
        self.weight_version: str | None = None
        self.prompt_logprobs: Sequence[Position] | None = None
        self.num_cached_tokens: int | None = None
        self.num_cache_creation_tokens: int | None = None
        self.engine_seconds: float | None = None

    @property
    def started(self) -> bool:
        """Whether anything has been produced."""
        return self.finished or any(choice.token_ids or choice.finish_reason for choice in self.choices)

    # ------------------------------------------------------------------ writing

    def ingest(self, output: RequestOutput, kind: RequestOutputKind) -> None:
        """Write one output of the engine.

        Copies what it keeps: delta objects are merged into later, and the lists of cumulative outputs keep growing.
        """
        for completion in output.outputs:
            self._ingest_choice(self.choices[completion.index], completion, kind == RequestOutputKind.DELTA)
        if output.prompt_logprobs is not None and self.prompt_logprobs is None:
            self.prompt_logprobs = list(output.prompt_logprobs)  # deltas carry them once, then empty lists
        if self.num_cached_tokens is None:
            self.num_cached_tokens = output.num_cached_tokens
            self.num_cache_creation_tokens = getattr(output, "num_cache_creation_tokens", None)
        if getattr(output, "kv_transfer_params", None) is not None:
            self.unusable = "kv_transfer"
        if getattr(output, "prompt_token_id_logprobs", None) is not None:
            self.unusable = "prompt_token_scores"
        if output.finished:
            self.finished = True
            self._close(output)

    def _ingest_choice(self, choice: TapeChoice, completion: CompletionOutput, delta: bool) -> None:
        have = 0 if delta else len(choice.token_ids)
        choice.token_ids.extend(completion.token_ids[have:])
        choice.text = choice.text + completion.text if delta else completion.text
        if completion.logprobs is not None:
            if choice.logprobs is None:
                choice.logprobs = []
            start = 0 if delta else len(choice.logprobs)
            choice.logprobs.extend(completion.logprobs[i] for i in range(start, len(completion.logprobs)))
        choice.cumulative_logprob = completion.cumulative_logprob
        if completion.routed_experts is not None or getattr(completion, "sampling_mask", None) is not None:
            self.unusable = "debug_outputs"
        if completion.finish_reason is not None:
            choice.finish_reason = completion.finish_reason
            choice.stop_reason = completion.stop_reason
            self._note_weights(getattr(completion, "weight_versions", None))

    def _note_weights(self, spans: Sequence[Any] | None) -> None:
        """A generation under two weight versions belongs to neither (``vllm/v1/engine/output_processor.py``)."""
        versions = {span[0] if isinstance(span, tuple) else span.version for span in spans or ()}
        if self.weight_version is not None:
            versions.add(self.weight_version)
        if len(versions) > 1:
            self.unusable = "mixed_weights"
        for version in versions:
            self.weight_version = version

    def _close(self, output: RequestOutput) -> None:
        reasons = {choice.finish_reason for choice in self.choices}
        if not reasons <= CLEAN_FINISHES:
            self.unusable = "error" if "error" in reasons else "aborted"
        metrics = output.metrics
        if metrics is None:
            return
        if getattr(metrics, "is_corrupted", False):
            self.unusable = "corrupted"
        scheduled, last = getattr(metrics, "scheduled_ts", 0.0), getattr(metrics, "last_token_ts", 0.0)
        if last > scheduled > 0.0:
            self.engine_seconds = last - scheduled

    # ------------------------------------------------------------------ records

    def load(self, record: GenerationRecord) -> None:
        """Become the finished tape of a stored record.

        Raises:
            ValueError: the record has another number of choices, its columns do not fit together, or the tape has
                begun. The tape is then as it was: the engine may still write on it.
        """
        if self.started or len(record.choices) != len(self.choices):
            raise ValueError("the record does not fit this tape")
        prompt_logprobs = _from_columns(record.prompt_logprobs)
        self.choices = [_loaded(stored) for stored in record.choices]
        self.prompt_logprobs = prompt_logprobs
        self.weight_version = record.weight_version
        self.num_cached_tokens = record.prompt_tokens
        self.num_cache_creation_tokens = 0
        self.engine_seconds = record.engine_seconds
        self.finished = True

    def record(
        self, *, prompt_tokens: int, created_at: float, seconds: float, first_token_seconds: float, model: str
    ) -> GenerationRecord:
        """The record of a finished tape."""
        return GenerationRecord(
            version=RECORD_VERSION,
            choices=tuple(
                ChoiceRecord(
                    token_ids=pack_token_ids(choice.token_ids),
                    text=choice.text,
                    finish_reason=choice.finish_reason or "",
                    stop_reason=choice.stop_reason,
                    cumulative_logprob=choice.cumulative_logprob,
                    logprobs=_to_columns(choice.logprobs),
                )
                for choice in self.choices
            ),
            prompt_tokens=prompt_tokens,
            created_at=created_at,
            engine_seconds=seconds if self.engine_seconds is None else self.engine_seconds,
            first_token_seconds=first_token_seconds,
            weight_version=self.weight_version,
            prompt_logprobs=_to_columns(self.prompt_logprobs),
            model=model,
        )


def answers(record: GenerationRecord, params: Any) -> bool:
    """Whether a record has all that a request asks for: a hook's own text has no logprobs, and servers index them."""
    return len(record.choices) == params.n and not (
        (params.logprobs is not None and any(choice.logprobs is None for choice in record.choices))
        or (params.prompt_logprobs is not None and record.prompt_logprobs is None)
    )


def _loaded(stored: ChoiceRecord) -> TapeChoice:
    return TapeChoice(
        token_ids=unpack_token_ids(stored.token_ids),
        text=stored.text,
        logprobs=_from_columns(stored.logprobs),
        cumulative_logprob=stored.cumulative_logprob,
        finish_reason=stored.finish_reason,
        stop_reason=stored.stop_reason,
    )


def _to_columns(positions: Sequence[Position] | None) -> LogprobColumns | None:
    if positions is None:
        return None
    columns = LogprobColumns([], [], [], [], [])
    for position in positions:
        if position is None:
            columns.counts.append(-1)
            continue
        columns.counts.append(len(position))
        for token_id, entry in position.items():
            columns.token_ids.append(token_id)
            columns.logprobs.append(entry.logprob)
            columns.ranks.append(entry.rank)
            columns.decoded.append(entry.decoded_token)
    return columns


def _from_columns(columns: LogprobColumns | None) -> list[Position] | None:
    if columns is None:
        return None
    sizes = {len(column) for column in (columns.token_ids, columns.logprobs, columns.ranks, columns.decoded)}
    if sizes != {sum(count for count in columns.counts if count > 0)}:
        raise ValueError("the logprob columns of the record do not fit together")
    entries = zip(columns.token_ids, columns.logprobs, columns.ranks, columns.decoded, strict=True)
    positions: list[Position] = []
    for count in columns.counts:
        if count < 0:
            positions.append(None)
            continue
        taken = (next(entries) for _ in range(count))
        positions.append({token: Logprob(value, rank, decoded) for token, value, rank, decoded in taken})
    return positions
