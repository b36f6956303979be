"""Questions between the API server processes of one server.

Each process remembers its own requests, and an operator's question reaches any one of them. So each listens on a Unix
socket in the folder that they share, which only the server's user can enter: one JSON object comes in, one goes out, a
line each. A single process listens nowhere and asks nobody.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vllm_enhance.metrics import Metrics
from vllm_enhance.throttle import Throttle

__all__ = ["DEADLINE", "MAX_ANSWER", "MAX_CONNECTIONS", "MAX_QUESTION", "Peers"]

logger = logging.getLogger("vllm_enhance")

DEADLINE = 0.5
"""Seconds for a question and its answer, where the caller does not say."""

MAX_QUESTION = 8 * 1024
MAX_ANSWER = 8 * 2**20
"""Bytes of a line. The longest answer is 500 explanations with the text of their questions."""

MAX_CONNECTIONS = 32
"""Questions answered at once; who comes on top goes without an answer."""

Answer = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class Peers:
    """The other API server processes of this server. Nothing here raises for a sick one, or waits long for it.

    Args:
        folder: what the processes share; ``None`` when there are no others.
        api_process: index of this process and how many there are.
        metrics: where failures are counted.
        monotonic: the clock of the log's throttle.
    """

    def __init__(
        self, folder: Path | None, api_process: tuple[int, int], metrics: Metrics, monotonic: Callable[[], float]
    ) -> None:
        index, count = api_process
        places = {} if folder is None else {number: folder / f"api-{number}" for number in range(count)}
        self._own = places.pop(index, None)
        self._others = tuple(places.values())
        self._metrics = metrics
        self._throttle = Throttle(60.0, monotonic)
        self._server: asyncio.AbstractServer | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    async def listen(self, answer: Answer) -> None:
        """Answer the others' questions from now on.

        Args:
            answer: makes the answer to a question, both JSON-able; an empty one says that there is nothing to tell.
        """
        if self._own is None or not self._others:
            return
        place = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._own.unlink(missing_ok=True)
            place.bind(str(self._own))
            os.chmod(self._own, 0o600)  # nobody can connect before it listens
            self._server = await asyncio.start_unix_server(partial(self._serve, answer), sock=place, limit=MAX_QUESTION)
        except OSError as error:
            place.close()
            logger.warning("the other API server processes cannot ask this one for its requests: %s", error)

    async def close(self) -> None:
        """Answer no more."""
        server, self._server = self._server, None
        if server is None or self._own is None:
            return
        server.close()
        self._own.unlink(missing_ok=True)
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def ask(
        self, question: Mapping[str, Any], of: Sequence[Path] | None = None, deadline: float = DEADLINE
    ) -> list[tuple[Path, dict[str, Any]]]:
        """Ask the others, all at once.

        Args:
            question: JSON-able.
            of: those asked; all others by default.
            deadline: seconds.

        Returns:
            Who had something to tell, and what. A process that is not there, not yet or not any more, has not.
        """
        asked = self._others if of is None else of
        line = json.dumps(question).encode() + b"\n"
        answers = await asyncio.gather(*(self._ask(peer, line, deadline) for peer in asked))
        return [(peer, answer) for peer, answer in zip(asked, answers, strict=True) if answer]

    def failed(self, why: str, error: BaseException) -> None:
        """Count an answer that did not come, or that cannot be used."""
        self._metrics.count("vllm_enhance_peer_failures", 1, why)
        held = self._throttle.allow(why)
        if held is not None:
            logger.warning(
                "a question between API server processes failed (%s: %s)%s",
                why,
                type(error).__name__,
                f"; {held} more since the last such line" if held else "",
            )

    async def _ask(self, peer: Path, line: bytes, deadline: float) -> dict[str, Any]:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(deadline):
                reader, writer = await asyncio.open_unix_connection(str(peer), limit=MAX_ANSWER)
                writer.write(line)
                answer = json.loads(await reader.readline())
            if isinstance(answer, dict):
                return answer
            raise TypeError("not an object")
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except TimeoutError as error:
            self.failed("deadline", error)
        except Exception as error:
            self.failed("nonsense", error)
        finally:
            if writer is not None:
                writer.close()
        return {}

    async def _serve(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._serving) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._serving.add(task)
        try:
            async with asyncio.timeout(DEADLINE):
                line = await reader.readline()
            if line:
                told = json.dumps(await answer(json.loads(line)), default=str)
                writer.write(told.encode() + b"\n")
                async with asyncio.timeout(DEADLINE):
                    await writer.drain()
        except ConnectionError:
            pass  # who asked has gone, and counts that itself
        except Exception as error:
            self.failed("answering", error)
        finally:
            self._serving.discard(task)
            writer.close()
