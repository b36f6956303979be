"""What similarity tells of itself: notes and annotations on a request, and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_enhance.types import SIMILAR, SIMILAR_DECISION, SIMILAR_VERDICT, Neighbour, RequestContext, SimilarDecision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_enhance.metrics import Metrics
    from vllm_enhance_similarity.service import Consideration, Look

__all__ = ["Account"]


class Account:
    """Keeps one process' account.

    Args:
        show_text: the operator allows questions to be shown.
    """

    def __init__(self, metrics: Metrics, *, show_text: bool) -> None:
        self._metrics = metrics
        self._show_text = show_text

    def decided(self, request: RequestContext, considered: Consideration, seconds: float) -> None:
        """A question was considered; `seconds` from asking to the decision."""
        decision, choice = considered.result.decision, considered.result.decision.choice
        request.note("similarity", f"{decision.action}: {decision.reason}")
        request.annotations.set(
            SIMILAR_DECISION,
            SimilarDecision(decision.action, decision.reason)
            if choice is None
            else SimilarDecision(decision.action, decision.reason, choice.text, choice.similarity),
        )
        known: Sequence[Neighbour] = request.annotations.get(SIMILAR) or ()  # what another hook has used
        keys = {each.key for each in known}
        shown = [self._shown(one) for one in considered.result.neighbours if one.key not in keys]
        request.annotations.set(SIMILAR, [*known, *shown])
        self._metrics.count("vllm_enhance_similarity_decisions", 1, decision.action, decision.reason)
        self._metrics.observe("vllm_enhance_similarity_embed_seconds", considered.embed_seconds)
        self._metrics.observe("vllm_enhance_similarity_match_seconds", max(0.0, seconds - considered.embed_seconds))
        for one in considered.result.neighbours[:1]:
            for guard in one.vetoes:
                self._metrics.count("vllm_enhance_similarity_guards", 1, guard)

    def judged(self, request: RequestContext, same: bool) -> None:
        """The judge has compared the generated answer with the stored one."""
        decision, told = request.annotations.get(SIMILAR_DECISION), request.annotations.get(SIMILAR_VERDICT)
        if decision is None:
            return
        self._metrics.count("vllm_enhance_similarity_verdicts", 1, decision.action, "same" if same else "different")
        if told is not None:
            told(request, decision, same)

    def marked(self, verdict: str, learned: bool) -> None:
        """A user has called an answer right or wrong."""
        self._metrics.count("vllm_enhance_similarity_feedback", 1, verdict, "learned" if learned else "unknown")

    def shared(self, result: str, number: int) -> None:
        """Entries of other processes, and what became of them."""
        self._metrics.count("vllm_enhance_similarity_shared", number, result)

    def looked(self, look: Look) -> None:
        """Numbers of the moment."""
        self._metrics.gauge("vllm_enhance_similarity_entries", look.sizes.entries)
        self._metrics.gauge("vllm_enhance_similarity_bytes", look.sizes.bytes)
        if "expected_error" in look.policy:
            self._metrics.gauge("vllm_enhance_similarity_expected_error", look.policy["expected_error"])
            self._metrics.gauge("vllm_enhance_similarity_audited_error_upper", look.policy["audited_error_upper_95"])

    def _shown(self, one: Any) -> Neighbour:
        return Neighbour(
            key=one.key,
            similarity=one.similarity,
            question=one.text if self._show_text else "",
            refused_by=one.vetoes[0] if one.vetoes else None,
        )
