"""The embedding model in ONNX Runtime: MiniLM converted for real, and what becomes of models that do not convert."""

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm_enhance_similarity import onnx_runtime
from vllm_enhance_similarity.embedder import BatchingEmbedder
from vllm_enhance_similarity.encoders import EmbedderIdentity, SentenceTransformerEncoder
from vllm_enhance_similarity.errors import EmbeddingBackendMissing, EmbeddingBackendRefused

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

QUESTIONS = (
    "How do I sort a list in Python?",
    "ok?",
    "虽然下雨，但是他还是去了，为什么？",
    "What did the committee decide about the second proposal after the long debate on costs and risks? " * 3,
)


def loaded(model: str, backend: str) -> tuple[SentenceTransformerEncoder, EmbedderIdentity]:
    encoder = SentenceTransformerEncoder(model, backend=backend)
    return encoder, encoder.load()


def cosines(one: SentenceTransformerEncoder, other: SentenceTransformerEncoder) -> Any:
    return (one.encode(QUESTIONS) * other.encode(QUESTIONS)).sum(axis=1)


@pytest.fixture(scope="module")
def torch_encoder(minilm: str) -> SentenceTransformerEncoder:
    return loaded(minilm, "torch")[0]


@pytest.fixture(scope="module")
def int8_encoder(minilm: str) -> SentenceTransformerEncoder:
    return loaded(minilm, "onnx-int8")[0]


def test_float32_gives_the_vectors_of_torch_and_shares_its_index(
    minilm: str, torch_encoder: SentenceTransformerEncoder
) -> None:
    encoder, identity = loaded(minilm, "onnx")
    assert identity.backend == "onnx"
    assert identity.digest == loaded(minilm, "torch")[1].digest
    np.testing.assert_allclose(encoder.encode(QUESTIONS), torch_encoder.encode(QUESTIONS), atol=1e-4)


class TestInt8:
    def test_vectors_are_near_those_of_torch(
        self, torch_encoder: SentenceTransformerEncoder, int8_encoder: SentenceTransformerEncoder
    ) -> None:
        rows = int8_encoder.encode(QUESTIONS)
        assert rows.shape == (len(QUESTIONS), 384)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
        assert cosines(torch_encoder, int8_encoder).min() > 0.97

    def test_a_vector_does_not_depend_on_its_batch(self, int8_encoder: SentenceTransformerEncoder) -> None:
        together = int8_encoder.encode(QUESTIONS)
        for question, row in zip(QUESTIONS, together, strict=True):
            np.testing.assert_array_equal(int8_encoder.encode([question])[0], row)

    def test_its_vectors_never_meet_others(self, minilm: str) -> None:
        assert loaded(minilm, "onnx-int8")[1].digest != loaded(minilm, "torch")[1].digest

    def test_too_long_is_still_refused(self, int8_encoder: SentenceTransformerEncoder) -> None:
        assert int8_encoder.fits("word " * 250)
        assert not int8_encoder.fits("word " * 260)

    def test_only_one_copy_of_the_weights_stays(self, int8_encoder: SentenceTransformerEncoder) -> None:
        assert {each.device.type for each in int8_encoder._model.parameters()} == {"meta"}

    def test_nothing_is_left_behind(
        self, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
    ) -> None:
        """No file, no handler on the root logger, no warning of exporter or quantizer in the server's log."""
        root = logging.getLogger()
        monkeypatch.setattr(root, "handlers", [])
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        loaded(minilm, "onnx-int8")
        assert root.handlers == []
        assert list(tmp_path.iterdir()) == []
        assert [str(each.message) for each in recwarn if "onnx" in each.filename] == []


def test_the_prompt_of_a_model_is_kept(minilm: str, tmp_path: Path, torch_encoder: SentenceTransformerEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(minilm, device="cpu", prompts={"query": "query: "}, default_prompt_name="query")
    model.save(str(tmp_path))
    with_prompt = loaded(str(tmp_path), "torch")[0]
    assert cosines(with_prompt, torch_encoder).min() < 0.99
    assert cosines(with_prompt, loaded(str(tmp_path), "onnx")[0]).min() > 0.9999


async def test_the_embedder_tells_what_runs_the_model(minilm: str) -> None:
    embedder = BatchingEmbedder(SentenceTransformerEncoder(minilm))
    embedder.start()
    try:
        assert embedder.wait_ready(60).backend == "onnx-int8"
        assert (await embedder.embed("How are you?", timeout=10)).vector is not None
    finally:
        embedder.close()


class TestFallback:
    def test_without_the_packages(self, minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        encoder, identity = loaded(minilm, "auto")
        assert identity.backend == "torch"
        assert encoder.encode(QUESTIONS).shape == (len(QUESTIONS), 384)
        with pytest.raises(
            EmbeddingBackendMissing, match=r"ONNX Runtime is not installed .*vllm-enhance\[similarity\]"
        ):
            loaded(minilm, "onnx")

    def test_rounding_that_moves_vectors_is_refused(self, minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(onnx_runtime._LEAST_COSINE, "int8", 0.99999)
        assert loaded(minilm, "auto")[1].backend == "onnx"
        with pytest.raises(EmbeddingBackendRefused, match=r"int8 \(a vector's cosine with the original was 0\.9"):
            loaded(minilm, "onnx-int8")

    def test_a_model_too_large_to_convert(self, minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_runtime, "_MOST_BYTES", 2**20)
        assert loaded(minilm, "auto")[1].backend == "torch"

    def test_another_device(self, minilm: str) -> None:
        with pytest.raises(EmbeddingBackendRefused, match="on the CPU only"):
            SentenceTransformerEncoder(minilm, backend="onnx", device="meta").load()

    def test_a_model_that_cannot_be_converted(
        self, tmp_path: Path, minilm: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A table of word vectors: its tokenizer gives one row of ids for all texts, and offsets."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        words = SentenceTransformer(minilm, device="cpu").tokenizer.backend_tokenizer
        SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=16)], device="cpu").save(str(tmp_path))
        encoder, identity = loaded(str(tmp_path), "auto")
        assert identity.backend == "torch"
        assert encoder.encode(QUESTIONS).shape == (len(QUESTIONS), 16)
        assert encoder.fits("word " * 9000)
        assert not encoder.fits("word " * 90_000)
        assert "graph" not in capfd.readouterr().out
        with pytest.raises(EmbeddingBackendRefused, match=r"cannot run this embedding model in int8 \(ValueError"):
            loaded(str(tmp_path), "onnx-int8")
