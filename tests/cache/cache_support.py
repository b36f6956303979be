"""Entries, records and a clock for the cache's tests."""

from __future__ import annotations

from typing import Any

from vllm_enhance.records import ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.types import RequestContext


class Clock:
    """Unix time that moves when told to."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


def key_of(number: int) -> bytes:
    """A 32-byte key."""
    return number.to_bytes(32, "big")


def record_of(
    text: str = "an answer", *, tokens: int = 4, created_at: float = 1_700_000_000.0, **more: Any
) -> GenerationRecord:
    """A record of ``tokens`` output tokens for a prompt of three."""
    choice = ChoiceRecord(pack_token_ids(range(tokens)), text, "stop")
    fields: dict[str, Any] = {"prompt_tokens": 3, **more}
    return GenerationRecord(1, (choice,), created_at=created_at, **fields)


def request_of(number: int = 1, *, tenant: bytes = b"", model: str = "m", **more: Any) -> RequestContext:
    """A cacheable request with a prompt of three tokens."""
    fields: dict[str, Any] = {"key": key_of(number), "tenant": tenant, "model": model, **more}
    return RequestContext(f"request-{number}", [1, 2, 3], None, **fields)
