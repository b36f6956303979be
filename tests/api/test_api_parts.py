"""The parts that need no engine: places, results, outputs, similar results in a store, separate metrics."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import stat
from pathlib import Path

import prometheus_client
import pytest

from vllm_enhance import read_similar_results
from vllm_enhance.assembly import assemble
from vllm_enhance.context import HookContext
from vllm_enhance.errors import ConfigurationError, OverloadedError, RequestRejected, UnknownRequestError
from vllm_enhance.metrics import Metrics
from vllm_enhance.outputs import EnhancedOutput, nearest_first, output_metadata
from vllm_enhance.places import Places
from vllm_enhance.records import RECORD_VERSION, GenerationRecord
from vllm_enhance.results import Results
from vllm_enhance.scope import Decision
from vllm_enhance.similar_results import SimilarResultsHook, open_store
from vllm_enhance.types import SIMILAR, Annotations, Neighbour, Outcome, RequestContext, Source

NEIGHBOURS = [
    Neighbour(b"b" * 32, 0.5),
    Neighbour(b"a" * 32, 0.9, "why?"),
    Neighbour(b"b" * 32, 0.7, refused_by="numbers"),
]


async def test_places_are_given_in_order_and_the_queue_is_bounded() -> None:
    places, order = Places(2, 2), []

    async def visit(name: int) -> None:
        await places.enter()
        order.append(name)
        await asyncio.sleep(0.01)
        places.leave()

    visits = [asyncio.create_task(visit(name)) for name in range(4)]
    await asyncio.sleep(0)
    assert (places.taken, places.waiting) == (2, 2)
    with pytest.raises(OverloadedError, match="max_waiting_requests"):
        await places.enter()
    await asyncio.gather(*visits)
    assert order == [0, 1, 2, 3]
    await asyncio.wait_for(places.emptied(), 1)


async def test_a_caller_that_gives_up_waiting_takes_no_place() -> None:
    places = Places(1, 5)
    await places.enter()
    waiting = asyncio.create_task(places.enter())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (places.taken, places.waiting) == (1, 0)
    places.leave()
    await asyncio.wait_for(places.enter(), 1)


async def test_results_are_forgotten_by_age_and_by_number() -> None:
    now = 0.0
    results = Results(2, 10.0, lambda: now)

    async def answer(text: str) -> EnhancedOutput:
        return EnhancedOutput(text, text, True)

    def add(name: str) -> asyncio.Task[EnhancedOutput]:
        results.check(name)
        task = asyncio.create_task(answer(name))
        results.add(name, task)
        return task

    first = add("a")
    with pytest.raises(RequestRejected) as caught:
        results.check("a")
    assert caught.value.status == 409
    add("b")
    with pytest.raises(OverloadedError):
        results.check("c")
    await asyncio.sleep(0.01)
    assert (await results.get("a")).text == "a"
    assert first.done()
    add("c")
    await asyncio.sleep(0.01)
    with pytest.raises(UnknownRequestError):
        results.get("a")
    now = 11.0
    with pytest.raises(LookupError):
        results.get("c")
    assert len(results) == 0


def test_neighbours_are_deduplicated_sorted_and_cut() -> None:
    found = nearest_first(NEIGHBOURS, 5)
    assert [(each["key"][:2], each["similarity"], each["refused_by"]) for each in found] == [
        ("61", 0.9, None),
        ("62", 0.7, "numbers"),
    ]
    assert len(nearest_first(NEIGHBOURS, 1)) == 1


def test_the_metadata_of_a_similar_hit_and_of_a_plain_request() -> None:
    notes = Annotations()
    notes.set(SIMILAR, NEIGHBOURS)
    decision = Decision(Source.SIMILAR, age=3.0, similarity=0.9)
    told = output_metadata(decision, notes, seconds=0.5, saved_seconds=2.0, max_similar=1)
    assert (told["cached"], told["cache_hit"], told["source"], told["similarity"]) == (True, True, "similar", 0.9)
    assert (told["processing_time"], told["saved_seconds"], len(told["similar"])) == (0.5, 2.0, 1)
    plain = output_metadata(None, None, seconds=0.1, saved_seconds=0.0, max_similar=5)
    assert (plain["cached"], plain["source"], plain["similar"], plain["nlp_result"]) == (False, "engine", [], None)


def _read(url: str, name: str, pipe: object) -> None:
    pipe.send(asyncio.run(read_similar_results(url, name)))  # type: ignore[attr-defined]


async def test_similar_results_are_read_by_another_process(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/similar.db"
    settings = assemble({"similar-results": (url, "test"), "similar-results-limit": ("1", "test")}, {}).settings
    hook = SimilarResultsHook()
    await hook.startup(HookContext(settings=settings, metrics=Metrics(registry=prometheus_client.CollectorRegistry())))
    request = RequestContext("request-1", [1, 2], None)
    record = GenerationRecord(RECORD_VERSION, (), 2, 1.0)
    await hook.post_output(request, record, Outcome(Source.MEMORY, False))
    assert await read_similar_results(url, "request-1") is None
    request.annotations.set(SIMILAR, NEIGHBOURS)
    await hook.post_output(request, record, Outcome(Source.SIMILAR, False))

    here, there = multiprocessing.get_context("spawn").Pipe()
    other = multiprocessing.get_context("spawn").Process(target=_read, args=(url, "request-1", there))
    other.start()
    assert await asyncio.to_thread(here.poll, 30)
    assert [each["similarity"] for each in here.recv()] == [0.9]
    await asyncio.to_thread(other.join, 10)
    assert hook.health().status == "healthy"
    await hook.shutdown()


async def test_a_store_that_fails_costs_nobody_anything(tmp_path: Path) -> None:
    settings = assemble({"similar-results": (f"sqlite://{tmp_path}/similar.db", "test")}, {}).settings
    hook = SimilarResultsHook()
    await hook.startup(HookContext(settings=settings, metrics=Metrics(registry=prometheus_client.CollectorRegistry())))
    (tmp_path / "similar.db").write_bytes(b"this is no database" * 100)
    request = RequestContext("request-1", [1], None)
    request.annotations.set(SIMILAR, NEIGHBOURS)
    await hook.post_output(request, GenerationRecord(RECORD_VERSION, (), 1, 1.0), Outcome(Source.SIMILAR, False))
    assert hook.stats()["failed"] == 1
    assert hook.health().status == "degraded"
    await hook.shutdown()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no shared memory folder")
async def test_the_folder_in_shared_memory_is_private() -> None:
    folder = Path(f"/dev/shm/vllm-enhance-test-{os.getpid()}")
    try:
        store = open_store(f"sqlite://{folder}/similar.db")
        await store.close()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.rmdir()
        folder.symlink_to("/tmp")
        with pytest.raises(ConfigurationError, match="somebody else"):
            open_store(f"sqlite://{folder}/similar.db")
    finally:
        folder.unlink(missing_ok=True) if folder.is_symlink() else None
        if folder.is_dir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def test_a_store_of_an_unknown_scheme() -> None:
    with pytest.raises(ConfigurationError, match=r"mongodb://.*installed: .*sqlite"):
        open_store("mongodb://x")


def test_separate_metrics_count_for_themselves_and_together() -> None:
    registry = prometheus_client.CollectorRegistry()
    first = Metrics(registry=registry)
    second = first.separate()
    first.count("vllm_enhance_saved_tokens", 2)
    second.count("vllm_enhance_saved_tokens", 3)
    assert (first.value("vllm_enhance_saved_tokens"), second.value("vllm_enhance_saved_tokens")) == (2, 3)
    assert registry.get_sample_value("vllm_enhance_saved_tokens_total") == 5
