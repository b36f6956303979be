"""The Python API on the real engine; one engine for the file, most tests on the handler of the example."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import os
import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from api_support import LoopOfItsOwn, equipped
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import RequestOutputCollector

from vllm_enhance import (
    CacheConfig,
    EnhancedAsyncLLM,
    EnhancedHandler,
    HandlerConfig,
    SimilarityConfig,
    VLLMConfig,
    create_enhanced_system,
    get_global_factory,
    hookimpl,
)
from vllm_enhance.errors import (
    AlreadyClosedError,
    AlreadyStartedError,
    ConfigurationError,
    DirectiveError,
    EngineStoppedError,
    InvalidConfigError,
    NotStartedError,
    OverloadedError,
    RequestRejected,
    UnknownRequestError,
)

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

names = itertools.count()
LONG = SamplingParams(max_tokens=900, ignore_eos=True, temperature=0.0)


def unseen(what: str = "question") -> str:
    return f"{what} number {next(names)}"


def short(**fields: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 24, **fields})


async def last_of(collector: Any) -> Any:
    outputs = [output async for output in collector.aiter()]
    return outputs[-1]


async def quiet(llm: Any) -> None:
    """Wait until the engine has nothing to do and nobody reads."""
    async with asyncio.timeout(10):
        while llm.get_num_unfinished_requests() or llm.enhance.table.num_readers:
            gc.collect()
            await asyncio.sleep(0.01)


# --------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("kind", list(RequestOutputKind))
def test_text_so_far_and_metadata_from_engine_then_memory(own: LoopOfItsOwn, handler: Any, kind: Any) -> None:
    async def scenario() -> None:
        llm, prompt, seen = handler.llm, unseen("什么是人工智能？"), []
        params = SamplingParams(temperature=0.7, max_tokens=100, output_kind=kind)
        for source in ("engine", "memory"):
            name = f"kind-{next(names)}"
            collector = await llm.add_request(request_id=name, prompt=prompt, params=params)
            texts, output = [], None
            async for output in collector.aiter():
                texts.append(output.text)
                assert output.finished == output.request_output.finished
            assert output is not None
            assert output.finished
            assert output.error is None
            assert output.request_id == output.request_output.request_id == name
            assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
            metadata = output.metadata
            assert metadata["source"] == source
            assert metadata["cached"] is metadata["cache_hit"] is (source == "memory")
            assert 0 < metadata["processing_time"] < 60
            assert (metadata["saved_seconds"] > 0) is (source == "memory")
            assert metadata["nlp_result"]["language"] == "zh"
            assert metadata["similar"] == []
            assert metadata["similarity"] is None
            seen.append(output.text)
        assert seen[0] == seen[1] != ""

    own.run(scenario())


def test_several_choices_and_get_outputs(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        params = short(n=3, temperature=1.0, seed=4, output_kind=RequestOutputKind.DELTA)
        collector = await handler.llm.add_request(f"n-{next(names)}", unseen(), params)
        output = [each async for each in collector.get_outputs()][-1]
        assert len(output.texts) == 3
        assert output.text == output.texts[0]

    own.run(scenario())


def test_an_answer_is_read_once(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        collector = await handler.llm.add_request(f"once-{next(names)}", unseen(), short())
        await last_of(collector)
        with pytest.raises(AlreadyClosedError, match="read once"):
            collector.aiter()

    own.run(scenario())


def test_leaving_the_loop_and_cancelling_abort_the_request(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        llm = handler.llm
        collector = await llm.add_request("leave", unseen(), LONG)
        async for _ in collector.aiter():
            assert llm.get_num_unfinished_requests() == 1
            break
        await quiet(llm)

        reader = asyncio.create_task(last_of(await llm.add_request("cancel", unseen(), LONG)))
        await asyncio.sleep(0.1)
        assert llm.get_num_unfinished_requests() == 1
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        await quiet(llm)

        async for _ in llm.generate_enhanced(prompt=unseen(), sampling_params=LONG):
            break
        await quiet(llm)

    own.run(scenario())


def test_collectors_read_by_hand_or_never_are_forgotten(own: LoopOfItsOwn, handler: Any) -> None:
    """``add_request`` and ``get`` are public in vLLM, and nobody there calls ``close``."""

    async def scenario() -> None:
        llm, prompt = handler.llm, unseen()
        collector = await llm.add_request("by-hand", prompt, short())
        while not (await collector.get()).finished:
            pass
        await quiet(llm)
        for _ in range(3):  # hits, then a miss, dropped unread
            await llm.add_request(f"dropped-{next(names)}", prompt, short())
        await llm.add_request(f"dropped-{next(names)}", unseen(), short())
        del collector
        await quiet(llm)

    own.run(scenario())


def test_a_thousand_requests_leave_no_task_and_no_thread(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        await handler.generate_batch([unseen() for _ in range(8)], short())
        await quiet(handler.llm)
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        prompts = [unseen(f"leak {number % 20}") if number % 3 else f"leak {number % 20}" for number in range(1000)]
        outputs = await handler.generate_batch(prompts, short(max_tokens=4))
        assert [output.error for output in outputs if output.error] == []
        await quiet(handler.llm)
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) <= tasks
        assert threading.active_count() <= threads + 1  # one more worker of the loop's own pool
        assert handler.get_stats()["active_requests"] == 0

    own.run(scenario())


# --------------------------------------------------------------------------- a drop-in


def test_every_public_method_has_vllms_signature() -> None:
    assert issubclass(EnhancedAsyncLLM, AsyncLLM)
    walked = 0
    for name, theirs in inspect.getmembers(AsyncLLM, inspect.isroutine):
        if name.startswith("_"):
            continue
        ours = getattr(EnhancedAsyncLLM, name)
        assert _shape(ours) == _shape(theirs), name
        assert inspect.iscoroutinefunction(inspect.unwrap(ours)) == inspect.iscoroutinefunction(theirs), name
        walked += 1
    assert walked > 30


def _shape(function: Any) -> list[tuple[str, Any, Any]]:
    """Parameters without annotations, which one side may write as text."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


