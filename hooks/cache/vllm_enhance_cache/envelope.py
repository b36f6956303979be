"""What a stored value looks like, and the check of what comes back.

A store is outside our walls: other programs write to it, disks and versions rot. So a value says what it is, for which
key, tenant and model, of which generation and until when, and ends in a BLAKE2b digest over all of that, keyed with the
operator's ``ENHANCE_STORE_KEY``. Whoever lacks the key cannot make the server say anything, nor move an answer from one
question to another. Without a key the digest only finds damage.

====== =====================================================
bytes  meaning (little-endian)
====== =====================================================
4      magic ``vEnh``
1 1 1 1 version, flags (1: keyed), codec (0 none, 1 zstd, 2 zlib), 0
8      generation of the horizon
8 8    created at, expires at: Unix time, float64
32     exact key
16 16  tenant tag, model tag
4 4    length of the payload unpacked, packed
n      payload: length of the model name (2 bytes), name, record (msgpack)
16     BLAKE2b over all before
====== =====================================================

zstd is used where the ``zstandard`` package is installed, zlib where it is not; either side reads what it can and
treats the rest as a miss.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from vllm_enhance.errors import RecordError
from vllm_enhance.records import decode_record, encode_record
from vllm_enhance.stores import model_tag, tenant_tag
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.errors import EnvelopeError
from vllm_enhance_cache.seal import mac_key

__all__ = ["HEADER_BYTES", "VERSION", "Envelope", "read_tags"]

MAGIC = b"vEnh"
VERSION = 1
KEYED = 1
NONE, ZSTD, ZLIB = 0, 1, 2
COMPRESS_FROM = 1024
"""Bytes from which on compressing pays."""

_HEADER = struct.Struct("<4sBBBBQdd32s16s16sII")
_NAME = struct.Struct("<H")
HEADER_BYTES = _HEADER.size
MAC_BYTES = 16

_local = threading.local()


class Envelope:
    """Seals entries and opens what comes back. Thread-safe.

    Args:
        secret: the operator's key; empty for a plain checksum.
        compression: ``zstd`` or ``none``.
        max_bytes: neither the packed nor the unpacked payload may be larger.
    """

    def __init__(self, secret: str = "", *, compression: str = "zstd", max_bytes: int = 8 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._flags = KEYED if secret else 0
        self._mac_key = mac_key(secret)
        self.codec = NONE if compression == "none" else ZSTD if find_spec("zstandard") is not None else ZLIB
        if self.codec == ZSTD:
            _zstd("pack")  # imports it now, not while requests are served

    @property
    def keyed(self) -> bool:
        """Whether a stranger's values are refused."""
        return bool(self._mac_key)

    def seal(self, entry: Entry) -> bytes:
        """The entry as bytes.

        Raises:
            EnvelopeError: ``too_large``.
        """
        name = entry.model.encode("utf-8", "surrogatepass")[:0xFFFF]
        raw = _NAME.pack(len(name)) + name + encode_record(entry.record)
        if len(raw) > self._max_bytes:
            raise EnvelopeError("too_large")
        codec, payload = self.codec, raw
        if codec != NONE and len(raw) >= COMPRESS_FROM:
            payload = _PACKERS[codec](raw)
        if len(payload) >= len(raw):
            codec, payload = NONE, raw
        head = _HEADER.pack(
            MAGIC,
            VERSION,
            self._flags,
            codec,
            0,
            entry.generation,
            entry.created_at,
            entry.expires_at,
            entry.key,
            tenant_tag(entry.tenant),
            model_tag(entry.model),
            len(raw),
            len(payload),
        )
        return b"".join((head, payload, self._mac(head, payload)))

    def open(self, data: bytes, *, key: bytes, tenant: bytes | None, now: float) -> Entry:
        """The entry in ``data``, if it is one of ours for this key and tenant and its time is not over.

        Args:
            tenant: who asks; ``None`` to take any, as an export does, and then the entry carries the tenant's tag.

        Raises:
            EnvelopeError: it is not; nothing else is ever raised, whatever ``data`` is.
        """
        if len(data) < HEADER_BYTES + MAC_BYTES:
            raise EnvelopeError("short")
        head, payload, mac = data[:HEADER_BYTES], data[HEADER_BYTES:-MAC_BYTES], data[-MAC_BYTES:]
        magic, version, flags, codec, _, generation, created, expires, its_key, who, _, raw_size, size = _HEADER.unpack(
            head
        )
        checks = (
            ("magic", magic == MAGIC),
            ("version", version == VERSION),
            ("length", size == len(payload)),
            ("mac", flags == self._flags and hmac.compare_digest(mac, self._mac(head, payload))),
            ("key", its_key == key),
            ("tenant", tenant is None or who == tenant_tag(tenant)),
            ("too_large", max(raw_size, size) <= self._max_bytes),
            ("time", math.isfinite(created) and math.isfinite(expires)),
            ("expired", expires > now),
        )
        for reason, good in checks:
            if not good:
                raise EnvelopeError(reason)
        raw = _unpack(codec, payload, raw_size)
        try:
            end = _NAME.size + _NAME.unpack_from(raw)[0]
            model = raw[_NAME.size : end].decode("utf-8", "surrogatepass")
            record = decode_record(raw[end:])
        except (struct.error, UnicodeDecodeError, RecordError) as error:
            raise EnvelopeError("record") from error
        return Entry(key, record, who if tenant is None else tenant, model, created, expires, generation)

    def _mac(self, head: bytes, payload: bytes) -> bytes:
        digest = hashlib.blake2b(head, digest_size=MAC_BYTES, key=self._mac_key, person=b"enhance-value")
        digest.update(payload)
        return digest.digest()


