"""What is stored: tokens, not JSON.

A record holds what the engine produced, so one record can be replayed to every API of the server, streaming or not.
Token ids travel as packed ``uint32`` little-endian, because decoding 1000 integers one by one costs twenty times as
much as taking the bytes. The byte form is msgpack with a version in front; never pickle.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

import msgspec

from vllm_enhance.errors import RecordError

__all__ = [
    "RECORD_VERSION",
    "ChoiceRecord",
    "GenerationRecord",
    "LogprobColumns",
    "decode_record",
    "encode_record",
    "pack_token_ids",
    "unpack_token_ids",
]

RECORD_VERSION = 1


def pack_token_ids(ids: Iterable[int]) -> bytes:
    """Token ids as ``uint32`` little-endian, 4 bytes each.

    Raises:
        OverflowError: an id is negative or does not fit 32 bits.
        TypeError: an id is not an integer.
    """
    packed = array("I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_token_ids(data: bytes) -> list[int]:
    """The inverse of :func:`pack_token_ids`."""
    packed = array("I")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()


class LogprobColumns(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Log probabilities of consecutive positions, in columns.

    Attributes:
        counts: entries per position; -1 where the position has none (the first prompt token).
        token_ids, logprobs, ranks, decoded: one value per entry, positions one after the other.
    """

    counts: list[int]
    token_ids: list[int]
    logprobs: list[float]
    ranks: list[int | None]
    decoded: list[str | None]


class ChoiceRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One of the ``n`` answers.

    Attributes:
        token_ids: packed, see :func:`pack_token_ids`.
        text: detokenized answer, as a non-streaming caller got it; empty with ``detokenize=False``.
        finish_reason: ``stop``, ``length`` or ``repetition``.
        stop_reason: the stop string or stop token id that ended it.
        cumulative_logprob: sum over the tokens, if asked for.
        logprobs: per output token, if asked for.
    """

    token_ids: bytes
    text: str
    finish_reason: str
    stop_reason: int | str | None = None
    cumulative_logprob: float | None = None
    logprobs: LogprobColumns | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) // 4


class GenerationRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One finished generation.

    Attributes:
        version: format, :data:`RECORD_VERSION`.
        choices: one per ``n``, ordered by index.
        prompt_tokens: length of the rendered prompt.
        created_at: Unix time, seconds.
        engine_seconds: what it cost, from scheduling to the last token.
        first_token_seconds: time to the first token.
        weight_version: vLLM's label of the weights that made it.
        prompt_logprobs: per prompt token, if asked for.
        model: served model name at the time.
    """

    version: int
    choices: tuple[ChoiceRecord, ...]
    prompt_tokens: int
    created_at: float
    engine_seconds: float = 0.0
    first_token_seconds: float = 0.0
    weight_version: str | None = None
    prompt_logprobs: LogprobColumns | None = None
    model: str = ""

    @property
    def num_tokens(self) -> int:
        """Output tokens of all choices."""
        return sum(choice.num_tokens for choice in self.choices)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes: an estimate that errs upwards, cheap enough for the event loop."""
        total = 512
        for choice in self.choices:
            total += 256 + len(choice.token_ids) + 4 * len(choice.text) + _columns_nbytes(choice.logprobs)
        return total + _columns_nbytes(self.prompt_logprobs)


def _columns_nbytes(columns: LogprobColumns | None) -> int:
    return 0 if columns is None else 512 + 36 * len(columns.counts) + 160 * len(columns.token_ids)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(GenerationRecord)


def encode_record(record: GenerationRecord) -> bytes:
    """The record as bytes."""
    return _encoder.encode(record)


def decode_record(data: bytes) -> GenerationRecord:
    """Bytes back into a record.

    Raises:
        RecordError: the bytes are damaged, or of another version.
    """
    try:
        record = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"not a record: {type(error).__name__}") from error
    if record.version != RECORD_VERSION:
        raise RecordError(f"record version {record.version}, this is {RECORD_VERSION}")
    if any(len(choice.token_ids) % 4 for choice in record.choices):
        raise RecordError("token ids are cut")
    return record
