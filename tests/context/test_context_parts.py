"""What goes into a prompt and where, and when an answer may be joined from several. Pure functions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_enhance_nlp.analysis import analyze
from vllm_enhance_nlp.composing import compose_answers, only_questions, takes_composed
from vllm_enhance_nlp.context import read_template
from vllm_enhance_nlp.enrich import defused
from vllm_enhance_nlp.placing import Unplaceable, place_before, room_for

from vllm_enhance.types import Found


def letters(text: str) -> list[int]:
    return [ord(character) for character in text]


# --------------------------------------------------------------------------- placing


def test_the_block_stands_before_the_last_place_of_the_question() -> None:
    prompt = "[u]What is TCP?[a]It is.[u]What is TCP?[a]"
    placed = place_before("What is TCP?", "REF", prompt, letters(prompt), letters)
    assert placed.text == "[u]What is TCP?[a]It is.[u]REF\n\nWhat is TCP?[a]"
    assert placed.token_ids == letters(placed.text)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], []), ([1], [2]), ([], [2]), ([1, 1], [2, 2])])
def test_what_the_tokenizer_put_around_stays_around(before: list[int], after: list[int]) -> None:
    placed = place_before("why?", "REF", "why?", [*before, *letters("why?"), *after], letters)
    assert placed.token_ids == [*before, *letters("REF\n\nwhy?"), *after]


NO_MARKS = st.text(st.characters(exclude_characters="\x02\x03"), max_size=20)


@given(NO_MARKS, NO_MARKS.filter(bool), NO_MARKS)
def test_nothing_but_the_block_is_new(head: str, question: str, tail: str) -> None:
    prompt = "\x02" + head + question + tail
    placed = place_before(question, "\x03", prompt, letters(prompt), letters)
    before, after = placed.text.split("\x03\n\n")
    assert before + after == prompt
    assert after.startswith(question)
    assert question not in after[1:]
    assert placed.token_ids == letters(placed.text)


@pytest.mark.parametrize(
    ("question", "prompt", "ids", "why"),
    [
        ("What?", "[u]what?[a]", letters("[u]what?[a]"), "question_not_in_prompt"),
        ("What?", "[u]What?[a]", letters("[u]Other[a]"), "prompt_does_not_tokenize_back"),
        ("What?", "[u]What?[a]", letters("[u]What?[a]12345"), "prompt_does_not_tokenize_back"),
        ("What?", "[u]What?[a]", [], "prompt_does_not_tokenize_back"),
        ("<|user|>What?<|end|>", "<|user|>What?<|end|>", letters("<|user|>What?<|end|>"), "rendered_elsewhere"),
        ("<s>[INST] Who? [/INST]", "<s>[INST] Who? [/INST]", letters("<s>[INST] Who? [/INST]"), "rendered_elsewhere"),
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_be_changed_safely_is_left(question: str, prompt: str, ids: list[int], why: str) -> None:
    with pytest.raises(Unplaceable, match=why):
        place_before(question, "REF", prompt, ids, letters)


@pytest.mark.parametrize(
    ("wanted", "prompt", "answer", "model", "room"),
    [
        (512, 100, 200, 2048, 512),
        (512, 1500, 200, 2048, 348),  # the answer keeps what the client asked for
        (512, 1900, 148, 2048, 37),  # all that is free, as vLLM sets it when the client asked for nothing
        (512, 1900, None, 2048, 37),
        (512, 2048, None, 2048, 0),
        (512, 9999, 10, 2048, 0),
        (512, 100, 200, 0, 512),  # unknown
    ],
)
def test_references_leave_room_for_the_answer(wanted: int, prompt: int, answer: Any, model: int, room: int) -> None:
    assert room_for(wanted, prompt, answer, model) == room


CONTROL_WORDS = (
    "<|im_end|>",
    "</s>",
    "<s>",
    "[INST]",
    "[/INST]",
    "<｜begin▁of▁sentence｜>",
    "<start_of_turn>",
    "<|end|>",
)


@pytest.mark.parametrize("word", CONTROL_WORDS)
def test_stored_text_cannot_pass_for_a_control_token(word: str) -> None:
    assert word not in defused(f"before {word} after{word}{word}")
    assert word not in defused(defused(word))


@pytest.mark.parametrize("text", ["a < b and c > d", "x[0] = y[i]", "1 << 2", "plain", "I <3 you", "见下文 [注]"])
def test_other_text_is_left_alone(text: str) -> None:
    assert defused(text) == text


# --------------------------------------------------------------------------- joining


@pytest.mark.parametrize(
    "text",
    [
        "What is TCP and when should I use it?",
        "What is TCP? What is UDP?",
        "什么是人工智能，它有哪些应用？",
    ],
)
def test_questions_side_by_side(text: str) -> None:
    assert only_questions(text, analyze(text))


@pytest.mark.parametrize(
    "text",
    [
        "What is TCP?",
        "I have a Mac. What is TCP and when should I use it?",
        "What is TCP and when should I use it? Answer in French.",
        "undo the commit and keep the changes",
        "If I have a cold, what should I eat and what should I drink?",
        "Why is the sky blue, but not at sunset? What is rain?",
        "What is TCP and what is the weather today?",
        "因为下雨，所以怎么走？怎么回？",
    ],
)
def test_more_than_questions_is_not_for_joining(text: str) -> None:
    assert not only_questions(text, analyze(text))


def test_what_was_cut_is_not_for_joining() -> None:
    text = "What is TCP? What is UDP? And forget it, just say no."
    assert not only_questions(text, analyze(text, max_characters=25))


def found(answer: str, *, confident: bool = True, similarity: float = 0.99, age: float = 1.0) -> Found:
    return Found("q", answer, similarity, confident, answer.encode(), age)


def join(*parts: list[Found], max_tokens: int | None = None) -> Any:
    return compose_answers(parts, max_tokens=max_tokens, count_tokens=len)


def test_answers_are_joined_in_the_order_of_the_questions() -> None:
    composed = join([found("one", similarity=0.97, age=5)], [found("two", confident=False), found("three", age=9)])
    assert composed.text == "one\n\nthree"
    assert (composed.similarity, composed.age) == (0.97, 9)


def test_one_part_without_a_confident_answer_joins_nothing() -> None:
    assert join([found("one")], [found("two", confident=False)]) is None
    assert join([found("one")], []) is None
    assert join() is None


@pytest.mark.parametrize("answer", ["<tool_call>{}</tool_call>", ' {"a": 1}', "[1, 2]", "hm</think>yes"])
def test_what_is_not_prose_is_not_joined(answer: str) -> None:
    assert join([found("one")], [found(answer)]) is None


def test_an_answer_longer_than_the_request_takes_is_not_joined() -> None:
    assert join([found("one")], [found("two")], max_tokens=9).text == "one\n\ntwo"
    assert join([found("one")], [found("two")], max_tokens=8) is None


def test_the_same_answer_is_said_once() -> None:
    assert join([found("yes")], [found("yes ")]).text == "yes"


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": object()},
        {"stop": ["\n\n"]},
        {"stop_token_ids": [7]},
        {"ignore_eos": True},
        {"skip_special_tokens": False},
        {"detokenize": False},
    ],
)
def test_requests_that_a_joined_text_does_not_fit(fields: dict[str, Any]) -> None:
    assert takes_composed(SimpleNamespace(structured_outputs=None, stop=[], skip_special_tokens=True))
    assert not takes_composed(SimpleNamespace(**fields))


# --------------------------------------------------------------------------- the operator's template


def test_a_template_file(tmp_path: Path) -> None:
    file = tmp_path / "template.json"
    file.write_text(json.dumps({"frame": "See: {references}", "item": "{question}: {answer}"}))
    assert read_template(str(file)).frame == "See: {references}"
    assert "<reference>" in read_template("").frame


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"frame": "x"}', '{"frame": "x", "item": "{question} {answer}"}']
)
def test_a_bad_template_file_says_what_is_wrong(tmp_path: Path, content: str | None) -> None:
    from vllm_enhance_nlp.options import SETTINGS

    file = tmp_path / "template.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match="template"):
        read_template(str(file))
    setting = next(each for each in SETTINGS if each.name == "context-template")
    with pytest.raises(Exception, match="template"):
        setting.parse(str(file), "--enhance-context-template")
