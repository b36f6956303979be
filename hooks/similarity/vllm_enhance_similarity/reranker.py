"""An optional second look at candidates with a cross-encoder, which reads both questions together."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

from vllm_enhance_similarity.errors import EmbeddingBackendMissing, EmbeddingModelUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CrossEncoderReranker", "Reranker"]


class Reranker(Protocol):
    """Scores pairs of questions; blocking, from any thread."""

    def scores(self, asked: str, stored: Sequence[str]) -> list[float]:
        """One probability in [0, 1] that the two mean the same, for each stored question."""


class CrossEncoderReranker:
    """A sentence-transformers cross-encoder by local path or hub name; about 10 ms a pair on one core.

    Args:
        model: directory or hub name; a hub name may be downloaded, unless HF_HUB_OFFLINE says otherwise.
    """

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        import os

        try:
            from sentence_transformers import CrossEncoder
        except ImportError as fault:
            raise EmbeddingBackendMissing("sentence-transformers", str(fault)) from fault
        try:
            self._model: Any = CrossEncoder(
                model, device=device, trust_remote_code=False, local_files_only=os.path.isdir(model)
            )
        except Exception as fault:  # the libraries below raise their own many kinds: all mean "no model"
            raise EmbeddingModelUnavailable(model, type(fault).__name__) from fault
        self._lock = threading.Lock()  # tokenizers refuse two threads at once

    def scores(self, asked: str, stored: Sequence[str]) -> list[float]:
        """See Reranker. A one-logit model is squashed by its own activation; scores are cut to [0, 1]."""
        with self._lock:
            raw = self._model.predict([(asked, text) for text in stored], show_progress_bar=False)
        return [min(1.0, max(0.0, float(score))) for score in raw]
