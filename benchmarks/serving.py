"""Plain vLLM, vLLM with --enhance and (where installed) LiteLLM's proxy, side by side on this machine.

    python benchmarks/serving.py --standard --out benchmarks/results/serving.json
    python benchmarks/serving.py --install-litellm --litellm-venv .cache/litellm --standard

All contenders run at once and rounds go from one to the next, so whatever else the machine does hits all of them alike.
Each is asked the same questions:

    hit      sixteen questions that were asked before
    miss     a new question each time
    joined   one new question, 1000 callers at once
    floors   GET /version and POST /tokenize of the same server: what HTTP costs, and HTTP with rendering

plain and streamed, with one caller and with sixteen. Answers are greedy and of equal length. Per cell: answers per
second, latency, time to first token, CPU milliseconds per request of every process, and how many generations the engine
really did. The goals at the end are ratios, which carry over from one machine to another better than seconds do.

What a miss costs is small beside the noise of a small machine, so misses get rounds of their own, plain and enhanced in
turns, and the ratio within a round counts. Two starts of the same code differ by a few per cent for as long as they
run, so both servers are started several times, and the median over the starts is what counts; see ``pairs.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    AT_LEAST,
    AT_MOST,
    CACHE,
    cpu_seconds,
    finish,
    goal,
    machine,
    median,
    memory_bytes,
    options,
    plot_file,
    say,
)
from contenders import Contender, given, install_litellm, litellm_version, metric, model_directory, started
from load import Answer, Sample, chat, closed_loop, connect, get, post, text_of
from pairs import over_floor, paired

POOL = 16
FILLER = "Please answer at length and with an example, and say why it is so. "
PAUSE = 0.25
"""Seconds between cells: OpenMP threads of an engine spin for 0.2 s after its last step."""

TOKENS_MADE, STEPS = "vllm:generation_tokens_total", "vllm:iteration_tokens_total_count"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of everything; extra_rounds: of what is compared closely, see `close_cells`, for each start.
        starts: of plain and enhanced server.
        seconds: of a cell of hits.
        alone: generated requests of a cell with one caller; waves: the same per caller of a cell with many.
        joined: callers with one question.
        tokens: of each answer.
        many: callers at once.
        repeat_filler: how often the question's filler sentence comes, so how long prompts are.
    """

    rounds: int
    extra_rounds: int
    seconds: float
    alone: int
    waves: int
    joined: int
    starts: int = 1
    tokens: int = 64
    many: int = 16
    repeat_filler: int = 1

    def generated(self, cell: Cell) -> int:
        """Requests of a cell whose answers are generated."""
        return self.alone if cell.concurrency == 1 else self.waves * cell.concurrency


