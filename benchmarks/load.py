"""A load generator that leaves the machine to the server: raw HTTP/1.1 keep-alive over asyncio protocols.

Requests are bytes made beforehand, responses are scanned and not parsed, so a request costs this process some tens of
microseconds; on a box of two cores an ordinary HTTP client would be most of what is measured.

Closed loop (:func:`closed_loop`): ``concurrency`` callers, each asks again when it has its answer. Open loop
(:func:`open_loop`): requests leave at given times whatever comes back, as users do.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from common import quantile

__all__ = ["Answer", "Connection", "Sample", "Target", "chat", "closed_loop", "get", "open_loop", "post", "text_of"]

TIMEOUT = 120.0


@dataclass(slots=True)
class Answer:
    """One response.

    Attributes:
        seconds: from the first byte sent to the last byte received.
        first_token: seconds to the first piece of a stream that holds text; the whole time otherwise.
        source: what ``Cache-Status`` said: ``hit``, ``joined``, ``miss``, ``bypass``, or empty.
        body: bytes, without chunk framing; kept only when asked for.
        failure: what went wrong, or empty.
    """

    status: int = 0
    seconds: float = 0.0
    first_token: float = 0.0
    source: str = ""
    body: bytes = b""
    failure: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200 and not self.failure


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: host, port and the pid whose family serves them, if known."""

    host: str
    port: int
    pid: int | None = None

    @classmethod
    def of(cls, text: str) -> Target:
        """``http://HOST:PORT`` with an optional ``,PID``."""
        url, _, pid = text.partition(",")
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or 80, int(pid) if pid else None)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


# --------------------------------------------------------------------------- requests as bytes


def get(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, body: Any, headers: str = "") -> bytes:
    """A POST request with a JSON body; ``headers`` as lines that end in CRLF."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def chat(text: str, *, stream: bool = False, max_tokens: int = 64, model: str = "tiny", headers: str = "",
         exact_length: bool = True, system: str = "") -> bytes:  # fmt: skip
    """A greedy chat completion. With ``exact_length`` every answer has ``max_tokens`` tokens, so work is the same."""
    messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    if exact_length:
        body["ignore_eos"] = True
    if stream:
        body["stream"] = True
    return post("/v1/chat/completions", body, headers)


def text_of(body: bytes, stream: bool) -> str:
    """The answer's text, of a whole or a streamed response."""
    if not stream:
        return str(json.loads(body)["choices"][0]["message"]["content"] or "")
    parts = []
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                raise ValueError(f"error in a stream: {event['error']}")
            parts += [choice["delta"].get("content") or "" for choice in event.get("choices", ())]
    return "".join(parts)


# --------------------------------------------------------------------------- one connection

_SOURCES = ((b"collapsed", "joined"), (b"; hit", "hit"), (b"fwd=bypass", "bypass"), (b"fwd=", "miss"))
_MARKS = (b'"content":"', b'"content": "', b'"text":"')


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, keep_body: bool = False) -> None:
        self.keep_body = keep_body
        self.alive = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._reset()

    def _reset(self) -> None:
        self._waiter: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._started = 0.0
        self._head = -1
        self._length = -1
        self._chunked = False
        self._seen_text = False
        self._buffer.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.alive = transport, True

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        self._end("connection lost")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send one request; the future's answer tells of failures, it never raises."""
        self._reset()
        self._waiter = asyncio.get_running_loop().create_future()
        self._started = time.perf_counter()
        if self._transport is None or not self.alive:
            self._end("not connected")
        else:
            self._transport.write(request)
        return self._waiter or _done(Answer(failure="not connected"))

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:
            return
        buffer = self._buffer
        buffer += data
        if self._head < 0 and not self._read_head():
            return
        if not self._chunked:
            if len(buffer) - self._head >= self._length:
                self._end()
            return
        if not self._seen_text:
            self._find_text()
        if buffer.endswith(b"0\r\n\r\n") and buffer.endswith((b"\r\n0\r\n\r\n", b"\r\n\r\n0\r\n\r\n")):
            self._end()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        self._head = end + 4
        self._answer.status = int(head[9:12])
        self._chunked = b"transfer-encoding: chunked" in head
        place = head.find(b"content-length:")
        if place >= 0:
            self._length = int(head[place + 15 :].split(b"\r\n", 1)[0])
        place = head.find(b"cache-status:")
        if place >= 0:
            said = head[place:].split(b"\r\n", 1)[0]
            self._answer.source = next((name for mark, name in _SOURCES if mark in said), "")
        return True

    def _find_text(self) -> None:
        for mark in _MARKS:
            place = self._buffer.find(mark, self._head)
            while place >= 0:
                after = place + len(mark)
                if after < len(self._buffer) and self._buffer[after] != 0x22:
                    self._answer.first_token = time.perf_counter() - self._started
                    self._seen_text = True
                    return
                place = self._buffer.find(mark, after)

    def _end(self, failure: str = "") -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        answer = self._answer
        answer.seconds, answer.failure = time.perf_counter() - self._started, failure
        if not self._seen_text:
            answer.first_token = answer.seconds
        if self.keep_body and self._head >= 0:
            body = bytes(self._buffer[self._head :])
            answer.body = _dechunked(body) if self._chunked else body
        waiter.set_result(answer)


