"""The metrics of this package."""

from __future__ import annotations

from vllm_enhance.metrics import Metric

__all__ = ["METRICS"]

METRICS: tuple[Metric, ...] = (
    Metric(
        "vllm_enhance_nlp_questions",
        "counter",
        "Questions by what became of their analysis: done, dropped (too many at once), late, failed, none (no text).",
        ("result",),
    ),
    Metric("vllm_enhance_nlp_seconds", "histogram", "Time to read one question, without waiting."),
    Metric(
        "vllm_enhance_context_requests",
        "counter",
        "Requests by what context enrichment did: enriched, composed, single (one question only), none (nothing "
        "stored fits), unplaceable (the prompt cannot be changed safely), late, busy, failed.",
        ("result",),
    ),
    Metric("vllm_enhance_context_seconds", "histogram", "Time that context enrichment took in front of a request."),
)
