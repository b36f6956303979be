"""vLLM's own ``vllm bench serve`` against plain vLLM and vLLM with --enhance, on prompts that never repeat.

    python benchmarks/bench_serve.py --out benchmarks/results/bench_serve.json

What a cache costs those for whom it never hits. Both servers run at once and are asked in turns, so that whatever else
the machine does hits both; each round has random prompts of its own (vLLM's ``random`` data set counts upwards from one
token, so a small vocabulary soon repeats it). Two loads: as fast as sixteen callers can go (throughput counts), and
requests by the clock at a rate that the machine bears easily (time to the first token counts). The ratios are medians
over rounds of enhanced against plain within a round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import AT_LEAST, CACHE, finish, goal, machine, median, options, say
from contenders import Contender, given, metric, model_directory, started

LETTERS = list(range(ord("a"), ord("z") + 1))
"""What the tiny model, whose token ids are bytes, may say: half a UTF-8 character would be no first token for vLLM."""

TOKENS_MADE = "vllm:generation_tokens_total"
LIMIT = 0.97
"""A ratio from here on is within the noise of two cores."""


@dataclass(frozen=True, slots=True)
class Load:
    """One way to ask: arguments for ``vllm bench serve``, and what of its result is compared.

    Attributes:
        compared: names in its JSON result; those in ``LOWER_IS_BETTER`` are turned round.
    """

    name: str
    arguments: tuple[str, ...]
    compared: tuple[str, ...]


LOADS = (
    Load("sixteen callers", ("--max-concurrency", "16"), ("output_throughput", "median_ttft_ms")),
    Load("by the clock", ("--request-rate", "8"), ("median_ttft_ms", "median_tpot_ms")),
)
LOWER_IS_BETTER = frozenset({"median_ttft_ms", "median_tpot_ms"})


def texts(seed: int, arguments: argparse.Namespace) -> list[str]:
    """Random prompts: letters, which a byte-level tokenizer makes a token each and others fewer."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz     "
    return ["".join(rng.choices(letters, k=arguments.input_tokens)).strip() for _ in range(arguments.prompts)]


def ask(contender: Contender, load: Load, seed: int, arguments: argparse.Namespace, model: str, folder: Path) -> Any:
    """One run of ``vllm bench serve``; its JSON result."""
    data = folder / "prompts.json"
    talks = [{"conversations": [{"value": each}, {"value": "as long as asked"}]} for each in texts(seed, arguments)]
    data.write_text(json.dumps(talks), "utf-8")
    before = metric(contender.target, TOKENS_MADE)
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve"),
        *("--base-url", contender.target.url, "--model", "tiny", "--tokenizer", model),
        *("--dataset-name", "sharegpt", "--dataset-path", str(data), "--num-prompts", str(arguments.prompts)),
        *("--sharegpt-output-len", str(arguments.output_tokens)),
        *("--ignore-eos", "--seed", str(seed % 2**31), "--disable-tqdm"),
        # Warming up would ask the first prompt, which then repeats.
        *("--num-warmups", "0", "--ready-check-timeout-sec", "0"),
        *("--save-result", "--result-dir", str(folder), "--result-filename", "result.json"),
        *load.arguments,
        *(() if arguments.model else ("--extra-body", json.dumps({"allowed_token_ids": LETTERS}))),
    ]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)
    if done.returncode:
        raise RuntimeError(f"vllm bench serve failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    result = json.loads((folder / "result.json").read_text("utf-8"))
    if result["completed"] != arguments.prompts:
        raise RuntimeError(f"{contender.name}: {result['completed']} of {arguments.prompts} requests succeeded")
    made, asked = metric(contender.target, TOKENS_MADE) - before, arguments.prompts * arguments.output_tokens
    if made != asked:
        raise RuntimeError(f"{contender.name}: {made:.0f} tokens were generated, not {asked}: some prompt repeats")
    return result


def compare(load: Load, rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians of each contender, and of the ratios within rounds (more than 1: enhanced is better)."""
    found: dict[str, Any] = {"rounds": len(rounds)}
    for name in load.compared:
        ratios = [
            each["plain"][name] / each["enhanced"][name]
            if name in LOWER_IS_BETTER
            else each["enhanced"][name] / each["plain"][name]
            for each in rounds
        ]
        found[name] = {
            "plain": median(each["plain"][name] for each in rounds),
            "enhanced": median(each["enhanced"][name] for each in rounds),
            "ratio": median(ratios),
            "ratio_spread": [min(ratios), max(ratios)],
        }
    return found


def run(contenders: Sequence[Contender], arguments: argparse.Namespace, model: str, folder: Path) -> dict[str, Any]:
    """All rounds of all loads."""
    seeds = itertools.count(arguments.seed)
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {load.name: [] for load in LOADS}
    for number in range(arguments.rounds):
        for load in LOADS:
            say(f"round {number + 1} of {arguments.rounds}, {load.name}")
            order = contenders if number % 2 else tuple(reversed(contenders))
            results = {each.name: ask(each, load, next(seeds), arguments, model, folder) for each in order}
            rounds[load.name].append(results)
    return {load.name: compare(load, rounds[load.name]) for load in LOADS}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=160, help="a run")
    parser.add_argument("--input-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1000, help="of the prompts; by default new ones")
    parser.add_argument("--model", help="directory or name; a tiny model made on the spot by default")
    parser.add_argument("--plain", metavar="URL[,PID]", help="a running server instead of one of our own")
    parser.add_argument("--enhanced", metavar="URL[,PID]", help="likewise; both or none")
    parser.add_argument("--enhance-args", default="--enhance", help="arguments of the enhanced server")
    arguments = parser.parse_args()
    if (arguments.plain is None) != (arguments.enhanced is None):
        parser.error("there is nothing to compare: give both --plain and --enhanced, or none")
    if arguments.quick:
        arguments.rounds, arguments.prompts, arguments.output_tokens = 1, 16, 8
    # On a CPU engine and load generator share the cores: with one left to it, what vLLM's generator takes for the first
    # token is not the moment at which the engine, done with the whole answer, lets it read.
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "1")
    before, model = machine(), model_directory(arguments.model, CACHE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = given(arguments.plain, arguments.enhanced)
        servers = (
            started(model, folder, enhance=arguments.enhance_args.split()) if not running else nullcontext(running)
        )
        with servers as contenders:
            loads = run(contenders, arguments, model, folder)
    goals = [
        goal(f"{load}: {name}, enhanced against plain", AT_LEAST, LIMIT, figures["ratio"])
        for load, found in loads.items()
        for name, figures in found.items()
        if name != "rounds"
    ]
    sizes = {"seed": arguments.seed, "prompts": arguments.prompts, "input_tokens": arguments.input_tokens,
             "output_tokens": arguments.output_tokens}  # fmt: skip
    finish("bench_serve", {**sizes, "loads": loads, "goals": goals}, out=arguments.out, before=before)


if __name__ == "__main__":
    main()
