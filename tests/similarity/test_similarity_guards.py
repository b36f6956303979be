"""The guards: what must be refused, what must pass; English and Chinese."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from vllm_enhance_similarity.guards.compare import GUARDS, compare_texts
from vllm_enhance_similarity.guards.facts import read_facts
from vllm_enhance_similarity.guards.freshness import is_time_bound
from vllm_enhance_similarity.guards.numbers import read_numbers

REFUSED = [
    ("number", "top 5 films of 2010", "top 5 films of 2011"),
    ("number", "a loan of twenty thousand", "a loan of thirty thousand"),
    ("number", "贷款20万利息多少", "贷款30万利息多少"),
    ("number", "第二次世界大战的原因", "第三次世界大战的原因"),
    ("unit", "how far is 5 km", "how far is 5 miles"),
    ("unit", "the weight in kilograms", "the weight in pounds"),
    ("negation", "can I return it", "can I not return it"),
    ("negation", "can I leave without paying", "can I not leave without paying"),
    ("negation", "为什么能借款", "为什么不能借款"),
    ("antonym", "how to open an account", "how to close an account"),
    ("antonym", "is coffee healthy", "is coffee unhealthy"),
    ("antonym", "怎么开通免密支付", "怎么关闭免密支付"),
    ("antonym", "如何绑定银行卡", "如何解绑银行卡"),
    ("language", "translate water into French", "translate water into German"),
    ("direction", "convert USD to EUR", "convert EUR to USD"),
    ("direction", "does smoking cause stress", "does stress cause smoking"),
    ("direction", "从北京到上海多远", "从上海到北京多远"),
    ("direction", "猫比狗聪明吗", "狗比猫聪明吗"),
    ("question_type", "who invented the telephone", "when was the telephone invented"),
    ("question_type", "how is sugar made", "why is sugar made"),
    ("questions", "What is a lighthouse and when was the lighthouse invented?", "When was the lighthouse invented?"),
    ("questions", "什么是人工智能，它有哪些应用？", "什么是人工智能？"),
    ("question_type", "怎么学编程", "为什么学编程"),
    ("language", "what is artificial intelligence", "什么是人工智能"),
    ("language", "what is the capital of Norway", "Was ist die Hauptstadt von Norwegen"),
    ("code", "what does `sorted(x)` do", "what does `reversed(x)` do"),
    ("link", "summarise https://example.com/a", "summarise https://example.com/b"),
]
HINTED = [
    ("entity", "who is the president of France", "who is the president of Spain"),
    ("entity", "when was Alice Munro born", "when was Bob Dylan born"),
    ("substitution", "how do I cook rice", "how do I cook lentils"),
    ("substitution", "张伟是谁", "王芳是谁"),
    ("entity_extra", "how do I export contacts", "how do I export contacts from Outlook"),
]
HARMLESS = [
    ("how do I learn to swim?", "How do I learn to swim"),
    ("What's the capital of Peru?", "What is the capital of Peru?"),
    ("I don't know how to cook rice", "I do not know how to cook rice"),
    ("how many miles in 5 km", "how many miles in five km"),
    ("costs 1,000 dollars", "costs 1000 dollars"),
    ("In Python, how do I sort a list?", "How do I sort a list in Python?"),
    ("difference between cats and dogs", "difference between dogs and cats"),
    ("how do I lose weight", "how do I lose wieght"),
    ("whether or not to buy", "whether to buy"),
    ("please tell me how to bake bread", "how to bake bread"),
    ("how tall is the tower", "what is the height of the tower"),
    ("贷款20万利息多少", "贷款二十万利息多少"),
    ("3个人去旅游要多少钱", "三个人去旅游要多少钱"),
    ("如何学习英语", "你好，如何学习英语"),
    ("怎么还款", "请问怎么还款？"),
]


@pytest.mark.parametrize(("guard", "asked", "stored"), REFUSED)
def test_vetoes_both_ways(guard: str, asked: str, stored: str) -> None:
    for one, other in ((asked, stored), (stored, asked)):
        assert guard in {found.guard for found in compare_texts(one, other) if found.strength == "veto"}


@pytest.mark.parametrize(("guard", "asked", "stored"), HINTED)
def test_hints_both_ways(guard: str, asked: str, stored: str) -> None:
    for one, other in ((asked, stored), (stored, asked)):
        assert guard in {found.guard for found in compare_texts(one, other) if found.strength == "hint"}


@pytest.mark.parametrize(("asked", "stored"), HARMLESS)
def test_harmless_edits_pass(asked: str, stored: str) -> None:
    assert compare_texts(asked, stored) == ()


@pytest.mark.parametrize(
    "text", ["what's the weather today", "latest news", "Who is currently leading?", "现在几点", "最新的政策"]
)
def test_time_bound(text: str) -> None:
    assert is_time_bound(text)


@pytest.mark.parametrize("text", ["how do I know", "what is a nowcast", "when was Rome founded", "唐朝是哪年建立的"])
def test_not_time_bound(text: str) -> None:
    assert not is_time_bound(text)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("one hundred and five", {"100", "5"}),
        ("two thousand three hundred", {"2300"}),
        ("one of them", set()),
        ("the 3rd", {"#3"}),
        ("version 3.10.1", {"3.10.1"}),
        ("at 10:30", {"10:30"}),
        ("2.50 euros", {"2.5"}),
    ],
)
def test_numbers(text: str, numbers: set[str]) -> None:
    assert read_facts(text).numbers == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("二〇二四年", {"2024"}), ("三百二十", {"320"}), ("一万两千", {"12000"}), ("统一", set()), ("1.5万", {"15000"})],
)
def test_chinese_numbers(text: str, numbers: set[str]) -> None:
    assert read_numbers(read_facts(text).tokens, text) == numbers


@hypothesis_settings(max_examples=300)
@given(st.text(max_size=120), st.text(max_size=120))
@example("", "N'T")
def test_any_text_is_compared_without_fault(one: str, other: str) -> None:
    names = {guard.name for guard in GUARDS}
    assert {found.guard for found in compare_texts(one, other)} <= names
    assert compare_texts(one, one) == ()


def test_long_texts_take_no_quadratic_time() -> None:
    import time

    one = " ".join(f"word{at}" for at in range(3000))
    started = time.perf_counter()
    compare_texts(one, one + " more")
    assert time.perf_counter() - started < 1.0
