"""At most one log line per cause and minute."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Throttle"]


class Throttle:
    """Says when a repeated message may be logged again.

    Args:
        interval: seconds between two lines of one cause.
        monotonic: the clock.
        limit: how many causes are remembered.
    """

    def __init__(self, interval: float, monotonic: Callable[[], float] = time.monotonic, limit: int = 256) -> None:
        self._interval = interval
        self._monotonic = monotonic
        self._limit = limit
        self._seen: dict[str, tuple[float, int]] = {}

    def allow(self, cause: str) -> int | None:
        """``None`` to stay silent, else how many lines of this cause were held back since the last."""
        now = self._monotonic()
        last, held = self._seen.get(cause, (float("-inf"), 0))
        if now - last < self._interval:
            self._seen[cause] = (last, held + 1)
            return None
        if len(self._seen) >= self._limit and cause not in self._seen:
            self._seen.pop(next(iter(self._seen)))
        self._seen[cause] = (now, 0)
        return held
