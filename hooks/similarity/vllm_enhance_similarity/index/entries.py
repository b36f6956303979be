"""The table behind the vectors: who may find an entry, what it answers, when it ends, and which goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Entry", "EntryTable", "Scope"]

Scope = Literal["all", "key", "tenant", "model", "partition", "older_than"]

_FIELDS = {"key": "key", "tenant": "tenant", "model": "model", "partition": "partition"}
_FIXED_BYTES = 400  # Python objects of one entry, measured, rounded up


class Entry(msgspec.Struct, gc=False):
    """One stored question. It holds no containers: a hundred thousand of them are no business of the garbage collector.

    `key` is the exact key of the request, `payload` its encoded answer. `group` names the answer: entries
    whose answers were judged the same share it. `generation` is the horizon's in which its request was admitted, see
    `vllm_enhance.stores`.
    Times are seconds on the owner's wall clock; `expires` None means never.
    """

    id: int
    key: bytes
    partition: bytes
    tenant: bytes
    model: str
    text: str
    group: bytes
    created: float
    expires: float | None = None
    payload: bytes = b""
    generation: int = 0

    def is_live(self, now: float) -> bool:
        return self.expires is None or self.expires > now

    def size(self, vector_bytes: int) -> int:
        """Approximate bytes in memory."""
        return _FIXED_BYTES + vector_bytes + len(self.key) + len(self.group) + len(self.payload) + 2 * len(self.text)


class EntryTable:
    """Entries by id, by (partition, key), and by partition in order of use.

    Eviction is fair: a partition over its equal share gives up its own least recently used entry; only then does the
    least recently used partition give up one. A flood in one partition cannot empty the others.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, Entry] = {}
        self._by_key: dict[tuple[bytes, bytes], Entry] = {}
        self._partitions: OrderedDict[bytes, OrderedDict[int, Entry]] = OrderedDict()
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Entry]:
        """All entries, least recently used partition and entry first."""
        for members in self._partitions.values():
            yield from members.values()

    @property
    def partition_count(self) -> int:
        return len(self._partitions)

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def get(self, entry_id: int) -> Entry | None:
        return self._by_id.get(entry_id)

    def find(self, partition: bytes, key: bytes) -> Entry | None:
        return self._by_key.get((partition, key))

    def members(self, partition: bytes) -> list[Entry]:
        return list(self._partitions.get(partition, {}).values())

    def insert(self, entry: Entry) -> None:
        """Add an entry whose id and (partition, key) are not present."""
        self._next_id = max(self._next_id, entry.id)
        self._by_id[entry.id] = entry
        self._by_key[entry.partition, entry.key] = entry
        self._partitions.setdefault(entry.partition, OrderedDict())[entry.id] = entry
        self._partitions.move_to_end(entry.partition)

    def remove(self, entry: Entry) -> None:
        del self._by_id[entry.id]
        del self._by_key[entry.partition, entry.key]
        members = self._partitions[entry.partition]
        del members[entry.id]
        if not members:
            del self._partitions[entry.partition]

    def touch(self, entry: Entry) -> None:
        """Mark as used now."""
        self._partitions[entry.partition].move_to_end(entry.id)
        self._partitions.move_to_end(entry.partition)

    def victim(self, partition: bytes) -> Entry:
        """Which entry goes to make room for one in `partition`. The table is not empty."""
        share = len(self._by_id) / len(self._partitions)
        own = self._partitions.get(partition)
        if own is not None and len(own) >= share and len(own) > 1:
            return next(iter(own.values()))
        oldest = next(iter(self._partitions))
        return next(iter(self._partitions[oldest].values()))

    def select(self, scope: Scope, value: str | bytes | float) -> list[Entry]:
        """Entries that a deletion with this scope would take; `older_than` takes a time of creation."""
        field = _FIELDS.get(scope)
        if field is not None:
            return [entry for entry in self._by_id.values() if getattr(entry, field) == value]
        if scope == "older_than":
            return [entry for entry in self._by_id.values() if entry.created <= float(value)]
        return list(self._by_id.values())
