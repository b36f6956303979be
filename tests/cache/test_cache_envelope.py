"""Whatever comes back from a store: the entry that went in, or a refusal with its reason."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import msgspec
import pytest
from cache_support import key_of, record_of
from hypothesis import given
from hypothesis import strategies as st
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.envelope import HEADER_BYTES, NONE, ZLIB, ZSTD, Envelope, read_tags
from vllm_enhance_cache.errors import EnvelopeError

from vllm_enhance.records import LogprobColumns

NOW = 1_700_000_000.0
KEY, TENANT = key_of(7), b"t" * 16
PACKAGES = Path(__file__).parents[2]


def entry_of(text: str = "an answer", **changes: object) -> Entry:
    entry = Entry(KEY, record_of(text, tokens=50, created_at=NOW), TENANT, "model-é", NOW, NOW + 60, 5)
    return msgspec.structs.replace(entry, **changes)


def opened(envelope: Envelope, data: bytes, *, key: bytes = KEY, tenant: bytes = TENANT, now: float = NOW) -> Entry:
    return envelope.open(data, key=key, tenant=tenant, now=now)


def refused(envelope: Envelope, data: bytes, **asked: object) -> str:
    with pytest.raises(EnvelopeError) as caught:
        opened(envelope, data, **asked)  # type: ignore[arg-type]
    return caught.value.reason


@pytest.mark.parametrize("secret", ["", "a key"])
@pytest.mark.parametrize("codec", [NONE, ZSTD, ZLIB])
@pytest.mark.parametrize("text", ["", "short", "long " * 5000, "schön 你好 \ud800" * 300])
def test_what_goes_in_comes_out(secret: str, codec: int, text: str) -> None:
    if "\ud800" in text:
        text = text.replace("\ud800", "")
    envelope = Envelope(secret)
    envelope.codec = codec
    entry = entry_of(text)
    data = envelope.seal(entry)
    back = opened(envelope, data)
    for field in ("key", "record", "tenant", "model", "created_at", "expires_at", "generation"):
        assert getattr(back, field) == getattr(entry, field)
    if codec != NONE and len(text) > 2000:
        assert len(data) < len(text) / 2


def test_logprobs_travel() -> None:
    columns = LogprobColumns([1, -1], [7], [-0.25], [None], ["x"])
    entry = entry_of(record=record_of(prompt_logprobs=columns))
    assert opened(Envelope(), Envelope().seal(entry)).record.prompt_logprobs == columns


@pytest.mark.parametrize("secret", ["", "a key"])
@pytest.mark.parametrize("text", ["short", "long " * 400])
def test_any_flipped_byte_is_a_refusal(secret: str, text: str) -> None:
    envelope = Envelope(secret)
    data = envelope.seal(entry_of(text))
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[position] ^= flip
            assert refused(envelope, bytes(broken))


@pytest.mark.parametrize("secret", ["", "a key"])
def test_any_cut_or_addition_is_a_refusal(secret: str) -> None:
    envelope = Envelope(secret)
    data = envelope.seal(entry_of())
    for length in range(len(data)):
        assert refused(envelope, data[:length])
    assert refused(envelope, data + b"x") == "length"
    assert refused(envelope, b"") == "short"


@given(st.binary(max_size=400))
def test_noise_is_a_refusal_and_nothing_else(noise: bytes) -> None:
    assert refused(Envelope(), noise) in {"short", "magic"}


@given(st.binary(min_size=0, max_size=300), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_a_well_signed_lie_is_a_refusal(payload: bytes, codec: int, size: int) -> None:
    """Without a key anybody can sign: still no exception but ours, and no memory for what a header claims."""
    envelope = Envelope(max_bytes=1 << 20)
    head = bytearray(envelope.seal(entry_of())[:HEADER_BYTES])
    head[6] = codec
    head[-8:] = struct.pack("<II", size, len(payload))
    data = bytes(head) + payload + envelope._mac(bytes(head), payload)
    assert refused(envelope, data) in {"codec", "length", "record", "too_large"}


def test_a_bomb_is_refused() -> None:
    import zstandard

    envelope = Envelope(max_bytes=1 << 20)
    for codec, payload in (
        (ZSTD, zstandard.compress(bytes(1 << 28))),
        (ZLIB, __import__("zlib").compress(bytes(1 << 26))),
    ):
        head = bytearray(envelope.seal(entry_of())[:HEADER_BYTES])
        head[6] = codec
        head[-8:] = struct.pack("<II", 1000, len(payload))
        assert refused(envelope, bytes(head) + payload + envelope._mac(bytes(head), payload)) in {"codec", "length"}


def test_who_asks_for_what() -> None:
    envelope = Envelope("a key")
    data = envelope.seal(entry_of())
    assert refused(envelope, data, key=key_of(8)) == "key"
    assert refused(envelope, data, tenant=b"u" * 16) == "tenant"
    assert refused(envelope, data, tenant=b"") == "tenant"
    assert refused(envelope, data, now=NOW + 60) == "expired"
    assert opened(envelope, data, now=NOW + 59.9).key == KEY


def test_only_the_operators_key_opens_and_signs() -> None:
    ours, theirs, nobody = Envelope("ours"), Envelope("theirs"), Envelope()
    assert refused(ours, theirs.seal(entry_of())) == "mac"
    assert refused(ours, nobody.seal(entry_of())) == "mac"
    assert refused(nobody, ours.seal(entry_of())) == "mac"
    assert ours.keyed
    assert not nobody.keyed


def test_another_version_is_a_refusal() -> None:
    envelope = Envelope()
    data = bytearray(envelope.seal(entry_of()))
    data[4] = 2
    head, payload = bytes(data[:HEADER_BYTES]), bytes(data[HEADER_BYTES:-16])
    assert refused(envelope, head + payload + envelope._mac(head, payload)) == "version"


def test_an_older_record_inside_is_a_refusal() -> None:
    record = msgspec.structs.replace(record_of(), version=99)
    assert refused(Envelope(), Envelope().seal(entry_of(record=record))) == "record"


def test_too_large_is_not_sealed_and_not_opened() -> None:
    with pytest.raises(EnvelopeError, match="too_large"):
        Envelope(max_bytes=1000).seal(entry_of("x" * 2000))
    assert refused(Envelope(max_bytes=1000), Envelope(compression="none").seal(entry_of("x" * 2000))) == "too_large"


def test_without_zstandard_zlib_is_used_and_zstd_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Envelope().seal(entry_of("long " * 1000))
    monkeypatch.setattr("vllm_enhance_cache.envelope.find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    plain = Envelope()
    assert plain.codec == ZLIB
    assert opened(plain, plain.seal(entry_of("long " * 1000))).record.choices[0].text == "long " * 1000
    assert refused(plain, packed) == "codec"


def test_tags_can_be_read_from_the_head_alone() -> None:
    tags = read_tags(Envelope("k").seal(entry_of())[:HEADER_BYTES])
    assert tags is not None
    assert (tags[0], tags[2]) == (TENANT, NOW)
    assert read_tags(b"x" * HEADER_BYTES) is None
    assert read_tags(b"vEnh") is None


def test_there_is_no_pickle_anywhere() -> None:
    word = re.compile(r"^\s*(import|from)\s+(pickle|cPickle|dill|cloudpickle|shelve|marshal|joblib)\b", re.MULTILINE)
    files = [*(PACKAGES / "hooks").rglob("*.py"), *(PACKAGES / "vllm_enhance").rglob("*.py")]
    assert len(files) > 20
    assert [str(path) for path in files if word.search(path.read_text("utf-8"))] == []


def test_random_bytes_do_not_grow_much() -> None:
    entry = entry_of(os.urandom(5000).hex())
    assert len(Envelope().seal(entry)) < 10_000 + 500