CALLS: dict[str, tuple[Any, ...]] = {
    "check_health": (),
    "do_log_stats": (),
    "get_num_unfinished_requests": (),
    "get_supported_tasks": (),
    "is_paused": (),
    "is_sleeping": (),
    "is_tracing_enabled": (),
    "pause_generation": (),
    "resume_generation": (),
    "reset_encoder_cache": (),
    "reset_mm_cache": (),
    "reset_prefix_cache": (),
    "collective_rpc": ("check_health",),
}


@pytest.mark.parametrize("name", CALLS)
def test_public_methods_do_what_vllms_do(own: LoopOfItsOwn, handler: Any, name: str) -> None:
    async def call(method: Any) -> Any:
        result = method(handler.llm, *CALLS[name])
        return await result if inspect.isawaitable(result) else result

    async def scenario() -> None:
        ours = await call(getattr(EnhancedAsyncLLM, name))
        assert repr(ours) == repr(await call(getattr(AsyncLLM, name)))
        await handler.llm.resume_generation()

    own.run(scenario())


@pytest.mark.parametrize("fields", [{}, {"n": 2, "temperature": 1.0, "seed": 7}, {"logprobs": 2}, {"stop": ["e", "a"]}])
@pytest.mark.parametrize("kind", list(RequestOutputKind))
def test_answers_are_vllms_with_features_off_and_on(
    own: LoopOfItsOwn, handler: Any, monkeypatch: pytest.MonkeyPatch, kind: Any, fields: dict[str, Any]
) -> None:
    """The same engine as plain ``AsyncLLM``, as ours with everything off, with everything on, and from the cache."""
    prompt = unseen()

    async def answer(llm: Any) -> Any:
        texts: dict[int, str] = {}
        last = None
        async for last in llm.generate(prompt, short(output_kind=kind, **fields), f"drop-in-{next(names)}"):
            for choice in last.outputs:
                so_far = texts.get(choice.index, "") if kind == RequestOutputKind.DELTA else ""
                texts[choice.index] = so_far + choice.text
        assert last is not None
        final = {choice.index: (choice.finish_reason, choice.stop_reason) for choice in last.outputs}
        return texts, final if kind == RequestOutputKind.FINAL_ONLY else set(final.values())

    async def scenario() -> None:
        llm = handler.llm
        with monkeypatch.context() as context:
            context.setattr("vllm.v1.engine.async_llm.RequestOutputCollector", RequestOutputCollector)
            context.setattr(llm, "add_request", functools.partial(AsyncLLM.add_request, llm), raising=False)
            plain = await answer(llm)
        off = HandlerConfig(cache_enabled=False, settings={"coalesce": "off"})
        async with equipped(llm, handler_config=off):
            assert await answer(llm) == plain
        first = await answer(llm)
        again = await answer(llm)
        assert first[0] == again[0] == plain[0]
        if kind == RequestOutputKind.FINAL_ONLY:
            assert first == again == plain

    own.run(scenario())


