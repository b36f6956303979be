"""Every API, each request twice: the second answer comes from memory and says the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from answers import Reader, merged_chunks, merged_events, sse, stable

pytestmark = pytest.mark.engine

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
MERGE: dict[str, Reader] = {
    CHAT: merged_chunks,
    COMPLETIONS: merged_chunks,
    RESPONSES: merged_events,
    MESSAGES: merged_events,
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "celsius": {"type": "boolean"}},
            "required": ["city", "celsius"],
            "additionalProperties": False,
        },
    },
}
PERSON = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "schema": {
            "type": "object",
            "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
            "required": ["age", "ok"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Case:
    """One request, as a client would send it."""

    name: str
    path: str
    body: dict[str, Any] = field(default_factory=dict)

    def payload(self, salt: str) -> dict[str, Any]:
        """The request with a question of its own, so that no case finds another's answer."""
        question = f"{self.name} {salt}: what is TCP?"
        common: dict[str, Any] = {"model": "tiny", "temperature": 0}
        if self.path == CHAT:
            common |= {"messages": [{"role": "user", "content": question}], "max_tokens": 24}
        elif self.path == COMPLETIONS:
            common |= {"prompt": question, "max_tokens": 24}
        elif self.path == RESPONSES:
            common |= {"input": question, "max_output_tokens": 24}
        else:
            common |= {"messages": [{"role": "user", "content": question}], "max_tokens": 24}
        return common | self.body