PLANS = {
    "quick": Plan(1, 0, 0.3, 2, 1, 50, tokens=16),
    "standard": Plan(3, 5, 1.25, 8, 9, 1000, starts=6),
    "full": Plan(7, 5, 4.0, 20, 20, 1000, starts=12),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to measure."""

    kind: str
    stream: bool
    concurrency: int

    @property
    def name(self) -> str:
        return f"{self.kind}{'-stream' if self.stream else ''}-c{self.concurrency}"


def cells(kinds: Sequence[str], streams: Sequence[bool], many: int) -> list[Cell]:
    """Every kind, streamed or not, with one caller and with many."""
    return [Cell(kind, stream, callers) for kind in kinds for stream in streams for callers in (1, many)]


def close_cells(many: int) -> dict[str, list[Cell]]:
    """What small differences are asked of, by contender: misses against plain vLLM, a hit against its floor."""
    misses = [Cell("miss", False, many), Cell("miss", True, many), Cell("miss", True, 1)]
    return {"plain": misses, "enhanced": [Cell("tokenize", False, 1), Cell("hit", False, 1), *misses]}


class Questions:
    """The same questions for every contender; new ones differ in one letter, so that none warms another's cache."""

    def __init__(self, plan: Plan) -> None:
        self._tokens, self._filler = plan.tokens, FILLER * plan.repeat_filler
        self._serial = itertools.count()

    def pool(self, stream: bool) -> list[bytes]:
        return [self._chat(f"Question {number:06d} of the pool? {self._filler}", stream) for number in range(POOL)]

    def new(self, contender: str, stream: bool) -> Iterator[bytes]:
        while True:
            yield self._chat(f"{contender[0]}{next(self._serial):08d} is new, is it? {self._filler}", stream)

    def _chat(self, text: str, stream: bool) -> bytes:
        return chat(text, stream=stream, max_tokens=self._tokens)


# --------------------------------------------------------------------------- one cell


async def measure(contender: Contender, cell: Cell, plan: Plan, questions: Questions) -> dict[str, Any]:
    """One cell of one contender, once."""
    requests, count = _requests(contender, cell, plan, questions)
    if cell.kind == "hit" and contender.name != "plain":
        # A cache that is small by default may have dropped the pool since the last round: what counts is a hit.
        await closed_loop(contender.target, questions.pool(cell.stream), concurrency=4, count=POOL)
    before = await _engine(contender)
    await asyncio.sleep(PAUSE)
    before_cpu = {name: cpu_seconds(pid) for name, pid in contender.pids.items()}
    seconds = math.inf if count is not None else plan.seconds
    sample = await closed_loop(contender.target, requests, concurrency=cell.concurrency, seconds=seconds, count=count)
    after_cpu = {name: cpu_seconds(pid) for name, pid in contender.pids.items()}
    made, steps = (after - earlier for earlier, after in zip(before, await _engine(contender), strict=True))
    return {
        **_figures(sample),
        "generations": made / plan.tokens,
        "batch": made / steps if steps else math.nan,
        "cpu_ms": _cpu(before_cpu, after_cpu, sample),
    }


async def _engine(contender: Contender) -> tuple[float, float]:
    """Tokens made and steps taken by the engine so far."""
    made = await asyncio.to_thread(metric, contender.engine, TOKENS_MADE)
    return made, await asyncio.to_thread(metric, contender.engine, STEPS)


def _requests(contender: Contender, cell: Cell, plan: Plan, questions: Questions) -> tuple[Iterator[bytes], int | None]:
    if cell.kind == "version":
        return itertools.repeat(get("/version")), None
    if cell.kind == "tokenize":
        message = {"role": "user", "content": f"Question {0:06d} of the pool? {FILLER * plan.repeat_filler}"}
        return itertools.repeat(post("/tokenize", {"model": "tiny", "messages": [message]})), None
    if cell.kind == "hit" and contender.name == "plain":
        # Nothing is a hit for plain vLLM: the same questions, generated again with its prefix cache warm.
        return itertools.cycle(questions.pool(cell.stream)), plan.generated(cell)
    if cell.kind == "hit":
        return itertools.cycle(questions.pool(cell.stream)), None
    return questions.new(contender.name, cell.stream), plan.generated(cell)


def _figures(sample: Sample) -> dict[str, Any]:
    return {**sample.figures(), "sources": sample.sources()}


def _cpu(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], sample: Sample) -> dict[str, float]:
    """CPU milliseconds per request by process family and role."""
    found = {}
    for family, roles in after.items():
        for role, seconds in roles.items():
            spent = seconds - before[family].get(role, 0.0)
            if spent > 0:
                found[f"{family} {role}"] = 1000 * spent / max(1, len(sample.answers))
    return found


# --------------------------------------------------------------------------- many callers, one question


async def measure_joined(contender: Contender, plan: Plan, questions: Questions) -> dict[str, Any]:
    """One new question from all callers at once; generations done, and when the last one had the answer."""
    target = contender.target
    alone = await closed_loop(target, questions.new(contender.name, False), concurrency=1, count=3)
    request = next(questions.new(contender.name, False))
    connections = [await connect(target, keep_body=True) for _ in range(plan.joined)]
    before = await asyncio.to_thread(metric, contender.engine, TOKENS_MADE)
    answers: list[Answer] = await asyncio.gather(*(connection.ask(request) for connection in connections))
    made = await asyncio.to_thread(metric, contender.engine, TOKENS_MADE) - before
    for connection in connections:
        connection.close()
    sample = Sample(max(answer.seconds for answer in answers), list(answers))
    return {
        **_figures(sample),
        "callers": plan.joined,
        "generations": made / plan.tokens,
        "last_ms": 1000 * sample.seconds,
        "generation_alone_ms": 1000 * alone.latency(0.5),
        "different_answers": len({text_of(answer.body, False) for answer in answers if answer.ok}),
    }


