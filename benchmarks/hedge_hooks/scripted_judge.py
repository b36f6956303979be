"""Similarity with a judge that knows which answers belong together; for ``hedge.py``.

In a directory of its own, which is all of the benchmarks that the server gets to see.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from vllm_enhance_similarity.judges import CallableJudge
from vllm_enhance_similarity.plugin import SimilarityHook

__all__ = ["LABELS_VARIABLE", "ScriptedSimilarity", "digest"]

LABELS_VARIABLE = "HEDGE_LABELS"
"""Names a file of JSON: digest of a question or of an answer -> what it is about."""


def digest(text: str) -> str:
    """Names a text in the file."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def _same(question: str, one: str, other: str) -> bool | None:
    """An answer is right for a question that is about the same; None where either is unknown."""
    labels = json.loads(Path(os.environ[LABELS_VARIABLE]).read_text())
    asked, stored = labels.get(digest(question)), labels.get(digest(other))
    return None if asked is None or stored is None else bool(asked == stored)


class ScriptedSimilarity(SimilarityHook):
    """The similarity hook with that judge."""

    def __init__(self) -> None:
        super().__init__(judge=CallableJudge(_same, name="scripted", errs=False))
