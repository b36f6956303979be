"""How long callbacks hold the event loop with similarity on, at a steady rate of requests; prints JSON.

    python benchmarks/loop.py [--rate 100] [--seconds 60] [--embedding-model M]

The real hooks (cache, similarity with the real embedding model, the bounded policy with the `equal` judge, a shared
SQLite store) run in this process behind the real dispatcher. Requests come at random times: repeats, other wordings,
new questions. Beside them goes what happens now and then on a server: snapshots every few seconds, fits, flushes,
feedback, health, stats. Each callback of the loop is timed, by the wall clock and by the CPU clock of its thread: a
busy machine, or the embedder's thread that holds the interpreter, makes the wall clock show waiting that is nobody's
work. Garbage collections that happen to fall into a callback are shown apart. Goal: no callback of 1 ms of CPU.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

from common import embedding_model, embedding_option, finish, machine, options, quantile, say

LIMIT = 1e-3
SUBJECTS = (
    "a bank account",
    "a garden",
    "an engine",
    "wine",
    "a novel",
    "a bridge",
    "cheese",
    "a visa",
    "tea",
    "glass",
)
PLACES = ("in Norway", "in Peru", "at home", "at sea", "in winter", "in a city", "in a village", "on an island")
FORMS = ("How do I make {} {}?", "how can I make {} {}", "What is the price of {} {}?", "what does {} cost {}")


class LoopTimer:
    """Times every callback of asyncio's loop, by what it runs."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.slow: dict[str, list[float]] = defaultdict(list)
        self.collections: list[float] = []
        self.on = False
        self._collecting = 0.0

    def install(self) -> None:
        """From now on, in this process."""
        original, timer, loop_thread = asyncio.events.Handle._run, self, threading.get_ident()

        def collected(phase: str, _: Any) -> None:
            if threading.get_ident() == loop_thread and timer.on:
                if phase == "start":
                    timer._collecting = time.thread_time()
                else:
                    timer.collections.append(time.thread_time() - timer._collecting)

        gc.callbacks.append(collected)

        def run(handle: Any) -> Any:
            if not timer.on:
                return original(handle)
            name = _name(handle._callback)
            collections = len(timer.collections)
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return original(handle)
            finally:
                cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
                cpu -= sum(timer.collections[collections:])
                timer.wall.append(wall)
                timer.cpu.append(cpu)
                if cpu >= LIMIT:
                    timer.slow[name].append(cpu)

        asyncio.events.Handle._run = run  # type: ignore[method-assign]


def _name(callback: Any) -> str:
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        name = task.get_name()
        return name if not name.startswith("Task-") else f"task {getattr(task.get_coro(), '__qualname__', '?')}"
    return str(getattr(callback, "__qualname__", type(callback).__name__))


class Traffic:
    """Requests as the engine makes them: ask the hooks, look up, generate what is not found, tell the hooks."""

    def __init__(self, dispatcher: Any, dice: random.Random) -> None:
        self.dispatcher = dispatcher
        self.dice = dice
        self.asked: list[str] = []
        self.last: Any = None
        self.counts: dict[str, int] = defaultdict(int)

    def text(self) -> str:
        dice = self.dice
        if self.asked and dice.random() < 0.5:
            return dice.choice(self.asked[-500:])
        form = dice.choice(FORMS).format(dice.choice(SUBJECTS), dice.choice(PLACES))
        text = form if dice.random() < 0.8 else f"{form} My number is {dice.randrange(10**6)}."
        self.asked.append(text)
        del self.asked[:-2000]
        return text

    async def request(self) -> None:
        from types import SimpleNamespace

        from vllm_enhance.types import Lookup, Outcome, Question, RequestContext, Respond, Source

        text = self.text()
        key = text.encode().ljust(32, b".")[:16] + hash(text).to_bytes(16, "big", signed=True)
        request = RequestContext(
            "r",
            list(range(200)),
            SimpleNamespace(n=1, logprobs=None, prompt_logprobs=None),
            model="m",
            tenant=b"t" * 16,
            key=key,
            read_question=lambda: Question(text, b"p" * 16),
        )
        verdict = await self.dispatcher.pre_request(request, lambda *_: None)
        answer = verdict.decision if isinstance(verdict.decision, Respond) else None
        for lookup in verdict.lookups if answer is None else ():
            assert isinstance(lookup, Lookup)
            found = await lookup.run()
            if isinstance(found, Respond):
                answer = found
                break
        if answer is None:
            self.counts["engine"] += 1
            self.dispatcher.post_output(request, self.generated(text), Outcome(Source.ENGINE, storable=True))
        else:
            self.counts[answer.source.value] += 1
            self.dispatcher.post_output(request, answer.record, Outcome(answer.source, False, None, answer.similarity))
            self.last = request

    def generated(self, text: str) -> Any:
        from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids

        answer = " ".join(f"answer {text}" for _ in range(20))
        choice = ChoiceRecord(pack_token_ids(range(300)), answer, "stop")
        return GenerationRecord(RECORD_VERSION, (choice,), 200, time.time())


