"""The hook with the real MiniLM: look-ups, learning, isolation, modes, invalidation, restart, faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from similarity_support import ENGINE, Bench, record
from vllm_enhance_similarity import service
from vllm_enhance_similarity.judges import CallableJudge, Judge
from vllm_enhance_similarity.options import SETTINGS, SimilarityOptions
from vllm_enhance_similarity.plugin import SimilarityHook

from vllm_enhance.context import HookContext
from vllm_enhance.directives import Directives
from vllm_enhance.errors import DirectiveError
from vllm_enhance.metrics import Metrics
from vllm_enhance.settings import Settings, SettingsTable
from vllm_enhance.types import (
    SIMILAR,
    InvalidationScope,
    Outcome,
    Source,
)

Start = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def start(minilm: str) -> AsyncIterator[Start]:
    started: list[SimilarityHook] = []

    async def make(
        *, generate_idle: Any = None, judge: Judge | None = None, ready: bool = True, **options: Any
    ) -> Bench:
        chosen = SimilarityOptions(**({"embedding_model": minilm, "similarity_deadline": 30.0} | options))
        hook = SimilarityHook(chosen, judge)
        bench = Bench(hook)
        context = HookContext(
            settings=Settings(SettingsTable(SETTINGS), {}, {}),
            metrics=Metrics(registry=CollectorRegistry()),
            clock=lambda: bench.now,
            generate_idle=generate_idle,
        )
        await hook.startup(context)
        started.append(hook)
        if ready:
            await bench.wait(lambda: hook.stats()["enabled"])
        return bench

    yield make
    for hook in started:
        await hook.shutdown()


async def test_another_wording_gets_the_stored_answer(start: Start) -> None:
    bench = await start(similarity_threshold=0.85)
    await bench.generate("What is the capital of Norway?", "Oslo.")
    request = bench.request("what's Norway's capital?")
    bench.now += 5
    answer = await bench.look_up(request)
    assert answer is not None
    assert answer.record == record("Oslo.")
    assert (answer.source, answer.age, answer.detail) == (Source.SIMILAR, 5.0, "similar")
    assert answer.similarity is not None
    assert 0.85 <= answer.similarity < 1.0
    assert ("similarity", "reuse: accepted") in request.notes
    neighbours = request.annotations.get(SIMILAR)
    assert neighbours is not None
    assert neighbours[0].question == ""  # text only where the operator allows it


async def test_guards_stand_in_the_way(start: Start) -> None:
    bench = await start(similarity_threshold=0.5)
    await bench.generate("How do I convert 5 USD to EUR?", "like this")
    for text in (
        "How do I convert 7 USD to EUR?",
        "How do I convert 5 EUR to USD?",
        "How do I not convert 5 USD to EUR?",
    ):
        request = bench.request(text)
        assert await bench.look_up(request) is None
        assert ("similarity", "miss: guard") in request.notes


async def test_chinese(start: Start) -> None:
    bench = await start(similarity_threshold=0.8)
    await bench.generate("什么是人工智能？", "一门学科。")
    assert await bench.ask("请问什么是人工智能") == "一门学科。"
    await bench.generate("如何开通花呗", "点开通。")
    assert await bench.ask("如何关闭花呗") is None


@pytest.mark.parametrize(
    "other", [{"partition": b"q" * 16}, {"partition": b"q" * 16, "tenant": b"u" * 16}, {"tenant": b"u" * 16}]
)
async def test_never_across_partitions_or_tenants(start: Start, other: dict[str, bytes]) -> None:
    bench = await start(similarity_threshold=0.5)
    await bench.generate("What is the capital of Norway?", "Oslo.")
    assert await bench.ask("What is the capital of Norway?", **other) is None


@pytest.mark.parametrize(
    "more",
    [
        {"key": None},
        {"params": SimpleNamespace(n=2, logprobs=None, prompt_logprobs=None)},
        {"params": SimpleNamespace(n=1, logprobs=3, prompt_logprobs=None)},
        {"params": SimpleNamespace(n=1, logprobs=None, prompt_logprobs=0)},
        {"directives": Directives(no_store=True, no_cache=True)},
        {"directives": Directives(no_cache=True)},
    ],
)
async def test_requests_that_are_never_looked_up(start: Start, more: dict[str, Any]) -> None:
    bench = await start()
    assert bench.hook.pre_request(bench.request("What is the capital of Norway?", **more)) is None


async def test_what_is_not_stored(start: Start) -> None:
    bench = await start()
    for text, outcome, more in (
        ("What is the weather today?", ENGINE, {}),
        ("Who wrote Faust?", Outcome(Source.ENGINE, storable=False), {}),
        ("Who wrote Emma?", Outcome(Source.MEMORY, storable=True), {}),
        ("Who wrote Nana?", ENGINE, {"directives": Directives(no_store=True)}),
        ("word " * 400, ENGINE, {}),
    ):
        request = bench.request(text, **more)
        await bench.look_up(request)
        await bench.hook.post_output(request, record("x"), outcome)
    assert bench.hook.stats()["index"]["entries"] == 0


async def test_max_age_is_honoured(start: Start) -> None:
    bench = await start(similarity_threshold=0.9)
    await bench.generate("What is the capital of Norway?", "Oslo.")
    bench.now += 60
    assert await bench.ask("What is the capital of Norway?", directives=Directives(max_age=30)) is None
    assert await bench.ask("What is the capital of Norway?", directives=Directives(max_age=90)) == "Oslo."
    bench.now += 3600
    assert await bench.ask("What is the capital of Norway?") is None  # its time is over


async def test_shadow_decides_and_serves_nothing(start: Start) -> None:
    bench = await start(similarity_mode="shadow", similarity_threshold=0.9)
    await bench.generate("What is the capital of Norway?", "Oslo.")
    request = bench.request("What is the capital of Norway?")
    assert await bench.look_up(request) is None
    assert ("similarity", "reuse: accepted") in request.notes
    assert bench.hook.stats()["policy"]["hit_share"] > 0


async def test_the_served_model_judges_and_the_bounded_policy_learns(start: Start) -> None:
    prompts: list[str] = []

    async def idle(prompt: str, max_tokens: int) -> str | None:
        prompts.append(prompt)
        one, other = prompt.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
        return "Yes." if one.split()[0] == other.split("\n")[0].replace("Answer: ", "").split()[0] else "no"

    bench = await start(generate_idle=idle)
    assert bench.hook.stats()["policy"]["policy"] == "bounded"
    assert bench.hook.stats()["judge"] == "model"
    for at in range(25):
        await bench.generate(
            f"How do I grow tomatoes in a garden, friend{'s' * (at % 3)} number {chr(97 + at)}?", f"Water them {at}"
        )
    stats = bench.hook.stats()
    assert stats["verdicts"]["same"] > 10
    assert stats["policy"]["labels"] == stats["verdicts"]["same"] + stats["verdicts"]["different"]
    assert stats["policy"]["judge_says_different_of_same"] < 0.01
    assert any("Water them" in prompt for prompt in prompts)


@pytest.mark.parametrize(("setting", "judge"), [("auto", "words"), ("equal", "equal"), ("none", None)])
async def test_a_judge_of_the_operators_own(start: Start, setting: str, judge: str | None) -> None:
    heard: list[tuple[str, str, str]] = []

    async def same(question: str, one: str, other: str) -> bool | None:
        heard.append((question, one, other))
        return one.split()[0] == other.split()[0]

    bench = await start(judge=CallableJudge(same, name="words", errs=False), similarity_judge=setting)
    stats = bench.hook.stats()
    assert (stats["judge"], stats["policy"]["policy"]) == (judge, "threshold" if judge is None else "bounded")
    await bench.generate("What is the capital of Norway?", "Oslo.")
    await bench.generate("Which city is the capital of Norway?", "Oslo. It lies on a fjord.")
    own = judge == "words"
    assert heard == [("Which city is the capital of Norway?", "Oslo. It lies on a fjord.", "Oslo.")] * own
    assert bench.hook.stats()["verdicts"]["same"] == own


async def test_a_judge_that_fails_gives_no_verdict_and_the_answer_is_stored(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    # Not through logging itself, which vLLM's application, if an earlier test has built one, switches off.
    monkeypatch.setattr(service.logger, "warning", lambda line, *values: said.append(line % values))

    async def fails(question: str, one: str, other: str) -> bool | None:
        raise OSError("no judge to be had for a question about Norway")

    bench = await start(judge=CallableJudge(fails, name="absent"))
    for city in ("Norway", "Peru", "Kenya", "Japan"):
        await bench.generate(f"What is the capital of {city}?", f"The capital of {city}.")
    stats = bench.hook.stats()
    assert stats["index"]["entries"] == 4
    assert stats["verdicts"] == {"same": 0, "different": 0, "none": 3}
    assert said == [f"similarity: judge absent failed {times} times: OSError" for times in (1, 2)]


async def test_invalidation_and_the_race_with_a_running_generation(start: Start) -> None:
    bench = await start(similarity_threshold=0.9)
    await bench.generate("What is the capital of Norway?", "Oslo.")
    running = bench.request("Who wrote Don Quixote?")
    await bench.look_up(running)
    bench.now += 1
    tenant = InvalidationScope("tenant", (b"t" * 16).hex(), dry_run=True)
    assert await bench.hook.invalidate(tenant) == 1
    assert await bench.hook.invalidate(InvalidationScope("age", "3600")) == 0
    assert await bench.hook.invalidate(InvalidationScope("all")) == 1
    assert await bench.ask("What is the capital of Norway?") is None
    await bench.hook.post_output(running, record("Cervantes"), ENGINE)
    assert bench.hook.stats()["index"]["entries"] == 0
    with pytest.raises(DirectiveError):
        await bench.hook.invalidate(InvalidationScope("colour", "red"))


async def test_restart_keeps_the_index(start: Start, tmp_path: Path) -> None:
    first = await start(similarity_dir=str(tmp_path), similarity_threshold=0.9)
    await first.generate("What is the capital of Norway?", "Oslo.")
    await first.hook.shutdown()
    second = await start(similarity_dir=str(tmp_path), similarity_threshold=0.9)
    assert await second.ask("What is the capital of Norway?") == "Oslo."


async def test_until_the_model_is_there_requests_are_plain(start: Start) -> None:
    bench = await start(ready=False)
    assert bench.hook.pre_request(bench.request("What is the capital of Norway?")) is None
    assert bench.hook.stats()["enabled"] is False


async def test_a_missing_model_turns_similarity_off_with_a_sentence(start: Start, tmp_path: Path) -> None:
    bench = await start(embedding_model=str(tmp_path / "nothing"), ready=False)
    await bench.wait(lambda: "could not be loaded" in bench.hook.health()[0].detail)
    assert bench.hook.health()[0].status == "degraded"
    assert bench.hook.pre_request(bench.request("x")) is None
    await bench.hook.post_output(bench.request("x"), record("y"), ENGINE)


@pytest.mark.parametrize(
    ("options", "said"), [({"embedding_model": ""}, "embedding-model"), ({"similarity_mode": "off"}, "mode off")]
)
async def test_off(start: Start, options: dict[str, Any], said: str) -> None:
    bench = await start(ready=False, **options)
    assert said in bench.hook.health()[0].detail
    assert bench.hook.health()[0].status == "healthy"
    assert await bench.hook.invalidate(InvalidationScope("all")) == 0


async def test_many_at_once(start: Start) -> None:
    bench = await start(similarity_threshold=0.9)
    names = ["Norway", "Peru", "Kenya", "Japan", "Chile", "Ghana", "Nepal", "Oman"]
    await asyncio.gather(*(bench.generate(f"What is the capital of {name}?", name) for name in names))
    answers = await asyncio.gather(*(bench.ask(f"what is the capital of {name}") for name in names * 5))
    assert answers == names * 5


def test_options_cover_the_settings() -> None:
    options = SimilarityOptions.from_settings(Settings(SettingsTable(SETTINGS), {}, {}))
    assert options == SimilarityOptions()
