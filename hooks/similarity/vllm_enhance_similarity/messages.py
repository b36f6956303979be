"""What processes tell each other of stored questions and of users' verdicts, as bytes, and the check of what comes in.

Pure. Whoever lacks the operator's key cannot write these where one is set; where none is set, the checks here keep
nonsense out of the index, not lies.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from vllm_enhance.errors import EnhanceError
from vllm_enhance.records import decode_record
from vllm_enhance.stores import KEY_BYTES

__all__ = ["EntryMessage", "Problem", "VerdictMessage", "read_entry", "read_verdict"]

Problem = Literal["unreadable", "dimension", "expired", "too_large", "record"]

_UNIT = 1e-2  # how far from unit length a vector may be


class EntryMessage(msgspec.Struct, frozen=True, array_like=True):
    """A stored question with its answer; fields as those of `index.entries.Entry`, `vector` as float32."""

    partition: bytes
    key: bytes
    tenant: bytes
    model: str
    text: str
    group: bytes
    created: float
    expires: float
    generation: int
    vector: bytes
    payload: bytes


class VerdictMessage(msgspec.Struct, frozen=True, array_like=True):
    """What a user said of a similar answer.

    `asked` is the exact key of the question. `group` is empty when the sender does not know which stored answer it got:
    then whoever has served it does. `entry` is the stored question's key, `vector` the asked one's embedding.
    """

    asked: bytes
    verdict: str
    partition: bytes = b""
    entry: bytes = b""
    group: bytes = b""
    vector: bytes = b""
    expires: float = 0.0


def read_entry(data: bytes, *, dimension: int, now: float, ttl: float, max_payload: int) -> EntryMessage | Problem:
    """The message, living no longer than `ttl` seconds from its creation by our own clock, or what is wrong with it."""
    try:
        found = msgspec.msgpack.decode(data, type=EntryMessage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "unreadable"
    if len(found.key) != KEY_BYTES or not found.partition or not found.text or found.generation < 0:
        return "unreadable"
    if not math.isfinite(found.created) or not math.isfinite(found.expires):
        return "unreadable"
    if not _is_unit(found.vector, dimension):
        return "dimension"
    created = min(found.created, now)
    expires = min(found.expires, created + ttl)
    if expires <= now:
        return "expired"
    if len(found.payload) > max_payload:
        return "too_large"
    try:
        decode_record(found.payload)
    except EnhanceError:
        return "record"
    return msgspec.structs.replace(found, created=created, expires=expires)


def read_verdict(data: bytes, *, dimension: int, now: float, ttl: float) -> VerdictMessage | None:
    """The message, holding for `ttl` seconds at most, or None."""
    try:
        found = msgspec.msgpack.decode(data, type=VerdictMessage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if len(found.asked) != KEY_BYTES or found.verdict not in ("right", "wrong"):
        return None
    if not found.group:
        return VerdictMessage(found.asked, found.verdict)
    if not _is_unit(found.vector, dimension) or not math.isfinite(found.expires) or found.expires <= now:
        return None
    return msgspec.structs.replace(found, expires=min(found.expires, now + ttl))


def _is_unit(vector: bytes, dimension: int) -> bool:
    if len(vector) != 4 * dimension:
        return False
    row = np.frombuffer(vector, dtype=np.float32)
    return bool(np.isfinite(row).all()) and abs(float(np.dot(row, row)) - 1.0) < _UNIT