# --------------------------------------------------------------------------- the handler


def test_chat_messages_are_rendered_and_read_as_a_question(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        question = f"What is TCP, and why is it slow? {next(names)}"
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
        first = await handler.generate(messages, short())
        rendered = handler.llm.renderer.tokenizer.decode(first.request_output.prompt_token_ids)
        assert question in rendered
        assert rendered.endswith("<|assistant|>")
        assert first.metadata["nlp_result"]["length"] == len(question)
        assert (await handler.generate(messages, short())).metadata["source"] == "memory"
        other = [{"role": "system", "content": "Be long."}, *messages[1:]]
        assert (await handler.generate(other, short())).metadata["source"] == "engine"

    own.run(scenario())


def test_directives_and_tenants(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        prompt = unseen()

        async def source(**arguments: Any) -> str:
            return (await handler.generate(prompt, short(), **arguments)).metadata["source"]

        assert await source(tenant=b"alice") == "engine"
        assert await source(tenant=b"alice") == "memory"
        assert await source(tenant=b"bob") == "engine"
        assert await source(tenant=b"alice", directives="no-cache") == "engine"
        with pytest.raises(DirectiveError, match="is not one of"):
            await source(directives="sometimes")
        assert handler.get_stats()["active_requests"] == 0

    own.run(scenario())


def test_results_by_id(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        name = await handler.add_request(unseen(), short(), request_id="mine")
        assert name == "mine"
        with pytest.raises(RequestRejected):
            await handler.add_request(unseen(), short(), request_id="mine")
        output = await handler.get_result(name, timeout=30)
        assert output.finished
        polled = handler.poll(name)
        assert (polled["status"], polled["text"]) == ("finished", output.text)

        slow = await handler.add_request(unseen(), LONG)
        assert handler.poll(slow) == {"request_id": slow, "status": "running"}
        with pytest.raises(TimeoutError):
            await handler.get_result(slow, timeout=0.05)
        await handler.cancel(slow)
        assert handler.poll(slow)["status"] == "cancelled"
        with pytest.raises(AlreadyClosedError, match="cancelled"):
            await handler.get_result(slow)
        with pytest.raises(UnknownRequestError):
            handler.poll("nobody")
        await quiet(handler.llm)

    own.run(scenario())


def test_a_batch_keeps_its_order_and_survives_a_refused_prompt(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        prompts = [unseen(), "x" * 5000, unseen(), unseen()]
        outputs = await handler.generate_batch(prompts, short())
        assert [output.error is None for output in outputs] == [True, False, True, True]
        assert [o.request_output.prompt for o in outputs if o.error is None] == [prompts[0], *prompts[2:]]
        with pytest.raises(ConfigurationError, match="sampling_params"):
            await handler.generate_batch(prompts, [short()])

    own.run(scenario())


def test_back_pressure(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        config = HandlerConfig(max_active_requests=2, max_waiting_requests=1, drain_timeout=5)

        async def keep(ended: EnhancedHandler) -> None:
            """The engine is another handler's."""

        async with EnhancedHandler(handler.llm, config, release=keep) as small:
            running = [await small.add_request_v2(unseen(), LONG) for _ in range(2)]
            waiting = asyncio.create_task(small.add_request_v2(unseen(), short()))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert (small.get_stats()["active_requests"], small.get_stats()["waiting_requests"]) == (2, 1)
            assert (await small.health_check())["status"] == "degraded"
            with pytest.raises(OverloadedError, match="try again later"):
                await small.add_request_v2(unseen(), short())
            await running[0].cancel()
            assert (await last_of(await waiting)).error is None
            await running[1].cancel()

    own.run(scenario())


def test_life_cycle_of_a_handler_on_a_shared_engine(
    own: LoopOfItsOwn, handler: Any, usage: ModuleType, tiny_model: Path
) -> None:
    async def scenario() -> None:
        second = await create_enhanced_system(*usage.configuration(str(tiny_model)))
        assert second.llm is handler.llm
        (stats,) = get_global_factory().get_instance_stats().values()
        assert (stats["handlers"], stats["llm_running"], stats["model"]) == (2, True, str(tiny_model))
        with pytest.raises(NotStartedError, match="has not started"):
            await second.add_request_v2("x")
        assert (await second.health_check())["components"]["handler"]["detail"] == "not started"
        await second.start()
        with pytest.raises(AlreadyStartedError, match="runs already"):
            await second.start()
        draining = await second.add_request_v2(unseen(), short(max_tokens=200, ignore_eos=True))
        reader = asyncio.create_task(last_of(draining))
        await asyncio.sleep(0)
        await asyncio.gather(second.stop(), second.stop())
        assert (await reader).error is None, "a request under way is let finish"
        with pytest.raises(AlreadyClosedError, match="create a new system"):
            await second.add_request_v2("x")
        with pytest.raises(AlreadyClosedError):
            await second.start()
        assert (await second.health_check())["status"] == "unhealthy"
        assert not handler.llm.errored, "the other handler still uses the engine"
        assert (await handler.health_check())["status"] == "healthy"

    own.run(scenario())


def test_health_and_numbers(own: LoopOfItsOwn, handler: Any) -> None:
    async def scenario() -> None:
        health = await handler.health_check()
        assert health["status"] == "healthy", health
        assert {"handler", "engine", "plugin", "cache", "nlp"} <= set(health["components"])
        stats = handler.get_stats()
        assert stats["llm_running"] is True
        assert stats["active_requests"] == 0
        assert 0 <= stats["hit_rate"] <= 1
        assert "hooks" not in stats
        assert (await handler.get_stats())["hooks"]["cache"]["memory"]["max_entries"] == 1000

    own.run(scenario())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"vllm_config": {"model": "x"}}, "VLLMConfig is wanted, not dict"),
        ({}, "no model"),
        ({"handler_config": HandlerConfig(model_name="x", settings={"lookup": "maybe"})}, "lookup"),
    ],
)
def test_a_bad_configuration_starts_no_engine(own: LoopOfItsOwn, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        own.run(create_enhanced_system(**arguments))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": "x", "max_modle_len": 5}, "no engine argument max_modle_len"),
        ({"model": "/nowhere/at/all"}, "engine"),  # whether vLLM or its hub client says so depends on the environment
        ({"model": "x", "handler_config": {"cache": 1}}, "HandlerConfig is wanted, not dict"),
        ({"model": "x", "cache_manager": object()}, "is not a hook package"),
    ],
)
def test_the_constructor_refuses_before_the_engine_starts(
    own: LoopOfItsOwn, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidConfigError, match=says):
        EnhancedAsyncLLM(**arguments)


