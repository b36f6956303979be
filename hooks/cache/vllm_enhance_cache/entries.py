"""What a tier keeps."""

from __future__ import annotations

import msgspec

from vllm_enhance.records import GenerationRecord
from vllm_enhance.stores import EntryTags, Horizon

__all__ = ["Entry"]

OVERHEAD_BYTES = 640
"""Memory of one entry besides its record: key, objects, places in the index."""


class Entry(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One stored answer.

    Attributes:
        key: exact key (32 bytes).
        record: the answer.
        tenant: digest of who asked; empty when all callers are one.
        model: served model name.
        created_at, expires_at: Unix time, seconds.
        generation: of the horizon in which its request was admitted, see :class:`vllm_enhance.stores.Horizon`.
    """

    key: bytes
    record: GenerationRecord
    tenant: bytes
    model: str
    created_at: float
    expires_at: float
    generation: int = 0

    @property
    def tags(self) -> EntryTags:
        return EntryTags(self.tenant, self.model, self.created_at)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes, erring upwards."""
        return OVERHEAD_BYTES + self.record.nbytes

    def admitted_by(self, horizon: Horizon) -> bool:
        """Whether no flush has passed over it."""
        return horizon.admits(self.generation, self.key, self.tags)
