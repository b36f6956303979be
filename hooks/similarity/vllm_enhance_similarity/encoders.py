"""Sentence encoders: blocking functions from texts to unit vectors.

An encoder knows nothing of threads, queues or event loops; `embedder.BatchingEmbedder` owns those. The one shipped here
wraps sentence-transformers; what computes is torch, or ONNX Runtime where it is installed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from vllm_enhance_similarity.errors import (
    EmbedderError,
    EmbeddingBackendMissing,
    EmbeddingBackendRefused,
    EmbeddingModelUnavailable,
)
from vllm_enhance_similarity.guards.bare import READING, bare
from vllm_enhance_similarity.onnx_runtime import convert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BACKENDS", "EmbedderIdentity", "Encoder", "SentenceTransformerEncoder"]

logger = logging.getLogger("vllm_enhance.similarity")

PRECISIONS = {"onnx-int8": "int8", "onnx": "float32", "torch": "float32"}
"""Backend -> precision of its vectors, fastest first: the order in which "auto" tries them."""

BACKENDS = ("auto", *PRECISIONS)

# A model reads tokens, and no tokenizer in use packs more than a few characters into one. A text this much longer than
# the model reads is refused without being tokenized, so that a megabyte of text costs nothing.
_MAX_CHARS_PER_TOKEN = 32


class EmbedderIdentity(msgspec.Struct, frozen=True):
    """What made a vector; vectors of two identities must never meet in one index.

    `digest` covers weights, precision, how a text is read, the tokenizer's limit and the dimension, but not where the
    files lie, so that two hosts with the same model under different paths share an index. `name` and `backend` are
    for people.
    """

    name: str
    digest: str
    dimension: int
    max_tokens: int
    backend: str = "torch"


class Encoder(Protocol):
    """A blocking text encoder, used from one thread only."""

    def load(self) -> EmbedderIdentity:
        """Load the model. Raises EmbedderError with a sentence for the operator."""

    def fits(self, text: str) -> bool:
        """True if the model reads the whole text, without truncation."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, shape (len(texts), dimension), float32."""


class SentenceTransformerEncoder:
    """A sentence-transformers model by local path or by hub name.

    A local directory is never looked up on a hub. A hub name may be downloaded, since the operator asked for it, unless
    HF_HUB_OFFLINE says otherwise; remote code is never trusted.

    Args:
        model: directory, or hub name such as "sentence-transformers/all-MiniLM-L6-v2".
        backend: "torch"; "onnx", the same vectors from ONNX Runtime in half the time on a CPU; "onnx-int8", rounded
            vectors in an eighth of it; "auto", the fastest of them that is installed and gives this model's vectors.
        device: torch device; "cpu" by default, since the accelerator belongs to the language model. ONNX Runtime is
            used on the CPU only.
    """

    def __init__(self, model: str, *, backend: str = "auto", device: str = "cpu") -> None:
        if backend not in BACKENDS:
            raise ValueError(f"embedding backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        self._name = model
        self._backend = backend
        self._device = device
        self._model: Any = None
        self._run: Callable[[Sequence[str]], NDArray[np.float32]] = self._torch
        self._max_tokens = 0

    def load(self) -> EmbedderIdentity:
        """Load model and tokenizer and compute the identity. Blocking: seconds."""
        model = self._model = self._open()
        dimension = _dimension(model)
        if not dimension:
            raise EmbeddingModelUnavailable(self._name, "the model does not state its dimension")
        self._max_tokens = _reads(model)
        backend = self._choose()
        identity = EmbedderIdentity(
            name=_display_name(self._name),
            digest=_digest(model, PRECISIONS[backend], dimension, self._max_tokens),
            dimension=dimension,
            max_tokens=self._max_tokens,
            backend=backend,
        )
        if backend != "torch":
            model.to("meta")  # the session has its own copy of the weights; what is left is the tokenizer
        return identity

    def _choose(self) -> str:
        """Set what computes; returns its name. Raises EmbedderError if a backend asked for by name cannot."""
        if self._backend != "auto":
            self._use(self._backend)
            return self._backend
        for backend in PRECISIONS if self._device == "cpu" else ():
            try:
                self._use(backend)
            except EmbedderError as fault:
                reason = str(fault).removeprefix("similarity is off: ")
                logger.info("embedding backend %s is not used: %s", backend, reason)
            else:
                return backend
        return "torch"

    def _use(self, backend: str) -> None:
        if backend == "torch":
            self._run = self._torch
        elif self._device != "cpu":
            raise EmbeddingBackendRefused(PRECISIONS[backend], f"device {self._device}; it runs on the CPU only")
        else:
            self._run = convert(self._model, PRECISIONS[backend])

    def fits(self, text: str) -> bool:
        """Count tokens without truncation; special tokens count, as they do in the model."""
        if len(text) > self._max_tokens * _MAX_CHARS_PER_TOKEN:
            return False
        if 3 * len(text.encode("utf-8")) < self._max_tokens:
            return True  # a byte gives at most one token; three leaves room for normalisation and special tokens
        tokenizer = self._model.tokenizer
        if not callable(tokenizer):
            return True  # a table of word vectors, which reads texts of any length
        ids = tokenizer(text, truncation=False, add_special_tokens=True, verbose=False)["input_ids"]
        return len(ids) <= self._max_tokens

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode the questions of one micro-batch, each as `guards.bare` leaves it: "Hi, ... Thanks!" moves no vector.

        Shape (n, dimension), float32, unit length.
        """
        return self._run([bare(text) for text in texts])

    def _torch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        vectors = self._model.encode(
            list(texts),
            batch_size=len(texts),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _open(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as fault:
            raise EmbeddingBackendMissing("sentence-transformers", str(fault)) from fault
        local = os.path.isdir(self._name)
        if not local and _looks_like_path(self._name):
            raise EmbeddingModelUnavailable(self._name, "no such directory")
        try:
            return SentenceTransformer(
                self._name,
                device=self._device,
                trust_remote_code=False,
                local_files_only=local,
            )
        except Exception as fault:  # the libraries below raise their own many kinds: all mean "no model"
            raise EmbeddingModelUnavailable(self._name, _first_line(fault)) from fault


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name)


def _display_name(name: str) -> str:
    """The last part of a path, or the hub name: never a directory of the operator's machine."""
    return Path(name).name if os.path.isdir(name) else name


def _dimension(model: Any) -> int:
    for method in ("get_embedding_dimension", "get_sentence_embedding_dimension"):
        if hasattr(model, method):
            return int(getattr(model, method)() or 0)
    return 0


def _reads(model: Any) -> int:
    """Tokens that the model reads; one without a limit of its own (a table of word vectors) gets one, for the cost."""
    limit = getattr(model, "max_seq_length", None) or 512
    return int(min(limit, 8192))


def _first_line(fault: Exception) -> str:
    text = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {text[0] if text else 'no message'}"[:300]


def _digest(model: Any, precision: str, dimension: int, max_tokens: int) -> str:
    """Hash the weights. 90 MB takes about 0.1 s, once per start."""
    state = hashlib.blake2b(digest_size=16)
    state.update(f"{precision}|{dimension}|{max_tokens}|{READING}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"|{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        state.update(_tensor_bytes(tensor))
    return state.hexdigest()


def _tensor_bytes(tensor: Any) -> memoryview:
    import torch

    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())
