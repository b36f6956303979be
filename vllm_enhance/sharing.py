"""What the processes on one store tell each other, beside the answers that they share.

The hook package that holds the store offers a :class:`SharedLog` to the others (``HookContext.shared``), with its
deadlines, breakers, signing and counts behind it. What is told is bounded and may be lost: whoever listens must be
right without it, and must take nothing from it that the horizon has passed over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vllm_enhance.stores import Horizon

__all__ = ["MAX_MESSAGE", "MAX_STATE", "Message", "Receiver", "SharedLog"]

MAX_MESSAGE = 256 * 1024
"""Bytes of the largest message."""

MAX_STATE = 16 * 2**20
"""Bytes of the largest value of :meth:`SharedLog.keep`."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something another process said.

    Attributes:
        payload: as it was published.
        sent_at: Unix time by the sender's clock, seconds.
    """

    payload: bytes
    sent_at: float


Receiver = Callable[[Sequence[Message]], Awaitable[None]]


class SharedLog(Protocol):
    """Change logs and small states in the shared store. Nothing here raises for a sick store, or waits long for it.

    Topics and names are short words without text of users.
    """

    @property
    def carries_answers(self) -> bool:
        """Whether questions and answers may be published; ``False`` where processes share only what they forget."""
        ...

    @property
    def horizon(self) -> Horizon:
        """What has been forgotten, as far as this process has heard."""
        ...

    def on_horizon(self, told: Callable[[Horizon], None]) -> None:
        """Have ``told`` called, on the event loop, whenever the horizon has moved."""
        ...

    def publish(self, topic: str, payload: bytes, *, ttl: float) -> bool:
        """Send in the background; call it on the event loop.

        Args:
            ttl: seconds for which a process that comes later may still hear it.

        Returns:
            ``False`` when it is larger than :data:`MAX_MESSAGE` or too much is waiting: then it is counted and lost.
        """
        ...

    def follow(self, topic: str, receive: Receiver) -> Callable[[], None]:
        """Have what others publish handed to ``receive``, in order, within a second, from the oldest that is kept on.

        What this process has published itself is left out; what a former life of it has published is not. A message may
        come twice. ``receive`` is awaited before more is read.

        Returns:
            a function that ends it.
        """
        ...

    async def claim(self, name: str) -> bool:
        """Become the one who holds ``name``, until this process ends; ``False`` while another is, or when unknown."""
        ...

    def holds(self, name: str) -> bool:
        """Whether a claim still stands: a store that lost its memory has lost it, too."""
        ...

    async def keep(self, name: str, value: bytes, *, ttl: float) -> bool:
        """Keep a value for ``ttl`` seconds in place of an older one; whether that was done."""
        ...

    async def recall(self, name: str) -> bytes | None:
        """What was kept, by whoever holds the operator's key; ``None`` when there is nothing, or no answer."""
        ...

    def stats(self) -> Mapping[str, Any]:
        """Numbers for people, JSON-able."""
        ...
