"""What the API server processes of one server forget together when they share no store.

``DELETE /v1/enhance/cache`` reaches one of the processes. This keeps no answers: only the horizon, in a small SQLite
file that the siblings find by the process that started them.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from vllm_enhance.errors import ConfigurationError
from vllm_enhance.stores import EntryTags
from vllm_enhance.types import InvalidationScope
from vllm_enhance_cache.stores.sqlite import SqliteStore

__all__ = ["HostHorizon"]


class HostHorizon(SqliteStore):
    """A store without entries.

    Args:
        folder: where the file lies; by default one of this user's own, for the children of our parent process.
        clock: Unix time in seconds.

    Raises:
        ConfigurationError: the default folder belongs to somebody else.
    """

    name = "host"

    def __init__(self, folder: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__((folder or _own_folder()) / f"horizon-{os.getppid()}.db", clock=clock)

    async def get(self, key: bytes) -> bytes | None:
        return None

    async def put(self, key: bytes, value: bytes, *, ttl: float, tags: EntryTags) -> None:
        return None

    async def clear(self, scope: InvalidationScope) -> int:
        return 0

    async def close(self) -> None:
        """The last of the siblings to close leaves nothing behind; the others keep what they have open."""
        await super().close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"vllm-enhance-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigurationError(f"{folder} is not a private folder of this user; remove it or set TMPDIR")
    return folder
