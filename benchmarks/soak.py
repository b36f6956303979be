"""Mixed traffic with faults for a given time: no lost answers, no wrong answers, no leaks.

    python benchmarks/soak.py --minutes 30 --out benchmarks/results/soak.json --plot benchmarks/results/soak.svg

Answers that plain vLLM gave to a pool of questions are the reference. Then ``--enhance`` with a small memory tier,
short times to live and a Redis serves the same pool, streamed and not, in bursts of identical questions too, while
clients hang up, Redis is frozen and killed, a hook raises, hangs and returns nonsense, and the API server is killed and
started again. Every answer is compared. One is lost when a request fails at any time but while the server is down.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from common import CACHE, finish, machine, memory_bytes, options, plot_file, python_path, quantile, say
from contenders import model_directory
from load import Answer, Target, chat, closed_loop, connect, text_of

from vllm_enhance.testing.redis import RedisServer
from vllm_enhance.testing.server import ServerError, ServerProcess

CALLERS = 8
HANG_UP_SHARE = 0.05
BURST_SHARE, BURST = 0.02, 12
LENGTHS = (16, 48)
BYPASS = "Cache-Control: no-store, no-cache\r\n"
SETTLE = 3.0
CONTROL_VARIABLE = "SOAK_CONTROL"  # as in soak_hooks/soak_hook.py

ENHANCE = (
    "--enhance", "--enhance-hooks", "cache,soak_hook:SoakHook",
    "--enhance-cache-ttl", "20s", "--enhance-cache-max-entries", "60",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask: its number, length of the answer in tokens, streamed or not."""

    number: int
    tokens: int
    stream: bool

    def request(self, headers: str = "") -> bytes:
        text = f"Question {self.number:05d}: what is it, and why?"
        return chat(text, stream=self.stream, max_tokens=self.tokens, headers=headers, exact_length=False)


Reference = dict[tuple[int, int], set[str]]


async def reference(target: Target, pool: int, headers: str = "") -> Reference:
    """What plain vLLM says, asked one at a time and sixteen at a time: batches may round differently."""
    found: Reference = {}
    asked = [Question(number, tokens, False) for number in range(pool) for tokens in LENGTHS]
    for concurrency in (1, 16):
        connections = [await connect(target, keep_body=True) for _ in range(concurrency)]
        source = iter(asked)

        async def caller(number: int, source: Iterator[Question] = source, to: Any = connections) -> None:
            for question in source:
                answer = await to[number].ask(question.request(headers))
                if not answer.ok:
                    raise RuntimeError(f"plain vLLM fails: {answer.status} {answer.failure}")
                found.setdefault((question.number, question.tokens), set()).add(text_of(answer.body, False))

        await asyncio.gather(*(caller(number) for number in range(concurrency)))
        for connection in connections:
            connection.close()
    return found


# --------------------------------------------------------------------------- traffic


@dataclass
class Books:
    """What happened."""

    reference: Reference
    down: bool = False
    answered: int = 0
    hung_up: int = 0
    lost: list[str] = field(default_factory=list)
    failed_while_down: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    seconds: list[tuple[float, float]] = field(default_factory=list)

    def take(self, question: Question, answer: Answer, at: float) -> None:
        """Judge one answer."""
        if not answer.ok:
            if self.down:
                self.failed_while_down += 1
            else:
                self.lost.append(f"{at:.1f} s: {answer.status} {answer.failure}")
            return
        self.answered += 1
        self.seconds.append((at, answer.seconds))
        self.sources[answer.source] = self.sources.get(answer.source, 0) + 1
        try:
            text = text_of(answer.body, question.stream)
        except (ValueError, KeyError) as error:
            text = f"unreadable: {error}"
        if text not in self.reference[question.number, question.tokens]:
            self.wrong.append({"at": at, "question": question.number, "source": answer.source, "got": text[:80]})


class Traffic:
    """Callers that ask until told to stop."""

    def __init__(self, target: Target, pool: int, books: Books, started: float, seed: int = 1) -> None:
        self._target, self._pool, self._books, self._started = target, pool, books, started
        self._rng = random.Random(seed)
        self.stopping = False

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    async def _caller(self) -> None:
        while not self.stopping:
            if self._books.down:
                await asyncio.sleep(0.2)
                continue
            question = self._draw()
            if self._rng.random() < BURST_SHARE:
                await asyncio.gather(*(self._ask(question) for _ in range(BURST)))
            elif self._rng.random() < HANG_UP_SHARE:
                await self._hang_up(question)
            else:
                await self._ask(question)

    def _draw(self) -> Question:
        # Squared: a few questions are popular, many are rare.
        number = int(self._pool * self._rng.random() ** 2)
        return Question(number, self._rng.choice(LENGTHS), self._rng.random() < 0.5)

    async def _ask(self, question: Question) -> None:
        try:
            connection = await connect(self._target, keep_body=True)
            answer = await asyncio.wait_for(connection.ask(question.request()), 60)
            connection.close()
        except (OSError, TimeoutError) as error:
            answer = Answer(failure=type(error).__name__)
        self._books.take(question, answer, time.monotonic() - self._started)

    async def _hang_up(self, question: Question) -> None:
        try:
            connection = await connect(self._target)
        except OSError:
            return
        connection.ask(question.request())
        await asyncio.sleep(self._rng.random() * 0.2)
        connection.close()
        self._books.hung_up += 1


