"""What a message between processes looks like in the store, and the check of what comes back.

====== =====================================================
bytes  meaning (little-endian)
====== =====================================================
4      magic ``vEnL``
1 1 2  version, flags (1: keyed), 0
8      who sent it: random, new for each process
8      when: Unix time, float64
n      payload
16     BLAKE2b over the place it was sent to and all before
====== =====================================================

The digest is keyed with the operator's ``ENHANCE_STORE_KEY``, as that of answers is (:mod:`.envelope`). It covers the
place, the log's or the state's name, so that nothing can be moved from one to another.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from typing import NamedTuple

from vllm_enhance_cache.errors import EnvelopeError

__all__ = ["ORIGIN_BYTES", "Opened", "Seal", "mac_key"]

MAGIC = b"vEnL"
VERSION = 1
KEYED = 1
ORIGIN_BYTES = 8
MAC_BYTES = 16

_HEADER = struct.Struct("<4sBBH8sd")


class Opened(NamedTuple):
    """A message that is ours: payload, sender, Unix time."""

    payload: bytes
    origin: bytes
    sent_at: float


def mac_key(secret: str) -> bytes:
    """The key of all digests, from the operator's secret; empty without one."""
    if not secret:
        return b""
    raw = secret.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(raw, digest_size=32, person=b"enhance-store").digest()


class Seal:
    """Seals payloads and opens what comes back. Thread-safe.

    Args:
        secret: the operator's key; empty for a plain checksum.
    """

    def __init__(self, secret: str = "") -> None:
        self._key = mac_key(secret)
        self._flags = KEYED if secret else 0

    def seal(self, place: str, payload: bytes, *, origin: bytes, now: float) -> bytes:
        """The payload as bytes for one place."""
        head = _HEADER.pack(MAGIC, VERSION, self._flags, 0, origin, now)
        return b"".join((head, payload, self._mac(place, head, payload)))

    def open(self, place: str, data: bytes) -> Opened:
        """What is in ``data``, if it was sealed for this place with our key.

        Raises:
            EnvelopeError: it was not; nothing else is ever raised, whatever ``data`` is.
        """
        if len(data) < _HEADER.size + MAC_BYTES:
            raise EnvelopeError("short")
        head, payload, mac = data[: _HEADER.size], data[_HEADER.size : -MAC_BYTES], data[-MAC_BYTES:]
        magic, version, flags, _, origin, sent_at = _HEADER.unpack(head)
        checks = (
            ("magic", magic == MAGIC),
            ("version", version == VERSION),
            ("mac", flags == self._flags and hmac.compare_digest(mac, self._mac(place, head, payload))),
            ("time", math.isfinite(sent_at)),
        )
        for reason, good in checks:
            if not good:
                raise EnvelopeError(reason)
        return Opened(payload, origin, sent_at)

    def _mac(self, place: str, head: bytes, payload: bytes) -> bytes:
        digest = hashlib.blake2b(digest_size=MAC_BYTES, key=self._key, person=b"enhance-log")
        name = place.encode()
        for part in (len(name).to_bytes(4, "little"), name, head, payload):
            digest.update(part)
        return digest.digest()
