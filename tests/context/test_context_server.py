"""Similar questions, context and composed answers on a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from context_support import CHAT, RULES, chat, events, explain, note, post, running, status, store, text_of

pytestmark = pytest.mark.engine

NO_JOINING = {"stop": ["\u2603"]}
"""A stop string that never comes: with one, answers are not joined, so references are used."""

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
]


@pytest.fixture(scope="module")
def url(tiny_model: Path, minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("context")
    with running(tiny_model, minilm, folder, ["--enhance-context", "on", "--enhance-compose", "on"]) as found:
        yield found


def references(found: dict[str, Any]) -> tuple[int, int]:
    """How many references were used, and their tokens, from the note."""
    match = re.fullmatch(r"enriched: (\d+) references, (\d+) tokens", note(found))
    assert match is not None, found
    return int(match[1]), int(match[2])


# --------------------------------------------------------------------------- similar questions


def test_another_wording_is_answered_from_what_is_stored(url: str) -> None:
    first = store(url, chat("What is the capital of Norway?", RULES))
    again = post(url, chat("what's Norway's capital?", RULES))
    assert status(first).startswith("fwd=miss")
    assert status(again).startswith("hit")
    assert "detail=similar" in status(again)
    assert 0.85 <= float(again.headers["x-enhance-similarity"]) < 1.0
    assert text_of(again) == text_of(first)
    found = explain(url, again.json()["id"])
    assert found["source"] == "similar"
    assert found["similar"][0]["refused_by"] is None
    assert "question" not in found["similar"][0]
    assert "Norway" not in json.dumps(found)
    streamed, headers = events(url, chat("what's the capital of Norway", RULES))
    assert "detail=similar" in headers["cache-status"]
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in streamed if each["choices"]) == text_of(
        first
    )


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("How do I convert 5 km to miles?", "How do I convert 7 km to miles?"),
        ("Is it safe to eat raw salmon?", "Is it not safe to eat raw salmon?"),
    ],
)
def test_guards_refuse(url: str, stored: str, asked: str) -> None:
    store(url, chat(stored, RULES))
    answer = post(url, chat(asked, RULES))
    assert status(answer).startswith("fwd=miss")
    found = explain(url, answer.json()["id"])
    nearest = max(found["similar"], key=lambda each: float(each["similarity"]))
    assert nearest["similarity"] > 0.85  # the threshold alone would have served it
    assert nearest["refused_by"]


@pytest.mark.parametrize("other", ["system", "tenant", "temperature", "history", "max_tokens"])
def test_what_is_asked_elsewhere_is_never_reused(url: str, other: str) -> None:
    question = f"What is a {other} good for?"
    store(url, chat(question, RULES))
    payload, tenant = chat(question.upper(), RULES), None
    if other == "system":
        payload = chat(question.upper(), RULES + "Be kind.")
    elif other == "tenant":
        tenant = "somebody-else"
    elif other == "history":
        payload["messages"][1:1] = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    else:
        payload[other] = {"temperature": 0.5, "max_tokens": 63}[other]
    answer = post(url, payload, tenant=tenant)
    assert status(answer).startswith("fwd=miss")
    assert not explain(url, answer.json()["id"]).get("similar")
    assert "detail=similar" in status(post(url, chat(question.lower(), RULES)))  # at home it is found


# --------------------------------------------------------------------------- context


def test_references_go_into_the_prompt_of_a_compound_question(url: str) -> None:
    for part in ("What is a lighthouse?", "How do I bake bread?"):
        store(url, chat(part, **NO_JOINING))
    compound = chat("What is a lighthouse and how do I bake bread?", **NO_JOINING)
    plain = post(url, compound, tenant="somebody-else")
    answer = post(url, compound)
    assert status(answer).startswith("fwd=miss")
    found = explain(url, answer.json()["id"])
    number, tokens = references(found)
    assert number == 2
    assert len(found["similar"]) >= 2
    assert "lighthouse" not in json.dumps(found)
    usage, usage_plain = answer.json()["usage"], plain.json()["usage"]
    assert usage["prompt_tokens"] == usage_plain["prompt_tokens"] + tokens + len("\n\n")
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert found["prompt_tokens"] == usage["prompt_tokens"]
    assert note(explain(url, plain.json()["id"])) == "none"  # the other tenant has stored nothing
    again = post(url, compound)
    assert "detail=exact" in status(again)  # kept as the answer to the question as it was asked
    assert text_of(again) == text_of(answer)
    assert again.json()["usage"]["prompt_tokens"] == usage_plain["prompt_tokens"]


def test_an_enriched_question_is_stored_for_similar_ones(url: str) -> None:
    """Under the partition of the question as asked, not of the prompt with references in it."""
    question = "What is a glacier and where do glaciers form?"
    store(url, chat("What is a glacier?", RULES, **NO_JOINING))
    first = store(url, chat(question, RULES, **NO_JOINING))
    references(explain(url, first.json()["id"]))
    again = post(url, chat(question.upper(), RULES, **NO_JOINING))
    assert "detail=similar" in status(again)
    assert text_of(again) == text_of(first)


def test_directives_keep_stored_answers_out(url: str) -> None:
    for part in ("What is a canal?", "Who digs a canal?"):
        store(url, chat(part, **NO_JOINING))
    payload = chat("What is a canal and who digs a canal?", **NO_JOINING)
    answer = httpx.post(url + CHAT, json=payload, headers={"Cache-Control": "no-cache"}, timeout=120)
    assert note(explain(url, answer.json()["id"])) == ""


@pytest.mark.parametrize("extra", ["tools", "grammar"])
def test_streams_tools_and_grammars(url: str, extra: str) -> None:
    fields: dict[str, Any] = (
        {"tools": TOOLS} if extra == "tools" else {"structured_outputs": {"choice": ["123", "456"]}}
    )
    if extra == "grammar":
        fields |= {"min_tokens": 0, "logit_bias": None}
    for part in ("What is a comet?", "How do I make cheese?"):
        store(url, chat(part, **fields))
    compound = chat("What is a comet and how do I make cheese?", **fields)
    streamed, _ = events(url, {**compound, "stream_options": {"include_usage": True}})
    number, tokens = references(explain(url, streamed[0]["id"]))
    assert number >= 1
    plain = post(url, compound, tenant="somebody-else")
    assert streamed[-1]["usage"]["prompt_tokens"] == plain.json()["usage"]["prompt_tokens"] + tokens + len("\n\n")
    text = "".join(each["choices"][0]["delta"].get("content") or "" for each in streamed if each["choices"])
    assert streamed[-2]["choices"][0]["finish_reason"] == "stop"
    assert text in ("123", "456") if extra == "grammar" else len(text) == 6


# --------------------------------------------------------------------------- composed answers


def test_answers_to_each_part_are_joined(url: str) -> None:
    parts = [store(url, chat(each)) for each in ("What is a violin?", "Who plays the violin?")]
    compound = chat("What is a violin and who plays the violin?")
    answer = post(url, compound)
    assert status(answer).startswith("hit")
    assert "detail=composed" in status(answer)
    assert "age" in answer.headers
    assert float(answer.headers["x-enhance-similarity"]) > 0.85
    assert text_of(answer) == "\n\n".join(text_of(each) for each in parts)
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert answer.json()["usage"]["completion_tokens"] == len(text_of(answer).encode()) + 1  # the end
    found = explain(url, answer.json()["id"])
    assert note(found) == "composed: of 2 answers"
    assert len(found["similar"]) == 2
    streamed, headers = events(url, compound)
    assert "detail=composed" in headers["cache-status"]
    text = "".join(each["choices"][0]["delta"].get("content") or "" for each in streamed if each["choices"])
    assert text == text_of(answer)


def test_nothing_is_joined_for_another_tenant_or_with_a_part_missing(url: str) -> None:
    store(url, chat("What is a trumpet?"))
    compound = chat("What is a trumpet and how much does a piano weigh?")
    assert status(post(url, compound, tenant="somebody-else")).startswith("fwd=miss")
    answer = post(url, compound)
    assert status(answer).startswith("fwd=miss")
    assert references(explain(url, answer.json()["id"]))[0] == 1


# --------------------------------------------------------------------------- the other APIs


PAIRS = [
    ("What is a rose?", "how do trains brake?"),
    ("Who eats apples?", "where is Mount Fuji?"),
    ("How do frogs jump?", "what is a sonnet?"),
]


def ask(api: str, question: str) -> tuple[str, dict[str, Any]]:
    """Path and body of a question, which is not joined from its parts where the API has stop strings."""
    text = question[0].upper() + question[1:]
    if api == "completions":
        return "/v1/completions", {"model": "tiny", "prompt": text, "max_tokens": 64, "temperature": 0, **NO_JOINING}
    if api == "responses":
        return "/v1/responses", {"model": "tiny", "input": text, "max_output_tokens": 64, "temperature": 0}
    messages = [{"role": "user", "content": text}]
    stops = {"stop_sequences": NO_JOINING["stop"]}
    return "/v1/messages", {"model": "tiny", "messages": messages, "max_tokens": 64, "temperature": 0, **stops}


@pytest.mark.parametrize("api", ["completions", "responses", "anthropic"])
def test_every_api(url: str, api: str) -> None:
    """The tiny model ends most answers by itself, but says nothing to some: so several pairs."""
    used = 0
    for one, other in PAIRS:
        for part in (one, other):
            path, body = ask(api, part)
            store(url, body, path)
        path, body = ask(api, f"{one[:-1]} and {other}")
        plain = post(url, body, path, tenant="somebody-else").json()["usage"]
        answer = post(url, body, path).json()
        found = explain(url, answer["id"] + {"completions": "-0", "responses": "_0"}.get(api, ""))
        if note(found).startswith("enriched"):
            used += 1
            name = "prompt_tokens" if api == "completions" else "input_tokens"
            assert answer["usage"][name] == plain[name] + references(found)[1] + len("\n\n")
        elif api == "responses" and note(found).startswith("composed"):
            used += 1
            assert found["source"] == "similar"
    assert used
