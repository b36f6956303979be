"""Numbers, dates, names, negation, comparison, direction, code, addresses, language, question type."""

from __future__ import annotations

import pytest
from vllm_enhance_nlp.analysis import analyze
from vllm_enhance_nlp.entities import find_code, find_urls
from vllm_enhance_nlp.language import detect_language
from vllm_enhance_nlp.quantities import find_dates, find_quantities
from vllm_enhance_nlp.signals import find_directions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 kg", [(5.0, "kg")]),
        ("1,250.5 km at 30%", [(1250.5, "km"), (30.0, "%")]),
        ("$3 million", [(3e6, "usd")]),
        ("twenty-five minutes", [(25.0, "min")]),
        ("-40 °C", [(-40.0, "°C")]),
        ("三十五公里", [(35.0, "km")]),
        ("两万元", [(20000.0, "cny")]),
        ("3.5公斤", [(3.5, "kg")]),
        ("which one is it", []),
    ],
)
def test_quantities(text: str, expected: list[tuple[float, str]]) -> None:
    assert [(one.value, one.unit) for one in find_quantities(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("between 3 March 2024 and 2024-06-17", [("3 March 2024", False), ("2024-06-17", False)]),
        ("the latest release", [("latest", True)]),
        ("2023年5月1日的天气", [("2023年5月1日", False)]),
        ("现在几点", [("现在", True)]),
        ("since 1999", [("1999", False)]),
        ("route 12345", []),
    ],
)
def test_dates(text: str, expected: list[tuple[str, bool]]) -> None:
    assert [(one.text, one.relative) for one in find_dates(text)] == expected


def test_relative_time_is_told() -> None:
    assert analyze("What is the weather today?").relative_time
    assert analyze("最新版本是多少？").relative_time
    assert not analyze("What is TCP?").relative_time


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("How far is it from Berlin to Munich by train?", "en", ("Berlin", "Munich")),
        ("Convert miles to kilometres", "en", ("miles", "kilometres")),
        ("utf8 -> latin1", "en", ("utf8", "latin1")),
        ("从北京到上海坐高铁要多久", "zh", ("北京", "上海")),
        ("把英文翻译成中文", "zh", ("英文", "中文")),
    ],
)
def test_directions(text: str, language: object, expected: tuple[str, str]) -> None:
    (direction,) = find_directions(text, language)  # type: ignore[arg-type]
    assert (direction.source, direction.target) == expected


def test_a_reversed_direction_differs() -> None:
    there, back = analyze("How do I get from Rome to Naples?"), analyze("How do I get from Naples to Rome?")
    assert there.directions[0].source == back.directions[0].target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Why doesn't it start?", ["doesn't"]),
        ("I can not and will never pay.", ["not", "never"]),
        ("为什么不能登录", ["不能"]),
        ("是不是要换", []),
        ("非常好，不过有点贵", []),
    ],
)
def test_negations(text: str, expected: list[str]) -> None:
    assert [span.of(text) for span in analyze(text).negations] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is green tea healthier than black tea?", ["healthier", "than"]),
        ("What is the tallest tower?", ["tallest"]),
        ("Where is my computer server?", []),
        ("哪个比较便宜", ["比较"]),
    ],
)
def test_comparatives(text: str, expected: list[str]) -> None:
    assert [span.of(text) for span in analyze(text).comparatives] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who wrote Romeo and Juliet in New York?", ["Romeo", "Juliet", "New York"]),
        ("Does GPT-4 beat BERT?", ["GPT-4", "BERT"]),
        ("《三体》和Docker有什么关系，北京呢？", ["三体", "Docker", "北京"]),
        ("How are you?", []),
    ],
)
def test_entities(text: str, expected: list[str]) -> None:
    assert [one.text for one in analyze(text).entities] == expected


def test_code_and_urls() -> None:
    text = "Run `ls -l` and\n```\nif a and b: pass\n```\nthen see https://a.org/x?y=1."
    assert [span.of(text) for span in find_code(text)] == ["`ls -l`", "```\nif a and b: pass\n```"]
    assert [span.of(text) for span in find_urls(text)] == ["https://a.org/x?y=1"]
    assert find_code("What is the price of tea in 2024 (in dollars)?") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is TCP?", "en"),
        ("什么是TCP", "zh"),
        ("Docker", "en"),
        ("Wie geht es dir und was ist das?", "other"),
        ("¿Qué es la inflación y por qué sube?", "other"),
        ("これは何ですか", "other"),
        ("무엇입니까", "other"),
        ("", "other"),
        ("12345", "other"),
    ],
)
def test_language(text: str, expected: str) -> None:
    assert detect_language(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How many bones are there?", "quantity"),
        ("How does it work?", "how"),
        ("Is it safe?", "yes_no"),
        ("Is it tea or coffee?", "choice"),
        ("Write a poem.", "request"),
        ("It rained.", "none"),
        ("Why is it blue?", "why"),
        ("为什么下雨", "why"),
        ("多少钱", "quantity"),
        ("谁写的", "who"),
        ("能退吗", "yes_no"),
        ("写一首诗", "request"),
        ("他走了。", "none"),
    ],
)
def test_question_type(text: str, expected: str) -> None:
    assert analyze(text).question_type == expected