# --------------------------------------------------------------------------- watching


class Watch:
    """A point of the curve each second."""

    def __init__(self, target: Target, pid: Callable[[], int | None], books: Books, started: float) -> None:
        self._target, self._pid, self._books, self._started = target, pid, books, started
        self.curve: list[dict[str, Any]] = []

    async def run(self) -> None:
        before = 0
        while True:
            await asyncio.sleep(1.0)
            point = await asyncio.to_thread(self.look)
            point["answers_per_second"], before = self._books.answered - before, self._books.answered
            self.curve.append(point)

    def look(self) -> dict[str, Any]:
        """Memory, file descriptors and threads of the API server now."""
        point: dict[str, Any] = {"at": time.monotonic() - self._started, "server_mib": float("nan")}
        pid = self._pid()
        try:
            if pid is None or self._books.down:
                return point
            process = psutil.Process(pid)
            memory = memory_bytes(pid)
            point |= {
                "server_mib": memory.get("server", 0) / 2**20,
                "engine_mib": memory.get("engine", 0) / 2**20,
                "fds": process.num_fds(),
                "threads": process.num_threads(),
            }
        except psutil.Error:
            pass
        return point

    def stats(self) -> dict[str, Any]:
        """What the plugin says of itself."""
        try:
            with urllib.request.urlopen(f"{self._target.url}/v1/enhance/stats", timeout=10) as response:
                return dict(json.load(response))
        except (OSError, ValueError):
            return {}


def growth(curve: Sequence[dict[str, Any]], since: float) -> float:
    """MiB per minute of the API server by least squares over the points after ``since``; ``nan`` for too few."""
    points = [(p["at"] / 60, p["server_mib"]) for p in curve if p["at"] >= since and p["server_mib"] == p["server_mib"]]
    if len(points) < 5:
        return float("nan")
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


# --------------------------------------------------------------------------- faults


@dataclass(frozen=True)
class Fault:
    """Something that breaks, and heals."""

    name: str
    begin: Callable[[], Any]
    end: Callable[[], Any]
    down: bool = False


def faults(redis: RedisServer, control: Path, server: ServerProcess, kill: bool) -> list[Fault]:
    """In the order they come."""

    def order(word: str) -> Callable[[], Any]:
        return lambda: control.write_text(word)

    def restart() -> None:
        server.stop()
        server.start()

    found = [
        Fault("redis frozen", redis.freeze, redis.thaw),
        Fault("hook raises", order("raise"), order("")),
        Fault("redis killed", redis.kill, redis.start),
        Fault("hook hangs", order("hang"), order("")),
        Fault("hook returns nonsense", order("nonsense"), order("")),
    ]
    if kill:
        found.append(Fault("server killed", lambda: os.kill(server.pid, signal.SIGKILL), restart, down=True))
    return found


async def break_things(found: Sequence[Fault], books: Books, started: float, end: float, seconds: float) -> list[Any]:
    """One fault after the other, with as long a rest between, until ``end``."""
    log: list[dict[str, Any]] = []
    for fault in itertools.cycle(found):
        await asyncio.sleep(seconds)
        if time.monotonic() + seconds > end:
            return log
        say(f"{fault.name}")
        entry: dict[str, Any] = {"name": fault.name, "from": time.monotonic() - started}
        lost, wrong, answered = len(books.lost), len(books.wrong), books.answered
        books.down = fault.down
        await asyncio.to_thread(fault.begin)
        if not fault.down:
            await asyncio.sleep(seconds)
        await asyncio.to_thread(fault.end)
        books.down = False
        entry["to"] = time.monotonic() - started
        times = [taken for at, taken in books.seconds if at >= entry["from"]]
        log.append(
            {
                **entry,
                "answered": books.answered - answered,
                "lost": len(books.lost) - lost,
                "wrong": len(books.wrong) - wrong,
                "p99_ms": 1000 * quantile(times, 0.99),
            }
        )
    return log


# --------------------------------------------------------------------------- all of it


