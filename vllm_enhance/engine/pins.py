"""Questions whose answer somebody called wrong: they go to the engine until the pin has run out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Pins"]


class Pins:
    """Keys that are not answered from the cache for a while.

    Args:
        seconds: how long a pin lasts.
        monotonic: the clock.
        limit: how many are remembered; the oldest goes first.
    """

    def __init__(self, seconds: float, monotonic: Callable[[], float], limit: int = 10_000) -> None:
        self._seconds = seconds
        self._monotonic = monotonic
        self._limit = limit
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def pin(self, key: bytes) -> None:
        """Do not answer this key from the cache from now on."""
        self._until.pop(key, None)
        while len(self._until) >= self._limit:
            self._until.popitem(last=False)
        self._until[key] = self._monotonic() + self._seconds

    def holds(self, key: bytes) -> bool:
        """Whether the key is pinned now."""
        until = self._until.get(key)
        if until is None:
            return False
        if self._monotonic() < until:
            return True
        del self._until[key]
        return False
