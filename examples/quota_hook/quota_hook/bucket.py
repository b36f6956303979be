"""Token buckets, one per tenant: pure arithmetic, with the time as an argument."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Buckets"]


class Buckets:
    """A bucket per tenant, each filling up at the same steady rate.

    The table is bounded: beyond ``limit`` tenants, the one that was quiet the longest is forgotten, and starts with a
    full bucket when it comes back.

    Args:
        per_minute: what flows in each minute, and what a full bucket holds; 0 sets no limit.
        limit: tenants remembered.
    """

    def __init__(self, per_minute: int, limit: int) -> None:
        self.per_minute = per_minute
        self._limit = limit
        self._levels: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def wait(self, tenant: bytes, needed: float, now: float) -> float:
        """Seconds until ``tenant`` has ``needed`` in its bucket: 0.0 when it has."""
        if self.per_minute == 0:
            return 0.0
        missing = needed - self._level(tenant, now)
        return max(0.0, missing * 60.0 / self.per_minute)

    def take(self, tenant: bytes, amount: float, now: float) -> None:
        """Take ``amount`` out, into debt if need be."""
        if self.per_minute == 0:
            return
        self._levels[tenant] = (self._level(tenant, now) - amount, now)
        self._levels.move_to_end(tenant)
        while len(self._levels) > self._limit:
            self._levels.popitem(last=False)

    def _level(self, tenant: bytes, now: float) -> float:
        level, then = self._levels.get(tenant, (float(self.per_minute), now))
        return min(float(self.per_minute), level + max(0.0, now - then) * self.per_minute / 60.0)