def read_tags(head: bytes) -> tuple[bytes, bytes, float] | None:
    """Tenant tag, model tag and creation time in the first :data:`HEADER_BYTES` of a value, unchecked; ``None`` when
    it is no envelope of this version."""
    if len(head) < HEADER_BYTES:
        return None
    fields = _HEADER.unpack(head[:HEADER_BYTES])
    return (fields[9], fields[10], fields[6]) if fields[:2] == (MAGIC, VERSION) else None


# --------------------------------------------------------------------------- compression


def _zstd(what: str) -> Any:
    # Compressors are not safe to share between threads, and making one costs more than using it.
    pair = getattr(_local, "zstd", None)
    if pair is None:
        import zstandard

        pair = _local.zstd = {"pack": zstandard.ZstdCompressor(level=3), "unpack": zstandard.ZstdDecompressor()}
    return pair[what]


_PACKERS: Mapping[int, Callable[[bytes], bytes]] = {
    ZSTD: lambda raw: bytes(_zstd("pack").compress(raw)),
    ZLIB: lambda raw: zlib.compress(raw, 3),
}


def _unzlib(data: bytes, size: int) -> bytes:
    return zlib.decompressobj().decompress(data, size + 1)


_UNPACKERS: Mapping[int, Callable[[bytes, int], bytes]] = {
    NONE: lambda data, size: data,
    ZSTD: lambda data, size: bytes(_zstd("unpack").decompress(data, max_output_size=size)),
    ZLIB: _unzlib,
}


def _unpack(codec: int, payload: bytes, size: int) -> bytes:
    unpacker = _UNPACKERS.get(codec)
    if unpacker is None:
        raise EnvelopeError("codec")
    if codec == ZSTD and _declared_size(payload) != size:
        raise EnvelopeError("codec")  # a bomb: zstd would allocate what its own header says
    try:
        raw = unpacker(payload, size)
    except Exception as error:  # each codec has errors of its own, ImportError among them
        raise EnvelopeError("codec") from error
    if len(raw) != size:
        raise EnvelopeError("length")
    return raw


def _declared_size(payload: bytes) -> int:
    try:
        import zstandard

        return int(zstandard.frame_content_size(payload))
    except Exception:
        return -1
