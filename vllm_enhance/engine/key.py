"""The exact key: two requests share one only if the engine would be asked the very same thing.

Every field of ``SamplingParams`` takes part but for a short deny-list, so a field that a future vLLM adds makes a
miss, never a wrong hit. Values are encoded with a tag and a length, so no two different requests give the same bytes
(an allow-list and joined strings are how other caches went wrong), and hashed with SHA-256, never with a hash that an
attacker can steer. This runs on the event loop for every request, hence the care about microseconds: SHA-256 is what
processors have instructions for, and msgpack packs token ids twice as fast as the standard library, as unambiguously.

Pure: no vLLM import, no clock, no environment.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import operator
import struct
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

import msgspec

__all__ = ["CONTROL_ARGUMENT", "RequestKey", "Unkeyable", "encode", "request_key", "sampling_items"]

CONTROL_ARGUMENT = "enhance"
"""Name of our own entry in ``vllm_xargs``; it says how to treat the request, not what to generate."""

DELIVERY_FIELDS = frozenset(
    {
        "output_kind",  # delivery: one record serves all kinds
        "stream_interval",  # delivery
        "skip_clone",  # who owns the object
        "skip_reading_prefix_cache",  # derived from prompt_logprobs
        "output_text_buffer_length",  # derived from stop
    }
)
"""The only public fields that are not part of the key. Names with ``_`` in front are derived by vLLM."""

FLOAT_FIELDS = frozenset(
    {"temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"}
)
"""Fields where ``1`` and ``1.0`` are the same request."""

DIGEST_SIZE = 32
_LENGTHS = struct.Struct("<HI").pack


class Unkeyable(Exception):
    """A value has no canonical encoding; the request is not cacheable."""


@dataclasses.dataclass(frozen=True, slots=True)
class RequestKey:
    """The key of one request and the parts that it was made from.

    Attributes:
        digest: 32 bytes.
        parts: name and bytes (raw when short, else a digest) of each part, for ``explain``.
    """

    digest: bytes
    parts: tuple[tuple[str, bytes], ...]

    def partition(self, *frame: bytes) -> bytes:
        """Digest (16 bytes) of every part but the prompt, and of ``frame`` instead."""
        parts = [part for part in self.parts if part[0] != "prompt"]
        return _combine([*parts, *(("frame", piece) for piece in frame)], 16)

    def differs_from(self, other: RequestKey) -> list[str]:
        """Names of the parts in which two keys differ."""
        theirs = dict(other.parts)
        return [name for name, value in self.parts if theirs.get(name) != value]


def request_key(
    *,
    prompt: Mapping[str, Any],
    params: Any,
    identity: bytes,
    epoch: bytes,
    tenant: bytes = b"",
    lora: bytes = b"",
    reasoning_ended: bool | None = None,
    reasoning_kwargs: Mapping[str, Any] | None = None,
) -> RequestKey:
    """The key of one request.

    Args:
        prompt: vLLM's rendered ``EngineInput`` of type ``token``, ``multimodal`` or ``enc_dec``.
        params: ``SamplingParams`` before ``process_inputs`` (which mutates shared copies).
        identity: what model and engine settings answer.
        epoch: the invalidation epoch.
        tenant: who asks.
        lora: identity of the adapter.
        reasoning_ended, reasoning_kwargs: as passed to ``add_request``; they gate grammar enforcement.

    Raises:
        Unkeyable: some value has no canonical encoding.
    """
    decoder = prompt["decoder_prompt"] if prompt["type"] == "enc_dec" else prompt
    salt = decoder.get("cache_salt")
    parts = [
        ("identity", identity),
        ("epoch", epoch),
        ("tenant", tenant),
        ("salt", b"" if salt is None else b"\x01" + salt.encode("utf-8", "surrogatepass")),
        ("lora", lora),
        ("prompt", _digest(_packed(decoder["prompt_token_ids"]))),
        ("sampling", _digest(_sampling(params))),
    ]
    media = _media(prompt)
    if media:
        parts.append(("media", _digest(encode(media))))
    if reasoning_ended is not None or reasoning_kwargs:
        parts.append(("reasoning", _digest(encode([reasoning_ended, reasoning_kwargs or None]))))
    return RequestKey(_combine(parts, DIGEST_SIZE), tuple(parts))


def sampling_items(params: Any) -> Iterator[tuple[str, Any]]:
    """Fields of ``SamplingParams`` that say what to generate, where they are not the default.

    A default that a later vLLM changes makes no wrong hit: vLLM's version is part of the identity.
    """
    fields = _fields(type(params))
    changed = [
        (name, value)
        for name, default, value in zip(fields.names, fields.defaults, fields.read(params), strict=True)
        if value is not default and not (type(value) in _SCALARS and value == default)
    ]
    for name, value in changed:
        if name in FLOAT_FIELDS:
            value = float(value)
        elif name == "extra_args":
            value = {key: item for key, item in value.items() if key != CONTROL_ARGUMENT}
            if not value:
                continue
        yield name, value


def encode(value: Any) -> bytes:
    """Canonical bytes of a value: tagged, length-prefixed, independent of the order of mappings and sets.

    Raises:
        Unkeyable: a type that has no canonical form, or nesting without end.
    """
    out = bytearray()
    try:
        _write(value, out)
    except RecursionError:
        raise Unkeyable("nested too deeply") from None
    return bytes(out)


# --------------------------------------------------------------------------- inside

_SCALARS = (int, float, bool, str, type(None))
_NO_DEFAULT = object()
_known: dict[type, _Fields] = {}


class _Fields(NamedTuple):
    """The fields of a kind of parameters that take part in the key."""

    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    read: Callable[[Any], tuple[Any, ...]]


def _fields(kind: type) -> _Fields:
    fields = _known.get(kind)
    if fields is None:
        fields = _known[kind] = _read_fields(kind)
    return fields


def _read_fields(kind: Any) -> _Fields:
    names: tuple[str, ...] = kind.__struct_fields__
    defaults: tuple[Any, ...] = kind.__struct_defaults__
    padded = (_NO_DEFAULT,) * (len(names) - len(defaults)) + defaults
    kept = {
        name: default if isinstance(default, _SCALARS) else _NO_DEFAULT
        for name, default in sorted(zip(names, padded, strict=True))
        if name not in DELIVERY_FIELDS and not name.startswith("_")
    }
    return _Fields(tuple(kept), tuple(kept.values()), operator.attrgetter(*kept))


def _sampling(params: Any) -> bytes:
    """Names and values of the sampling fields, in the order of the names."""
    out = bytearray()
    try:
        for name, value in sampling_items(params):
            out += _encoded_name(name)
            _write(value, out)
    except RecursionError:
        raise Unkeyable("nested too deeply") from None
    return bytes(out)


@functools.cache
def _encoded_name(name: str) -> bytes:
    return encode(name)


def _media(prompt: Mapping[str, Any]) -> list[Any]:
    """What a prompt holds beside token ids: content hashes and positions of images and sound, the encoder's side."""
    if prompt["type"] == "enc_dec":
        encoder = prompt["encoder_prompt"]
        ids = encoder.get("prompt_token_ids")
        if ids is None:
            raise Unkeyable("encoder prompt without token ids")
        return ["enc_dec", _packed(ids), _media(encoder), _media(prompt["decoder_prompt"])]
    if prompt["type"] == "token":
        return []
    if prompt["type"] != "multimodal":
        raise Unkeyable(f"prompt type {prompt['type']}")
    places = {
        modality: [[place.offset, place.length] for place in ranges]
        for modality, ranges in prompt["mm_placeholders"].items()
    }
    return ["multimodal", prompt["mm_hashes"], places]


