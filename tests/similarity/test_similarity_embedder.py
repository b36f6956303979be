"""The embedder: batching, memo, refusals, deadlines, faults; and the real MiniLM."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from vllm_enhance_similarity.embedder import BatchingEmbedder, Embedding
from vllm_enhance_similarity.encoders import EmbedderIdentity, SentenceTransformerEncoder
from vllm_enhance_similarity.errors import EmbedderClosed, EmbedderError, EmbeddingModelUnavailable


class CountingEncoder:
    """A real encoder of a simple kind: letters counted. It can be held at a gate."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def load(self) -> EmbedderIdentity:
        return EmbedderIdentity("letters", "l1", 26, 100)

    def fits(self, text: str) -> bool:
        return len(text) <= 100

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.gate.wait(5)
        self.batches.append(list(texts))
        if "explode" in texts:
            raise RuntimeError("no such letter")
        rows = np.array([[1.0 + text.count(chr(97 + at)) for at in range(26)] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


@pytest.fixture
def embedder(encoder: CountingEncoder) -> Iterator[BatchingEmbedder]:
    made = BatchingEmbedder(encoder, max_batch=8, max_queue=4, memo_entries=2)
    made.start()
    made.wait_ready(5)
    yield made
    made.close()


async def test_embeds_and_remembers(embedder: BatchingEmbedder, encoder: CountingEncoder) -> None:
    first, second = await embedder.embed("hello"), await embedder.embed("hello")
    assert first.vector is not None
    assert second.vector is not None
    np.testing.assert_array_equal(first.vector, second.vector)
    assert np.linalg.norm(first.vector) == pytest.approx(1.0, abs=1e-6)
    assert len(encoder.batches) == 1
    assert embedder.health().memo_hits == 1
    await embedder.embed("a")
    await embedder.embed("b")
    await embedder.embed("hello")  # the memo holds two
    assert len(encoder.batches) == 4


async def test_what_waits_is_encoded_in_one_batch(embedder: BatchingEmbedder, encoder: CountingEncoder) -> None:
    encoder.gate.clear()
    tasks = [asyncio.create_task(embedder.embed("first"))]
    await asyncio.sleep(0.05)
    tasks += [asyncio.create_task(embedder.embed(f"text {at}")) for at in range(4)]
    await asyncio.sleep(0.05)
    encoder.gate.set()
    assert all(one.vector is not None for one in await asyncio.gather(*tasks))
    assert [len(batch) for batch in encoder.batches] == [1, 4]


async def test_a_full_queue_refuses(embedder: BatchingEmbedder, encoder: CountingEncoder) -> None:
    encoder.gate.clear()
    tasks = [asyncio.create_task(embedder.embed("first"))]
    await asyncio.sleep(0.05)
    tasks += [asyncio.create_task(embedder.embed(f"text {at}")) for at in range(6)]
    await asyncio.sleep(0.05)
    encoder.gate.set()
    refusals = [one.refusal for one in await asyncio.gather(*tasks)]
    assert refusals.count("embedder_busy") == 2
    assert embedder.health().refused == {"embedder_busy": 2}


async def test_the_late_and_the_cancelled_are_not_encoded(embedder: BatchingEmbedder, encoder: CountingEncoder) -> None:
    encoder.gate.clear()
    first = asyncio.create_task(embedder.embed("first"))
    await asyncio.sleep(0.05)
    late = asyncio.create_task(embedder.embed("late", timeout=0.02))
    cancelled = asyncio.create_task(embedder.embed("cancelled"))
    await asyncio.sleep(0.1)
    cancelled.cancel()
    await asyncio.sleep(0.01)  # it takes a turn of the loop or two to reach the embedder
    assert (await late).refusal == "embedder_deadline"
    encoder.gate.set()
    await first
    await embedder.embed("after")
    assert encoder.batches == [["first"], ["after"]]


async def test_with_more_than_it_can_encode_it_serves_as_many_as_it_can() -> None:
    class Slow(CountingEncoder):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            time.sleep(0.02 * len(texts))
            return super().encode(texts)

    made = BatchingEmbedder(Slow(), max_batch=32, max_queue=256)
    made.start()
    made.wait_ready(5)
    tasks: list[asyncio.Task[Embedding]] = []
    for at in range(200):  # 100 a second, twice what it can encode
        tasks.append(asyncio.create_task(made.embed(f"text {at}", timeout=0.5)))
        await asyncio.sleep(0.01)
    served = [each.vector is not None for each in await asyncio.gather(*tasks)]
    made.close()
    assert sum(served[100:]) >= 25, "of the fifty that can be, also when the queue has long been full"


async def test_one_slow_call_does_not_stop_it(embedder: BatchingEmbedder, encoder: CountingEncoder) -> None:
    encoder.gate.clear()
    slow = asyncio.create_task(embedder.embed("slow"))
    await asyncio.sleep(1.0)
    encoder.gate.set()
    assert (await slow).vector is not None
    tries = [(await embedder.embed(f"next {at}", timeout=0.2)).vector is not None for at in range(8)]
    assert tries[-1], tries


async def test_refusals(embedder: BatchingEmbedder) -> None:
    assert (await embedder.embed("  \n")).refusal == "empty_text"
    assert (await embedder.embed("x" * 101)).refusal == "text_too_long"
    assert (await embedder.embed("\ud800 lone surrogate")).vector is not None


async def test_a_fault_of_the_model_costs_one_batch(embedder: BatchingEmbedder) -> None:
    assert (await embedder.embed("explode")).refusal == "embedder_unavailable"
    assert (await embedder.embed("fine")).vector is not None


async def test_after_close(embedder: BatchingEmbedder) -> None:
    embedder.close()
    embedder.close()
    with pytest.raises(EmbedderClosed):
        await embedder.embed("text")
    assert embedder.health().state == "closed"


async def test_a_missing_model_is_a_sentence_not_a_crash(tmp_path: Path) -> None:
    embedder = BatchingEmbedder(SentenceTransformerEncoder(str(tmp_path / "nowhere")))
    embedder.start()
    with pytest.raises(EmbedderError, match=r"similarity is off: .*could not be loaded"):
        await asyncio.to_thread(embedder.wait_ready, 60)
    assert embedder.health().state == "failed"
    assert (await embedder.embed("text")).refusal == "embedder_unavailable"
    embedder.close()


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EmbeddingModelUnavailable):
        SentenceTransformerEncoder(str(tmp_path)).load()


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="auto, onnx-int8, onnx, torch"):
        SentenceTransformerEncoder("x", backend="tensorflow")


