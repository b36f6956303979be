"""What the middleware adds to one request: CPU time per request with it, less the same without it, as JSON.

    python benchmarks/middleware.py [--requests 20000]

The application is the cheapest there can be (read the body, decide, answer), so the difference is the middleware's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from vllm_enhance.scope import Decision, current_scope
from vllm_enhance.server.middleware import EnhanceMiddleware
from vllm_enhance.types import Source

LIMIT_US = 60.0
ROUNDS = 7
HIT = Decision(Source.MEMORY, age=59.7, ttl=3540.9)
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 4000}]}).encode()
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"authorization", b"Bearer sk-0123456789abcdef0123456789abcdef"),
    (b"user-agent", b"OpenAI/Python 1.99.0"),
    *((f"x-stainless-{number}".encode(), b"x") for number in range(8)),
    (b"cache-control", b"max-age=600"),
]
CHUNK = b'data: {"choices": [{"delta": {"content": "word"}}]}\n\n'
STREAMED_CHUNKS = 200

Application = Callable[[Any, Any, Any], Any]


def decide() -> None:
    scope = current_scope.get()
    if scope is not None:
        scope.decide(HIT)


async def json_app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    decide()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


async def stream_app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    decide()
    for _ in range(STREAMED_CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def seconds_per_request(app: Application, requests: int) -> float:
    message = {"type": "http.request", "body": BODY, "more_body": False}

    async def receive() -> Any:
        return message

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": HEADERS}
    before = time.process_time()
    for _ in range(requests):
        await app(scope, receive, send)
    return (time.process_time() - before) / requests


async def added(app: Application, requests: int) -> dict[str, float]:
    """Microseconds per request; medians over rounds that alternate between the two."""
    wrapped = EnhanceMiddleware(app)
    plain, ours = [], []
    for _ in range(ROUNDS):
        plain.append(await seconds_per_request(app, requests))
        ours.append(await seconds_per_request(wrapped, requests))
    without, with_it = statistics.median(plain) * 1e6, statistics.median(ours) * 1e6
    return {"without_us": round(without, 2), "with_us": round(with_it, 2), "added_us": round(with_it - without, 2)}


async def measure(requests: int) -> dict[str, Any]:
    whole = await added(json_app, requests)
    stream = await added(stream_app, max(1, requests // 20))
    return {
        "requests": requests,
        "not_streamed": whole,
        "streamed": {**stream, "chunks": STREAMED_CHUNKS, "added_us_per_chunk": stream["added_us"] / STREAMED_CHUNKS},
        "limit_us": LIMIT_US,
        "within_limit": whole["added_us"] < LIMIT_US,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=20_000)
    print(json.dumps(asyncio.run(measure(parser.parse_args().requests)), indent=2))


if __name__ == "__main__":
    main()