async def same_answers(contenders: Sequence[Contender], questions: Questions) -> dict[str, Any]:
    """Ask everybody the questions of the pool, twice, streamed and not: which warms their caches, and compares."""
    seen: dict[tuple[str, bool], list[str]] = {}
    for contender in contenders:
        for stream, _ in itertools.product((False, True), range(2)):
            sample = await closed_loop(contender.target, questions.pool(stream), concurrency=1, keep_body=True)
            if sample.failed:
                raise RuntimeError(f"{contender.name} fails: {[a for a in sample.answers if not a.ok][:1]}")
            seen[contender.name, stream] = [text_of(answer.body, stream) for answer in sample.answers]
    first = next(iter(seen.values()))
    return {"questions": POOL, "all_equal": all(texts == first for texts in seen.values())}


# --------------------------------------------------------------------------- all of it


Rows = dict[str, dict[str, list[dict[str, Any]]]]
"""Cell -> contender -> figures of each round."""

Servers = Callable[[], AbstractContextManager[Sequence[Contender]]]


async def run(contenders: Sequence[Contender], plan: Plan, again: Servers | None = None) -> dict[str, Any]:
    """Every round of every cell.

    Args:
        again: starts plain and enhanced server once more; without it there is the one start of `contenders`.
    """
    questions = Questions(plan)
    answers = await same_answers(contenders, questions)
    rows: Rows = {}
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}")
        await _round(rows, _turned(contenders, number), plan, questions)
    for start in range(plan.starts if again is not None else 1):
        with again() if again is not None and start else nullcontext(contenders) as serving:
            if start:
                await same_answers(serving, questions)
            for number in range(plan.extra_rounds):
                say(f"start {start + 1} of {plan.starts}: close round {number + 1} of {plan.extra_rounds}")
                await _close_round(rows, _turned(serving, number), plan, questions, start)
    figures_of = {cell: {name: summary(rounds) for name, rounds in each.items()} for cell, each in rows.items()}
    return {
        "tokens": plan.tokens,
        "callers": plan.many,
        "answers": answers,
        "cells": figures_of,
        "paired": {cell: paired(each) for cell, each in rows.items() if cell.startswith("miss")},
        "hit_over_tokenize": over_floor(rows),
        "memory_mib": {
            each.name: {
                f"{family} {role}": size / 2**20
                for family, pid in each.pids.items()
                for role, size in memory_bytes(pid).items()
            }
            for each in contenders
        },
    }


async def _round(rows: Rows, order: Sequence[Contender], plan: Plan, questions: Questions) -> None:
    """Everything, of everybody."""
    enhanced = [contender for contender in order if contender.name == "enhanced"]
    every = [(cell, enhanced) for cell in cells(("version", "tokenize"), (False,), plan.many)]
    every += [(cell, order) for cell in cells(("hit", "miss"), (False, True), plan.many)]
    for cell, asked in every:
        for contender in asked:
            _enter(rows, cell.name, contender.name, await measure(contender, cell, plan, questions), 0)
    for contender in enhanced:
        _enter(rows, "joined", contender.name, await measure_joined(contender, plan, questions), 0)


async def _close_round(rows: Rows, order: Sequence[Contender], plan: Plan, questions: Questions, start: int) -> None:
    """What small differences are asked of."""
    close = close_cells(plan.many)
    for cell in close["enhanced"]:
        for contender in order:
            if cell in close.get(contender.name, ()):
                _enter(rows, cell.name, contender.name, await measure(contender, cell, plan, questions), start)


def _enter(rows: Rows, cell: str, contender: str, figures: dict[str, Any], start: int) -> None:
    rows.setdefault(cell, {}).setdefault(contender, []).append({**figures, "start": start})


