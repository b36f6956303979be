"""Connectives: which words count, and in which sense."""

from __future__ import annotations

import pytest
from vllm_enhance_nlp.analysis import analyze


def found(text: str) -> list[tuple[str, str]]:
    return [(one.text, one.sense) for one in analyze(text).connectives]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She left because it was late.", [("because", "cause")]),
        ("Since you are here, can you help?", [("since", "cause")]),
        ("What has changed since he left?", [("since", "time")]),
        ("While I agree, is it worth the price?", [("while", "contrast")]),
        ("What happens while the disk is formatting?", [("while", "time")]),
        ("He not only sings but also dances.", [("not only…but also", "conjunction")]),
        ("If it fails, then what should I do?", [("if…then", "condition")]),
        ("Either it is broken or the cable is loose.", [("either…or", "alternative")]),
        ("Use tongs so that you do not burn yourself.", [("so that", "purpose")]),
        ("It looks as if it will rain.", [("as if", "comparison")]),
        (
            "On the one hand, it is cheap; on the other hand, it breaks.",
            [("on the one hand…on the other hand", "contrast")],
        ),
        ("虽然很晚，但是他还在工作。", [("虽然…但是", "contrast")]),
        ("因为停电，所以服务器关机了。", [("因为…所以", "cause")]),
        ("只有登录，才能下载吗？", [("只有…才", "condition")]),
        ("与其等待，不如重启。", [("与其…不如", "alternative")]),
        ("他一边走，一边唱。", [("一边…一边", "conjunction")]),
        ("为了安全，请修改密码。", [("为了", "purpose")]),
        ("吃饭之前要洗手吗？", [("之前", "time")]),
        ("用茶还是用咖啡招待客人？", [("还是", "alternative")]),
    ],
)
def test_connectives_have_their_sense(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Bread and butter, salt and pepper, this and that.",
        "Has it risen since 2010?",
        "Do you know if the shop is open?",
        "When does the train leave?",
        "Do you know when to stop?",
        "He speaks not only French but German.",
        "Why is it so expensive?",
        "Is a tomato a fruit or a vegetable?",
        "How do I peel and chop an onion?",
        "和平与发展是什么意思？",
        "他的成就很大。",
        "三天之前的报纸在哪？",
        "他还是很忙。",
        "苹果和梨哪个甜？",
        "可以退货吗？",
    ],
)
def test_look_alikes_do_not_count(text: str) -> None:
    assert found(text) == []


def test_spans_point_at_the_parts() -> None:
    text = "虽然很晚，但是他还在工作。"
    (connective,) = analyze(text).connectives
    assert [span.of(text) for span in connective.spans] == ["虽然", "但是"]


def test_clauses_carry_their_connective() -> None:
    text = "If it rains, we stay; otherwise, we go."
    clauses = analyze(text).clauses
    assert [clause.span.of(text) for clause in clauses] == ["If it rains", "we stay", "otherwise, we go"]
    assert [clause.connective.text if clause.connective else None for clause in clauses] == ["if", None, "otherwise"]
