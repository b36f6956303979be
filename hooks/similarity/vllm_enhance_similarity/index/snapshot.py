"""Write an index to a directory and read it back; a reader gets all of it or nothing, with the reason.

    manifest.json          what made it, format version, and the SHA-256 of each file below: the commit point
    entries-<gen>.msgpack  the entry table
    vectors-<gen>.npy      float32, one row per entry, in the table's order
    graph-<gen>-<n>.hnsw   one per partition large enough to have a graph

Files are written under a new generation, flushed to disk, and then the manifest is renamed over the old one; files of
other generations are removed after that. A crash at any point leaves the old snapshot whole. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from vllm_enhance_similarity.index.entries import Entry
from vllm_enhance_similarity.index.growing import GrowingIndex
from vllm_enhance_similarity.index.hnsw import HnswIndex
from vllm_enhance_similarity.index.partitioned import PartitionedIndex

if TYPE_CHECKING:
    from vllm_enhance_similarity.encoders import EmbedderIdentity
    from vllm_enhance_similarity.index.hnsw import HnswParameters
    from vllm_enhance_similarity.index.partitioned import IndexLimits

__all__ = ["RestoreOutcome", "restore_index", "save_index"]

FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_SPACE = "cosine"

RestoreReason = Literal[
    "restored", "absent", "unreadable", "other_version", "other_embedder", "other_dimension", "other_space", "damaged"
]


class _GraphFile(msgspec.Struct):
    partition: bytes
    file: str
    meta: dict[str, Any]


class _Manifest(msgspec.Struct):
    version: int
    embedder: str
    embedder_name: str
    dimension: int
    space: str
    created: float
    count: int
    entries: str
    vectors: str
    sha256: dict[str, str]
    graphs: list[_GraphFile] = []


class RestoreOutcome(msgspec.Struct, frozen=True):
    """The index, empty unless `reason` is "restored"."""

    index: PartitionedIndex
    reason: RestoreReason
    entries: int = 0


def save_index(index: PartitionedIndex, directory: Path, identity: EmbedderIdentity, *, now: float) -> int:
    """Write a snapshot; returns the number of entries. Raises OSError. Blocking: about a second at 100k entries."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    generation = secrets.token_hex(6)
    with index.lock:
        entries, vectors = _table_of(index)
        graphs = _save_graphs(index, directory, generation)
        encoded = msgspec.msgpack.encode(entries)
    manifest = _Manifest(
        version=FORMAT_VERSION,
        embedder=identity.digest,
        embedder_name=identity.name,
        dimension=index.dimension,
        space=_SPACE,
        created=now,
        count=len(entries),
        entries=f"entries-{generation}.msgpack",
        vectors=f"vectors-{generation}.npy",
        sha256={},
        graphs=graphs,
    )
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    _write(directory / manifest.entries, encoded)
    _write(directory / manifest.vectors, buffer.getvalue())
    for name in [manifest.entries, manifest.vectors, *(graph.file for graph in graphs)]:
        manifest.sha256[name] = _digest(directory / name)
    _commit(directory, manifest)
    return len(entries)


def restore_index(
    directory: Path,
    identity: EmbedderIdentity,
    *,
    now: float,
    limits: IndexLimits | None = None,
    parameters: HnswParameters | None = None,
) -> RestoreOutcome:
    """Read a snapshot. Never raises: an unusable one gives an empty index and the reason. Expired entries stay out."""

    def empty(reason: RestoreReason) -> RestoreOutcome:
        return RestoreOutcome(PartitionedIndex(identity.dimension, limits=limits, parameters=parameters), reason)

    try:
        manifest = msgspec.json.decode((directory / _MANIFEST).read_bytes(), type=_Manifest)
    except FileNotFoundError:
        return empty("absent")
    except (OSError, msgspec.MsgspecError):
        return empty("unreadable")
    mismatch = _mismatch(manifest, identity)
    if mismatch is not None:
        return empty(mismatch)
    index = PartitionedIndex(identity.dimension, limits=limits, parameters=parameters)
    try:
        _fill(index, directory, manifest, now)
    except Exception:  # whatever a damaged file makes a parser raise, the answer is the same: start empty
        return empty("damaged")
    return RestoreOutcome(index, "restored", len(index))


def _mismatch(manifest: _Manifest, identity: EmbedderIdentity) -> RestoreReason | None:
    checks: list[tuple[bool, RestoreReason]] = [
        (manifest.version == FORMAT_VERSION, "other_version"),
        (manifest.space == _SPACE, "other_space"),
        (manifest.dimension == identity.dimension, "other_dimension"),
        (manifest.embedder == identity.digest, "other_embedder"),
    ]
    return next((reason for holds, reason in checks if not holds), None)


def _table_of(index: PartitionedIndex) -> tuple[list[Entry], np.ndarray[Any, np.dtype[np.float32]]]:
    entries = index.entries()
    row_of = {entry.id: row for row, entry in enumerate(entries)}
    vectors = np.zeros((len(entries), index.dimension), dtype=np.float32)
    for partition in index.partitions().values():
        ids, rows = partition.export()
        vectors[[row_of[key] for key in ids]] = rows
    return entries, vectors


def _save_graphs(index: PartitionedIndex, directory: Path, generation: str) -> list[_GraphFile]:
    graphs: list[_GraphFile] = []
    for partition, growing in index.partitions().items():
        if isinstance(growing.backing, HnswIndex):
            file = f"graph-{generation}-{len(graphs)}.hnsw"
            graphs.append(_GraphFile(partition, file, growing.backing.save(directory / file)))
            _flush(directory / file)
    return graphs


def _fill(index: PartitionedIndex, directory: Path, manifest: _Manifest, now: float) -> None:
    for name, expected in manifest.sha256.items():
        if os.path.basename(name) != name or _digest(directory / name) != expected:
            raise ValueError(f"checksum of {name}")
    entries = msgspec.msgpack.decode((directory / manifest.entries).read_bytes(), type=list[Entry])
    vectors = np.load(directory / manifest.vectors, allow_pickle=False)
    if vectors.shape != (len(entries), index.dimension) or vectors.dtype != np.float32:
        raise ValueError("entries and vectors differ")
    graph_files = {graph.partition: graph for graph in manifest.graphs}
    members: dict[bytes, list[int]] = {}
    for row, entry in enumerate(entries):
        index.restore_entry(entry)
        members.setdefault(entry.partition, []).append(row)
    for partition, rows in members.items():
        ids = [entries[row].id for row in rows]
        backing = None
        if partition in graph_files:
            graph = graph_files[partition]
            if graph.file not in manifest.sha256:
                raise ValueError("graph without checksum")
            backing = HnswIndex.load(directory / graph.file, graph.meta, index.dimension, index.parameters)
            if set(backing.export()[0]) != set(ids):
                raise ValueError("graph and entries differ")
        growing = GrowingIndex(index.dimension, index.parameters, index.limits.flat_limit, backing)
        if backing is None:
            growing.add(ids, vectors[rows])
        index.restore_partition(partition, growing)
    while index.expire(now):
        pass


def _commit(directory: Path, manifest: _Manifest) -> None:
    temporary = directory / f".{_MANIFEST}.{secrets.token_hex(6)}"
    _write(temporary, msgspec.json.encode(manifest))
    os.replace(temporary, directory / _MANIFEST)
    _flush(directory)
    kept = {_MANIFEST, *manifest.sha256}
    for path in directory.iterdir():
        if path.name not in kept and path.name.lstrip(".").startswith(("entries-", "vectors-", "graph-", _MANIFEST)):
            path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
