"""A real ``vllm serve`` in a process of its own, for tests, the demo and benchmarks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

__all__ = ["ServerError", "ServerProcess", "free_port"]

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
ARGUMENTS = ("--served-model-name", "tiny", "--max-model-len", "2048", "--enforce-eager")
"""What suits the tiny model on a small CPU box."""

GRACE = ((signal.SIGINT, 20.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
"""Signals in the order they are tried, and seconds to wait after each."""

POLL = 0.25
ORPHAN_SECONDS = 5.0
ENV_PREFIXES_DROPPED = ("ENHANCE",)


class ServerError(RuntimeError):
    """The server did not come up or died; the message ends with its last log lines."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """``vllm serve MODEL ...`` on a free loopback port, from entering the context to leaving it.

    Args:
        model: directory or name.
        arguments: further command-line arguments; defaults that suit the tiny model come before them.
        log: file for everything the server prints.
        env: changes to the environment. The caller's own ``ENHANCE*`` variables are not passed on.
        timeout: seconds until it must answer ``/health``.
        progress: called every few seconds while the server starts, with the seconds waited.
        executable: ``vllm`` beside the running Python by default.
    """

    def __init__(
        self,
        model: str | Path,
        arguments: Sequence[str] = (),
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        timeout: float = 300.0,
        progress: Callable[[float], None] | None = None,
        executable: Path | None = None,
        defaults: Sequence[str] = ARGUMENTS,
    ) -> None:
        self.log = log
        self.port = free_port()
        self._timeout = timeout
        self._progress = progress
        vllm = executable or Path(sys.executable).with_name("vllm")
        self._command = [
            str(vllm), "serve", str(model), "--host", "127.0.0.1", "--port", str(self.port), *defaults, *arguments,
        ]  # fmt: skip
        self._env = _environment(os.environ, {**ENVIRONMENT, "OMP_NUM_THREADS": _threads(), **(env or {})})
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def base_url(self) -> str:
        """Such as ``http://127.0.0.1:8000``, without ``/v1``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the first process, which leads the process group of all of them.

        Raises:
            ServerError: it was not started.
        """
        if self._process is None:
            raise ServerError("the server was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        text = self.log.read_bytes()[-100_000:].decode(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def start(self) -> None:
        """Start and wait for ``/health``.

        Raises:
            ServerError: it ended, or did not answer in time; nothing is left running.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._output = self.log.open("wb")
        self._process = subprocess.Popen(  # noqa: S603 - the command is ours
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._env,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int | None:
        """Stop the server and every process of its group; the exit code, or ``None`` if it never ran."""
        process, self._process = self._process, None
        if process is None:
            return None
        for number, seconds in GRACE:
            if not _signal_group(process.pid, number if process.poll() is None else signal.SIGKILL):
                break
            if _group_gone(process, time.monotonic() + seconds):
                break
        code = process.wait(5)
        if self._output is not None:
            self._output.close()
        return code

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        assert self._process is not None
        started = time.monotonic()
        told = 0.0
        while not self._healthy():
            waited = time.monotonic() - started
            if self._process.poll() is not None:
                raise ServerError(f"vllm serve ended with code {self._process.returncode}:\n{self.tail()}")
            if waited > self._timeout:
                raise ServerError(f"vllm serve did not answer within {self._timeout:.0f} s:\n{self.tail()}")
            if self._progress is not None and waited - told >= 5.0:
                told = waited
                self._progress(waited)
            time.sleep(POLL)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/health", timeout=5) as response:  # noqa: S310 - loopback
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _environment(own: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in own.items() if not name.startswith(ENV_PREFIXES_DROPPED)}
    return {**kept, **changes}


def _threads() -> str:
    """One core for the API server, the rest for the engine, four at most: the tiny model gains nothing from more."""
    return str(max(1, min(4, (os.cpu_count() or 2) - 1)))


def _signal_group(leader: int, number: int) -> bool:
    """Signal the group (0 only asks); ``False`` when no process of it is left."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True


def _group_gone(leader: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for the whole group to end; for children that outlive the leader, a few seconds at most."""
    while time.monotonic() < deadline:
        if leader.returncode is None and leader.poll() is not None:
            deadline = min(deadline, time.monotonic() + ORPHAN_SECONDS)
        if not _signal_group(leader.pid, 0):
            return True
        time.sleep(0.1)
    return False
