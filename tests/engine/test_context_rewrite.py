"""Context that a hook puts into a prompt: the engine reads it, everything else goes by what was asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from engine_support import MemoryHook, ScriptedCore, ScriptedLLM, tokenizer
from vllm.sampling_params import SamplingParams

from vllm_enhance.engine.question import find_question
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.scope import RequestScope
from vllm_enhance.types import Lookup, Question, RequestContext, Respond, Rewrite, Source

MakeLLM = Callable[..., ScriptedLLM]


class Recorder:
    """Notes what hooks can read, before and after the rewriting hook."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes | None, Question | None, str]] = []

    @hookimpl(inline=True)
    def pre_request(self, request: RequestContext) -> None:
        self.seen.append((request.key, request.question, request.prompt_text))


class AddsContext:
    def __init__(self, block: str = "CONTEXT ") -> None:
        self.block = block

    @hookimpl(inline=True)
    def pre_request(self, request: RequestContext) -> Rewrite:
        return Rewrite(prompt_text=self.block + request.prompt_text, keep_key=True)


def prompt(text: str) -> dict[str, Any]:
    return {"type": "token", "prompt": text, "prompt_token_ids": tokenizer().encode(text, add_special_tokens=False)}


async def ask(llm: ScriptedLLM, name: str, text: str) -> list[Any]:
    params = SamplingParams(temperature=0.0, max_tokens=8)
    outputs = [output async for output in llm.generate(prompt(text), params, name)]
    for _ in range(3):  # the books are kept in the next turn of the loop
        await asyncio.sleep(0)
    return outputs


async def test_the_engine_reads_the_context_and_the_question_stays(make_llm: MakeLLM) -> None:
    before, after, core = Recorder(), Recorder(), ScriptedCore(autorun=True)
    llm = make_llm(core, [before, AddsContext(), after])
    outputs = await ask(llm, "a", "what is TCP?")
    assert tokenizer().decode(core.added[0].prompt_token_ids) == "CONTEXT what is TCP?"
    assert len(outputs[-1].prompt_token_ids) == len("CONTEXT what is TCP?")  # what usage counts
    (key, question, text), (key_after, question_after, text_after) = before.seen[0], after.seen[0]
    assert (key_after, question_after) == (key, question)
    assert question is not None
    assert question.text == "what is TCP?"
    assert (text, text_after) == ("what is TCP?", "CONTEXT what is TCP?")


async def test_two_contexts_one_question(make_llm: MakeLLM) -> None:
    after, core = Recorder(), ScriptedCore(autorun=True)
    llm = make_llm(core, [AddsContext("one "), AddsContext("two "), after])
    await ask(llm, "a", "what is TCP?")
    question = after.seen[0][1]
    assert question is not None
    assert question.text == "what is TCP?"
    assert tokenizer().decode(core.added[0].prompt_token_ids) == "two one what is TCP?"


async def test_context_longer_than_the_model_is_left_out(make_llm: MakeLLM) -> None:
    after, core = Recorder(), ScriptedCore(autorun=True)
    llm = make_llm(core, [AddsContext("x" * 4096), after])
    outputs = await ask(llm, "a", "what is TCP?")
    assert outputs[-1].finished
    assert tokenizer().decode(core.added[0].prompt_token_ids) == "what is TCP?"
    assert after.seen[0][2] == "what is TCP?"
    failures = llm.metrics.snapshot()["vllm_enhance_hook_failures"]
    assert [labels.split("|")[-1] for labels in failures] == ["rewrite"]


def test_two_hooks_that_ask_at_once_see_the_same_question() -> None:
    """One thread has read the chat and let the body go, while another stood before it."""
    rendered = "<|system|>be kind<|end|><|user|>what is TCP?<|end|>"
    others: list[Any] = []

    class Body(list[bytes]):
        asked = False

        def __len__(self) -> int:
            if not self.asked:
                self.asked = True
                other = threading.Thread(target=lambda: others.append(find_question(rendered, scope)))
                other.start()
                other.join(0.3)
                threads.append(other)
            return super().__len__()

    threads: list[threading.Thread] = []
    body = b'{"messages": [{"role": "user", "content": "what is TCP?"}]}'
    scope = RequestScope(body=Body([body]))
    found = find_question(rendered, scope)
    for thread in threads:
        thread.join(5)
    assert found is not None
    assert found.text == "what is TCP?"
    assert others == [found]


async def test_the_answer_is_kept_for_the_question_as_it_was_asked(make_llm: MakeLLM) -> None:
    core = ScriptedCore(autorun=True)
    llm = make_llm(core, [MemoryHook(), AddsContext()])
    first = await ask(llm, "a", "what is TCP?")
    again = await ask(llm, "b", "what is TCP?")
    assert llm.source_counts == {"engine": 1, "memory": 1}
    assert [each.outputs[0].text for each in again][-1] == [each.outputs[0].text for each in first][-1]
    assert len(first[-1].prompt_token_ids) == len("CONTEXT what is TCP?")
    assert len(again[-1].prompt_token_ids) == len("what is TCP?")


async def test_a_hit_that_overtakes_counts_the_prompt_as_it_was_asked(make_llm: MakeLLM) -> None:
    core, record = ScriptedCore(), MemoryHook()
    await ask(make_llm(ScriptedCore(autorun=True), [record]), "a", "what is TCP?")
    (kept,) = record.records.values()

    class Similar:
        @hookimpl(inline=True)
        def pre_request(self, request: RequestContext) -> Lookup:
            async def run() -> Respond:
                return Respond(kept, source=Source.SIMILAR, similarity=0.99)

            return Lookup(run, "similarity")

    llm = make_llm(core, [Similar(), AddsContext()])
    outputs = await ask(llm, "b", "what's TCP?")
    assert llm.source_counts == {"similar": 1}
    assert (outputs[-1].prompt, len(outputs[-1].prompt_token_ids)) == ("what's TCP?", len("what's TCP?"))


async def test_the_records_length_is_that_of_the_question_it_answers(make_llm: MakeLLM) -> None:
    """The cache holds it against the prompt that it is asked for."""
    memory = MemoryHook()
    llm = make_llm(ScriptedCore(autorun=True), [memory, AddsContext()])
    await ask(llm, "a", "what is TCP?")
    assert [record.prompt_tokens for record in memory.records.values()] == [len("what is TCP?")]
