"""The search that similarity leaves on requests, with the real MiniLM, and both hook packages together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from vllm_enhance_nlp.plugin import NLPHook
from vllm_enhance_similarity.plugin import SimilarityHook

from vllm_enhance.context import HookContext
from vllm_enhance.directives import NO_DIRECTIVES, Directives
from vllm_enhance.metrics import CORE_METRICS, Metrics
from vllm_enhance.plugins import PluginSet, new_manager
from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.settings import Settings
from vllm_enhance.types import SIMILAR_SEARCH, Found, InvalidationScope, Outcome, Question, RequestContext, Source

ENGINE = Outcome(Source.ENGINE, storable=True)
NOW = 1_000_000.0


@dataclass
class Bench:
    """Both hooks, started, with a clock to turn."""

    similarity: SimilarityHook
    nlp: NLPHook
    clock: list[float] = field(default_factory=lambda: [NOW])

    def request(
        self, text: str, *, partition: bytes = b"p", tenant: bytes = b"t", directives: Directives = NO_DIRECTIVES
    ) -> RequestContext:
        prompt = f"[user]{text}[assistant]"
        made = RequestContext(
            text,
            [ord(each) for each in prompt],
            SimpleNamespace(n=1, logprobs=None, prompt_logprobs=None, max_tokens=500, stop=[], structured_outputs=None),
            tenant=tenant,
            key=(tenant + partition + text.encode()).ljust(32, b".")[:32],
            directives=directives,
            read_text=lambda: prompt,
            read_question=lambda: Question(text, partition * 16),
        )
        self.similarity.pre_request(made)
        return made

    async def store(self, text: str, answer: str, finish: str = "stop", **more: Any) -> None:
        choice = ChoiceRecord(pack_token_ids([1]), answer, finish)
        record = GenerationRecord(RECORD_VERSION, (choice,), 1, self.clock[0])
        await self.similarity.post_output(self.request(text, **more), record, ENGINE)

    async def search(self, *texts: str, limit: int = 3, **more: Any) -> list[list[Found]]:
        search = self.request("?", **more).annotations.get(SIMILAR_SEARCH)
        assert search is not None
        return await search(texts, limit)


@pytest.fixture
async def bench(minilm: str) -> AsyncIterator[Bench]:
    clock = [NOW]
    plugins = PluginSet(new_manager())
    similarity, nlp = SimilarityHook(), NLPHook()
    plugins.register(similarity, "similarity", "test")
    plugins.register(nlp, "nlp", "test")
    texts = {
        "embedding-model": minilm,
        "similarity-policy": "threshold",
        "similarity-threshold": "0.9",
        "similarity-ttl": "60s",
        "similarity-deadline": "30s",
        "context": "on",
        "compose": "on",
        "hook-deadline": "30s",
    }
    context = HookContext(
        settings=Settings(plugins.settings_table(), texts, {}),
        metrics=Metrics(CORE_METRICS, CollectorRegistry()),
        clock=lambda: clock[0],
        tokenize=lambda text: [ord(each) for each in text],
        max_model_len=4096,
    )
    await similarity.startup(context)
    await nlp.startup(context)
    until = time.monotonic() + 60
    while not similarity.stats()["enabled"]:
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    yield Bench(similarity, nlp, clock=clock)
    await nlp.shutdown()
    await similarity.shutdown()


async def test_each_text_finds_its_own_most_similar_first(bench: Bench) -> None:
    await bench.store("What is TCP?", "A protocol.")
    await bench.store("What is the TCP protocol for?", "For order.")
    await bench.store("Who wrote Hamlet?", "Shakespeare.")
    bench.clock[0] += 5
    tcp, hamlet, nothing = await bench.search("what is tcp", "Who wrote Hamlet?", "")
    assert tcp[0].answer == "A protocol."
    assert tcp == sorted(tcp, key=lambda each: -each.similarity)
    assert tcp[0].confident
    assert tcp[0].age == 5
    assert len(tcp[0].key) == 32
    assert sum(each.confident for each in tcp) == 1
    assert hamlet[0].answer == "Shakespeare."
    assert hamlet[0].similarity == pytest.approx(1.0, abs=1e-4)
    assert nothing == []
    assert [len(each) for each in await bench.search("what is tcp", limit=1)] == [1]
    assert await bench.search(limit=1) == []
    assert await bench.search("what is tcp", limit=0) == [[]]


async def test_a_search_sees_its_own_partition_and_tenant(bench: Bench) -> None:
    await bench.store("What is TCP?", "A protocol.")
    assert await bench.search("What is TCP?", partition=b"q") == [[]]
    assert await bench.search("What is TCP?", tenant=b"u") == [[]]  # even were the partition not the tenant's own
    assert [each.answer for each in (await bench.search("What is TCP?"))[0]] == ["A protocol."]


async def test_what_may_not_be_reused_is_not_found(bench: Bench) -> None:
    await bench.store("What is TCP?", "A protocol that", finish="length")
    await bench.store("How do I convert 5 km to miles?", "3.1")
    await bench.store("What is UDP?", "  ")
    asked = ("What is TCP?", "How do I convert 7 km to miles?", "What is UDP?", "What is the weather today?")
    assert await bench.search(*asked) == [[], [], [], []]


async def test_age_and_forgetting(bench: Bench) -> None:
    await bench.store("What is TCP?", "A protocol.")
    bench.clock[0] += 30
    assert await bench.search("What is TCP?", directives=Directives(max_age=20)) == [[]]
    assert len((await bench.search("What is TCP?", directives=Directives(max_age=40)))[0]) == 1
    bench.clock[0] += 31
    assert await bench.search("What is TCP?") == [[]]  # past its time to live
    await bench.store("What is TCP?", "A protocol.")
    await bench.similarity.invalidate(InvalidationScope())
    assert await bench.search("What is TCP?") == [[]]


async def test_no_search_where_stored_answers_are_not_wanted(bench: Bench) -> None:
    assert SIMILAR_SEARCH not in bench.request("x", directives=Directives(no_cache=True)).annotations
    assert SIMILAR_SEARCH not in bench.request("x", directives=Directives(no_cache=True, no_store=True)).annotations


async def test_a_search_books_nothing(bench: Bench) -> None:
    await bench.store("What is TCP?", "A protocol.")
    before = bench.similarity.stats()["policy"]
    await bench.search("What is TCP?", "What is UDP?")
    assert bench.similarity.stats()["policy"] == before


async def test_after_shutdown_a_search_finds_nothing(bench: Bench) -> None:
    search = bench.request("?").annotations.get(SIMILAR_SEARCH)
    assert search is not None
    await bench.similarity.shutdown()
    assert await search(["What is TCP?", "What is UDP?"], 3) == [[], []]


async def test_no_more_texts_and_results_than_agreed(bench: Bench) -> None:
    for number in range(20):
        await bench.store(f"What is the river named {chr(65 + number)}?", str(number))
    found = await bench.search(*[f"question {number}" for number in range(40)], limit=1000)
    assert len(found) == 40
    assert all(each == [] for each in found[32:])
    assert max(len(each) for each in found) <= 16


async def test_both_packages_together(bench: Bench) -> None:
    await bench.store("What is TCP?", "A protocol.")
    asked = bench.request("What is TCP and when should I use it?")
    change = await bench.nlp.enrich(asked)
    assert "Answer: A protocol." in getattr(change, "prompt_text", "")
    await bench.store("When should I use TCP?", "When order matters.")
    answer = await bench.nlp.enrich(bench.request("what is TCP, and when should I use it?"))
    assert getattr(answer, "text", None) == "A protocol.\n\nWhen order matters."
    assert await bench.nlp.enrich(bench.request("What is TCP and when should I use it?", tenant=b"u")) is None
