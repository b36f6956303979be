"""The last user text, and the frame around it.

Similarity may vary the text; the frame (system prompt, history, tools, template) must match exactly. The text comes
from the chat messages of the HTTP body when there are any, else the whole prompt is the text.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_enhance.scope import RequestScope

__all__ = ["FramedText", "find_question", "last_user_text"]

CHAT_KEYS = ("messages", "input")
"""Where the chat lives in a request body: Chat Completions and Anthropic; Responses."""

NO_CHAT: Any = ("no chat",)
"""The request has no chat: its whole prompt is the question."""

UNREADABLE: Any = ()
"""There is a body that cannot be read (too large, say), so nothing may vary."""

TEXT_PARTS = frozenset({"text", "input_text"})

_reading = threading.Lock()


@dataclass(frozen=True, slots=True)
class FramedText:
    """A text and what stands before and after it."""

    text: str
    frame: tuple[bytes, ...]


def find_question(rendered: str, scope: RequestScope | None) -> FramedText | None:
    """The last user text of a rendered prompt with its frame; ``None`` when nothing may vary.

    May be called from worker threads.
    """
    chat = NO_CHAT if scope is None else _chat(scope)
    if chat is NO_CHAT:
        return FramedText(rendered, ()) if rendered.strip() else None
    text = last_user_text(chat)
    if text is None or not text.strip():
        return None
    stripped = text.strip()  # templates may strip what they wrap
    start = rendered.rfind(stripped)
    if start < 0:
        return None
    end = start + len(stripped)
    return FramedText(stripped, (rendered[:start].encode(), rendered[end:].encode()))


def _chat(scope: RequestScope) -> Any:
    """The chat in the request's body, read once; then the body's bytes are let go."""
    with _reading:  # several hooks may ask at once, and whoever finds the body gone must not take it for no chat
        if scope.chat is None:
            scope.chat = _read_chat(b"".join(scope.body)) if scope.body else NO_CHAT
            scope.body.clear()
    return scope.chat


def _read_chat(body: bytes) -> Any:
    try:
        fields = json.loads(body)
    except ValueError:
        return UNREADABLE
    if not isinstance(fields, Mapping):
        return UNREADABLE
    return next((fields[key] for key in CHAT_KEYS if fields.get(key) is not None), NO_CHAT)


def last_user_text(chat: str | Sequence[Any]) -> str | None:
    """The text of the last message if it is the user's and nothing but text; else ``None``."""
    if isinstance(chat, str):
        return chat
    last = chat[-1] if isinstance(chat, Sequence) and chat else None
    if not isinstance(last, Mapping) or last.get("role") != "user":
        return None
    content = last.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or len(content) != 1:
        return None
    part = content[0]
    if isinstance(part, Mapping) and part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    return None
