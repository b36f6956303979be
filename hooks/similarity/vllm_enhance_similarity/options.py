"""What an operator may set of similarity, and the same as plain values for the Python API."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_enhance.settings import Setting, Settings

__all__ = ["SETTINGS", "SimilarityOptions"]

_SECTION = "Similarity"
TEN_YEARS = 3.2e8


def _text(name: str, default: str, help_: str, *choices: str) -> Setting:
    return Setting(name=name, kind="text", default=default, help=help_, section=_SECTION, choices=choices)


def _number(
    name: str, kind: str, default: str, help_: str, minimum: float | None = None, maximum: float | None = None
) -> Setting:
    return Setting(
        name=name, kind=kind, default=default, help=help_, section=_SECTION, minimum=minimum, maximum=maximum
    )


SETTINGS: tuple[Setting, ...] = (
    _text(
        "embedding-model",
        "",
        "Sentence-transformers model that finds similar questions: a directory, or a hub name, which may be "
        "downloaded. Unset turns similarity off.",
    ),
    _text(
        "embedding-backend",
        "auto",
        "What runs the embedding model: torch; onnx, the same vectors in half the time on a CPU; onnx-int8, rounded "
        "vectors in an eighth of it. auto: the fastest that is installed and can run the model.",
        "auto",
        "torch",
        "onnx",
        "onnx-int8",
    ),
    _text("embedding-device", "cpu", "Where it runs. The accelerator belongs to the language model."),
    _text(
        "similarity-mode",
        "on",
        "on answers from similar questions; shadow decides, learns and reports, but serves nothing; off.",
        "off",
        "shadow",
        "on",
    ),
    _text(
        "similarity-policy",
        "auto",
        "threshold: a fixed similarity. bounded: learn what may be reused and keep the error within "
        "--enhance-similarity-max-error. auto: bounded when a judge is available, else threshold.",
        "auto",
        "threshold",
        "bounded",
    ),
    _number(
        "similarity-threshold",
        "float",
        "0.95",
        "Least cosine similarity for the threshold policy. Where a guard has doubts, more is asked.",
        -1.0,
        1.0,
    ),
    _number(
        "similarity-max-error",
        "float",
        "0.01",
        "Share of requests that the bounded policy may answer wrongly.",
        0.0001,
        0.5,
    ),
    _number(
        "similarity-audit-share",
        "float",
        "0.03",
        "Share of would-be hits that is generated all the same, to measure the error.",
        0.001,
        1.0,
    ),
    _text(
        "similarity-judge",
        "auto",
        "Who says whether two answers are the same: equal (text), embedding (of the answers), model (the served "
        "model, when idle). auto: model where the engine offers it, else none.",
        "auto",
        "none",
        "equal",
        "embedding",
        "model",
    ),
    _number(
        "similarity-ttl", "duration", "3600s", "How long an answer may be reused for similar questions.", 1, TEN_YEARS
    ),
    _number("similarity-max-entries", "int", "100000", "Questions kept in each API server process.", 1),
    _number("similarity-max-bytes", "size", "512MiB", "Memory for them, stored answers included.", 1),
    _number("similarity-max-entry-bytes", "size", "1MiB", "Larger answers are not kept for similar questions.", 1024),
    _text(
        "similarity-dir",
        "",
        "Directory for the index and for what the policy has learned, over restarts and between the API server "
        "processes of a host. Unset keeps both in memory, and in --enhance-store if there is one. It holds questions "
        "and answers as text.",
    ),
    _number("similarity-save-every", "duration", "300s", "How often they are written.", 1, TEN_YEARS),
    _number("similarity-deadline", "duration", "1s", "How long one lookup may take, waiting included.", 0.001, 60),
    _text(
        "reranker-model",
        "",
        "Cross-encoder that looks at candidates once more: a directory, or a hub name. About 10 ms a candidate.",
    ),
    _number("reranker-min", "float", "0.5", "Candidates that it scores below are refused.", 0.0, 1.0),
    _number("hnsw-flat-limit", "int", "4096", "Partitions up to this size are searched exactly.", 1, 10**7),
    _number("hnsw-m", "int", "16", "HNSW: links of a node.", 2, 128),
    _number("hnsw-ef-construction", "int", "200", "HNSW: breadth of the search while building.", 8, 4096),
    _number("hnsw-ef-search", "int", "96", "HNSW: breadth of the search.", 8, 4096),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityOptions:
    """The settings as values; see SETTINGS. Times in seconds, sizes in bytes."""

    embedding_model: str = ""
    embedding_backend: str = "auto"
    embedding_device: str = "cpu"
    similarity_mode: str = "on"
    similarity_policy: str = "auto"
    similarity_threshold: float = 0.95
    similarity_max_error: float = 0.01
    similarity_audit_share: float = 0.03
    similarity_judge: str = "auto"
    similarity_ttl: float = 3600.0
    similarity_max_entries: int = 100_000
    similarity_max_bytes: int = 512 * 2**20
    similarity_max_entry_bytes: int = 2**20
    similarity_dir: str = ""
    similarity_save_every: float = 300.0
    similarity_deadline: float = 1.0
    reranker_model: str = ""
    reranker_min: float = 0.5
    hnsw_flat_limit: int = 4096
    hnsw_m: int = 16
    hnsw_ef_construction: int = 200
    hnsw_ef_search: int = 96

    @classmethod
    def from_settings(cls, settings: Settings) -> SimilarityOptions:
        return cls(**{setting.name.replace("-", "_"): settings[setting.name] for setting in SETTINGS})

    @property
    def off_because(self) -> str | None:
        """Why similarity is off by configuration, as a sentence, or None."""
        if self.similarity_mode == "off":
            return "similarity is off: --enhance-similarity-mode off"
        if not self.embedding_model:
            return "similarity is off: no --enhance-embedding-model is set"
        return None
