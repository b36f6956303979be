"""The enriching hook between a search and a request: asked last, bounded, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
from vllm_enhance_nlp.options import ContextOptions
from vllm_enhance_nlp.plugin import NLPHook

from vllm_enhance.context import HookContext
from vllm_enhance.directives import Directives
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.metrics import CORE_METRICS, Metrics
from vllm_enhance.plugins import PluginSet, load_plugins, new_manager
from vllm_enhance.settings import Settings
from vllm_enhance.types import SIMILAR, SIMILAR_SEARCH, Found, Question, RequestContext, Respond, Rewrite, Source

COMPOUND = "What is TCP and when should I use it?"
PARTS = ["What is TCP?", "When should I use TCP?"]


class Search:
    """Stands for the similarity hook: answers to equal texts, confident or not."""

    def __init__(self, answers: dict[str, str], *, confident: bool = True, seconds: float = 0.0) -> None:
        self.answers, self.confident, self.seconds = answers, confident, seconds
        self.asked: list[list[str]] = []

    async def __call__(self, texts: Sequence[str], limit: int) -> list[list[Found]]:
        self.asked.append(list(texts))
        await asyncio.sleep(self.seconds)
        return [
            [Found(text, self.answers[text], 0.98, self.confident, text.encode(), 7.0)] if text in self.answers else []
            for text in texts
        ]


BOTH = {PARTS[0]: "A protocol.", PARTS[1]: "When order matters."}


def letters(text: str) -> list[int]:
    return [ord(character) for character in text]


def request(search: Search | None, text: str = COMPOUND, **fields: Any) -> RequestContext:
    prompt = f"[user]{text}[assistant]"
    params = fields.pop("params", SimpleNamespace(max_tokens=200, stop=[], structured_outputs=None))
    made = RequestContext(
        "r",
        letters(prompt),
        params,
        key=b"k" * 32,
        read_text=lambda: prompt,
        read_question=lambda: Question(text, b"p" * 16),
        **fields,
    )
    if search is not None:
        made.annotations.set(SIMILAR_SEARCH, search)
    return made


@asynccontextmanager
async def running(**texts: str) -> AsyncIterator[tuple[NLPHook, Metrics]]:
    hook, plugins = NLPHook(), PluginSet(new_manager())
    plugins.register(hook, "nlp", "test")
    settings = Settings(plugins.settings_table(), {name.replace("_", "-"): text for name, text in texts.items()}, {})
    metrics = Metrics(CORE_METRICS, prometheus_client.CollectorRegistry())
    context = HookContext(settings=settings, metrics=metrics, tokenize=letters, count_tokens=len, max_model_len=4096)
    await hook.startup(context)
    try:
        yield hook, metrics
    finally:
        await hook.shutdown()


async def test_references_before_the_question() -> None:
    async with running(context="on") as (hook, metrics):
        search = Search(BOTH)
        asked = request(search)
        change = await hook.enrich(asked)
        assert search.asked == [[COMPOUND, *PARTS]]
        assert isinstance(change, Rewrite)
        assert change.keep_key
        assert change.prompt_text is not None
        assert change.prompt_text.startswith("[user]<reference>")
        assert change.prompt_text.endswith(f"</reference>\n\n{COMPOUND}[assistant]")
        assert all(answer in change.prompt_text for answer in BOTH.values())
        assert change.prompt_token_ids == letters(change.prompt_text)
        used = asked.annotations.get(SIMILAR)
        assert used is not None
        assert [(each.key, each.similarity, each.question) for each in used] == [
            (part.encode(), 0.98, "") for part in PARTS
        ]
        assert [what.split(",")[0] for _, what in asked.notes] == ["enriched: 2 references"]
        assert metrics.value("vllm_enhance_context_requests", "enriched") == 1


async def test_joined_answers() -> None:
    async with running(compose="on") as (hook, metrics):
        asked = request(Search(BOTH))
        answer = await hook.enrich(asked)
        assert answer == Respond(
            text="A protocol.\n\nWhen order matters.",
            source=Source.SIMILAR,
            similarity=0.98,
            age=7.0,
            detail="composed",
        )
        assert asked.notes == [("context", "composed: of 2 answers")]
        assert metrics.value("vllm_enhance_context_requests", "composed") == 1


async def test_doubtful_answers_are_references_not_answers() -> None:
    async with running(context="on", compose="on") as (hook, _):
        assert isinstance(await hook.enrich(request(Search(BOTH, confident=False))), Rewrite)
        assert isinstance(await hook.enrich(request(Search({PARTS[0]: "A protocol."}))), Rewrite)
        assert isinstance(await hook.enrich(request(Search(BOTH), params=SimpleNamespace(stop=["\n\n"]))), Rewrite)
        assert isinstance(await hook.enrich(request(Search(BOTH))), Respond)
    async with running(compose="on") as (hook, _):
        assert await hook.enrich(request(Search(BOTH, confident=False))) is None


async def test_text_of_questions_is_shown_only_when_allowed() -> None:
    async with running(context="on", log_prompts="on") as (hook, _):
        asked = request(Search(BOTH))
        await hook.enrich(asked)
        assert [each.question for each in asked.annotations.get(SIMILAR) or ()] == PARTS


@pytest.mark.parametrize("text", ["What is TCP?", "Hello.", "", "x" * 30_000])
async def test_one_question_is_left_alone(text: str) -> None:
    async with running(context="on", compose="on") as (hook, _):
        search = Search(BOTH)
        assert await hook.enrich(request(search, text)) is None
        assert search.asked == []


async def test_off_by_default_and_without_similarity() -> None:
    async with running(nlp="on") as (hook, _):
        assert await hook.enrich(request(Search(BOTH))) is None
        assert hook.stats()["context"] is None
    async with running(context="on") as (hook, _):
        assert await hook.enrich(request(None)) is None
        assert hook.pre_request(request(None)) is None
        assert hook.stats()["enabled"] is False  # reading for metadata is another switch


async def test_only_if_cached_asks_for_no_generation() -> None:
    only = Directives(only_if_cached=True)
    async with running(context="on", compose="on") as (hook, _):
        assert await hook.enrich(request(Search(BOTH, confident=False), directives=only)) is None
        assert isinstance(await hook.enrich(request(Search(BOTH), directives=only)), Respond)


async def test_a_slow_search_is_given_up_within_the_deadline() -> None:
    async with running(context="on", hook_deadline="50ms") as (hook, metrics):
        plugins = PluginSet(new_manager())
        plugins.register(hook, "nlp", "test")
        dispatcher = Dispatcher(plugins.manager, metrics, deadline=0.05)
        asked = request(Search(BOTH, seconds=5))
        verdict = await dispatcher.pre_request(asked, lambda *_: None)
        assert verdict.lookups == []
        assert asked.notes == [("context", "late")]
        assert not metrics.snapshot().get("vllm_enhance_hook_failures")  # so the fuse stays closed


async def test_a_search_that_fails_costs_nothing() -> None:
    class Broken(Search):
        async def __call__(self, texts: Sequence[str], limit: int) -> list[list[Found]]:
            raise RuntimeError("secret text")

    async with running(context="on") as (hook, metrics):
        asked = request(Broken({}))
        assert await hook.enrich(asked) is None
        assert asked.notes == [("context", "failed")]
        assert metrics.value("vllm_enhance_context_requests", "failed") == 1


async def test_no_more_than_so_many_at_once() -> None:
    async with running(context="on", hook_deadline="5s", nlp_max_concurrent_tasks="3") as (hook, metrics):
        search = Search(BOTH, seconds=0.3)
        results = await asyncio.gather(*[hook.enrich(request(search)) for _ in range(10)])
        assert sum(isinstance(each, Rewrite) for each in results) == 3
        assert metrics.value("vllm_enhance_context_requests", "busy") == 7
        assert isinstance(await hook.enrich(request(search)), Rewrite)  # the places are free again


async def test_a_caller_who_leaves_frees_the_place() -> None:
    async with running(context="on", hook_deadline="5s", nlp_max_concurrent_tasks="1") as (hook, _):
        task = asyncio.create_task(hook.enrich(request(Search(BOTH, seconds=5))))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(await hook.enrich(request(Search(BOTH))), Rewrite)


async def test_unlike_questions_and_long_answers_stay_out() -> None:
    async with running(context="on", context_min_similarity="0.99") as (hook, _):
        assert await hook.enrich(request(Search(BOTH))) is None
    async with running(context="on", context_max_tokens="300") as (hook, _):
        asked = request(Search({PARTS[0]: "A protocol.", PARTS[1]: "long " * 200}))
        assert isinstance(await hook.enrich(asked), Rewrite)
        assert len(asked.annotations.get(SIMILAR) or ()) == 1
    async with running(context="on", context_max_tokens="16") as (hook, _):
        assert await hook.enrich(request(Search(BOTH))) is None


async def test_the_answer_keeps_its_room() -> None:
    async with running(context="on") as (hook, _):
        assert await hook.enrich(request(Search(BOTH), params=SimpleNamespace(max_tokens=4000))) is None


async def test_thoughts_of_a_stored_answer_are_no_reference() -> None:
    async with running(context="on") as (hook, _):
        change = await hook.enrich(request(Search({PARTS[0]: "<think>hm</think>\n\nA protocol.<|im_end|>"})))
        assert isinstance(change, Rewrite)
        assert "Answer: A protocol.< |im_end|>\n" in str(change.prompt_text)
        assert "hm" not in str(change.prompt_text)


def test_asked_after_the_cache() -> None:
    plugins = load_plugins(("cache", "nlp", "similarity"))
    assert not plugins.broken
    order = [(impl.plugin_name, impl.function.__name__) for impl in plugins.manager.hook.pre_request.get_hookimpls()]
    order.reverse()
    assert order[-1] == ("nlp", "enrich")
    assert order.index(("similarity", "pre_request")) < order.index(("cache", "pre_request")) < len(order) - 1


async def test_a_stored_answer_is_given_without_a_search() -> None:
    class Cache:
        @hookimpl(inline=True, trylast=True)
        def pre_request(self, request: RequestContext) -> Respond:
            return Respond(text="stored")

    async with running(context="on", compose="on") as (hook, metrics):
        plugins = PluginSet(new_manager())
        plugins.register(Cache(), "cache", "test")
        plugins.register(hook, "nlp", "test")
        search = Search(BOTH)
        verdict = await Dispatcher(plugins.manager, metrics).pre_request(request(search), lambda *_: None)
        assert verdict.decision == Respond(text="stored")
        assert search.asked == []


def test_options_say_what_is_on() -> None:
    assert not ContextOptions().enabled
    assert ContextOptions(references=True).enabled
    assert ContextOptions(compose=True).enabled
