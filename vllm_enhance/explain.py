"""Why a request hit, why it missed: the last few requests of this process, by id. Never prompt text by default."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

__all__ = ["ExplainLog"]


class ExplainLog:
    """The most recent explanations.

    Args:
        limit: how many are remembered; 0 remembers none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def write(self, request_id: str, **facts: Any) -> None:
        """Add facts to a request's explanation, starting it if need be."""
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
        return None if entry is None else dict(entry)

    def recent(self, count: int) -> list[dict[str, Any]]:
        """The latest explanations, newest first."""
        return [dict(entry) for entry, _ in zip(reversed(self._entries.values()), range(count), strict=False)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)
