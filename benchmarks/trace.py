"""Throughput and latency against how much repeats, next to the ideal 1 / (1 - hit rate).

    python benchmarks/trace.py --out benchmarks/results/trace.json --plot benchmarks/results/trace.svg
    python benchmarks/trace.py --data questions.jsonl.gz       # also real questions, as often as they come

Closed loop, sixteen callers: traces in which a given share of requests repeats an earlier question, and Zipf traces.
Open loop: the same arrivals (Poisson, bursty, steady) at a given share of what plain vLLM can bear go to plain vLLM and
to ``--enhance``, and latency counts from when a request was due. A share of the requests is streamed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import CACHE, finish, machine, median, options, plot_file, say
from contenders import Contender, model_directory, started
from load import Sample, Target, chat, closed_loop, open_loop
from traces import ARRIVALS, arrivals, read_questions, repeating, repetition, zipf

CONCURRENCY = 16
FILLER = "Please answer at length, with an example."


@dataclass(frozen=True, slots=True)
class Plan:
    """How much: requests of a closed trace, repetition shares, Zipf exponents, seconds of an open trace, tokens."""

    requests: int
    shares: tuple[float, ...]
    exponents: tuple[float, ...]
    seconds: float
    tokens: int


PLANS = {
    "quick": Plan(30, (0.0, 0.5), (1.0,), 1.0, 16),
    "standard": Plan(400, (0.0, 0.25, 0.5, 0.75, 0.9, 0.97), (0.6, 0.9, 1.2), 8.0, 64),
}


class Asker:
    """Makes requests of question numbers; no two traces share a question."""

    def __init__(self, streams: float, tokens: int, seed: int) -> None:
        self._streams, self._tokens = streams, tokens
        self._rng = random.Random(seed)
        self._trace = itertools.count()

    def requests(self, numbers: Sequence[int], texts: Sequence[str] | None = None) -> list[bytes]:
        trace = next(self._trace)
        return [self._request(trace, number, texts) for number in numbers]

    def _request(self, trace: int, number: int, texts: Sequence[str] | None) -> bytes:
        said = f"Question {number:06d}? {FILLER}" if texts is None else texts[number]
        stream = self._rng.random() < self._streams
        return chat(said, system=f"trace {trace:04d}", stream=stream, max_tokens=self._tokens)


def figures(sample: Sample) -> dict[str, Any]:
    sources = sample.sources()
    reused = sources.get("hit", 0) + sources.get("joined", 0)
    return {
        **sample.figures(),
        "hit_rate": reused / max(1, len(sample.answers)),
        "joined": sources.get("joined", 0),
    }


async def closed(servers: dict[str, Contender], plan: Plan, asker: Asker, data: Path | None, seed: int) -> list[Any]:
    """One row per trace."""
    rng = random.Random(seed)
    population = max(2, plan.requests // 2)
    traces: list[tuple[str, list[int], list[str] | None]] = [
        (f"repeats {share:.0%}", repeating(plan.requests, share, rng), None) for share in plan.shares
    ]
    traces += [(f"Zipf {each:g}", zipf(plan.requests, population, each, rng), None) for each in plan.exponents]
    if data is not None:
        texts = read_questions(data)
        asked = rng.sample(texts, min(len(texts), plan.requests))
        traces.append((f"{data.name.split('.')[0]}, as they come", _numbered(asked), asked))
    rows: list[dict[str, Any]] = []
    for number, (name, numbers, texts) in enumerate(traces):
        say(name)
        # Repetition changes nothing for plain vLLM but its prefix cache, so a part of each trace tells its rate.
        part = numbers if number == 0 else numbers[: max(CONCURRENCY, len(numbers) // 4)]
        plain = await closed_loop(servers["plain"].target, asker.requests(part, texts), concurrency=CONCURRENCY)
        ours = await closed_loop(servers["enhanced"].target, asker.requests(numbers, texts), concurrency=CONCURRENCY)
        found = figures(ours)
        rows.append(
            {
                "trace": name,
                "repetition": repetition(numbers),
                **found,
                "plain_per_second": plain.rate,
                "plain_p50_ms": 1000 * plain.latency(0.5),
                "ideal_speedup": 1.0 / max(1e-9, 1.0 - found["hit_rate"]) if found["hit_rate"] < 1 else None,
            }
        )
    plain_rate = median(row["plain_per_second"] for row in rows)
    return [{**row, "speedup": row["per_second"] / plain_rate} for row in rows]


def _numbered(texts: Sequence[str]) -> list[int]:
    """Each text as the number of its first place, so that equal texts are one question."""
    first: dict[str, int] = {}
    return [first.setdefault(text, number) for number, text in enumerate(texts)]


async def opened(servers: dict[str, Contender], plan: Plan, asker: Asker, capacity: float, loads: Sequence[float],
                 share: float, seed: int) -> list[Any]:  # fmt: skip
    """The same arrivals for plain and enhanced, one after the other."""
    rows = []
    for process, load in itertools.product(ARRIVALS, loads):
        say(f"{process} arrivals at {load:.0%} of what plain vLLM can bear")
        rng = random.Random(seed)
        times = arrivals(process, max(1.0, load * capacity), plan.seconds, rng)
        numbers = repeating(len(times), share, rng)
        row: dict[str, Any] = {"arrivals": process, "load": load, "repetition": repetition(numbers)}
        for name in ("plain", "enhanced"):
            schedule = list(zip(times, asker.requests(numbers), strict=True))
            row[name] = figures(await open_loop(servers[name].target, schedule))
        rows.append(row)
    return rows


async def run(servers: dict[str, Contender], plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
    asker = Asker(arguments.streams, plan.tokens, arguments.seed)
    for server in servers.values():  # warm: code paths and compiled kernels
        await closed_loop(server.target, asker.requests(range(2 * CONCURRENCY)), concurrency=CONCURRENCY)
    rows = await closed(servers, plan, asker, arguments.data, arguments.seed)
    capacity = rows[0]["plain_per_second"]
    open_rows = await opened(servers, plan, asker, capacity, arguments.loads, arguments.repeats, arguments.seed)
    return {"tokens": plan.tokens, "streams": arguments.streams, "rows": rows, "arrivals": open_rows}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--model", help="directory or name; a tiny model made on the spot by default")
    parser.add_argument("--data", type=Path, metavar="FILE", help="real questions: JSON lines with text, or a and b")
    parser.add_argument("--streams", type=float, default=0.5, help="share of streamed requests")
    parser.add_argument("--repeats", type=float, default=0.6, help="share of repeated questions in the open loop")
    parser.add_argument("--loads", type=lambda text: [float(each) for each in text.split(",")], default=[0.7, 1.5],
                        help="arrivals as shares of plain vLLM's capacity")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", metavar="URL", help="running servers instead of our own; both or none")
    parser.add_argument("--enhanced", metavar="URL")
    parser.add_argument("--plot", type=plot_file, metavar="FILE", help="also draw it, as PNG or SVG (needs matplotlib)")
    arguments = parser.parse_args()
    plan = PLANS["quick" if arguments.quick else "standard"]
    before = machine()
    with ExitStack() as stack:
        if arguments.plain and arguments.enhanced:
            urls = {"plain": arguments.plain, "enhanced": arguments.enhanced}
            found = [Contender(name, Target.of(url), {}, Target.of(url)) for name, url in urls.items()]
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            found = stack.enter_context(started(model_directory(arguments.model, CACHE), folder))
        result = asyncio.run(run({each.name: each for each in found}, plan, arguments))
    whole = finish("trace", result, out=arguments.out, before=before)
    if arguments.plot:
        from plots import trace

        trace(whole, arguments.plot)


if __name__ == "__main__":
    main()
