"""The epoch: eight bytes in every key that change when stored answers must no longer be served.

All API server processes of one server share it through a small memory-mapped file, because an administrator's request
(new weights, a flush) reaches only one of them. Reading it costs a memory access.

The epoch starts at zero, so a restart on the same weights finds a persistent cache warm; each bump draws eight random
bytes, so an epoch of another run never comes back.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
from pathlib import Path

__all__ = ["ASLEEP", "PAUSED", "UPDATING", "Epoch"]

PAUSED, ASLEEP, UPDATING = 1, 2, 4
"""States of the engine in which requests go past the cache."""

_SIZE = 24  # epoch, state flags, count of bumps


class Epoch:
    """Epoch and engine state, shared between processes.

    Args:
        path: the file; ``None`` keeps it in this process.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._view: mmap.mmap = mmap.mmap(-1, _SIZE)
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < _SIZE:
                os.ftruncate(descriptor, _SIZE)
            self._view = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    @property
    def value(self) -> bytes:
        """The epoch, 8 bytes."""
        return self._view[0:8]

    @property
    def state(self) -> int:
        """Flags of the engine's state; 0 is normal."""
        return self._view[8]

    @property
    def bumps(self) -> int:
        """How often the epoch has changed since the server started."""
        return int(struct.unpack_from("<Q", self._view, 16)[0])

    def bump(self) -> None:
        """Draw a new epoch: nothing stored under the old one is served again."""
        self._view[0:8] = secrets.token_bytes(8)
        struct.pack_into("<Q", self._view, 16, self.bumps + 1)

    def enter(self, state: int) -> None:
        """Set a state flag."""
        self._view[8] = self._view[8] | state

    def leave(self, state: int) -> None:
        """Clear a state flag."""
        self._view[8] = self._view[8] & ~state
