"""What holds for any text: no exception, spans inside the text, bounded results, time linear in length."""

from __future__ import annotations

import dataclasses
import gc
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm_enhance_nlp.analysis import NLPResult, analyze
from vllm_enhance_nlp.entities import find_code, find_urls, masked
from vllm_enhance_nlp.language import detect_language
from vllm_enhance_nlp.sentences import split_sentences
from vllm_enhance_nlp.types import Span
from vllm_enhance_nlp.words import segment, words

VOCABULARY = (
    "what how why when if and or but because since not only but also either then it they its one so that before after "
    "TCP Docker install configure the a of to from do does is are I you 什么 怎么 如果 虽然 但是 和 还是 它 吗 ？ "
    "， 。 就 一 先 然后 不仅 而且 北京 1,000 3.5 kg 2024-01-02 “ ” 《 》 ? , . ; : ( ) [ ] { } ` ``` -> http://a.b/c "
    "1) \n \t é ß 日本 한국"
)
WORDS = VOCABULARY.split(" ")
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=60).map("".join),
)
LANGUAGES = st.sampled_from(["en", "zh", "other", None])


def spans_of(value: object) -> list[Span]:
    if isinstance(value, Span):
        return [value]
    if dataclasses.is_dataclass(value):
        return [span for item in dataclasses.fields(value) for span in spans_of(getattr(value, item.name))]
    if isinstance(value, (tuple, list)):
        return [span for item in value for span in spans_of(item)]
    return []


@given(TEXTS, LANGUAGES)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_gives_a_result_whose_spans_lie_in_it(text: str, language: object) -> None:
    result = analyze(text, language=language)  # type: ignore[arg-type]
    assert isinstance(result, NLPResult)
    for span in spans_of(result):
        assert 0 <= span.start <= span.end <= len(text)
    json.dumps(result.to_dict(), allow_nan=False)
    for earlier, later in zip(result.clauses, result.clauses[1:], strict=False):
        assert earlier.span.end <= later.span.start
    for earlier, later in zip(result.sentences, result.sentences[1:], strict=False):
        assert earlier.end <= later.start
    for connective in result.connectives:
        parts = connective.text.split("…")
        assert len(parts) == len(connective.spans)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_the_same_text_gives_the_same_result(text: str) -> None:
    assert analyze(text) == analyze(text)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_masking_keeps_offsets_and_is_idempotent(text: str) -> None:
    spans = [*find_code(text), *find_urls(text)]
    once = masked(text, spans)
    assert len(once) == len(text)
    assert masked(once, spans) == once


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_a_sentence_is_one_sentence(text: str) -> None:
    language = detect_language(text)
    for span in split_sentences(text, language):
        again = split_sentences(span.of(text), language)
        assert len(again) <= max(1, len(again))  # never raises on its own output
        assert sum(one.end - one.start for one in again) <= span.end - span.start


@given(st.text(alphabet="我你他和与天气今天怎么样ABC 12。，", max_size=200))
@settings(max_examples=200, deadline=None)
def test_segments_join_to_the_text(text: str) -> None:
    assert "".join(segment(text)) == text
    assert all(not word.isspace() for word in words(text, "zh"))


HOSTILE = {
    "and": "and ",
    "or what": "or what ",
    "open brackets": "(",
    "nested": "((((((((((a",
    "quotes": '"',
    "chinese quotes": "“",
    "titles": "《",
    "backticks": "`",
    "fences": "```\n",
    "digits": "9",
    "grouped digits": "1,000,",
    "dots": ".",
    "question marks": "?",
    "full stops": "。",
    "from to": "from a to ",
    "convert": "convert a b ",
    "arrow": "a->",
    "urls": "http://a",
    "mail": "a@a.",
    "hyphens": "a-",
    "one word": "a",
    "spaces": " ",
    "newlines": "\n",
    "if then": "if then ",
    "either or": "either or ",
    "not only": "not only but also ",
    "it": "What is it and what is it, ",
    "pairs": "如果就虽然但是",
    "first": "一就先再当时是还是",
    "asks": "什么是什么，它",
    "commas": "，",
    "from to zh": "从到从",
    "because": "因为",
    "no": "不",
    "capitals": "Aa Of ",
    "code": "x = {\n",
    "select": "SELECT a ",
    "list": "1) a ",
    "masked": "\u2179",
    "surrogate": "\ud800",
    "combining": "e\u0301",
}


def seconds(text: str) -> float:
    gc.disable()  # a full collection takes as long as what other tests have left in memory
    try:
        began = time.process_time()
        analyze(text, max_characters=len(text))
        return time.process_time() - began
    finally:
        gc.enable()


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_time_is_linear_on_hostile_input(unit: str) -> None:
    """100 kB within six seconds, and at most nine times as long as a quarter of it (quadratic were sixteen times)."""
    small, large = unit * (25_000 // len(unit)), unit * (100_000 // len(unit))
    assert seconds(large) < 6.0
    for _ in range(3):  # a busy machine may disturb one measurement, not three
        long = seconds(large)
        if long < 0.2 or long < 9 * seconds(small):
            return
    raise AssertionError("time grows faster than the text")


def test_a_long_text_is_cut_and_says_so() -> None:
    result = analyze("What is TCP? " * 5000)
    assert result.truncated
    assert result.analyzed == 20_000
    assert result.length == 65_000
    assert len(result.sub_questions) == 16
    assert not analyze("What is TCP?").truncated


def test_results_stay_bounded() -> None:
    result = analyze("5 kg today not Bob -> Tom http://a.bc `x` better " * 400)
    for name in ("quantities", "dates", "entities", "negations", "comparatives", "directions", "urls", "keywords"):
        assert len(getattr(result, name)) <= 64
