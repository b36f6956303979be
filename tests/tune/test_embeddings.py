"""Embeddings in files, with the real MiniLM: made once, found again, added to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from vllm_enhance_similarity.tune.embeddings import embed_traffic
from vllm_enhance_similarity.tune.traffic import Traffic, read_traffic

from vllm_enhance.errors import ConfigurationError


def traffic(folder: Path, *texts: str) -> Traffic:
    log = folder / "log.jsonl"
    log.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return read_traffic([log])


def made(given: Traffic, model: str, file: Path) -> tuple[np.ndarray, list[int]]:
    done: list[int] = []
    vectors, _ = embed_traffic(given, model, file, lambda so_far, of: done.append(so_far))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    return vectors, done


def test_a_log_that_grows_is_embedded_once(minilm: str, tmp_path: Path) -> None:
    file = tmp_path / "v.npz"
    first, done = made(traffic(tmp_path, "what is tcp", "who wrote emma", "what is tcp"), minilm, file)
    assert (first.shape, done) == ((2, 384), [2])
    more, done = made(traffic(tmp_path, "what is udp", "who wrote emma"), minilm, file)
    assert done == [1]
    assert np.allclose(more[1], first[1], atol=1e-5)
    again, done = made(traffic(tmp_path, "who wrote emma", "what is tcp", "what is udp"), "", file)  # no model needed
    assert done == []
    assert np.allclose(again, np.stack([first[1], first[0], more[0]]), atol=1e-5)


def test_one_row_for_each_request_repeats_included(minilm: str, tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    given = traffic(tmp_path, "what is tcp", "who wrote emma", "what is tcp")
    vectors, _ = made(given, minilm, file)
    assert np.load(file).shape == (3, 384)
    assert np.allclose(made(given, "", file)[0], vectors, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "model", "problem"),
    [
        ("v.npz", None, "", "is wanted"),
        ("v.npz", b"no archive", "", "holds no embeddings"),
        ("v.npy", b"no array", "", "holds no embeddings"),
        ("v.npz", "made by another", "here/other-model", "of some-model, not of here/other-model"),
    ],
)
def test_files_that_do_not_fit_are_told(
    tmp_path: Path, name: str, content: bytes | str | None, model: str, problem: str
) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        np.savez(file, digests=np.zeros((1, 16), np.uint8), vectors=np.zeros((1, 3)), model=np.array("some-model"))
    with pytest.raises(ConfigurationError, match=problem):
        embed_traffic(traffic(tmp_path, "what is tcp"), model, file, lambda done, of: None)


def test_pairs_have_no_row_of_their_own(minilm: str, tmp_path: Path) -> None:
    log = tmp_path / "pairs.jsonl"
    log.write_text('{"a": "x", "b": "y", "same": 1}\n')
    with pytest.raises(ConfigurationError, match="npz"):
        embed_traffic(read_traffic([log]), minilm, tmp_path / "v.npy", lambda done, of: None)
    vectors, _ = made(read_traffic([log]), minilm, tmp_path / "v.npz")
    assert len(vectors) == 2
