from __future__ import annotations

import numpy as np
import pytest
from vllm_enhance_similarity.tune import neighbours
from vllm_enhance_similarity.tune.neighbours import find_neighbours


def unit(n: int, seed: int = 0, dimension: int = 24) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(vectors: np.ndarray, partitions: list[int], text: int, k: int) -> list[int]:
    earlier = [other for other in range(text) if partitions[other] == partitions[text]]
    return sorted(earlier, key=lambda other: -float(vectors[text] @ vectors[other]))[:k]


@pytest.mark.parametrize("exact_up_to", [10**6, 100])
def test_nearest_earlier_texts_of_the_same_partition(exact_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", exact_up_to)
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    vectors, partitions = unit(600), [i % 2 for i in range(600)]
    done: list[int] = []
    near = find_neighbours(vectors, partitions, range(600), 5, progress=done.append)
    assert sum(done) == 600
    wanted = found = 0
    for text in range(600):
        mine, true = [i for i in near.ids[text].tolist() if i >= 0], by_hand(vectors, partitions, text, 5)
        assert len(mine) == len(true)
        assert all(partitions[i] == partitions[text] and i < text for i in mine)
        assert (np.diff(near.similarities[text]) <= 1e-6).all()
        wanted, found = wanted + len(true), found + len(set(mine) & set(true))
    assert found == wanted if exact_up_to > 600 else found / wanted > 0.98


def test_similarities_belong_to_their_ids() -> None:
    vectors = unit(50, 3)
    near = find_neighbours(vectors, [0] * 50, range(50), 3)
    for text in range(3, 50):
        for other, similarity in zip(near.ids[text], near.similarities[text], strict=True):
            assert similarity == pytest.approx(float(vectors[text] @ vectors[other]), abs=1e-5)
    assert near.ids[0].tolist() == [-1, -1, -1]
