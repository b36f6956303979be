"""Error bodies in the shapes that clients of vLLM's APIs expect."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from vllm_enhance.errors import RequestRejected
from vllm_enhance.server.cache_status import refusal_status

__all__ = ["error_body", "refusal_messages"]

Message = dict[str, Any]


def error_body(status: int, message: str, path: str = "", param: str | None = None) -> dict[str, Any]:
    """An error as vLLM would word it on this path.

    OpenAI's shape (``vllm/entrypoints/serve/engine/protocol.py``, ``ErrorResponse``) but for Anthropic's Messages and
    Cohere's chat, which have their own.
    """
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": phrase, "message": message}}
    if path.startswith("/cohere"):
        return {"message": message}
    return {"error": {"message": message, "type": phrase, "param": param, "code": status}}


def refusal_messages(refusal: RequestRejected, path: str, param: str | None = None) -> tuple[Message, Message]:
    """The two ASGI messages of a response that refuses a request."""
    body = json.dumps(error_body(refusal.status, refusal.message, path, param)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-status", refusal_status(refusal.status).encode("ascii")),
    ]
    return (
        {"type": "http.response.start", "status": refusal.status, "headers": headers},
        {"type": "http.response.body", "body": body, "more_body": False},
    )
