"""When to send headers that are known: not while others still wait to be given to the engine.

What a server does at the start of a response takes a while (vLLM's writes a line of its access log). Done at once it
keeps back the requests that came in the same moment; done with the first token it delays that token. So it is done in
between: when all that have arrived are with the engine, which is at work then.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Arrivals"]


class Held(Protocol):
    """A response whose headers wait."""

    def let_go(self) -> None:
        """Send them; never raises. Of no effect when they have left."""


class Arrivals:
    """The responses of one process that are not decided yet, and those whose headers wait for them."""

    def __init__(self) -> None:
        self._undecided: set[Held] = set()
        self._waiting: set[Held] = set()

    def enter(self, response: Held) -> None:
        """A request has come."""
        self._undecided.add(response)

    def wait(self, response: Held) -> None:
        """Have `response` let go as soon as nobody is undecided, unless it leaves before."""
        self._waiting.add(response)

    def leave(self, response: Held) -> None:
        """It is decided, or over."""
        self._undecided.discard(response)
        if not self._undecided and self._waiting:
            waiting, self._waiting = self._waiting, set()
            for each in waiting:
                each.let_go()

    def gone(self, response: Held) -> None:
        """Its headers have left, or it is over: it waits no more, and nobody waits for it."""
        self._waiting.discard(response)
        self.leave(response)
