"""The bytes of a policy's state: versioned msgpack, bound to the list of features, without any text."""

from __future__ import annotations

import hashlib

import msgspec

from vllm_enhance_similarity.policies.acceptance import AuditTally
from vllm_enhance_similarity.policies.features import FEATURES
from vllm_enhance_similarity.policies.ledger import ErrorLedger
from vllm_enhance_similarity.policies.noise import JudgeNoise

__all__ = ["Label", "PolicyState", "decode_state", "encode_state"]

_VERSION = 1
_SCHEMA = hashlib.blake2b("|".join(FEATURES).encode(), digest_size=8).hexdigest()


class Label(msgspec.Struct, array_like=True, frozen=True):
    """One verdict: the features of the case, whether the answers were the same, and its weight in the fit."""

    features: tuple[float, ...]
    same: bool
    weight: float


class PolicyState(msgspec.Struct):
    """All that BoundedPolicy has learned; `terms` are checksums of words."""

    labels: list[Label]
    tally: AuditTally
    ledger: ErrorLedger
    noise: JudgeNoise
    records: dict[bytes, tuple[int, int]] = {}
    documents: int = 0
    terms: dict[int, int] = {}
    level: float = -1.0


class _Envelope(msgspec.Struct):
    version: int
    schema: str
    body: msgspec.Raw


def encode_state(state: PolicyState) -> bytes:
    """Bytes for `decode_state`."""
    return msgspec.msgpack.encode(_Envelope(_VERSION, _SCHEMA, msgspec.Raw(msgspec.msgpack.encode(state))))


def decode_state(data: bytes) -> PolicyState | None:
    """None if the bytes are damaged, of another version, or made with other features."""
    try:
        envelope = msgspec.msgpack.decode(data, type=_Envelope)
        if envelope.version != _VERSION or envelope.schema != _SCHEMA:
            return None
        state = msgspec.msgpack.decode(envelope.body, type=PolicyState)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return state if all(len(label.features) == len(FEATURES) for label in state.labels) else None
