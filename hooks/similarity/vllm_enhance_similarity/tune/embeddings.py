"""Embeddings of the traffic's texts: made, or taken from a file.

Two kinds of files. ``.npy``: one row for each request of the log, whoever made it. Any other name (``.npz``): what was
embedded before, by the digest of its text, so that a log may grow, turn over or be read in part; what is missing is
added to it.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vllm_enhance.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vllm_enhance_similarity.tune.traffic import Traffic

__all__ = ["embed_traffic"]

BATCH = 64
MODEL_WANTED = "--embedding-model (or --embeddings with a file made before) is wanted"

Progress = Callable[[int, int], None]
"""Told how many texts are done, of how many."""


def embed_traffic(
    traffic: Traffic, model: str, file: Path | None, progress: Progress
) -> tuple[NDArray[np.float32], str]:
    """Unit vectors of the distinct texts, shape (texts, dimension), and where they come from.

    Args:
        model: directory or hub name; may be empty when `file` holds everything.

    Raises:
        ConfigurationError: the file does not fit, or something is missing and there is no model to make it.
    """
    if file is not None and file.suffix == ".npy":
        return _rows(traffic, model, file, progress)
    known = {} if file is None else _read(file, model)
    digests = [_digest(text) for text in traffic.texts]
    missing = list({digest: text for digest, text in zip(digests, traffic.texts, strict=True) if digest not in known})
    if missing:
        wanted = dict(zip(digests, traffic.texts, strict=True))
        made = _encode([wanted[digest] for digest in missing], model, progress)
        known.update(zip(missing, made, strict=True))
        if file is not None:
            _write(file, known, _name(model))
    vectors = np.array([known[digest] for digest in digests], dtype=np.float32)
    return _unit(vectors), _name(model) or (file.name if file is not None else "")


def _rows(traffic: Traffic, model: str, file: Path, progress: Progress) -> tuple[NDArray[np.float32], str]:
    if file.exists():
        try:
            whole = np.load(file, allow_pickle=False, mmap_mode="r")
        except (ValueError, OSError) as error:
            raise ConfigurationError(f"{file} holds no embeddings: {error}") from None
        if whole.ndim != 2 or whole.shape[0] < max(traffic.rows) + 1:
            raise ConfigurationError(
                f"{file} has shape {whole.shape}; one row for each of the {max(traffic.rows) + 1} requests is wanted. "
                "For a log that grows, name a file that ends in .npz"
            )
        return _unit(np.array(whole[traffic.rows], dtype=np.float32)), file.name
    if traffic.stored:
        raise ConfigurationError("pairs have two texts a line: name a file that ends in .npz")
    vectors = _encode(traffic.texts, model, progress)
    np.save(file, vectors[traffic.asked], allow_pickle=False)
    return _unit(vectors), _name(model)


def _encode(texts: Sequence[str], model: str, progress: Progress) -> NDArray[np.float32]:
    if not model:
        raise ConfigurationError(MODEL_WANTED)
    from vllm_enhance_similarity.encoders import SentenceTransformerEncoder

    encoder = SentenceTransformerEncoder(model)
    vectors = np.empty((len(texts), encoder.load().dimension), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), BATCH):
        block = order[start : start + BATCH]
        vectors[block] = encoder.encode([texts[number] for number in block])
        progress(start + len(block), len(order))
    return vectors


def _read(file: Path, model: str) -> dict[bytes, NDArray[np.float32]]:
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as found:
            digests, vectors, made_by = found["digests"], found["vectors"], str(found["model"])
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{file} holds no embeddings: {error}") from None
    if model and made_by != _name(model):
        raise ConfigurationError(f"{file} holds embeddings of {made_by}, not of {_name(model)}: name another file")
    return dict(zip((bytes(row) for row in digests), vectors, strict=True))


def _write(file: Path, known: dict[bytes, NDArray[np.float32]], model: str) -> None:
    digests = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), -1)
    part = file.with_name(f".{file.name}.part")
    with open(part, "wb") as out:
        np.savez(out, digests=digests, vectors=np.array(list(known.values()), dtype=np.float32), model=np.array(model))
    os.replace(part, file)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    vectors /= lengths
    return vectors


def _name(model: str) -> str:
    """Enough of a directory or hub name to know it again."""
    return "/".join(model.rstrip("/").split("/")[-2:])
