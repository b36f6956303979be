"""Errors of the similarity hook; all stay inside it.

SimilarityError
└── EmbedderError
    ├── EmbeddingBackendMissing     a package is not installed
    ├── EmbeddingBackendRefused     the backend cannot run this model as it is
    ├── EmbeddingModelUnavailable   no such model, or the hub cannot be reached
    └── EmbedderClosed              used after shutdown
"""

from __future__ import annotations

from vllm_enhance.errors import EnhanceError

__all__ = [
    "EmbedderClosed",
    "EmbedderError",
    "EmbeddingBackendMissing",
    "EmbeddingBackendRefused",
    "EmbeddingModelUnavailable",
    "SimilarityError",
]


class SimilarityError(EnhanceError):
    """Base of every error this package raises on purpose."""


class EmbedderError(SimilarityError):
    """The embedder cannot serve; similarity stays off and the server goes on."""


class EmbeddingBackendMissing(EmbedderError):
    """A package that the chosen backend needs is not installed."""

    def __init__(self, package: str, cause: str) -> None:
        super().__init__(f"similarity is off: {package} is not installed ({cause}); install vllm-enhance[similarity]")
        self.package = package


class EmbeddingBackendRefused(EmbedderError):
    """The model does not convert, or converted it gives other vectors."""

    def __init__(self, precision: str, cause: str) -> None:
        super().__init__(
            f"similarity is off: ONNX Runtime cannot run this embedding model in {precision} ({cause}); "
            "--enhance-embedding-backend torch can"
        )


class EmbeddingModelUnavailable(EmbedderError):
    """The model is not on disk, and no hub gave it."""

    def __init__(self, model: str, cause: str) -> None:
        super().__init__(
            f"similarity is off: the embedding model {model!r} could not be loaded ({cause}); "
            "give a local directory, or a hub name that this machine can reach"
        )
        self.model = model


class EmbedderClosed(EmbedderError):
    """The embedder was used after it was closed."""

    def __init__(self) -> None:
        super().__init__("the embedder is closed")
