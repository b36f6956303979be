"""Records: the byte form is faithful, and damaged bytes are a miss, never a wrong answer."""

from __future__ import annotations

import contextlib
from array import array

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_enhance.errors import RecordError
from vllm_enhance.records import (
    RECORD_VERSION,
    ChoiceRecord,
    GenerationRecord,
    LogprobColumns,
    decode_record,
    encode_record,
    pack_token_ids,
    unpack_token_ids,
)

ids = st.lists(st.integers(0, 2**32 - 1), max_size=50)
text = st.text(st.characters(codec="utf-8"), max_size=40)
number = st.floats(allow_nan=False, allow_infinity=True)


@st.composite
def columns(draw: st.DrawFn) -> LogprobColumns:
    counts = draw(st.lists(st.integers(-1, 3), max_size=5))
    entries = sum(max(0, count) for count in counts)

    def of(values: st.SearchStrategy[object]) -> list[object]:
        return draw(st.lists(values, min_size=entries, max_size=entries))

    return LogprobColumns(
        counts,
        of(st.integers(0, 2**31)),  # type: ignore[arg-type]
        of(number),  # type: ignore[arg-type]
        of(st.none() | st.integers(0, 10**6)),  # type: ignore[arg-type]
        of(st.none() | text),  # type: ignore[arg-type]
    )


choices = st.builds(
    ChoiceRecord,
    token_ids=ids.map(pack_token_ids),
    text=text,
    finish_reason=st.sampled_from(["stop", "length", "repetition"]),
    stop_reason=st.none() | st.integers(0, 10**6) | text,
    cumulative_logprob=st.none() | number,
    logprobs=st.none() | columns(),
)
records = st.builds(
    GenerationRecord,
    version=st.just(RECORD_VERSION),
    choices=st.lists(choices, max_size=3).map(tuple),
    prompt_tokens=st.integers(0, 10**6),
    created_at=st.floats(0, 1e10),
    engine_seconds=st.floats(0, 1e4),
    first_token_seconds=st.floats(0, 1e4),
    weight_version=st.none() | text,
    prompt_logprobs=st.none() | columns(),
    model=text,
)
SAMPLE = GenerationRecord(
    RECORD_VERSION, (ChoiceRecord(pack_token_ids([1, 2, 3]), "abc", "stop", "c"),), prompt_tokens=2, created_at=1.0
)


@given(records)
def test_round_trip(record: GenerationRecord) -> None:
    assert decode_record(encode_record(record)) == record


@given(ids)
def test_token_ids_round_trip_as_little_endian(values: list[int]) -> None:
    packed = pack_token_ids(values)
    assert unpack_token_ids(packed) == values
    assert packed == b"".join(value.to_bytes(4, "little") for value in values)


@pytest.mark.parametrize("bad", [[-1], [2**32]])
def test_impossible_token_ids_are_refused(bad: list[int]) -> None:
    with pytest.raises(OverflowError):
        pack_token_ids(bad)


def test_token_ids_are_integers() -> None:
    with pytest.raises(TypeError):
        pack_token_ids([1.5])  # type: ignore[list-item]
    assert array("I").itemsize == 4


@given(st.binary(max_size=200))
def test_strange_bytes_are_a_record_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        decode_record(data)


@given(records, st.data())
def test_damaged_bytes_are_a_record_or_a_record_error(record: GenerationRecord, data: st.DataObject) -> None:
    good = bytearray(encode_record(record))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RecordError):
        assert isinstance(decode_record(bytes(good)), GenerationRecord)


@given(records, st.data())
def test_cut_bytes_are_a_record_error(record: GenerationRecord, data: st.DataObject) -> None:
    whole = encode_record(record)
    with pytest.raises(RecordError):
        decode_record(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_another_version_is_refused_by_number() -> None:
    other = msgspec.structs.replace(SAMPLE, version=RECORD_VERSION + 1)
    with pytest.raises(RecordError, match=f"record version {RECORD_VERSION + 1}"):
        decode_record(encode_record(other))


def test_cut_token_ids_are_refused() -> None:
    choice = ChoiceRecord(b"\x01\x02\x03", "", "stop")
    with pytest.raises(RecordError, match="cut"):
        decode_record(encode_record(msgspec.structs.replace(SAMPLE, choices=(choice,))))


def test_a_deep_nest_is_a_record_error() -> None:
    with pytest.raises(RecordError):
        decode_record(b"\x91" * 100_000)


@given(records)
def test_the_estimate_of_memory_errs_upwards(record: GenerationRecord) -> None:
    assert record.nbytes >= len(encode_record(record))
    assert record.num_tokens == sum(len(unpack_token_ids(choice.token_ids)) for choice in record.choices)