def _turned(contenders: Sequence[Contender], number: int) -> list[Contender]:
    """Another one goes first each time."""
    return [*contenders[number % len(contenders) :], *contenders[: number % len(contenders)]]


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds; sums of counts; the spread of the rate."""
    found: dict[str, Any] = {"rounds": len(rounds)}
    for name, value in rounds[0].items():
        if name == "start":
            continue
        if isinstance(value, dict):
            keys = {key for each in rounds for key in each[name]}
            combine: Callable[[list[float]], float] = sum if name == "sources" else median  # type: ignore[assignment]
            found[name] = {key: combine([each[name].get(key, 0) for each in rounds]) for key in sorted(keys)}
        elif name in ("requests", "failed"):
            found[name] = sum(each[name] for each in rounds)
        else:
            found[name] = median(each[name] for each in rounds)
    found["per_second_spread"] = [
        min(each["per_second"] for each in rounds),
        max(each["per_second"] for each in rounds),
    ]
    return found


# --------------------------------------------------------------------------- goals


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at, as ratios, and whether it was reached; ``None`` where a contender was missing."""
    found, pairs, many = result["cells"], result["paired"], f"c{result['callers']}"

    def figure(cell: str, contender: str, name: str) -> float:
        return float(found.get(cell, {}).get(contender, {}).get(name, math.nan))

    def against_litellm(cell: str) -> float:
        return figure(cell, "enhanced", "per_second") / figure(cell, "litellm", "per_second")

    def against_plain(cell: str, name: str) -> float:
        return float(pairs.get(cell, {}).get(name, {}).get("ratio", math.nan))

    def joined(name: str) -> float:
        return figure("joined", "enhanced", name)

    enough = joined("generation_alone_ms") + 1000 * joined("callers") / figure(f"hit-{many}", "enhanced", "per_second")
    never = "never repeating, against plain vLLM:"
    at_once = f"{joined('callers'):.0f} identical at once:"
    table = [
        ("exact hit: latency / tokenize latency of the same server", AT_MOST, 1.6,
         float(result["hit_over_tokenize"]["ratio"])),
        ("exact hits per second / LiteLLM's", AT_LEAST, 4.0, against_litellm(f"hit-{many}")),
        ("streamed hits per second / LiteLLM's", AT_LEAST, 5.0, against_litellm(f"hit-stream-{many}")),
        (f"{never} throughput", AT_LEAST, 0.98, against_plain(f"miss-{many}", "throughput")),
        (f"{never} throughput of streams", AT_LEAST, 0.98, against_plain(f"miss-stream-{many}", "throughput")),
        (f"{never} first token, {many}", AT_LEAST, 0.98, against_plain(f"miss-stream-{many}", "first_token")),
        (f"{never} first token, c1", AT_LEAST, 0.98, against_plain("miss-stream-c1", "first_token")),
        (f"{at_once} generations", AT_MOST, 1.0, joined("generations")),
        (f"{at_once} last answer / (one generation + as many hits)", AT_MOST, 1.3, joined("last_ms") / enough),
    ]  # fmt: skip
    return [goal(*row) for row in table]


def show(found: Sequence[dict[str, Any]]) -> None:
    """The goals, for people."""
    for each in found:
        state = {True: "met", False: "MISSED", None: "not measured"}[each["met"]]
        measured = "-" if each["met"] is None else f"{each['measured']:.3g}"
        say(f"  {state:13} {measured:>8}  {each['kind']} {each['limit']:g}: {each['goal']}")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--standard", action="store_true", help="about twenty minutes; the default")
    parser.add_argument("--full", action="store_true", help="about an hour and a half")
    parser.add_argument("--model", help="directory or name; a tiny model made on the spot by default")
    parser.add_argument("--litellm-venv", type=Path, metavar="DIR", help="environment with litellm[proxy]")
    parser.add_argument("--install-litellm", action="store_true", help="make that environment first if it is not there")
    parser.add_argument("--plain", metavar="URL[,PID]", help="a running server instead of one of our own")
    parser.add_argument("--enhanced", metavar="URL[,PID]", help="likewise")
    parser.add_argument("--server-args", default="", help="further arguments of both vLLM servers")
    parser.add_argument("--enhance-args", default="--enhance", help="arguments of the enhanced server")
    parser.add_argument("--plot", type=plot_file, metavar="FILE", help="also draw it, as PNG or SVG (needs matplotlib)")
    arguments = parser.parse_args()
    plan = PLANS["quick" if arguments.quick else "full" if arguments.full else "standard"]
    litellm = arguments.litellm_venv
    if litellm is not None and arguments.install_litellm and not (litellm / "bin" / "litellm").exists():
        install_litellm(litellm)
    before = machine()
    with ExitStack() as stack:
        contenders: Sequence[Contender] = given(arguments.plain, arguments.enhanced)
        again: Servers | None = None
        if not contenders:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            again = partial(
                started,
                model_directory(arguments.model, CACHE),
                folder,
                enhance=arguments.enhance_args.split(),
                both=arguments.server_args.split(),
            )
            contenders = stack.enter_context(again(litellm=litellm))
        result = asyncio.run(run(contenders, plan, again))
    result["goals"] = goals(result)
    show(result["goals"])
    whole = finish("serving", result, out=arguments.out, before=before, extra_versions=litellm_version(litellm))
    if arguments.plot:
        from plots import serving

        serving(whole, arguments.plot)


if __name__ == "__main__":
    main()
