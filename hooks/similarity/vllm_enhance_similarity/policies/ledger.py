"""What has been spent of the error budget, over a long rolling window of requests."""

from __future__ import annotations

import msgspec

__all__ = ["ErrorLedger"]


class ErrorLedger(msgspec.Struct):
    """Requests, reuses, and the wrong reuses expected among them; old ones fade with a time constant of `window`."""

    window: int
    requests: float = 0.0
    reuses: float = 0.0
    wrong: float = 0.0

    def request(self) -> None:
        """A request came."""
        fade = 1.0 - 1.0 / self.window
        self.requests = self.requests * fade + 1.0
        self.reuses *= fade
        self.wrong *= fade

    def reuse(self, error: float) -> None:
        """It was answered by reuse, wrongly with probability `error`."""
        self.reuses += 1.0
        self.wrong += error

    def allowance(self, bound: float, horizon: int, most: float) -> float:
        """Share of the bound that may be spent now: above one to catch up, at most `most`; below one after excess.

        The difference between what the bound allowed so far and what was spent is spread over `horizon` requests.
        """
        unspent = bound * self.requests - self.wrong
        return 1.0 + min(most - 1.0, max(-0.5, unspent / (bound * horizon)))
