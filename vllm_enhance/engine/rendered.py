"""The prompt of one request as the engine sees it, and what hooks may read of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_enhance.engine.key import RequestKey
from vllm_enhance.engine.question import find_question
from vllm_enhance.scope import RequestScope
from vllm_enhance.types import Question

__all__ = ["Rendered"]


@dataclass(slots=True, eq=False)
class Rendered:
    """What is asked of the engine.

    Hooks read from it long after the request has been answered. It knows nothing of the ``Call`` that holds it, so that
    both go as soon as nobody needs them, without a turn of the garbage collector.

    Attributes:
        prompt: rendered ``EngineInput``, as hooks left it.
        params: ``SamplingParams``, without our control argument.
        scope: the HTTP request, or ``None``.
        detokenize: token ids -> text.
        key: the exact key with its parts, or ``None``.
        asked: the prompt that was asked, when a hook has put context into ``prompt`` since.
    """

    prompt: Mapping[str, Any]
    params: Any
    scope: RequestScope | None
    detokenize: Callable[[list[int]], str]
    key: RequestKey | None = None
    asked: Mapping[str, Any] | None = None

    @property
    def decoder(self) -> Mapping[str, Any]:
        """The side of the prompt that the decoder reads."""
        prompt = self.prompt
        return prompt["decoder_prompt"] if prompt["type"] == "enc_dec" else prompt

    def text(self) -> str:
        """The prompt as text."""
        return self._text(self.decoder)

    def _text(self, prompt: Mapping[str, Any]) -> str:
        text = prompt.get("prompt")
        return text if text is not None else self.detokenize(prompt.get("prompt_token_ids") or [])

    def question(self) -> Question | None:
        """What similarity may vary, or ``None``; read from the prompt that was asked, not from context put into it."""
        params = self.params
        if self.key is None or params.n > 1 or params.logprobs is not None or params.prompt_logprobs is not None:
            return None
        if self.prompt["type"] != "token":
            return None
        found = find_question(self._text(self.asked or self.prompt), self.scope)
        return None if found is None else Question(found.text, self.key.partition(*found.frame))
