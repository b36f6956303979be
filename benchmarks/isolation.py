"""Whether a similar answer ever crosses a partition or a tenant: random trials against the real hooks; prints JSON.

    python benchmarks/isolation.py [--trials 1000000] [--embedding-model M] [--seed 1]

Two API server processes' worth of hooks (cache and similarity, the real embedding model) run in this process on one
store, so that entries reach an index from outside, too. Each trial asks one of them one of a hundred questions in a
random *world*: tenant, model identity, epoch, salt, adapter, sampling parameters, and what stands before and after the
question, with values that would collide if they were joined without their lengths. The key and the partition are made
by the engine's own code. The policy reuses whatever no guard objects to (cosine similarity of -1 and more), so nothing
but isolation keeps worlds apart. An answer says in which world it was made: one from another world is a leak. Tenants
and everything are flushed in between; an answer from before a flush is a leak as well.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

from common import embedding_model, embedding_option, finish, machine, options, say

WORDS = ("bread", "a bank account", "a garden", "steel", "an engine", "wine", "a novel", "a bridge", "cheese", "a visa")
FORMS = (
    "How do I make {}?",
    "how can I make {}",
    "What is {}?",
    "Where do people sell {}?",
    "Why would anybody want {}?",
    "Who invented {}?",
    "When did {} become common?",
    "Please explain {} to a child.",
    "怎么做{}？",
    "什么是{}？",
)
TENANTS = (b"", b"a" * 16, b"a" * 15 + b"b", b"tenant-of-16-byt")
IDENTITIES = (b"i" * 16, b"j" * 16)
EPOCHS = (bytes(8), b"\0" * 7 + b"\1")
SALTS = (None, "", "a", "aa")
ADAPTERS = (b"", b"a" * 16)
FRAMES = ((), (b"",), (b"", b""), (b"a", b"aa"), (b"aa", b"a"), (b"system", b"end"))
SAMPLING: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.0, "max_tokens": 32},
    {"temperature": 0.0, "stop": ["a"]},
    {"temperature": 0.0, "stop": ["a", "a"]},
    {"temperature": 0.0, "seed": 1},
)
AT_ONCE = 32
NEW_BASE_EVERY, FLUSH_EVERY = 320, 1600  # trials
HEARD_AFTER = 1.0  # seconds


@dataclass(frozen=True)
class World:
    """All that a question is asked in. ``label`` is what answers made in it say."""

    label: str
    tenant: bytes
    parts: tuple[Any, ...]
    params: Any


@dataclass
class Tally:
    trials: int = 0
    hits: int = 0
    cross_world: int = 0
    cross_tenant: int = 0
    forgotten: int = 0
    stored: int = 0
    flushes: int = 0
    examples: list[str] = field(default_factory=list)


def worlds() -> list[World]:
    """Every combination."""
    from vllm import SamplingParams

    sampled = [SamplingParams(**fields) for fields in SAMPLING]
    every = itertools.product(IDENTITIES, EPOCHS, TENANTS, SALTS, ADAPTERS, FRAMES, range(len(SAMPLING)))
    return [World(f"world {number}", parts[2], parts, sampled[parts[6]]) for number, parts in enumerate(every)]


def key_of(world: World, text: str) -> Any:
    """The engine's key of one request."""
    from vllm_enhance.engine.key import request_key

    identity, epoch, tenant, salt, lora, _, _ = world.parts
    prompt: dict[str, Any] = {"type": "token", "prompt_token_ids": list(text.encode())}
    if salt is not None:
        prompt["cache_salt"] = salt
    return request_key(prompt=prompt, params=world.params, identity=identity, epoch=epoch, tenant=tenant, lora=lora)


class Side:
    """One API server process: its two hooks."""

    def __init__(self, model: str, store: Any) -> None:
        from vllm_enhance_cache.plugin import CacheHook
        from vllm_enhance_similarity.options import SimilarityOptions
        from vllm_enhance_similarity.plugin import SimilarityHook

        self.cache = CacheHook(store=store)
        self.similarity = SimilarityHook(
            SimilarityOptions(
                embedding_model=model,
                similarity_threshold=-1.0,
                similarity_policy="threshold",
                similarity_deadline=60.0,
            )
        )

    async def start(self) -> None:
        from prometheus_client import CollectorRegistry
        from vllm_enhance_cache.options import SETTINGS

        from vllm_enhance.context import HookContext
        from vllm_enhance.metrics import Metrics
        from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable

        settings = Settings(SettingsTable((*CORE_SETTINGS, *SETTINGS)), {}, {})
        context = HookContext(settings=settings, metrics=Metrics(registry=CollectorRegistry()))
        await self.similarity.startup(context)
        await self.cache.startup(context)
        while self.similarity.stats().get("shared") is None:
            await asyncio.sleep(0.05)

    async def forget(self, scope: Any) -> None:
        await self.similarity.invalidate(scope)
        await self.cache.invalidate(scope)

    async def stop(self) -> None:
        await self.similarity.shutdown()
        await self.cache.shutdown()