CASES = [
    Case("chat", CHAT),
    Case(
        "system", CHAT, {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hm?"}]}
    ),
    Case("logprobs", CHAT, {"logprobs": True, "top_logprobs": 3}),
    Case("n3", CHAT, {"n": 3, "temperature": 0.9, "seed": 11}),
    Case("n3 logprobs", CHAT, {"n": 3, "temperature": 0.9, "seed": 12, "logprobs": True, "top_logprobs": 2}),
    Case("sampled", CHAT, {"temperature": 1.0}),
    Case("stop", CHAT, {"temperature": 0.9, "seed": 5, "stop": ["e", "a"], "max_tokens": 200}),
    Case("stop kept", CHAT, {"temperature": 0.9, "seed": 6, "stop": ["e"], "include_stop_str_in_output": True}),
    Case(
        "tool",
        CHAT,
        {
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
            "max_tokens": 200,
        },
    ),
    Case("schema", CHAT, {"response_format": PERSON, "max_tokens": 60}),
    Case("bias", CHAT, {"logit_bias": {"65": 8.0, "66": 7.5}}),
    Case("special", CHAT, {"skip_special_tokens": False, "temperature": 0.7, "seed": 4}),
    Case("completion", COMPLETIONS),
    Case("completion logprobs", COMPLETIONS, {"logprobs": 2}),
    Case("echo", COMPLETIONS, {"echo": True, "logprobs": 1, "prompt": "echo this", "max_tokens": 8}),
    Case("prompt list", COMPLETIONS, {"prompt": ["list one", "list two", "list one"], "max_tokens": 8}),
    Case("token ids", COMPLETIONS, {"prompt": [65, 66, 67, 68], "max_tokens": 8}),
    Case("completion n2", COMPLETIONS, {"n": 2, "temperature": 0.8, "seed": 3}),
    Case("responses", RESPONSES),
    Case("messages", MESSAGES),
]


FRESH = {"Cache-Control": "no-cache"}


def ask(
    base_url: str, path: str, payload: dict[str, Any], stream: bool, headers: dict[str, str] | None = None
) -> tuple[Any, str, dict[str, str]]:
    """One request: what a reader ends up with, its Cache-Status, its headers."""
    if not stream:
        answer = httpx.post(base_url + path, json=payload, headers=headers, timeout=120)
        assert answer.status_code == 200, answer.text
        return stable(answer.json()), answer.headers["cache-status"], dict(answer.headers)
    extra = {"stream_options": {"include_usage": True}} if path in (CHAT, COMPLETIONS) else {}
    body = {**payload, "stream": True, **extra}
    with httpx.stream("POST", base_url + path, json=body, headers=headers, timeout=120) as answer:
        lines = list(answer.iter_lines())
        assert answer.status_code == 200, lines
        return MERGE[path](sse(lines)), answer.headers["cache-status"], dict(answer.headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_second_answer_is_the_first(base_url: str, case: Case, stream: bool) -> None:
    payload = case.payload("stream" if stream else "whole")
    first, status, _ = ask(base_url, case.path, payload, stream, FRESH)
    assert "fwd=" in status
    second, status, headers = ask(base_url, case.path, payload, stream)
    assert status.startswith("vllm-enhance; hit"), status
    assert int(headers["age"]) >= 0
    assert second == first


@pytest.mark.parametrize("case", [c for c in CASES if c.path in (CHAT, COMPLETIONS)], ids=lambda case: case.name)
def test_one_record_serves_streams_too(base_url: str, case: Case) -> None:
    """Generated for a caller who waited, replayed to one who streams, token by token the same."""
    payload = case.payload("cross")
    whole, _, _ = ask(base_url, case.path, payload, stream=False, headers=FRESH)
    streamed, status, _ = ask(base_url, case.path, payload, stream=True)
    assert status.startswith("vllm-enhance; hit"), status
    for choice in whole["choices"]:
        got = streamed["choices"][choice["index"]]
        message = choice.get("message") or {}
        expected = message.get("content") or choice.get("text") or ""
        assert got["text"] == expected
        assert got["finish"] == choice["finish_reason"]
        tools = [called(call["function"]) for call in message.get("tool_calls") or ()]
        assert [called(got["tools"][i]) for i in sorted(got["tools"])] == tools
    assert streamed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def called(function: dict[str, str]) -> tuple[str, Any]:
    """A tool call by meaning: vLLM passes on white space in streams and drops it in whole answers."""
    return function["name"], json.loads(function["arguments"])


def test_one_record_serves_chat_and_messages(base_url: str) -> None:
    """The Anthropic and the OpenAI API render the same tokens, so they share an answer."""
    question = [{"role": "user", "content": "shared between two APIs"}]
    body = {"model": "tiny", "max_tokens": 12, "temperature": 0, "messages": question}
    whole, _, _ = ask(base_url, CHAT, body, stream=False)
    other, status, _ = ask(base_url, MESSAGES, body, stream=False)
    assert "hit" in status
    assert "".join(part["text"] for part in other["content"]) == whole["choices"][0]["message"]["content"]


def test_openai_and_anthropic_clients(base_url: str) -> None:
    import anthropic
    import openai

    chat = {"model": "tiny", "temperature": 0, "max_tokens": 16}
    messages: Any = [{"role": "user", "content": "asked with the real clients"}]
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as client:
        plain = [client.chat.completions.create(messages=messages, **chat).choices[0].message.content for _ in "12"]
        chunks = client.chat.completions.create(messages=messages, stream=True, **chat)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        asked: Any = {"model": "tiny", "input": "a response", "temperature": 0, "max_output_tokens": 16}
        responses = [client.responses.create(**asked).output_text for _ in "12"]
    assert plain[0] == plain[1] == streamed
    assert responses[0] == responses[1]

    asked = {"model": "tiny", "max_tokens": 16, "messages": messages, "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(base_url=base_url, api_key="none", max_retries=0) as claude:
        raw = claude.messages.with_raw_response.create(**asked)
        again = claude.messages.with_raw_response.create(**asked)
        assert "hit" in again.headers["cache-status"]
        assert stable(raw.parse().to_dict()) == stable(again.parse().to_dict())
        with claude.messages.stream(model="tiny", max_tokens=16, messages=messages) as stream:
            assert "".join(stream.text_stream)
