"""A started similarity hook and what a server would do with it; alone, or beside a cache hook that holds a store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry
from vllm_enhance_cache.options import SETTINGS as CACHE_SETTINGS
from vllm_enhance_cache.plugin import CacheHook
from vllm_enhance_similarity.options import SETTINGS, SimilarityOptions
from vllm_enhance_similarity.plugin import SimilarityHook

from vllm_enhance.context import HookContext
from vllm_enhance.metrics import Metrics
from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable
from vllm_enhance.types import InvalidationScope, Outcome, Question, RequestContext, Respond, Source

__all__ = ["ENGINE", "NOW", "Bench", "Peer", "peer", "record"]

NOW = 1_000_000.0
ENGINE = Outcome(Source.ENGINE, storable=True)


def record(text: str, created_at: float = NOW) -> GenerationRecord:
    choice = ChoiceRecord(pack_token_ids(range(5)), text, "stop")
    return GenerationRecord(RECORD_VERSION, (choice,), 7, created_at)


@dataclass
class Bench:
    """A started hook, with a clock to turn."""

    hook: SimilarityHook
    now: float = NOW
    asked: int = 0

    def request(
        self, text: str, *, partition: bytes = b"p" * 16, tenant: bytes = b"t" * 16, **more: Any
    ) -> RequestContext:
        self.asked += 1
        params = (
            SimpleNamespace(n=1, logprobs=None, prompt_logprobs=None) if "params" not in more else more.pop("params")
        )
        fields: dict[str, Any] = {"key": text.encode().ljust(32, b".")[:32], "model": "m"} | more
        return RequestContext(
            f"r{self.asked}", [1, 2], params, tenant=tenant, read_question=lambda: Question(text, partition), **fields
        )

    async def look_up(self, request: RequestContext) -> Respond | None:
        offered = self.hook.pre_request(request)
        return None if offered is None else await offered.run()

    async def generate(self, text: str, answer: str, **more: Any) -> RequestContext:
        """A miss: looked up, generated, told."""
        request = self.request(text, **more)
        await self.look_up(request)
        await self.hook.post_output(request, record(answer, self.now), ENGINE)
        return request

    async def ask(self, text: str, **more: Any) -> str | None:
        answer = await self.look_up(self.request(text, **more))
        return None if answer is None or answer.record is None else answer.record.choices[0].text

    async def wait(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < until
            await asyncio.sleep(0.02)


@dataclass
class Peer(Bench):
    """An API server process: similarity beside a cache hook that holds the store. Its clock is the real one."""

    cache: Any = None
    context: Any = None

    @property
    def metrics(self) -> Metrics:
        return self.context.metrics  # type: ignore[no-any-return]

    async def generate(self, text: str, answer: str, **more: Any) -> RequestContext:
        self.now = time.time()
        return await super().generate(text, answer, **more)

    async def serve(self, text: str, **more: Any) -> tuple[RequestContext, str | None]:
        """Ask, and tell the hook what was served, as the engine does after a replay."""
        request = self.request(text, **more)
        answer = await self.look_up(request)
        if answer is None or answer.record is None:
            return request, None
        await self.hook.post_output(request, answer.record, Outcome(Source.SIMILAR, False, None, answer.similarity))
        return request, answer.record.choices[0].text

    async def mark(self, request: RequestContext, verdict: str) -> int:
        """Feedback, as the engine passes it on."""
        assert request.key is not None
        if verdict == "wrong":
            await self.forget(InvalidationScope("key", request.key.hex()))
        return await self.hook.feedback(request.key, verdict)

    async def forget(self, scope: InvalidationScope) -> None:
        await self.hook.invalidate(scope)  # in the order of the dispatcher
        await self.cache.invalidate(scope)

    async def gets(self, text: str, answer: str | None, seconds: float = 10.0, **more: Any) -> float:
        """Seconds until asking gives ``answer``; patient, for a machine that is busy with other things."""
        started = time.monotonic()
        while (found := await self.ask(text, **more)) != answer:
            assert time.monotonic() - started < seconds, (found, self.hook.stats())
            await asyncio.sleep(0.01)
        return time.monotonic() - started


@asynccontextmanager
async def peer(
    minilm: str,
    url: str,
    *,
    identity: bytes = b"i" * 16,
    key: str = "",
    joins: bool = True,
    api_process: tuple[int, int] = (0, 1),
    **options: Any,
) -> AsyncIterator[Peer]:
    """A process on the store that ``url`` names, once it shares."""
    table = SettingsTable((*CORE_SETTINGS, *CACHE_SETTINGS, *SETTINGS))
    chosen = {"embedding_model": minilm, "similarity_deadline": 30.0, "similarity_threshold": 0.85} | options
    hook, cache = SimilarityHook(SimilarityOptions(**chosen)), CacheHook()
    context = HookContext(
        settings=Settings(table, {"store": url, "store-key": key}, {}),
        metrics=Metrics(registry=CollectorRegistry()),
        identity=identity,
        api_process=api_process,
    )
    await hook.startup(context)  # before the cache, as the dispatcher does it
    await cache.startup(context)
    found = Peer(hook, time.time(), 0, cache, context)
    try:
        await found.wait(lambda: hook.stats()["enabled"] and (not joins or hook.stats()["shared"] is not None))
        yield found
    finally:
        await hook.shutdown()
        await cache.shutdown()
