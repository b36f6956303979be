"""When to stop asking a store that does not answer, and when to ask again. Pure: clock and chance are arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

__all__ = ["Breaker", "BreakerState"]

WINDOW = 10
FAILURES = 5
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens when half of the last ten calls failed; then lets one probe through after each pause.

    Pauses double from 0.5 s to 5 s, each shortened by up to half at random, so that many processes do not probe a
    recovering store in step.

    Args:
        monotonic: seconds.
        chance: uniform in [0, 1).
        on_change: told of ``CLOSED`` and ``OPEN`` with the last failure's reason and the seconds it was open, once per
            change; a probe that fails is no change.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        chance: Callable[[], float],
        on_change: Callable[[BreakerState, str, float], None] = lambda *_: None,
    ) -> None:
        self._monotonic = monotonic
        self._chance = chance
        self._on_change = on_change
        self._results: deque[bool] = deque(maxlen=WINDOW)
        self._opened_at = 0.0
        self._try_at = 0.0
        self._pause = FIRST_PAUSE
        self.state = BreakerState.CLOSED
        self.reason = ""

    @property
    def closed(self) -> bool:
        return self.state is BreakerState.CLOSED

    def admits(self) -> bool:
        """Whether a call may be made now. While open, ``True`` once per pause: that call is the probe."""
        if self.state is BreakerState.CLOSED:
            return True
        now = self._monotonic()
        if now < self._try_at:
            return False
        self.state = BreakerState.HALF_OPEN
        self._try_at = now + LONGEST_PAUSE  # should this probe never report, another is let through
        return True

    def succeeded(self) -> None:
        """A call was answered in time."""
        if self.state is BreakerState.CLOSED:
            self._results.append(True)
        elif self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self._results.clear()
            self._pause = FIRST_PAUSE
            self._on_change(self.state, self.reason, self._monotonic() - self._opened_at)

    def failed(self, reason: str) -> None:
        """A call was not, or not in time. Late news of calls made before it opened change nothing."""
        self.reason = reason
        if self.state is BreakerState.HALF_OPEN:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._open()
        elif self.state is BreakerState.CLOSED:
            self._results.append(False)
            if self._results.count(False) >= FAILURES:
                self._opened_at = self._monotonic()
                self._open()
                self._on_change(self.state, reason, 0.0)

    def _open(self) -> None:
        self.state = BreakerState.OPEN
        self._try_at = self._monotonic() + self._pause * (1.0 - 0.5 * self._chance())