async def now_and_then(dispatcher: Any, traffic: Traffic, dice: random.Random) -> None:
    """What operators, scrapers and users do beside asking."""
    from vllm_enhance.types import InvalidationScope

    async def gather(hook: str, **offered: Any) -> None:
        await asyncio.create_task(dispatcher.gather(hook, **offered), name=hook)

    turn = 0
    while True:
        await asyncio.sleep(1.0)
        turn += 1
        await gather("health")
        if turn % 5 == 0:
            await gather("stats")
        if turn % 10 == 0 and traffic.last is not None:
            await gather("feedback", key=traffic.last.key, verdict=dice.choice(("right", "wrong")))
        if turn % 20 == 0:
            await gather("invalidate", scope=InvalidationScope("age", "15"))


async def measured(arguments: Any, folder: str) -> dict[str, Any]:
    from prometheus_client import CollectorRegistry
    from vllm_enhance_cache.options import SETTINGS as CACHE
    from vllm_enhance_cache.plugin import CacheHook
    from vllm_enhance_similarity.options import SETTINGS as SIMILARITY
    from vllm_enhance_similarity.plugin import SimilarityHook

    from vllm_enhance.context import HookContext
    from vllm_enhance.dispatch import Dispatcher
    from vllm_enhance.metrics import CORE_METRICS, Metrics
    from vllm_enhance.plugins import PluginSet, new_manager
    from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable

    texts = {
        "store": f"sqlite://{folder}/store.db",
        "embedding-model": arguments.embedding_model,
        "similarity-policy": arguments.policy,
        "similarity-threshold": "0.85",
        "similarity-deadline": "10s",  # a busy machine embeds slowly; what is measured is the loop
        "similarity-judge": "equal",
        "similarity-dir": f"{folder}/index",
        "similarity-save-every": "5s",
    }
    settings = Settings(SettingsTable((*CORE_SETTINGS, *CACHE, *SIMILARITY)), texts, {})
    metrics = Metrics(CORE_METRICS, registry=CollectorRegistry())
    plugins = PluginSet(new_manager())
    similarity = SimilarityHook()
    plugins.register(CacheHook(), "cache", "here")
    plugins.register(similarity, "similarity", "here")
    dispatcher = Dispatcher(plugins.manager, metrics)
    await dispatcher.startup(HookContext(settings=settings, metrics=metrics), plugins.drop)
    while similarity.stats().get("shared") is None:
        await asyncio.sleep(0.05)
    dice = random.Random(arguments.seed)
    traffic, timer = Traffic(dispatcher, dice), LoopTimer()
    timer.install()
    gc.collect()
    gc.freeze()  # as vLLM's server does once it has started
    beside = asyncio.create_task(now_and_then(dispatcher, traffic, dice))
    running: set[asyncio.Task[None]] = set()
    loop, until = asyncio.get_running_loop(), time.monotonic() + arguments.seconds
    due = loop.time()
    timer.on = True
    while time.monotonic() < until:
        due += dice.expovariate(arguments.rate)
        await asyncio.sleep(max(0.0, due - loop.time()))
        task = asyncio.create_task(traffic.request())
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    timer.on = False
    beside.cancel()
    stats = await asyncio.to_thread(similarity.stats)
    await dispatcher.shutdown()
    slow = sorted(((max(took), len(took), name) for name, took in timer.slow.items()), reverse=True)
    return {
        "rate": arguments.rate,
        "seconds": arguments.seconds,
        "policy": arguments.policy,
        "answered_from": dict(traffic.counts),
        "decisions": metrics.snapshot().get("vllm_enhance_similarity_decisions", {}),
        "embedder_refused": stats["embedder"]["refused"],
        "entries": stats["index"]["entries"],
        "callbacks": len(timer.cpu),
        "cpu_ms": summary(timer.cpu),
        "wall_ms": summary(timer.wall),
        "collections_ms": {**summary(timer.collections), "count": len(timer.collections)},
        "cpu_over_1_ms": sum(took >= LIMIT for took in timer.cpu),
        "wall_over_1_ms": sum(took >= LIMIT for took in timer.wall),
        "who": [{"callback": name, "times": times, "worst_ms": worst * 1e3} for worst, times, name in slow[:10]],
    }


def summary(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    shares = {"p50": 0.5, "p99": 0.99, "p99_99": 0.9999, "max": 1.0}
    return {name: quantile(seconds, share) * 1e3 for name, share in shares.items()}


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--policy", choices=("bounded", "threshold"), default="bounded")
    parser.add_argument("--seconds", type=float, default=60.0)
    embedding_option(parser)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.seconds = min(arguments.seconds, 5.0) if arguments.quick else arguments.seconds
    arguments.embedding_model = embedding_model(arguments)
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measured(arguments, folder))
    for each in result["who"]:
        say(f"{each['worst_ms']:.2f} ms at worst, {each['times']} times over 1 ms: {each['callback']}")
    finish("loop", result, out=arguments.out, before=before)
    return 0 if result["cpu_over_1_ms"] == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
