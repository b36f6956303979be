"""Reading answers of every API, and comparing them but for ids, times and cached-token details."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

VOLATILE = {
    "id",
    "created",
    "created_at",
    "completed_at",
    "item_id",
    "call_id",
    "request_id",
    "_request_id",
    "prompt_tokens_details",
    "input_tokens_details",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "sequence_number",
    "metrics",
}
"""Fields that differ between two answers to the same request, by nature."""


def stable(value: Any) -> Any:
    """A JSON value without what differs by nature."""
    if isinstance(value, dict):
        return {key: stable(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [stable(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(resp|msg|rs|fc|call|chatcmpl)[-_][0-9a-zA-Z_-]{8,}", r"\1-ID", value)
    return value


def sse(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The JSON events of a server-sent event stream."""
    data = (line[len("data: ") :] for line in lines if line.startswith("data: "))
    return [json.loads(each) for each in data if each != "[DONE]"]


def merged_chunks(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Chat or completion chunks, put together by choice: what a reader of the stream ends up with."""
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for event in events:
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            merged = choices.setdefault(choice["index"], {"text": "", "tools": {}, "logprobs": [], "finish": None})
            delta = choice.get("delta") or {}
            merged["text"] += delta.get("content") or choice.get("text") or ""
            for call in delta.get("tool_calls") or ():
                tool = merged["tools"].setdefault(call["index"], {"name": "", "arguments": ""})
                tool["name"] += call["function"].get("name") or ""
                tool["arguments"] += call["function"].get("arguments") or ""
            logprobs = choice.get("logprobs") or {}
            merged["logprobs"] += logprobs.get("content") or list(
                zip(logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), strict=False)
            )
            merged["finish"] = choice.get("finish_reason") or merged["finish"]
            merged["stop"] = choice.get("stop_reason") or merged.get("stop")
    return {"choices": choices, "usage": stable(usage)}


def merged_events(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Responses or Anthropic events: text put together, and the last full object."""
    text = "".join(
        event.get("delta") if isinstance(event.get("delta"), str) else (event.get("delta") or {}).get("text") or ""
        for event in events
        if "delta" in event.get("type", "")
    )
    finals = [event for event in events if event["type"] in ("response.completed", "message_delta")]
    kinds = list(dict.fromkeys(event["type"] for event in events))
    return {"text": text, "kinds": kinds, "last": stable(finals[-1]) if finals else None}


Reader = Callable[[list[dict[str, Any]]], dict[str, Any]]