async def soak(target: Target, pid: Callable[[], int | None], said: Reference, pool: int, seconds: float,
               make_faults: Callable[[], list[Fault]], fault_seconds: float) -> dict[str, Any]:  # fmt: skip
    """Traffic, faults and watching, then the sums."""
    warm = [Question(number, LENGTHS[0], False).request() for number in range(min(pool, 32))]
    await closed_loop(target, warm, concurrency=CALLERS)
    await asyncio.sleep(SETTLE)
    started = time.monotonic()
    books = Books(said)
    traffic, watch = Traffic(target, pool, books, started), Watch(target, pid, books, started)
    before, before_stats = watch.look(), watch.stats()
    watching = asyncio.create_task(watch.run())
    asking = asyncio.create_task(traffic.run())
    broken = make_faults()
    log = await break_things(broken, books, started, started + seconds, fault_seconds) if broken else []
    await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))
    traffic.stopping = True
    await asking
    watching.cancel()
    await asyncio.sleep(SETTLE)
    after, after_stats = watch.look(), watch.stats()
    alive_since = max([entry["to"] for entry in log if entry["name"] == "server killed"], default=0.0)
    return {
        "seconds": time.monotonic() - started,
        "answered": books.answered,
        "wrong": books.wrong[:20],
        "num_wrong": len(books.wrong),
        "lost": books.lost[:20],
        "num_lost": len(books.lost),
        "failed_while_down": books.failed_while_down,
        "hung_up": books.hung_up,
        "sources": books.sources,
        "p50_ms": 1000 * quantile([taken for _, taken in books.seconds], 0.5),
        "p99_ms": 1000 * quantile([taken for _, taken in books.seconds], 0.99),
        "plain_varies": sum(len(texts) > 1 for texts in said.values()),
        "faults": log,
        "leaks": _leaks(before, after, before_stats, after_stats)
        | {"mib_per_minute": growth(watch.curve, alive_since + 0.4 * (seconds - alive_since))},
        "plugin": {name: after_stats.get(name) for name in ("requests", "faults", "active_requests", "enabled")},
        "curve": watch.curve,
    }


def _leaks(before: dict[str, Any], after: dict[str, Any], *stats: dict[str, Any]) -> dict[str, Any]:
    """Numbers at rest before and after."""
    found: dict[str, Any] = {name: [before.get(name), after.get(name)] for name in ("server_mib", "fds", "threads")}
    found["tasks"] = [each.get("hooks", {}).get("soak_hook:SoakHook", {}).get("tasks") for each in stats]
    found["inflight_generations"] = [each.get("inflight_generations") for each in stats]
    return found


def verdict(result: dict[str, Any]) -> list[str]:
    """What is wrong, if anything."""
    leaks = result["leaks"]
    found = []
    if result["num_wrong"]:
        found.append(f"{result['num_wrong']} wrong answers")
    if result["num_lost"]:
        found.append(f"{result['num_lost']} lost answers")
    for name in ("fds", "tasks", "threads"):
        first, last = leaks[name]
        if first is not None and last is not None and last > first + 24:
            found.append(f"{name}: {first} before, {last} after")
    if leaks["inflight_generations"][1]:
        found.append("generations are still held as running")
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--fault-seconds", type=float, default=5.0, help="how long a fault lasts, and each rest")
    parser.add_argument("--pool", type=int, default=150, help="how many questions there are")
    parser.add_argument("--no-kill", action="store_true", help="do not kill the API server")
    parser.add_argument("--model", help="directory or name; a tiny model made on the spot by default")
    parser.add_argument("--enhanced", metavar="URL,PID", help="a running server: no faults but clients that hang up")
    parser.add_argument("--plot", type=plot_file, metavar="FILE", help="also draw it, as PNG or SVG (needs matplotlib)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.minutes, arguments.fault_seconds, arguments.pool = 0.15, 0.7, 40
    before = machine()
    result = _given(arguments) if arguments.enhanced else _own(arguments)
    result["verdict"] = verdict(result)
    whole = finish("soak", result, out=arguments.out, before=before)
    if arguments.plot:
        from plots import soak as draw

        draw(whole, arguments.plot)
    sys.exit(1 if result["verdict"] else 0)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    target = Target.of(arguments.enhanced)

    async def run() -> dict[str, Any]:
        said = await reference(target, arguments.pool, BYPASS)  # the same server, past everything of ours
        return await soak(target, lambda: target.pid, said, arguments.pool, 60 * arguments.minutes, list, 1.0)

    return asyncio.run(run())


def _own(arguments: argparse.Namespace) -> dict[str, Any]:
    model = model_directory(arguments.model, CACHE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        say("plain vLLM answers first")
        with ServerProcess(model, log=folder / "plain.log", timeout=600) as plain:
            said = asyncio.run(reference(Target("127.0.0.1", plain.port), arguments.pool))
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        control = folder / "control"
        environment = {
            CONTROL_VARIABLE: str(control),
            "PYTHONPATH": python_path("soak_hooks"),
            "ENHANCE_STORE": redis.url,
            "ENHANCE_STORE_KEY": "soak",
        }
        server = ServerProcess(model, ENHANCE, log=folder / "enhanced.log", env=environment, timeout=600)
        stack.callback(server.stop)
        server.start()
        target = Target("127.0.0.1", server.port)

        def make() -> list[Fault]:
            return faults(redis, control, server, not (arguments.no_kill or arguments.quick))

        def pid() -> int | None:
            try:
                return server.pid if server.running else None
            except ServerError:  # stopped between the two
                return None

        say(f"soaking for {arguments.minutes:g} minutes")
        return asyncio.run(
            soak(target, pid, said, arguments.pool, 60 * arguments.minutes, make, arguments.fault_seconds)
        )


if __name__ == "__main__":
    main()
