"""What users called wrong: which answers may not be reused for which questions, and until when.

A question that was answered wrongly is an example of what a stored answer does not answer. So a marked answer is not
reused for questions that are nearer to such an example than to the stored question: its neighbourhood, no more. Where
it was right it stays.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Correction", "Corrections"]

_SLACK = 1e-5  # equal vectors may differ in the last bits


class Correction(msgspec.Struct, frozen=True, array_like=True):
    """The answer `group` is wrong for the question with the exact key `asked`, whose embedding (float32) is `vector`.

    It holds within a partition, until `expires` (Unix time, seconds).
    """

    partition: bytes
    asked: bytes
    group: bytes
    vector: bytes
    expires: float


class Corrections:
    """The latest corrections. Thread-safe.

    Args:
        limit: how many are kept; the oldest go first.
        per_answer: how many of one answer are kept.
    """

    def __init__(self, limit: int = 10_000, per_answer: int = 16) -> None:
        self._limit = limit
        self._per_answer = per_answer
        self._lock = threading.Lock()
        self._all: OrderedDict[tuple[bytes, bytes, bytes], Correction] = OrderedDict()
        self._by_answer: dict[tuple[bytes, bytes], OrderedDict[bytes, NDArray[np.float32]]] = {}
        self._by_question: dict[tuple[bytes, bytes], set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, correction: Correction) -> bool:
        """Take a correction; False if it was known."""
        with self._lock:
            known = self._drop(correction.partition, correction.asked, correction.group)
            members = self._by_answer.setdefault((correction.partition, correction.group), OrderedDict())
            members[correction.asked] = np.frombuffer(correction.vector, dtype=np.float32)
            self._by_question.setdefault((correction.partition, correction.asked), set()).add(correction.group)
            self._all[correction.partition, correction.asked, correction.group] = correction
            if len(members) > self._per_answer:
                self._drop(correction.partition, next(iter(members)), correction.group)
            while len(self._all) > self._limit:
                self._drop(*next(iter(self._all)))
            return not known

    def withdraw(self, partition: bytes, asked: bytes, group: bytes) -> bool:
        """Somebody says that it was right after all; whether there was a correction."""
        with self._lock:
            return self._drop(partition, asked, group)

    def object_to(
        self, partition: bytes, group: bytes, vector: NDArray[np.float32], similarity: float, now: float
    ) -> bool:
        """Whether the answer `group` may not be reused for a question.

        Args:
            vector: its embedding, unit length, shape (dimension,).
            similarity: of it to the stored question that has the answer.
        """
        with self._lock:
            members = self._by_answer.get((partition, group))
            if members is None:
                return False
            return any(
                example.shape == vector.shape
                and float(example @ vector) >= similarity - _SLACK
                and self._all[partition, asked, group].expires > now
                for asked, example in members.items()
            )

    def pins(self, partition: bytes, asked: bytes, now: float) -> bool:
        """Whether a similar answer to this very question was called wrong: then it is generated."""
        with self._lock:
            groups = self._by_question.get((partition, asked), ())
            return any(self._all[partition, asked, group].expires > now for group in groups)

    def expire(self, now: float) -> None:
        """Drop those whose time is over."""
        with self._lock:
            for correction in [each for each in self._all.values() if each.expires <= now]:
                self._drop(correction.partition, correction.asked, correction.group)

    def dump(self) -> bytes:
        """For a restart. Holds no text."""
        with self._lock:
            return msgspec.msgpack.encode(list(self._all.values()))

    def load(self, data: bytes) -> bool:
        """Add what `dump` wrote; False, and nothing added, when it is not that."""
        try:
            loaded = msgspec.msgpack.decode(data, type=list[Correction])
        except msgspec.MsgspecError:
            return False
        if any(len(each.vector) % 4 for each in loaded):
            return False
        for correction in loaded:
            self.add(correction)
        return True

    def _drop(self, partition: bytes, asked: bytes, group: bytes) -> bool:
        if self._all.pop((partition, asked, group), None) is None:
            return False
        members, groups = self._by_answer[partition, group], self._by_question[partition, asked]
        del members[asked]
        groups.remove(group)
        if not members:
            del self._by_answer[partition, group]
        if not groups:
            del self._by_question[partition, asked]
        return True
