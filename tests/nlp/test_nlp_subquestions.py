"""Sub-questions: what is split, what stays whole, and what is put back."""

from __future__ import annotations

import pytest
from vllm_enhance_nlp.analysis import analyze


def asked(text: str) -> list[str]:
    return [one.text for one in analyze(text).sub_questions]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is TCP and when should I use it?", ["What is TCP?", "When should I use TCP?"]),
        ("什么是人工智能，它有哪些应用？", ["什么是人工智能？", "人工智能有哪些应用？"]),
        ("Why is the sky blue? And is it blue on Mars?", ["Why is the sky blue?", "Is the sky blue on Mars?"]),
        ("What are tariffs and how do they work?", ["What are tariffs?", "How do tariffs work?"]),
        (
            "If my card is stolen, whom do I call and who pays?",
            ["If my card is stolen, whom do I call?", "If my card is stolen, who pays?"],
        ),
        ("How do I open a tin and keep the lid?", ["How do I open a tin?", "How do I keep the lid?"]),
        ("Can I freeze soup? If so, how?", ["Can I freeze soup?", "How can I freeze soup?"]),
        ("Explain recursion and give an example.", ["Explain recursion.", "Give an example."]),
        (
            "I live in Oslo. How do I get a permit? Where do I renew it?",
            ["I live in Oslo. How do I get a permit?", "I live in Oslo. Where do I renew a permit?"],
        ),
        ("彩虹是什么，怎么形成的？", ["彩虹是什么？", "彩虹怎么形成的？"]),
        ("如果迟到了，该找谁，要不要写说明？", ["如果迟到了，该找谁？", "如果迟到了，要不要写说明？"]),
    ],
)
def test_a_compound_question_splits_into_parts_that_stand_alone(text: str, expected: list[str]) -> None:
    assert asked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "What are the pros and cons of leasing?",
        "Should I rent or buy?",
        "Is it better to walk or take the bus?",
        "How do I fix a leak, or should I call someone?",
        "My phone is wet, so how do I dry it?",
        "Why does it rain when warm air meets cold air?",
        "Is it safe to eat raw eggs? Why or why not?",
        "How and why did the war start?",
        "When, if ever, should I repaint a fence?",
        "What, if anything, can parents do about it?",
        "Being a beginner, what should I read?",
        "How do I use would and will in sentences?",
        "How do I distinguish between stock and flow variables?",
        "Is it too late if I am 40 and have no degree?",
        "Why did he say that a witch would curse them and leave?",
        "When men start talking to robots, will people be lonely?",
        "不是智能手机可以用吗？",
        "提前还款要还清吗？还是可以先还一部分？",
        "我搞错了几次密码，现在怎么办？",
        "应该坐飞机还是坐火车？",
        "电脑坏了，怎么办？",
        "虽然贵，但是为什么大家都买？",
    ],
)
def test_one_question_stays_whole(text: str) -> None:
    assert asked(text) == [text]


@pytest.mark.parametrize(
    "text", ["It rained all day.", "I like tea and coffee.", "他昨天去了北京。", "", "???", "  \n "]
)
def test_a_statement_asks_nothing(text: str) -> None:
    assert asked(text) == []


@pytest.mark.parametrize(
    ("text", "second"),
    [
        # subject and object both agree: a guess could ask another question
        ("Why did the bank sell the bond? Where is it now?", "Where is it now?"),
        # expletive and event
        ("How do I renew a visa and how long does it take?", "How long does it take?"),
        ("Why do dogs bark and how can I prevent it?", "How can I prevent it?"),
        # the antecedent would need its relative clause
        ("Do you have a pet that you love? What is it called?", "What is it called?"),
        # plural pronoun, singular noun
        ("What is a mortgage and how do they check income?", "How do they check income?"),
    ],
)
def test_an_unsure_pronoun_is_left_alone(text: str, second: str) -> None:
    assert asked(text)[1] == second


def test_a_pronoun_is_marked_as_restored() -> None:
    first, second = analyze("What is TCP and when should I use it?").sub_questions
    assert not first.restored
    assert second.restored


def test_code_and_addresses_survive_untouched() -> None:
    text = "What does `a and b or c` do? Is https://x.org/?q=if&and=1 down?"
    assert asked(text) == ["What does `a and b or c` do?", "Is https://x.org/?q=if&and=1 down?"]


def test_the_number_of_parts_is_capped() -> None:
    text = " ".join(f"What is item {number}?" for number in range(50))
    assert len(analyze(text).sub_questions) == 16
    assert len(analyze(text, max_sub_questions=3).sub_questions) == 3
