"""Which earlier request came nearest to one that missed, and what made the difference.

Only requests of the same tenant and salt are compared: whoever could learn how far a guess goes along with another's
prompt could find that prompt out, token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_enhance.engine.key import sampling_items
from vllm_enhance.explain import ExplainLog

__all__ = ["HEAD", "nearest_request"]

HEAD = 256
"""Tokens of each prompt that are remembered, to tell where two prompts part."""

PRIVATE = ("tenant", "salt")
"""Parts of the key that keep callers apart."""


def nearest_request(log: ExplainLog, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """The earlier remembered request whose key differs in the fewest parts; of equals the one whose prompt goes along
    longest, and of those the latest.

    Args:
        entry: an explanation with ``parts``.

    Returns:
        ``request_id``; ``differs_in``, the parts of the key that differ, empty for the same key; ``sampling_fields``,
        which of these, when sampling is among them; ``prompt_differs_at``, the first token that differs, when the
        prompt is among them and they part within what is remembered. ``None`` without an earlier request.
    """
    head = log.hidden(entry["request_id"]).get("head") or ()
    best: tuple[tuple[int, int], dict[str, Any], list[str]] | None = None
    for other in log.recent(len(log)):
        # What came later cannot have answered, and what was read in the same moment hardly.
        if not other.get("parts") or other["at"] >= entry["at"] or other["request_id"] == entry["request_id"]:
            continue
        if any(entry["parts"].get(name) != other["parts"].get(name) for name in PRIVATE):
            continue
        differs = _differing(entry["parts"], other["parts"])
        if best is not None and len(differs) > best[0][0]:
            continue
        # The same prompt goes along to its end, however little of it is remembered.
        theirs = log.hidden(other["request_id"]).get("head") or ()
        alike = _alike(head, theirs) if "prompt" in differs else HEAD + 1
        rank = (len(differs), -alike)
        if best is None or rank < best[0]:
            best = (rank, other, differs)
    return None if best is None else _told(log, entry, best[1], best[2], -best[0][1], len(head))


def _told(
    log: ExplainLog, entry: Mapping[str, Any], other: Mapping[str, Any], differs: list[str], alike: int, known: int
) -> dict[str, Any]:
    told: dict[str, Any] = {"request_id": other["request_id"], "differs_in": differs}
    if "sampling" in differs:
        told["sampling_fields"] = _differing(_sampling(log, entry), _sampling(log, other))
    if "prompt" in differs and alike < known:
        told["prompt_differs_at"] = alike
    return told


def _sampling(log: ExplainLog, entry: Mapping[str, Any]) -> dict[str, Any]:
    params = log.hidden(entry["request_id"]).get("params")
    return {} if params is None else dict(sampling_items(params))


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


def _alike(mine: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two beginnings share."""
    for at, (one, other) in enumerate(zip(mine, theirs, strict=False)):
        if one != other:
            return at
    return min(len(mine), len(theirs))
