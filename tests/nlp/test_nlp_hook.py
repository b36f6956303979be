"""The hook: beside generation, bounded, on time or not at all, off unless asked for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import prometheus_client
import pytest
from vllm_enhance_nlp.options import NLPOptions
from vllm_enhance_nlp.plugin import NLPHook

from vllm_enhance.context import HookContext
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.metrics import CORE_METRICS, Metrics
from vllm_enhance.plugins import PluginSet, new_manager
from vllm_enhance.types import NLP_RESULT, Question, RequestContext

TEXT = "What is TCP and when should I use it?"


def request(text: str | None = TEXT, read: Callable[[], Question | None] | None = None) -> RequestContext:
    question = None if text is None else Question(text, b"p" * 16)
    return RequestContext("r", [1, 2], None, read_question=read or (lambda: question))


def metrics() -> Metrics:
    return Metrics(CORE_METRICS, prometheus_client.CollectorRegistry())


@asynccontextmanager
async def running(hook: NLPHook, counted: Metrics | None = None, **texts: str) -> AsyncIterator[NLPHook]:
    plugins = PluginSet(new_manager())
    plugins.register(hook, "nlp", "test")
    from vllm_enhance.settings import Settings

    settings = Settings(plugins.settings_table(), {name.replace("_", "-"): text for name, text in texts.items()}, {})
    await hook.startup(HookContext(settings=settings, metrics=counted or metrics()))
    try:
        yield hook
    finally:
        await hook.shutdown()


async def settled(hook: NLPHook) -> None:
    for _ in range(1000):
        if hook.stats()["in_flight"] == 0:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("questions are still in flight")


async def test_the_result_is_an_annotation() -> None:
    counted = metrics()
    async with running(NLPHook(), counted, nlp="on") as hook:
        asked = request()
        assert hook.pre_request(asked) is None
        assert NLP_RESULT not in asked.annotations  # nobody waited for it
        await settled(hook)
        result = asked.annotations.get(NLP_RESULT)
        assert result is not None
        assert [one["text"] for one in result["sub_questions"]] == ["What is TCP?", "When should I use TCP?"]
        assert asked.notes == [("nlp", "en, what, 2 sub-questions")]
        assert hook.stats()["done"] == 1
        assert counted.value("vllm_enhance_nlp_questions", "done") == 1
        assert counted.value("vllm_enhance_nlp_seconds_count") == 1
        assert hook.health().status == "healthy"


async def test_off_by_default() -> None:
    async with running(NLPHook()) as hook:
        asked = request()
        hook.pre_request(asked)
        await asyncio.sleep(0.02)
        assert NLP_RESULT not in asked.annotations
        assert hook.stats()["enabled"] is False
        assert hook.health().detail == "off"
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("enhance-nlp")]


async def test_more_than_the_limit_are_dropped_and_counted() -> None:
    gate = threading.Event()

    def wait() -> Question:
        gate.wait(5)
        return Question(TEXT, b"p" * 16)

    async with running(NLPHook(NLPOptions(enabled=True, max_concurrent_tasks=3, deadline=30))) as hook:
        asked = [request(read=wait) for _ in range(10)]
        for one in asked:
            hook.pre_request(one)
        assert hook.stats()["dropped"] == 7
        assert hook.health().status == "degraded"
        gate.set()
        await settled(hook)
        assert sum(NLP_RESULT in one.annotations for one in asked) == 3
        hook.pre_request(request())
        await settled(hook)
        assert hook.stats()["done"] == 4


async def test_a_question_that_waited_past_the_deadline_is_not_read() -> None:
    now = [0.0]
    hook = NLPHook(NLPOptions(enabled=True, deadline=1.0), monotonic=lambda: now[0])
    reads: list[int] = []
    gate = threading.Event()

    def slow() -> Question:
        gate.wait(5)
        now[0] = 10.0
        return Question(TEXT, b"p" * 16)

    def counted() -> Question:
        reads.append(1)
        return Question(TEXT, b"p" * 16)

    async with running(hook):
        first, second = request(read=slow), request(read=counted)
        hook.pre_request(first)
        hook.pre_request(second)
        gate.set()
        await settled(hook)
        assert hook.stats()["late"] == 2  # one came too late, one was not begun
        assert reads == []
        assert NLP_RESULT not in first.annotations
        assert NLP_RESULT not in second.annotations


async def test_a_fault_is_counted_and_says_no_prompt_text(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Question:
        raise ValueError("secret prompt")

    async with running(NLPHook(NLPOptions(enabled=True))) as hook:
        with caplog.at_level(logging.DEBUG):
            for _ in range(3):
                hook.pre_request(request(read=broken))
            hook.pre_request(request())
            await settled(hook)
        assert hook.stats()["failed"] == 3
        assert hook.stats()["done"] == 1
        assert "secret" not in caplog.text
        assert caplog.text.count("could not be read") == 1


@pytest.mark.parametrize("text", [None, "", "   "])
async def test_no_question_no_result(text: str | None) -> None:
    async with running(NLPHook(NLPOptions(enabled=True))) as hook:
        asked = request(text)
        hook.pre_request(asked)
        await settled(hook)
        assert hook.stats()["none"] == 1
        assert NLP_RESULT not in asked.annotations


async def test_settings_are_obeyed() -> None:
    async with running(NLPHook(), nlp="on", nlp_max_characters="12", nlp_language="zh") as hook:
        asked = request()
        hook.pre_request(asked)
        await settled(hook)
        result = asked.annotations.get(NLP_RESULT)
        assert result is not None
        assert result["truncated"] is True
        assert result["analyzed"] == 12
        assert result["language"] == "zh"


async def test_requests_after_shutdown_are_left_alone() -> None:
    async with running(NLPHook(NLPOptions(enabled=True))) as hook:
        pass
    hook.pre_request(request())
    assert hook.stats()["in_flight"] == 0


async def test_restart() -> None:
    hook = NLPHook(NLPOptions(enabled=True))
    for _ in range(2):
        async with running(hook):
            asked = request()
            hook.pre_request(asked)
            await settled(hook)
            assert NLP_RESULT in asked.annotations


async def test_the_dispatcher_does_not_wait_for_it() -> None:
    hook, counted = NLPHook(NLPOptions(enabled=True, deadline=30)), metrics()
    gate = threading.Event()

    def wait() -> Question:
        gate.wait(5)
        return Question(TEXT, b"p" * 16)

    async with running(hook, counted):
        manager = new_manager()
        manager.register(hook, name="nlp")
        dispatcher = Dispatcher(manager, counted)
        began = time.perf_counter()
        await dispatcher.pre_request(request(read=wait), lambda context, rewrite: None)
        assert time.perf_counter() - began < 0.5
        gate.set()
        await settled(hook)
        await dispatcher.shutdown()
