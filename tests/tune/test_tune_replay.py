"""The replay's shortcut for thresholds changes no decision."""

from __future__ import annotations

import random

import numpy as np
import pytest
from vllm_enhance_similarity.tune.neighbours import Neighbourhood, find_neighbours
from vllm_enhance_similarity.tune.replay import Findings, replay
from vllm_enhance_similarity.tune.sweep import FLOOR, THRESHOLDS, Setting
from vllm_enhance_similarity.tune.traffic import Traffic

WORDS = ("open", "close", "five", "seven", "account", "Berlin", "Paris", "not", "my", "the", "fast", "card")


@pytest.fixture(scope="module")
def crowd() -> tuple[Traffic, Neighbourhood]:
    """400 questions of few words in few places: many neighbours, and guards of all kinds speak against some."""
    rng, numbers = random.Random(3), np.random.default_rng(3)
    traffic = Traffic()
    while len(traffic.texts) < 400:
        text = "how do I " + " ".join(rng.sample(WORDS, rng.randint(3, 5)))
        traffic.asked.append(traffic.number(text, "", None))
        traffic.lines += 1
    places = numbers.standard_normal((len(WORDS), 16))
    vectors = np.array(
        [np.sum([places[WORDS.index(word)] for word in text.split()[3:]], axis=0) for text in traffic.texts]
    )
    vectors += 0.15 * numbers.standard_normal(vectors.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    order = list(dict.fromkeys(traffic.asked))
    return traffic, find_neighbours(vectors, traffic.partitions, order, 24)


@pytest.mark.parametrize("value", THRESHOLDS)
def test_looking_no_further_than_the_first_free_neighbour_decides_the_same(
    crowd: tuple[Traffic, Neighbourhood], value: float
) -> None:
    traffic, near = crowd
    setting = Setting("threshold", value)
    full = replay(traffic, near, setting.make(), Findings(traffic), floor=FLOOR)
    asked = Findings(traffic)
    short = replay(traffic, near, setting.make(), asked, floor=value, nearest_wins=True)
    assert short.hits == full.hits
    assert (short.requests, short.exact) == (full.requests, full.exact)
    if value == FLOOR:
        assert len(full.hits) > 50  # and it is no trivial stream
        assert short.refused == full.refused
        assert np.array_equal(short.nearest, full.nearest)
        assert any(vetoes for vetoes, _ in asked.known.values())
        assert any(hints for vetoes, hints in asked.known.values() if not vetoes)
