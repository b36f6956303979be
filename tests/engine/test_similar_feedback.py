"""Feedback on a similar answer, through the engine's own path: lookup, replay, `post_output`, `Control.feedback`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from engine_support import ScriptedCore, ScriptedLLM, collect, greedy
from vllm_enhance_similarity.options import SimilarityOptions
from vllm_enhance_similarity.plugin import SimilarityHook

from vllm_enhance.engine.control import Control

MakeLLM = Callable[..., ScriptedLLM]

STORED, ASKED = "How do I open a savings account?", "How can I open an account?"
NEAR_STORED, NEAR_ASKED = "how do i open a savings account", "how can i open an account"


async def until(holds: Callable[[], bool], what: object = "") -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def test_a_verdict_over_the_routes_reaches_the_hook_that_served(make_llm: MakeLLM, minilm: str) -> None:
    options = SimilarityOptions(
        embedding_model=minilm, similarity_policy="threshold", similarity_threshold=0.6, similarity_deadline=30.0
    )
    hook = SimilarityHook(options)
    llm = make_llm(ScriptedCore(autorun=True), [hook], settings={"lookup": "blocking", "lookup-deadline": "30s"})
    assert llm.enhance is not None
    control, asked = Control(llm.enhance), 0

    async def ask(text: str) -> str:
        """Where the answer came from."""
        nonlocal asked
        asked += 1
        await collect(llm, greedy(), text, f"r{asked}")
        found = await control.explain(f"r{asked}")
        assert found is not None
        return str(found["source"])

    await control.start()
    await until(lambda: hook.stats()["enabled"])
    assert await ask(STORED) == "engine"
    await until(lambda: hook.stats()["index"]["entries"] == 1)
    assert await ask(ASKED) == "similar"
    hit = f"r{asked}"
    assert hook._feedback is not None
    await until(lambda: len(hook._feedback._hits) == 1)  # type: ignore[union-attr]

    marked = await control.feedback(hit, "wrong")
    assert marked["learned"] == 1
    assert hook.stats()["corrections"] == 1
    assert await ask(NEAR_ASKED) == "engine", "not in its neighbourhood"
    assert await ask(ASKED) == "engine", "not for this question"
    assert await ask(NEAR_STORED) == "similar", "but for its own question"

    taken_back = await control.feedback(hit, "right")
    assert taken_back["learned"] == 1
    assert hook.stats()["corrections"] == 0
