"""Why a request hit, why it missed: the last few requests of this process, by id. Never prompt text by default."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vllm_enhance.types import NLP_RESULT, SIMILAR, Annotations

__all__ = ["ExplainLog", "annotations_shown", "merged_recent", "top_entries"]

HIDDEN = frozenset({"params", "head"})
"""Sampling parameters and the prompt's first tokens: remembered to compare requests with one another, never shown."""

REUSED = frozenset({"memory", "store", "similar", "joined", "hook"})


class ExplainLog:
    """The most recent explanations.

    Args:
        limit: how many are remembered; 0 remembers none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def write(self, request_id: str, **facts: Any) -> None:
        """Add facts to a request's explanation, starting it if need be.

        Digests are given as bytes and the parts of the key as they are: they become text only when somebody reads.
        """
        if self._limit == 0:
            return
        entry = self._entries.get(request_id)
        if entry is None:
            while len(self._entries) >= self._limit:
                self._entries.popitem(last=False)
            entry = self._entries[request_id] = {"request_id": request_id}
        entry.update(facts)

    def read(self, request_id: str) -> dict[str, Any] | None:
        """One request's explanation, or ``None`` when it is unknown or forgotten."""
        entry = self._entries.get(request_id)
        return None if entry is None else _readable(entry)

    def hidden(self, request_id: str) -> dict[str, Any]:
        """What is remembered of a request and never shown (:data:`HIDDEN`), by name."""
        entry = self._entries.get(request_id, {})
        return {name: entry[name] for name in HIDDEN if entry.get(name) is not None}

    def recent(self, count: int) -> list[dict[str, Any]]:
        """The latest explanations, newest first."""
        return [_readable(entry) for entry, _ in zip(reversed(self._entries.values()), range(count), strict=False)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(_readable, list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)


def _readable(entry: Mapping[str, Any]) -> dict[str, Any]:
    """``entry`` with digests in hex; of the parts of a key the first 8 bytes, which tell them apart."""
    shown: dict[str, Any] = {
        name: fact.hex() if isinstance(fact, bytes) else fact for name, fact in entry.items() if name not in HIDDEN
    }
    if shown.get("parts") is not None:
        shown["parts"] = {name: value[:8].hex() for name, value in shown["parts"]}
    return shown


def top_entries(entries: Iterable[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """The keys asked for most often among ``entries``, with how often each was answered without generating.

    Args:
        entries: explanations, newest first; those without a key are left out.
        count: how many keys at most.
    """
    return _summed((_counted(entry) for entry in entries if entry.get("key")), count)


def merged_recent(reports: Sequence[Mapping[str, Any]], limit: int, count: int) -> dict[str, Any]:
    """What several processes remember, as one: their latest requests, newest first, and the keys asked for most often.

    Args:
        reports: of each, ``requests``, ``top`` (what :func:`top_entries` gives) and ``remembered``, a count.
        limit, count: how many requests and how many keys at most.
    """
    requests = sorted(
        (entry for report in reports for entry in report["requests"]), key=lambda entry: -(entry.get("at") or 0.0)
    )
    return {
        "requests": requests[:limit],
        "top": _summed((top for report in reports for top in report["top"]), count),
        "remembered": sum(report["remembered"] for report in reports),
    }


def _counted(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What one request adds to the counts of its key."""
    reused = entry.get("source") in REUSED
    return {
        "key": entry["key"],
        "requests": 1,
        "reused": int(reused),
        "saved_tokens": (entry.get("output_tokens") or 0) if reused else 0,
        "last_at": entry.get("at"),
        "request_id": entry["request_id"],
        "model": entry.get("model"),
        "question": entry.get("question"),
    }


def _summed(counts: Iterable[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Counts by key, the largest first; the rest of each is that of its latest request."""
    found: dict[str, dict[str, Any]] = {}
    for each in counts:
        top = found.get(each["key"])
        if top is None:
            found[each["key"]] = dict(each)
            continue
        sums = {name: top[name] + each[name] for name in ("requests", "reused", "saved_tokens")}
        if (each["last_at"] or 0.0) > (top["last_at"] or 0.0):
            top.update(each)
        top.update(sums)
    return sorted(found.values(), key=lambda top: (-top["requests"], -(top["last_at"] or 0.0)))[:count]


def annotations_shown(annotations: Annotations, *, prompts: bool) -> dict[str, Any]:
    """What hooks found out about a request, for its explanation.

    Args:
        prompts: the operator allows text of questions to be shown (``--enhance-log-prompts on``). Without it neighbours
            are told by key and similarity, and the reading of the question, which quotes it, is left out.
    """
    shown: dict[str, Any] = {}
    neighbours = annotations.get(SIMILAR)
    if neighbours:
        shown["similar"] = [
            {
                "key": each.key.hex(),
                "similarity": each.similarity,
                "refused_by": each.refused_by,
                **({"question": each.question} if prompts and each.question else {}),
            }
            for each in neighbours
        ]
    reading = annotations.get(NLP_RESULT)
    if prompts and reading is not None:
        shown["nlp_result"] = dict(reading)
    return shown
