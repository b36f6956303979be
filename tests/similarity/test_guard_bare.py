"""Questions without what people put around them, and written pairs of everyday questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_enhance_similarity.guards.bare import bare
from vllm_enhance_similarity.guards.compare import compare_texts

EVERYDAY = Path(__file__).parents[2] / "benchmarks" / "everyday.txt"

AROUND = [
    ("Hi, how can I reset my password? Thanks!", "how can I reset my password?"),
    ("Sorry to bother you, but how long do I boil corn?", "how long do I boil corn?"),
    ("I'd be grateful if you could tell me how to grow basil.", "how to grow basil."),
    ("Oh well, um, how do I fix a squeaky door?", "how do I fix a squeaky door?"),
    ("Okay so how do I roast chestnuts", "how do I roast chestnuts"),
    ("tell me please about tides", "about tides"),
    ("tell me about tides please", "about tides"),
    ("hi how do I change it", "how do I change it"),
    ("hello can you help me with my tax form?", "help me with my tax form?"),
    ("How do I reset my password please", "How do I reset my password"),
    ("Quick one: how do I change it?", "how do I change it?"),
    ("Could you tell me the capital of Peru, please?", "what is the capital of Peru?"),
    ("What is a hedge fund, anyway?", "What is a hedge fund?"),
    ("What is a cone? Thank you so much in advance.", "What is a cone?"),
    ("On a Mac, how do I take a screenshot?", "how do I take a screenshot on a Mac?"),
    ("When I sneeze why do my eyes close?", "why do my eyes close when I sneeze?"),
    ("请问一下，月球绕地球一圈要几天？", "月球绕地球一圈要几天？"),
    ("请写一首关于春天的诗，谢谢", "写一首关于春天的诗"),
    ("在吗？怎么还款呢？", "怎么还款？"),
    ("请问是否可以提现？", "是否可以提现？"),
]

LEFT_ALONE = [
    "hi", "thanks", "Thank you!", "Hello World program in C", "thank you for the music lyrics", "hi-fi systems",
    "er diagram of a bank", "right to repair laws", "well depth in Texas", "like water for chocolate author",
    "look up a word", "Can you freeze eggs?", "Would you rather fly?", "Explain tides", "In which city is the Louvre?",
    "When was it made, and why?", "Since when is Pluto no planet?", "On what day is Easter?", "谢谢", "你好",
    "How do you say thank you?", "how do I spell please", "who sings thank you", "hello in Spanish", "Sorry lyrics",
    "please in Korean", "well is an adverb", "what is the opposite of exactly", "One, two, three, what comes next?",
    "你好用日语怎么说", "请用英语怎么说", "用法语怎么说谢谢", "麻烦的近义词", "你找我干嘛",
    "look my location up on the map", "on the speaker do you know what song is on",
]  # fmt: skip


@pytest.mark.parametrize(("text", "question"), AROUND)
def test_what_stands_around_a_question_goes(text: str, question: str) -> None:
    assert bare(text) == question


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_is_the_question_itself_stays(text: str) -> None:
    assert bare(text) == text


@given(st.text(max_size=300))
def test_something_is_left_of_any_text(text: str) -> None:
    assert bare(text).strip() or not text.strip()


@pytest.mark.parametrize("part", ["hi ", "so, ", "thanks ", "in a, ", "how ", "请", "谢谢", "when i "])
def test_long_texts_take_no_quadratic_time(part: str) -> None:
    assert len(bare(part * 50_000)) <= 50_000 * len(part) + 20


def pairs(start: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Sections of the file whose names begin so."""
    for section in EVERYDAY.read_text("utf-8").split("\n[")[1:]:
        name, *lines = section.splitlines()
        if name.startswith(start):
            found = [line.split("|") for line in lines if line]
            yield name.strip("]"), [(one, other) for one, other in found]


@pytest.mark.parametrize(("kind", "same"), list(pairs("same_")), ids=lambda each: each if isinstance(each, str) else "")
def test_harmless_differences_raise_no_doubt(kind: str, same: list[tuple[str, str]]) -> None:
    """In a word that is spelt wrongly nothing tells what it should have been; "just" may mean "only"."""
    doubted = [pair for pair in same if compare_texts(*pair)]
    allowed = {"same_typo": 0.3, "same_filler": 0.15}.get(kind, 0.07)
    assert len(doubted) <= allowed * len(same), doubted


@pytest.mark.parametrize(
    ("kind", "different"), list(pairs("different_")), ids=lambda each: each if isinstance(each, str) else ""
)
def test_no_difference_that_counts_passes_unseen(kind: str, different: list[tuple[str, str]]) -> None:
    unseen = [pair for pair in different if not compare_texts(*pair)]
    assert not unseen