def _packed(ids: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(ids if type(ids) is list else list(ids))
    except (OverflowError, TypeError):
        raise Unkeyable("token ids that no vocabulary has") from None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _combine(parts: list[tuple[str, bytes]], size: int) -> bytes:
    pieces = [b"vllm-enhance-2"]
    for name, value in parts:
        pieces += (_LENGTHS(len(name), len(value)), name.encode(), value)
    return hashlib.sha256(b"".join(pieces)).digest()[:size]


def _write(value: Any, out: bytearray) -> None:
    writer = _WRITERS.get(type(value))
    if writer is not None:
        writer(value, out)
    elif isinstance(value, Enum):
        _tagged(b"X", f"{type(value).__qualname__}.{value.name}".encode(), out)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _write_object(value, (field.name for field in dataclasses.fields(value)), out)
    elif hasattr(type(value), "__struct_fields__"):
        _write_object(value, type(value).__struct_fields__, out)
    elif hasattr(value, "tobytes") and hasattr(value, "dtype") and getattr(value.dtype, "kind", "O") in "biuf":
        out += b"A"
        _write([str(value.dtype), list(value.shape), value.tobytes()], out)
    else:
        raise Unkeyable(type(value).__qualname__)


def _tagged(tag: bytes, data: bytes, out: bytearray) -> None:
    out += tag
    out += len(data).to_bytes(8, "little")
    out += data


def _write_object(value: Any, names: Any, out: bytearray) -> None:
    """Fields by name; names with ``_`` in front are derived by vLLM (``StructuredOutputsParams._backend``)."""
    _tagged(b"O", type(value).__qualname__.encode(), out)
    _write({name: getattr(value, name) for name in names if not name.startswith("_")}, out)


def _write_str(value: str, out: bytearray) -> None:
    _tagged(b"S", value.encode("utf-8", "surrogatepass"), out)


def _write_int(value: int, out: bytearray) -> None:
    _tagged(b"I", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True), out)


def _write_list(value: Any, out: bytearray) -> None:
    out += b"L" + len(value).to_bytes(8, "little")
    for item in value:
        _write(item, out)


def _write_mapping(value: Mapping[Any, Any], out: bytearray) -> None:
    items = sorted((encode(key), encode(item)) for key, item in value.items())
    out += b"M" + len(items).to_bytes(8, "little")
    for key, item in items:
        out += key + item


def _write_set(value: Any, out: bytearray) -> None:
    items = sorted(encode(item) for item in value)
    out += b"E" + len(items).to_bytes(8, "little") + b"".join(items)


def _write_constant(tag: bytes) -> Callable[[Any, bytearray], None]:
    def write(value: Any, out: bytearray) -> None:
        out += tag

    return write


def _write_bool(value: bool, out: bytearray) -> None:
    out += b"T" if value else b"F"


_WRITERS: Mapping[type, Callable[[Any, bytearray], None]] = {
    type(None): _write_constant(b"N"),
    bool: _write_bool,
    int: _write_int,
    float: lambda value, out: _tagged(b"D", struct.pack("<d", value), out),
    str: _write_str,
    bytes: lambda value, out: _tagged(b"B", value, out),
    list: _write_list,
    tuple: _write_list,
    dict: _write_mapping,
    set: _write_set,
    frozenset: _write_set,
}