def _done(answer: Answer) -> asyncio.Future[Answer]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future


def _dechunked(body: bytes) -> bytes:
    out, place = bytearray(), 0
    while True:
        end = body.find(b"\r\n", place)
        if end < 0:
            return bytes(out)
        size = int(body[place:end].split(b";")[0] or b"0", 16)
        if size == 0:
            return bytes(out)
        out += body[end + 2 : end + 2 + size]
        place = end + 4 + size


async def connect(target: Target, *, keep_body: bool = False) -> Connection:
    """Open a connection.

    Raises:
        OSError: nobody listens.
    """
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(keep_body), target.host, target.port)
    return connection


# --------------------------------------------------------------------------- many requests


@dataclass
class Sample:
    """What came back in one measurement."""

    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    @property
    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.ok]

    @property
    def failed(self) -> int:
        return sum(not answer.ok for answer in self.answers)

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.good) / self.seconds if self.seconds else 0.0

    def latency(self, q: float) -> float:
        return quantile([answer.seconds for answer in self.good], q)

    def first_token(self, q: float) -> float:
        return quantile([answer.first_token for answer in self.good], q)

    def sources(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for answer in self.answers:
            found[answer.source] = found.get(answer.source, 0) + 1
        return found

    def figures(self) -> dict[str, Any]:
        """Rate, latencies and failures, as results hold them."""
        return {
            "requests": len(self.answers),
            "failed": self.failed,
            "per_second": self.rate,
            "p50_ms": 1000 * self.latency(0.5),
            "p99_ms": 1000 * self.latency(0.99),
            "worst_ms": 1000 * self.latency(1.0),
            "first_token_p50_ms": 1000 * self.first_token(0.5),
            "first_token_p99_ms": 1000 * self.first_token(0.99),
        }


async def closed_loop(target: Target, requests: Iterable[bytes], *, concurrency: int, seconds: float = 1e9,
                      count: int | None = None, keep_body: bool = False) -> Sample:  # fmt: skip
    """``concurrency`` callers share ``requests`` until ``seconds`` have passed, ``count`` were sent or none is left."""
    source: Iterator[bytes] = iter(requests) if count is None else itertools.islice(requests, count)
    connections = [await connect(target, keep_body=keep_body) for _ in range(concurrency)]
    sample = Sample()
    started = time.perf_counter()
    end = started + seconds

    async def caller(number: int) -> None:
        connection = connections[number]
        for request in source:
            if not connection.alive:
                connection = connections[number] = await connect(target, keep_body=keep_body)
            answer = await asyncio.wait_for(connection.ask(request), TIMEOUT)
            sample.answers.append(answer)
            if time.perf_counter() >= end:
                return

    try:
        await asyncio.gather(*(caller(number) for number in range(concurrency)))
        sample.seconds = time.perf_counter() - started
    finally:
        for connection in connections:
            connection.close()
    return sample


async def open_loop(target: Target, schedule: Sequence[tuple[float, bytes]], *, keep_body: bool = False,
                    on_answer: Callable[[int, Answer], None] | None = None) -> Sample:  # fmt: skip
    """Send each request at its time (seconds from now, ascending), over as many connections as that takes.

    Latency counts from when a request was due, so a client that falls behind shows as latency
    ("coordinated omission", Gil Tene).
    """
    sample = Sample()
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()
    started = time.perf_counter()

    async def one(number: int, due: float, request: bytes) -> None:
        while idle and not idle[-1].alive:
            idle.pop()
        try:
            connection = idle.pop() if idle else await connect(target, keep_body=keep_body)
            late = time.perf_counter() - started - due
            answer = await asyncio.wait_for(connection.ask(request), TIMEOUT)
            answer.seconds += late
            answer.first_token += late
            if connection.alive:
                idle.append(connection)
        except (OSError, TimeoutError) as error:
            answer = Answer(seconds=time.perf_counter() - started - due, failure=type(error).__name__)
        sample.answers.append(answer)
        if on_answer is not None:
            on_answer(number, answer)

    for number, (due, request) in enumerate(schedule):
        delay = due - (time.perf_counter() - started)
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(one(number, due, request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    sample.seconds = time.perf_counter() - started
    for connection in idle:
        connection.close()
    return sample
