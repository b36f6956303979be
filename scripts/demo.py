"""Serve a model with ``vllm serve --enhance``, ask it real questions, and show where each answer came from.

Without ``--model`` it serves a tiny model with random weights, made on the spot: what it says is noise, what is
measured is real.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from vllm_enhance.testing.models import tiny_model
from vllm_enhance.testing.server import ARGUMENTS, ServerError, ServerProcess

CACHE = Path(__file__).resolve().parent.parent / ".cache"
CROWD = 100
QUESTION, OTHER, WARM_UP = "What is TCP, in one sentence?", "How does a bicycle stay upright?", "Are you there?"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a client sees it.

    Attributes:
        source: read from the ``Cache-Status`` header.
        seconds: from sending the request to the last byte.
        tokens: as the server counts them.
    """

    source: str
    seconds: float
    tokens: int
    text: str


def read_source(header: str | None) -> str:
    """Where an answer came from, in a word or two, from ``Cache-Status`` (RFC 9211)."""
    if header is None:
        return "engine (no Cache-Status)"
    words = dict(word.strip().partition("=")[::2] for word in header.split(";"))
    if "hit" in words:
        return "similar question" if words.get("detail") == "similar" else "stored answer"
    return "joined" if "collapsed" in words else "engine"


class Client:
    """Asks chat questions of one server."""

    def __init__(self, http: httpx.AsyncClient, model: str, max_tokens: int) -> None:
        self._http, self._model, self._max_tokens = http, model, max_tokens

    async def ask(self, question: str, *, headers: dict[str, str] | None = None) -> Answer:
        started = time.perf_counter()
        response = await self._http.post("/v1/chat/completions", json=self._body(question), headers=headers)
        seconds = time.perf_counter() - started
        response.raise_for_status()
        said = response.json()
        text = said["choices"][0]["message"]["content"] or ""
        return Answer(
            read_source(response.headers.get("Cache-Status")), seconds, said["usage"]["completion_tokens"], text
        )

    async def open_connections(self, count: int) -> None:
        """So that callers who ask at once arrive at once."""
        await asyncio.gather(*(self._http.get("/health") for _ in range(count)))

    async def stream(self, question: str) -> Answer:
        body = {**self._body(question), "stream": True, "stream_options": {"include_usage": True}}
        started, parts, tokens = time.perf_counter(), [], 0
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event: dict[str, Any] = json.loads(line[len("data: ") :])
                parts += [choice["delta"].get("content") or "" for choice in event["choices"]]
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        seconds = time.perf_counter() - started
        return Answer(read_source(response.headers.get("Cache-Status")), seconds, tokens, "".join(parts))

    def _body(self, question: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {"model": self._model, "messages": messages, "max_tokens": self._max_tokens, "temperature": 0}


class Table:
    """Prints rows as they come."""

    LINE = "  {:<43} {:<37} {:>9} {:>9} {:>7}"

    def __init__(self) -> None:
        print("\n" + self.LINE.format("request", "answered from", "time", "tokens/s", "saved"))
        print("  " + "-" * 109)

    def row(self, request: str, source: str, seconds: float, tokens: int, cost: float | None) -> None:
        """One line.

        Args:
            cost: seconds that the same would have taken from the engine, if known.
        """
        saved = "" if cost is None else f"{max(0.0, cost - seconds):.2f} s"
        print(
            self.LINE.format(request, source, f"{1000 * seconds:.1f} ms", f"{tokens / seconds:.0f}", saved), flush=True
        )


async def show(client: Client) -> bool:
    """Ask, print the table, and say whether every answer was as it must be."""
    await client.ask(WARM_UP)
    table = Table()
    first = await client.ask(QUESTION)
    table.row("a question", first.source, first.seconds, first.tokens, None)
    answers = [first]
    asked: list[tuple[str, Callable[[], Awaitable[Answer]]]] = [
        ("the same question", lambda: client.ask(QUESTION)),
        ("the same question, streamed", lambda: client.stream(QUESTION)),
        ("the same, Cache-Control: no-cache", lambda: client.ask(QUESTION, headers={"Cache-Control": "no-cache"})),
    ]
    for label, ask in asked:
        answer = await ask()
        cost = None if answer.source == "engine" else first.seconds
        table.row(label, answer.source, answer.seconds, answer.tokens, cost)
        answers.append(answer)
    await client.open_connections(CROWD)
    started = time.perf_counter()
    crowd = await asyncio.gather(*(client.ask(OTHER) for _ in range(CROWD)))
    seconds = time.perf_counter() - started
    sources = ", ".join(f"{count} {source}" for source, count in Counter(a.source for a in crowd).most_common())
    spared = sum(answer.source != "engine" for answer in crowd)
    table.row(f"{CROWD} callers with one other question at once", sources, seconds, sum(a.tokens for a in crowd), None)
    print(f"\n  {spared} of {CROWD} concurrent callers cost the engine nothing.")
    same = len({a.text for a in answers}) == 1 and len({a.text for a in crowd}) == 1
    reused = answers[1].source == answers[2].source == "stored answer" and spared == CROWD - 1
    if not same:
        print("  error: equal questions got different answers", file=sys.stderr)
    if not reused:
        print("  error: a repeated question was generated again", file=sys.stderr)
    return same and reused


def metric(text: str, name: str) -> float:
    """The sum over all samples of one metric in Prometheus' text format."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


async def run(base_url: str, max_tokens: int) -> bool:
    limits = httpx.Limits(max_connections=CROWD, max_keepalive_connections=CROWD)
    async with httpx.AsyncClient(base_url=base_url, timeout=600, limits=limits, trust_env=False) as http:
        served = (await http.get("/v1/models")).json()["data"][0]["id"]
        good = await show(Client(http, served, max_tokens))
        told = (await http.get("/metrics")).text
        tokens = metric(told, "vllm_enhance_saved_tokens_total")
        seconds = metric(told, "vllm_enhance_saved_engine_seconds_total")
        print(f"  The server's own count (/metrics): {tokens:.0f} tokens and {seconds:.1f} engine seconds saved.\n")
        return good


def server(model: str | None, arguments: list[str]) -> ServerProcess:
    """The server, not yet started."""
    log = CACHE / "demo.log"

    def progress(seconds: float) -> None:
        print(f"  loading ... {seconds:.0f} s", flush=True)

    if model is None:
        print("making the tiny model (random weights, so its answers are noise)", flush=True)
        path = tiny_model(CACHE)
        return ServerProcess(path, ["--enhance", *arguments], log=log, progress=progress, defaults=ARGUMENTS)
    own = {name: os.environ[name] for name in ("VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS") if name in os.environ}
    env = {"HF_HUB_OFFLINE": "1" if Path(model).is_dir() else "0", "VLLM_CPU_KVCACHE_SPACE": "4", **own}
    return ServerProcess(
        model, ["--enhance", *arguments], log=log, progress=progress, defaults=(), env=env, timeout=1800
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", help="directory or hub name; default: a tiny model made on the spot")
    parser.add_argument("--max-tokens", type=int, default=128, help="length of an answer; default: 128")
    parser.add_argument("arguments", nargs="*", help="further arguments of vllm serve, after --")
    options = parser.parse_args()
    try:
        running = server(options.model, options.arguments)
        print(f"vllm serve {options.model or 'tiny-model'} --enhance (log: {running.log})", flush=True)
        with running:
            good = asyncio.run(run(running.base_url, options.max_tokens))
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"error: the server did not answer as it should ({error!r}); see {running.log}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print("The server is stopped.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
