"""Asking the served model something when it has nothing else to do.

For judges that compare answers in the background. Users come first: a question starts only on an idle engine, one at a
time, and is dropped when a user's request arrives.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["IdleGenerator"]

LOWEST_PRIORITY = 1_000_000
"""With ``--scheduling-policy priority`` a larger number waits longer."""

LOOK_SECONDS = 0.01


class IdleGenerator:
    """Generates on an idle engine.

    Args:
        client: the engine client.
        queue_depth: requests that this process has in the engine, ours included.
    """

    def __init__(self, client: Any, queue_depth: Callable[[], int]) -> None:
        self._client = client
        self._queue_depth = queue_depth
        self._turn = asyncio.Lock()
        self._numbers = itertools.count()

    async def generate(self, prompt: str, max_tokens: int) -> str | None:
        """The model's greedy answer to a user message; ``None`` when the engine was not idle long enough.

        The plugin's own cache, hooks and metrics do not see the request.
        """
        if self._turn.locked():
            return None
        async with self._turn:
            ids = await asyncio.to_thread(self._render, prompt)
            if self._queue_depth() > 0:
                return None
            request_id = f"enhance-idle-{next(self._numbers)}"
            params = SamplingParams(temperature=0.0, max_tokens=max_tokens, output_kind=RequestOutputKind.FINAL_ONLY)
            collector = await AsyncLLM.add_request(
                self._client,
                request_id,
                {"type": "token", "prompt_token_ids": ids},
                params,
                priority=self._priority(),
            )
            try:
                return await self._read(collector)
            finally:
                await AsyncLLM.abort(self._client, [collector.request_id], internal=True)
                collector.close()

    async def _read(self, collector: Any) -> str | None:
        while True:
            output = collector.get_nowait()
            if isinstance(output, RequestOutput) and output.finished:
                return output.outputs[0].text
            if self._queue_depth() > 1:
                return None
            await asyncio.sleep(LOOK_SECONDS)

    def _render(self, prompt: str) -> list[int]:
        tokenizer = self._client.renderer.tokenizer
        if getattr(tokenizer, "chat_template", None):
            chat = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            return list(tokenizer.encode(text, add_special_tokens=False))
        return list(tokenizer.encode(prompt))

    def _priority(self) -> int:
        policy = getattr(self._client.vllm_config.scheduler_config, "policy", "fcfs")
        return LOWEST_PRIORITY if policy == "priority" else 0
