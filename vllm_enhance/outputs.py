"""What the Python API yields: vLLM's own output, with the text so far and how the answer came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_enhance.errors import EnhanceError
from vllm_enhance.scope import Decision
from vllm_enhance.types import NLP_RESULT, SIMILAR, Annotations, Neighbour, Source

__all__ = ["EnhancedOutput", "nearest_first", "output_metadata"]


@dataclass(frozen=True, slots=True, eq=False)
class EnhancedOutput:
    """One step of an answer.

    Attributes:
        request_id: as the caller gave it.
        text: the first choice so far, whatever the ``output_kind``.
        texts: all ``n`` choices so far.
        finished: nothing more will come.
        request_output: vLLM's ``RequestOutput`` behind this step; ``None`` when it failed.
        error: why the answer ends here, or ``None``.
    """

    request_id: str
    text: str
    finished: bool
    texts: tuple[str, ...] = ()
    request_output: Any = None
    error: EnhanceError | None = None
    read_metadata: Callable[[], dict[str, Any]] = field(default=dict, repr=False)

    @property
    def metadata(self) -> dict[str, Any]:
        """How the answer came about; see :func:`output_metadata`. Read anew each time: hooks may still be at work."""
        return self.read_metadata()

    @property
    def finish_reason(self) -> str | None:
        """Of the first choice: ``stop``, ``length``, ``abort``; ``None`` while it goes on."""
        outputs = getattr(self.request_output, "outputs", None)
        return outputs[0].finish_reason if outputs else None


def output_metadata(
    decision: Decision | None,
    annotations: Annotations | None,
    *,
    seconds: float,
    saved_seconds: float,
    max_similar: int,
) -> dict[str, Any]:
    """The metadata of an output, JSON-able.

    Args:
        decision: how the request is answered; ``None`` for one that went past the plugin.
        annotations: what hooks know of it.
        seconds: since the request arrived.
        saved_seconds: engine time that the answer cost when it was generated, and this request did not.
        max_similar: neighbours listed at most.

    Returns:
        ``cached`` and ``cache_hit``: answered from what is stored. ``source``: ``memory``, ``store``, ``similar``,
        ``joined``, ``engine`` or ``hook``. ``reason``: why not from the cache, if there is one. ``similarity``: cosine,
        for ``similar``. ``processing_time``, ``saved_seconds``, ``age``: seconds. ``nlp_result``: what was read in the
        question, or ``None``. ``similar``: neighbours, nearest first.
    """
    decided = decision or Decision(Source.ENGINE, reason="plain")
    notes = annotations or Annotations()
    reading = notes.get(NLP_RESULT)
    return {
        "cached": decided.hit,
        "cache_hit": decided.hit,
        "source": decided.source.value,
        "reason": decided.reason,
        "similarity": decided.similarity,
        "age": decided.age if decided.hit else None,
        "processing_time": seconds,
        "saved_seconds": saved_seconds,
        "nlp_result": None if reading is None else dict(reading),
        "similar": nearest_first(notes.get(SIMILAR) or (), max_similar),
    }


def nearest_first(neighbours: Sequence[Neighbour], limit: int) -> list[dict[str, Any]]:
    """Neighbours as plain data: each stored question once, the most similar first, ``limit`` at most."""
    best: dict[bytes, Neighbour] = {}
    for each in neighbours:
        if each.key not in best or each.similarity > best[each.key].similarity:
            best[each.key] = each
    ordered = sorted(best.values(), key=lambda each: (-each.similarity, each.key))
    return [
        {
            "key": each.key.hex(),
            "similarity": float(each.similarity),
            "question": each.question,
            "refused_by": each.refused_by,
        }
        for each in ordered[:limit]
    ]
