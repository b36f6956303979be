"""What a hook package gets at start-up."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_enhance.metrics import Metrics
    from vllm_enhance.settings import Settings
    from vllm_enhance.sharing import SharedLog
    from vllm_enhance.types import InvalidationScope

__all__ = ["HookContext"]


@dataclass(slots=True, kw_only=True)
class HookContext:
    """What the server offers to hook packages, handed to ``startup``.

    Attributes:
        settings: every setting, declared by the core or by a hook package.
        metrics: the table of counters; declare own metrics under ``vllm_enhance_<package>_``.
        model: served model name.
        identity: digest (16 bytes) of model, weights, tokenizer and engine settings: entries made under another
            identity must not be served.
        clock: Unix time in seconds; tests pass their own.
        monotonic: seconds for intervals.
        count_tokens: length of a text in the server's tokenizer. Blocking: call it off the event loop.
        generate_idle: ask the served model something when it has nothing else to do, at the lowest priority and
            outside user metrics: ``await generate_idle(prompt_text, max_tokens)`` gives the text, or ``None`` when
            the engine stayed busy. ``None`` when the engine offers no such thing.
        queue_depth: requests that this process has in the engine now.
        broadcast: tell the other API server processes of this host to forget something.
        api_process: index of this API server process and how many there are.
        tokenize: token ids of a text, without special tokens around it. Blocking, as ``count_tokens``.
        max_model_len: tokens of prompt and answer together that the model takes; 0 when unknown.
        shared: what processes on one store tell each other. Set by the hook package that holds the store, in its own
            ``startup``: look at it afterwards. ``None`` while there is no such store.
    """

    settings: Settings
    metrics: Metrics
    model: str = ""
    identity: bytes = b""
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    count_tokens: Callable[[str], int] = field(default=len)
    generate_idle: Callable[[str, int], Awaitable[str | None]] | None = None
    queue_depth: Callable[[], int] = field(default=lambda: 0)
    broadcast: Callable[[InvalidationScope], None] | None = None
    api_process: tuple[int, int] = (0, 1)
    tokenize: Callable[[str], Sequence[int]] | None = None
    max_model_len: int = 0
    shared: SharedLog | None = None
