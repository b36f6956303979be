"""Hooks that misbehave in every way, for a real server to live with."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from vllm_enhance.hookspecs import hookimpl


class Raises:
    @hookimpl(inline=True)
    def pre_request(self, request: Any) -> None:
        raise RuntimeError("by design")

    @hookimpl(inline=True)
    def post_output(self, record: Any) -> None:
        raise RuntimeError("by design")

    @hookimpl
    def health(self) -> Any:
        raise RuntimeError("by design")

    @hookimpl
    def stats(self) -> Any:
        raise RuntimeError("by design")

    @hookimpl
    def invalidate(self, scope: Any) -> int:
        raise RuntimeError("by design")


class Hangs:
    @hookimpl
    async def pre_request(self, request: Any) -> None:
        await asyncio.sleep(3600)


class Blocks:
    @hookimpl
    def pre_request(self, request: Any) -> None:
        time.sleep(1)


class Nonsense:
    @hookimpl(inline=True)
    def pre_request(self, request: Any) -> Any:
        return {"answer": 42}


class Unstartable:
    @hookimpl
    def startup(self, context: Any) -> None:
        raise RuntimeError("by design")

    @hookimpl(inline=True)
    def pre_request(self, request: Any) -> Any:
        raise AssertionError("called although it did not start")


class Redactor:
    """Not bad at all: a hook that rewrites the prompt, and so proves that the key is made anew."""

    @hookimpl(inline=True, tryfirst=True)
    def pre_request(self, request: Any) -> Any:
        from vllm_enhance.types import Rewrite

        text = request.prompt_text
        return Rewrite(prompt_text=text.replace("alice@example.org", "EMAIL")) if "alice@" in text else None
