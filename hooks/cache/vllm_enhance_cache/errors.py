"""Why a stored value or a store is of no use right now."""

from __future__ import annotations

from vllm_enhance.errors import RecordError, StoreError

__all__ = ["EnvelopeError", "StoreFault"]


class EnvelopeError(RecordError):
    """Stored bytes are refused; ``reason`` is a short label for the counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"stored value refused: {reason}")
        self.reason = reason


class StoreFault(StoreError):
    """A store failed, and ``reason`` says how.

    ``unavailable``: no answer, or not now. ``refused``: it answers, but not us (credentials) or not this (read-only,
    full). ``error``: it answers nonsense for this one key; others may be well.
    """

    def __init__(self, store: str, reason: str, message: str) -> None:
        super().__init__(store, message)
        self.reason = reason