# --------------------------------------------------------------------------- similarity


def test_similar_questions_in_metadata_and_store(own: LoopOfItsOwn, handler: Any, minilm: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        config = SimilarityConfig(
            enable_vector_search=True,
            embedding_model=minilm,
            similarity_threshold=0.8,
            max_similar_results=5,
            vector_dimension=768,
            results_store=f"sqlite://{tmp_path}/similar.db",
        )
        blocking = HandlerConfig(settings={"lookup": "blocking", "lookup-deadline": "10s", "log-prompts": "on"})
        async with equipped(handler.llm, similarity_config=config, handler_config=blocking) as llm:
            with pytest.raises(ConfigurationError, match="is 768, but the embedding model has 384"):
                await EnhancedHandler(llm, blocking, vector_dimension=768).start()

            async def keep(ended: EnhancedHandler) -> None:
                """The engine is another handler's."""

            async with EnhancedHandler(llm, blocking, vector_dimension=384, release=keep) as system:
                chat = [{"role": "user", "content": "How do I reset my password?"}]
                first = await system.generate(chat, short(), request_id="first")
                assert first.metadata["source"] == "engine"
                await asyncio.sleep(1)
                chat = [{"role": "user", "content": "How can I reset my password?"}]
                second = await system.generate(chat, short(), request_id="second")
                metadata = second.metadata
                assert metadata["source"] == "similar", metadata
                assert metadata["cached"]
                assert 0.8 <= metadata["similarity"] <= 1
                assert second.text == first.text
                assert metadata["similar"][0]["question"] == "How do I reset my password?"
                async with asyncio.timeout(5):
                    while (kept := await system.similar_results("second")) is None:
                        await asyncio.sleep(0.05)
                assert kept == metadata["similar"]
                assert await system.similar_results("nobody") is None

    own.run(scenario(), 240)


# --------------------------------------------------------------------------- engines of their own


class Canned:
    """A cache of one's own: it answers one question, and counts the others."""

    def __init__(self) -> None:
        self.asked = 0

    @hookimpl(inline=True)
    def pre_request(self, request: Any) -> Any:
        from vllm_enhance import Respond

        self.asked += 1
        return Respond(text="forty-two") if request.prompt_text == "the answer" else None


def test_an_engine_from_custom_config_two_settings_in_one_process_death_and_cleanup(
    own: LoopOfItsOwn, handler: Any, tiny_model: Path
) -> None:
    config = VLLMConfig(engine_args={"model": str(tiny_model), "max_model_len": 1024, "enforce_eager": True})
    mine = Canned()

    async def make() -> Any:
        return await asyncio.to_thread(
            EnhancedAsyncLLM.from_custom_config,
            custom_config=config,
            cache_manager=mine,
            similarity_search_helper=None,
            cache_config=CacheConfig(),
        )

    async def scenario(llm: Any) -> None:
        assert isinstance(llm, AsyncLLM)
        asked = mine.asked
        await handler.generate(unseen(), short())
        assert mine.asked == asked, "the other engine has hooks of its own"
        outputs = [output async for output in llm.generate_enhanced(prompt="the answer", sampling_params=short())]
        assert (outputs[-1].text, outputs[-1].metadata["source"]) == ("forty-two", "hook")
        for _ in range(2):
            answers = [output async for output in llm.generate_enhanced("not stored", short())]
            assert answers[-1].metadata["source"] == "engine", "its cache keeps nothing"
        assert llm.enhance_control.numbers()["served"] == 3, "numbers are its own too"

        started = asyncio.create_task(last_of(await llm.add_request("dies", unseen(), LONG)))
        joined = asyncio.create_task(last_of(await llm.add_request("joins", unseen(), LONG)))
        plain = asyncio.create_task(_drain(llm.generate(unseen(), LONG, "plain")))
        await asyncio.sleep(0.3)
        os.kill(llm.engine_core.resources.engine_manager.processes[0].pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            for task in (started, joined):
                output = await task
                assert isinstance(output.error, EngineStoppedError), output
                assert output.finished
            with pytest.raises(Exception, match="EngineCore"):
                await plain
        broken = EnhancedHandler(llm)
        await broken.start()
        assert (await broken.health_check())["components"]["engine"]["status"] == "unhealthy"
        with pytest.raises(EngineStoppedError, match="create a new one"):
            await broken.add_request_v2(unseen(), short())
        assert broken.get_stats()["llm_running"] is False
        async with asyncio.timeout(30):
            await broken.stop()
            await llm.cleanup()
        with pytest.raises(AlreadyClosedError, match="create a new one"):
            await llm.add_request("late", "x", short())
        assert (await handler.health_check())["status"] == "healthy", "the other engine goes on"

    own.run(scenario(own.run(make(), 300)), 180)


async def _drain(outputs: Any) -> None:
    async for _ in outputs:
        pass


def test_the_convenience_constructor_and_cleanup_with_callers_waiting(own: LoopOfItsOwn, tiny_model: Path) -> None:
    async def scenario() -> None:
        tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
        llm = EnhancedAsyncLLM(
            model=str(tiny_model),
            max_model_len=1024,
            enforce_eager=True,
            handler_config=HandlerConfig(nlp_enabled=True),
        )
        waiting = [asyncio.create_task(last_of(await llm.add_request(f"w{i}", unseen(), LONG))) for i in range(3)]
        same = [asyncio.create_task(last_of(await llm.add_request(f"s{i}", "the same", LONG))) for i in range(3)]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(60):
            await asyncio.gather(llm.cleanup(), llm.cleanup())
            for output in await asyncio.gather(*waiting, *same):
                # The engine's own word for it may come first: then the answer ends as aborted.
                assert isinstance(output.error, AlreadyClosedError) or output.finish_reason == "abort", output
        await llm.cleanup()
        await asyncio.sleep(0.2)
        left = [task for task in asyncio.all_tasks() - tasks if not task.done()]
        assert left == []
        new = {thread.name for thread in set(threading.enumerate()) - threads if thread.is_alive()}
        assert {name for name in new if not name.startswith("asyncio_")} == set()

    own.run(scenario(), 240)
