"""What the plugin costs a request on the event loop, and what a hit takes; printed as JSON.

    python benchmarks/request_cost.py --out benchmarks/results/request_cost.json
    python benchmarks/request_cost.py --hooks cache --profile

The real engine runs in this process with a tiny model made on the spot. Measured are:

* ``miss_added_us``: a request with a prompt of 1000 tokens that nobody asked before, timed from the call of
  ``add_request`` to its return, with the plugin and past it by turns; the difference of the medians is what a miss
  adds.
* ``hit_ms``: an answer of 500 tokens from memory, timed from the call of ``generate`` to its last output.

The engine core works in a process of its own on the same machine: on few cores its noise is not small, so
medians over many alternating rounds are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import io
import os
import pstats
import random
import statistics
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

from common import AT_MOST, CACHE, ROOT, finish, goal, machine, options

PROMPT_TOKENS, ANSWER_TOKENS = 1000, 500
STREAMED = "streamed, 16 tokens a chunk"


def parsed() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--hooks", default="", help="hook packages to load, as --enhance-hooks; all by default")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--model", help="a model of your own instead of the tiny one")
    parser.add_argument("--profile", action="store_true", help="add the functions that take the most time")
    return parser.parse_args()


def prepared(arguments: argparse.Namespace) -> str:
    """Set the environment and return the model's directory."""
    os.environ.update(ENHANCE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", TOKENIZERS_PARALLELISM="false")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if arguments.hooks:
        os.environ["ENHANCE_HOOKS"] = arguments.hooks
    if arguments.model:
        return str(arguments.model)
    from vllm_enhance.testing.models import tiny_model

    return str(tiny_model(CACHE))


def summary(seconds: list[float], unit: float) -> dict[str, float]:
    ordered = sorted(seconds)
    points = {"p50": statistics.median(ordered), "p90": ordered[int(len(ordered) * 0.9)], "min": ordered[0]}
    return {name: round(value * unit, 3) for name, value in points.items()}


class Bench:
    """One engine client and the questions put to it."""

    def __init__(self, llm: Any) -> None:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        self.llm, self.kinds, self.make_params = llm, RequestOutputKind, SamplingParams
        self._rng, self._names = random.Random(0), 0

    def _name(self) -> str:
        self._names += 1
        return f"r{self._names}"

    async def _add(self) -> float:
        """Seconds in ``add_request`` for a new prompt, rendered as the server's endpoints pass it."""
        ids = [self._rng.randrange(32, 127) for _ in range(PROMPT_TOKENS)]
        prompt = {"type": "token", "prompt_token_ids": ids, "prompt": "".join(map(chr, ids))}
        params = self.make_params(max_tokens=64, output_kind=self.kinds.DELTA, skip_clone=True)
        started = time.perf_counter()
        collector = await self.llm.add_request(self._name(), prompt, params)
        seconds = time.perf_counter() - started
        await self.llm.abort(collector.request_id, internal=True)
        collector.close()
        await asyncio.sleep(0.002)
        return seconds

    async def misses(self, rounds: int) -> dict[str, Any]:
        runtime, plain, ours = self.llm.enhance, [], []
        for index in range(rounds + 20):
            for taken, active in ((plain, False), (ours, True)):
                runtime._open = active
                try:
                    seconds = await self._add()
                finally:
                    runtime._open = True
                if index >= 20:
                    taken.append(seconds)
        added = (statistics.median(ours) - statistics.median(plain)) * 1e6
        return {"plain_us": summary(plain, 1e6), "enhanced_us": summary(ours, 1e6), "miss_added_us": round(added, 1)}

    async def _ask(self, kind: Any) -> tuple[float, int]:
        params = self.make_params(
            max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True, output_kind=kind, skip_clone=True
        )
        prompt = {"type": "token", "prompt_token_ids": list(b"a question"), "prompt": "a question"}
        outputs, started = 0, time.perf_counter()
        async for output in self.llm.generate(prompt, params, self._name()):
            outputs += 1
            last = output
        seconds = time.perf_counter() - started
        assert last.finished
        return seconds, outputs

    async def hits(self, rounds: int) -> dict[str, Any]:
        await self._ask(self.kinds.DELTA)
        await asyncio.sleep(0.1)
        result: dict[str, Any] = {}
        for name, kind, chunk in (
            (STREAMED, self.kinds.DELTA, 16),
            ("streamed, 1 token a chunk", self.kinds.DELTA, 1),
            ("whole", self.kinds.FINAL_ONLY, 16),
        ):
            self.llm.enhance.replay_chunk = chunk
            taken = [await self._ask(kind) for _ in range(rounds)]
            result[name] = {**summary([seconds for seconds, _ in taken], 1e3), "outputs": taken[0][1]}
        return result


def profiled(work: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[list[str]]]:
    async def run() -> list[str]:
        profile = cProfile.Profile()
        profile.enable()
        await work()
        profile.disable()
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(16)
        return [line.strip().replace(str(ROOT), "") for line in text.getvalue().splitlines() if "/" in line]

    return run


async def measured(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    llm: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, max_model_len=2048, enforce_eager=True))
    assert llm.enhance is not None, "the plugin is off"
    try:
        bench = Bench(llm)
        await bench._add()
        misses, hits = await bench.misses(arguments.rounds), await bench.hits(max(20, arguments.rounds // 3))
        result = {**misses, "hit_ms": hits, "sources": dict(llm.enhance.metrics.snapshot()["vllm_enhance_requests"])}
        if arguments.profile:
            result["profile"] = {
                "miss": await profiled(lambda: bench.misses(100))(),
                "hit": await profiled(lambda: bench.hits(100))(),
            }
        return result
    finally:
        llm.shutdown()


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at, and whether it was reached."""
    table = (
        (f"a miss with a prompt of {PROMPT_TOKENS} tokens adds, µs", 100.0, result["miss_added_us"]),
        (f"memory hit to the last of {ANSWER_TOKENS} tokens, ms", 3.0, result["hit_ms"][STREAMED]["p50"]),
    )
    return [goal(name, AT_MOST, limit, measured) for name, limit, measured in table]


def main() -> None:
    arguments = parsed()
    if arguments.quick:
        arguments.rounds = 20
    warnings.simplefilter("ignore")
    before, model = machine(), prepared(arguments)
    result = asyncio.run(measured(arguments, model))
    finish("request_cost", {**result, "goals": goals(result)}, out=arguments.out, before=before)


if __name__ == "__main__":
    main()