class Trials:
    """Asks and checks."""

    def __init__(self, sides: list[Side], dice: random.Random) -> None:
        self.sides = sides
        self.dice = dice
        self.worlds = worlds()
        self.by_parts = {world.parts: world for world in self.worlds}
        self.base = self.worlds[0]
        self.texts = [form.format(word) for form in FORMS for word in WORDS]
        self.tally = Tally()
        self.births = itertools.count(1)
        # For each side: the first birth that may still be answered, by tenant.
        self.floors: list[dict[bytes, int]] = [{}, {}]

    async def one(self) -> None:
        """One question at one side; sometimes it is generated and stored."""
        from vllm_enhance.types import Outcome, Question, RequestContext, Source

        dice, tally = self.dice, self.tally
        world = self.near(self.base)
        text, side = dice.choice(self.texts), dice.randrange(2)
        key = key_of(world, text)
        question = Question(text, key.partition(*world.parts[5]))
        request = RequestContext(
            "r",
            [1],
            world.params,
            model="m",
            tenant=world.tenant,
            key=key.digest,
            read_question=lambda: question,
        )
        lookup = self.sides[side].similarity.pre_request(request)
        floor = self.floors[side].get(world.tenant, 0)
        answer = await lookup.run() if lookup is not None else None
        tally.trials += 1
        if answer is not None:
            self._check(world, answer.record.choices[0].text, floor)
        if answer is None or dice.random() < 0.05:
            record = self._record(f"{world.label}|{world.tenant.hex()}|{next(self.births)}")
            await self.sides[side].similarity.post_output(request, record, Outcome(Source.ENGINE, storable=True))
            tally.stored += 1

    def near(self, base: World) -> World:
        """A world that differs from ``base`` in one part at most: what a partition might leave out shows there."""
        place = self.dice.randrange(len(base.parts) + 1)
        if place == len(base.parts):
            return base
        part = self.dice.choice((IDENTITIES, EPOCHS, TENANTS, SALTS, ADAPTERS, FRAMES, range(len(SAMPLING)))[place])
        return self.by_parts[(*base.parts[:place], part, *base.parts[place + 1 :])]

    def _check(self, world: World, answer: str, floor: int) -> None:
        label, tenant, birth = answer.split("|")
        tally = self.tally
        tally.hits += 1
        tally.cross_world += label != world.label
        tally.cross_tenant += tenant != world.tenant.hex()
        tally.forgotten += int(birth) < floor
        if (label != world.label or int(birth) < floor) and len(tally.examples) < 5:
            tally.examples.append(f"{world.label} {world.parts} got {answer}, floor {floor}")

    @staticmethod
    def _record(text: str) -> Any:
        from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids

        choice = ChoiceRecord(pack_token_ids(range(3)), text, "stop")
        return GenerationRecord(RECORD_VERSION, (choice,), 1, time.time())

    async def flush(self) -> None:
        """Forget a tenant or everything at one side; the other hears of it within a second."""
        from vllm_enhance.types import InvalidationScope

        side, tenant = self.dice.randrange(2), self.dice.choice(TENANTS)
        everything = not tenant or self.dice.random() < 0.2
        await self.sides[side].forget(
            InvalidationScope("all") if everything else InvalidationScope("tenant", tenant.hex())
        )
        birth = next(self.births)
        floors = dict.fromkeys(TENANTS if everything else (tenant,), birth)
        self.floors[side].update(floors)
        self.tally.flushes += 1
        asyncio.get_running_loop().call_later(HEARD_AFTER, self.floors[1 - side].update, floors)


async def measured(arguments: Any) -> dict[str, Any]:
    from vllm_enhance_cache.stores.memory import MemoryStore

    store = MemoryStore()
    sides = [Side(arguments.embedding_model, store), Side(arguments.embedding_model, store)]
    for side in sides:
        await side.start()
    trials = Trials(sides, random.Random(arguments.seed))
    partitions = {key_of(world, "x").partition(*world.parts[5]) for world in trials.worlds}
    started, told = time.monotonic(), time.monotonic()
    while trials.tally.trials < arguments.trials:
        if trials.tally.trials % NEW_BASE_EVERY < AT_ONCE:  # few worlds at a time, or none would ever be asked twice
            trials.base = trials.dice.choice(trials.worlds)
        await asyncio.gather(*(trials.one() for _ in range(AT_ONCE)))
        if trials.tally.trials % FLUSH_EVERY < AT_ONCE:
            await trials.flush()
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(f"{trials.tally.trials} trials, {trials.tally.hits} hits, {trials.tally.cross_world} leaks")
    received = [side.similarity.stats()["shared"]["received"] for side in sides]
    for side in sides:
        await side.stop()
    tally = trials.tally
    return {
        "worlds": len(trials.worlds),
        "partitions": len(partitions),
        **{name: getattr(tally, name) for name in tally.__dataclass_fields__},
        "received": received,
        "seconds": time.monotonic() - started,
        "seed": arguments.seed,
    }


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--trials", type=int, default=1_000_000)
    embedding_option(parser)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.trials = min(arguments.trials, 2000) if arguments.quick else arguments.trials
    arguments.embedding_model = embedding_model(arguments)
    before = machine()
    result = asyncio.run(measured(arguments))
    finish("isolation", result, out=arguments.out, before=before)
    distinct = result["worlds"] == result["partitions"]
    return 0 if distinct and not (result["cross_world"] or result["cross_tenant"] or result["forgotten"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