@pytest.fixture(scope="module")
def real_encoder(minilm: str) -> SentenceTransformerEncoder:
    made = SentenceTransformerEncoder(minilm)
    made.load()
    return made


class TestMiniLM:
    """The real model, carried by a package; loading takes seconds."""

    def test_unit_vectors_and_sense(self, real_encoder: SentenceTransformerEncoder) -> None:
        rows = real_encoder.encode(["How do I sort a list?", "Sorting a list, how?", "What do pandas eat?"])
        assert rows.shape == (3, 384)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
        assert rows[0] @ rows[1] > 0.8 > 0.5 > rows[0] @ rows[2]

    def test_what_would_be_cut_is_refused(self, real_encoder: SentenceTransformerEncoder) -> None:
        assert real_encoder.fits("word " * 250)
        assert not real_encoder.fits("word " * 260)
        assert not real_encoder.fits("很" * 300)
        assert not real_encoder.fits("x" * 1_000_000)

    def test_identity_is_of_the_weights_not_of_the_path(self, minilm: str, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").symlink_to(minilm)
        one = SentenceTransformerEncoder(minilm).load()
        other = SentenceTransformerEncoder(str(tmp_path / "elsewhere")).load()
        assert one.digest == other.digest
        assert "/" not in one.name


def test_importing_the_hook_is_cheap() -> None:
    import subprocess
    import sys

    script = (
        "import sys, vllm_enhance_similarity.plugin as p; p.SimilarityHook().declare_settings();"
        "print([m for m in ('numpy', 'torch', 'hnswlib', 'sentence_transformers', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert importlib.util.find_spec("hnswlib") is not None
