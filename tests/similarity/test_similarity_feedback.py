"""What users say of similar answers, and what the policy has learned: taken here, known everywhere, kept."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from similarity_support import Peer, peer
from vllm_enhance_similarity.corrections import Correction, Corrections

from vllm_enhance.types import InvalidationScope, RequestContext

STORED = "How do I open a savings account?"
ASKED = "How can I open an account?"
NEAR_ASKED = "how can i open an account"
NEAR_STORED = "how do i open a savings account"


def unit(*values: float) -> np.ndarray:
    row = np.array(values, dtype=np.float32)
    return row / np.linalg.norm(row)


def correction(
    asked: int = 1, group: bytes = b"g", vector: np.ndarray | None = None, expires: float = 100.0
) -> Correction:
    row = unit(1.0, 1.0) if vector is None else vector
    return Correction(b"p", b"%d" % asked, group, row.tobytes(), expires)


# --------------------------------------------------------------------------- corrections


def test_an_answer_is_wrong_in_the_neighbourhood_of_the_mark_only() -> None:
    corrections = Corrections()
    assert corrections.add(correction())
    assert not corrections.add(correction())
    stored, near_mark, near_stored = unit(1.0, 0.0), unit(1.0, 0.9), unit(1.0, 0.1)
    for question, wrong in ((near_mark, True), (near_stored, False), (unit(1.0, 1.0), True), (stored, False)):
        assert corrections.object_to(b"p", b"g", question, float(question @ stored), 0.0) is wrong
    assert not corrections.object_to(b"p", b"other", near_mark, 0.1, 0.0)
    assert not corrections.object_to(b"q", b"g", near_mark, 0.1, 0.0), "another partition"
    assert not corrections.object_to(b"p", b"g", near_mark, 0.1, 100.0), "its time is over"
    assert not corrections.object_to(b"p", b"g", unit(1.0, 1.0, 1.0), 0.1, 0.0), "another embedding model"
    assert corrections.pins(b"p", b"1", 0.0)
    assert not corrections.pins(b"p", b"1", 100.0)
    assert corrections.withdraw(b"p", b"1", b"g")
    assert not corrections.withdraw(b"p", b"1", b"g")
    assert not corrections.pins(b"p", b"1", 0.0)
    assert len(corrections) == 0


def test_corrections_are_bounded_and_survive() -> None:
    corrections = Corrections(limit=50, per_answer=4)
    for number in range(200):
        corrections.add(correction(number, b"%d" % (number % 100)))
    assert len(corrections) == 50
    for number in range(20):
        corrections.add(correction(number, b"one"))
    assert sum(corrections.pins(b"p", b"%d" % number, 0.0) for number in range(16, 20)) == 4
    copy = Corrections()
    assert copy.load(corrections.dump())
    assert copy.dump() == corrections.dump()
    assert not copy.load(b"garbage")
    assert not copy.load(b"\x91\x95\xc4\x01p\xc4\x01a\xc4\x01g\xc4\x03abc\xcb\x40\x59\x00\x00\x00\x00\x00\x00")
    corrections.expire(100.0)
    assert len(corrections) == 0
    assert corrections.dump() == Corrections().dump()


# --------------------------------------------------------------------------- feedback


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/store.db"


async def hit(here: Peer) -> RequestContext:
    """A similar answer that is served."""
    request, answer = await here.serve(ASKED)
    assert answer == "Like this.", (request.notes, answer)
    return request


async def test_a_wrong_similar_answer_is_not_reused_for_its_neighbourhood_anywhere(minilm: str, url: str) -> None:
    async with peer(minilm, url, similarity_threshold=0.6) as one, peer(minilm, url, similarity_threshold=0.6) as two:
        await one.generate(STORED, "Like this.")
        await two.gets(ASKED, "Like this.")
        request = await hit(two)
        assert await two.mark(request, "wrong") == 1
        assert await two.mark(request, "wrong") == 0, "no news"
        for here in (two, one):
            await here.gets(ASKED, None)
            await here.gets(NEAR_ASKED, None)
        refused = one.request(NEAR_ASKED)
        await one.look_up(refused)
        assert ("similarity", "miss: guard") in refused.notes
        assert await one.ask(NEAR_STORED) == "Like this.", "the stored question keeps its answer"
        assert two.metrics.value("vllm_enhance_similarity_feedback", "wrong", "learned") == 1
        async with peer(minilm, url, similarity_threshold=0.6) as late:
            await late.wait(lambda: late.hook.stats()["corrections"] == 1)
            await late.wait(lambda: late.hook.stats()["index"]["entries"] == 1)
            assert await late.ask(NEAR_ASKED) is None
        await two.generate(ASKED, "Like that.")
        await one.gets(NEAR_ASKED, "Like that.")


async def test_the_bounded_policy_learns_from_it_without_counting_it_as_an_audit(minilm: str, url: str) -> None:
    options = {"similarity_policy": "bounded", "similarity_judge": "equal", "similarity_audit_share": 0.0}
    async with peer(minilm, url, **options) as one:
        await one.generate(STORED, "Like this.")
        request, answer = await one.serve(STORED + " ")
        assert answer == "Like this."
        before = one.hook.stats()["policy"]
        assert await one.mark(request, "right") == 1
        assert one.hook.stats()["policy"]["labels"] == before["labels"] + 1
        assert await one.mark(request, "wrong") == 1, "somebody else sees it otherwise"
        after = one.hook.stats()["policy"]
        assert after["labels"] == before["labels"] + 2
        assert after["audits"] == before["audits"]
        assert one.hook.stats()["corrections"] == 1
        assert await one.mark(request, "right") == 1
        assert one.hook.stats()["corrections"] == 0


async def test_feedback_at_a_process_that_did_not_serve_reaches_the_one_that_did(minilm: str, url: str) -> None:
    async with peer(minilm, url, similarity_threshold=0.6) as one, peer(minilm, url, similarity_threshold=0.6) as two:
        await one.generate(STORED, "Like this.")
        request = await hit(one)
        assert await two.mark(request, "wrong") == 0
        assert two.metrics.value("vllm_enhance_similarity_feedback", "wrong", "unknown") == 1
        for here in (one, two):
            await here.wait(lambda here=here: here.hook.stats()["corrections"] == 1)
            assert await here.ask(NEAR_ASKED) is None


async def test_processes_of_one_host_without_a_store_share_what_to_forget_and_what_was_wrong(
    minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def process(index: int) -> Any:
        return peer(minilm, "memory://", api_process=(index, 2), similarity_threshold=0.6)

    async with process(0) as one, process(1) as two:
        assert "on this host" in one.hook.health()[0].detail
        for here in (one, two):
            await here.generate(STORED, "Like this.")
        request = await hit(one)
        assert await one.mark(request, "wrong") == 1
        await two.gets(NEAR_ASKED, None)
        assert await two.ask(NEAR_STORED) == "Like this."
        await one.generate("Who wrote Emma?", "Austen.")
        assert await one.mark(request, "right") == 1
        await two.gets(NEAR_ASKED, "Like this.")  # what was said later has arrived
        assert await two.ask("Who wrote Emma?") is None, "answers stay in the process"
        await one.forget(InvalidationScope("all"))
        await two.gets(NEAR_STORED, None)


async def test_corrections_survive_a_restart_without_a_store(minilm: str, tmp_path: Path) -> None:
    options = {"similarity_dir": str(tmp_path), "similarity_threshold": 0.6, "joins": False}
    async with peer(minilm, "memory://", **options) as one:
        await one.generate(STORED, "Like this.")
        request = await hit(one)
        assert await one.mark(request, "wrong") == 1
    async with peer(minilm, "memory://", **options) as again:
        assert again.hook.stats()["corrections"] == 1
        assert again.hook.stats()["index"]["entries"] == 1
        assert await again.ask(NEAR_ASKED) is None


@pytest.mark.parametrize("verdict", ["wrong", "right", "nonsense"])
async def test_feedback_on_what_was_no_similar_answer_changes_nothing(minilm: str, url: str, verdict: str) -> None:
    async with peer(minilm, url) as one:
        request = await one.generate(STORED, "Like this.")
        assert request.key is not None
        assert await one.hook.feedback(request.key, verdict) == 0
        assert await one.ask(STORED) == "Like this."


# --------------------------------------------------------------------------- what the policy has learned


async def learn(here: Peer, count: int) -> None:
    for number in range(count):
        name = chr(97 + number % 26) + chr(97 + number // 26)
        await here.generate(f"How do I grow tomatoes, friend {name}?", "Water them.")


async def test_lessons_are_shared_and_kept_without_being_counted_twice(minilm: str, url: str, tmp_path: Path) -> None:
    options = {"similarity_policy": "bounded", "similarity_judge": "equal", "similarity_save_every": 1.0}

    def policy(here: Peer) -> dict[str, float]:
        return here.hook.stats()["policy"]  # type: ignore[no-any-return]

    async with peer(minilm, url, **options) as one, peer(minilm, url, **options) as two:
        await learn(one, 16)
        labels = policy(one)["labels"]
        assert labels >= 10
        await two.wait(lambda: policy(two)["peer_labels"] == labels)
        places = {here.hook.stats()["shared"]["policy_place"] for here in (one, two)}
        assert places == {0, 1}
    kept = options | {"similarity_dir": str(tmp_path / "d")}
    async with peer(minilm, url, **options) as one, peer(minilm, url, **kept) as two:
        for here in (one, two):
            await here.wait(lambda here=here: policy(here)["labels"] + policy(here)["peer_labels"] == labels)
        await asyncio.sleep(1.5)
        for here in (one, two):
            assert policy(here)["labels"] + policy(here)["peer_labels"] == labels, "each lesson once"
    async with peer(minilm, url, **kept) as back:
        await back.wait(lambda: policy(back)["labels"] + policy(back)["peer_labels"] == labels)


async def test_a_process_that_has_learned_alone_keeps_it_when_the_store_comes(minilm: str, url: str) -> None:
    options = {"similarity_policy": "bounded", "similarity_judge": "equal", "similarity_save_every": 1.0}
    async with peer(minilm, url, **options) as one:
        await learn(one, 6)
        other = one.hook.stats()["policy"]["labels"]
    async with peer(minilm, "memory://", joins=False, **options) as alone:
        await learn(alone, 4)
        own = alone.hook.stats()["policy"]["labels"]
        async with peer(minilm, url, **options) as holder:
            # As when the cache hook's store becomes reachable late.
            context = alone.context
            context.shared = holder.cache._shared.log
            await alone.wait(lambda: alone.hook.stats()["shared"] is not None)
            await alone.wait(lambda: alone.hook.stats()["policy"]["peer_labels"] == other)
            assert alone.hook.stats()["policy"]["labels"] == own
            started = time.monotonic()
            await holder.wait(lambda: holder.hook.stats()["policy"]["labels"] == other)
            assert time.monotonic() - started < 30
