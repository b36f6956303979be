"""The metrics of similarity."""

from __future__ import annotations

from vllm_enhance.metrics import Metric

__all__ = ["METRICS"]

METRICS: tuple[Metric, ...] = (
    Metric(
        "vllm_enhance_similarity_decisions",
        "counter",
        "Similarity decisions by action (reuse, audit, miss) and reason.",
        ("action", "reason"),
    ),
    Metric("vllm_enhance_similarity_guards", "counter", "Nearest candidates that a guard refused.", ("guard",)),
    Metric(
        "vllm_enhance_similarity_verdicts",
        "counter",
        "Verdicts of the judge (same, different) on answers generated after a decision, by that decision's action. "
        "Those on reuse (shadow mode) and audit measure the error.",
        ("action", "verdict"),
    ),
    Metric(
        "vllm_enhance_similarity_feedback",
        "counter",
        "Answers that users called right or wrong: learned (similar answers that were remembered) or unknown here.",
        ("verdict", "result"),
    ),
    Metric(
        "vllm_enhance_similarity_shared",
        "counter",
        "Entries that other processes and hosts have stored, by what became of them here: added, known, forgotten "
        "(flushed meanwhile), expired, or what is wrong with them.",
        ("result",),
    ),
    Metric("vllm_enhance_similarity_embed_seconds", "histogram", "From the question to its embedding."),
    Metric("vllm_enhance_similarity_match_seconds", "histogram", "Search, guards and decision."),
    Metric("vllm_enhance_similarity_entries", "gauge", "Stored questions, all API server processes together."),
    Metric("vllm_enhance_similarity_bytes", "gauge", "Memory of the index, all API server processes together."),
    Metric(
        "vllm_enhance_similarity_expected_error",
        "gauge",
        "Wrong reuses per request that the policy expects, the worst API server process.",
        (),
        (),
        "livemax",
    ),
    Metric(
        "vllm_enhance_similarity_audited_error_upper",
        "gauge",
        "Upper 95% bound of wrong reuses per request from audits alone, the worst API server process.",
        (),
        (),
        "livemax",
    ),
)
