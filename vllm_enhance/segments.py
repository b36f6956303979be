"""JSON lines in a folder, bounded in size: a thread of its own makes and writes them, into segments; the oldest go.

A line that finds the queue full, or a disk that fails, is counted and lost; nobody waits for a log.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from vllm_enhance.throttle import Throttle

__all__ = ["MakeLine", "SegmentWriter"]

logger = logging.getLogger("vllm_enhance.segments")

MakeLine = Callable[[], Mapping[str, Any]]

QUEUE_LIMIT = 4096
BATCH = 256
SEGMENTS = 8
MAX_SEGMENTS = 256
CLOSE_SECONDS = 4.0


class SegmentWriter:
    """Appends lines to `FOLDER/PREFIX-TIME.jsonl`, readable by the owner only.

    A new segment is begun at each start and at an eighth of ``max_bytes``. Then the oldest segments of this prefix are
    deleted until there is room for a whole new one, so that the folder stays below ``max_bytes`` for each prefix.

    Args:
        folder: made if it is not there, for the owner only.
        prefix: of the files; one writer for each prefix.
        max_bytes: of all segments of this prefix together.
        clock: Unix time in seconds.
    """

    def __init__(self, folder: Path, prefix: str, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._prefix = prefix
        self._max_bytes = max_bytes
        self._clock = clock
        self._lines: queue.Queue[MakeLine | None] = queue.Queue(QUEUE_LIMIT)
        self._throttle = Throttle(60.0)
        self._file: IO[bytes] | None = None
        self._size = 0
        self.written = self.dropped = self.failed = 0
        self.last_failure = ""
        self._thread = threading.Thread(target=self._run, name=f"enhance-{prefix}", daemon=True)

    def start(self) -> None:
        """Blocking: make the folder, delete what is too much, start the thread.

        Raises:
            OSError: the folder cannot be made or written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open()
        self._thread.start()

    def write(self, line: MakeLine) -> bool:
        """Hand over one line, to be made on the writer's thread; never blocks. ``False`` when it was dropped."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        """Blocking: write what is queued, within a few seconds, and stop."""
        if not self._thread.is_alive():
            return
        try:
            self._lines.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            logger.warning("%s: the disk hangs; %d lines are lost", self._prefix, self._lines.qsize())
            return
        self._thread.join(CLOSE_SECONDS)

    def segments(self) -> list[Path]:
        """Files of this prefix, oldest first."""
        return sorted(self.folder.glob(f"{self._prefix}-*.jsonl"))

    # ------------------------------------------------------------------ on the thread

    def _run(self) -> None:
        while True:
            lines, last = self._batch()
            if lines:
                self._append(lines)
            if last:
                self._shut()
                return

    def _batch(self) -> tuple[list[MakeLine], bool]:
        """Lines that wait, at least one; and whether the end was among them."""
        first = self._lines.get()
        lines: list[MakeLine] = []
        while first is not None:
            lines.append(first)
            if len(lines) == BATCH:
                return lines, False
            try:
                first = self._lines.get_nowait()
            except queue.Empty:
                return lines, False
        return lines, True

    def _append(self, lines: list[MakeLine]) -> None:
        for at, line in enumerate(lines):
            try:
                self._put(json.dumps(line(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
                if at == len(lines) - 1 and self._file is not None:
                    self._file.flush()
            except Exception as error:
                self.failed += 1
                self.last_failure = type(error).__name__
                self._shut()  # the next line tries a new file
                if self._throttle.allow("write") is not None:
                    logger.warning("%s: lines cannot be written and are lost (%s)", self._prefix, self.last_failure)
            else:
                self.written += 1
                self.last_failure = ""

    def _put(self, data: bytes) -> None:
        if self._file is None or self._size + len(data) > self._max_bytes // SEGMENTS:
            self._open()
        assert self._file is not None
        self._file.write(data)
        self._size += len(data)

    def _open(self) -> None:
        self._shut()
        self._prune()
        # Exclusive, so that nobody's link is followed, and with a random end, so that two servers never share a file.
        now = self._clock()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        path = self.folder / f"{self._prefix}-{stamp}-{secrets.token_hex(2)}.jsonl"
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._size = 0

    def _prune(self) -> None:
        found = [(path, path.stat().st_size) for path in self.segments()]
        total = sum(size for _, size in found)
        room = self._max_bytes - self._max_bytes // SEGMENTS
        for at, (path, size) in enumerate(found):
            if size and total <= room and len(found) - at < MAX_SEGMENTS:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _shut(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                self.failed += 1
