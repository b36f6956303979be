"""Each reason why a request goes past the cache, or why its answer is not kept."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_support import (
    FINAL,
    MemoryHook,
    ScriptedCore,
    ScriptedLLM,
    Step,
    collect,
    greedy,
    settle,
)
from vllm.sampling_params import SamplingParams

from vllm_enhance.directives import NO_DIRECTIVES, parse_xarg
from vllm_enhance.engine.admission import REASONS, Applicant, bypass_reason
from vllm_enhance.engine.epoch import ASLEEP, PAUSED, UPDATING
from vllm_enhance.reasons import BYPASS_REASONS, NOT_STORED_REASONS

TOKEN = {"type": "token", "prompt_token_ids": [1]}
IMAGE = {"type": "multimodal", "prompt_token_ids": [1], "mm_hashes": {}, "mm_placeholders": {}}
EMBEDS = {"type": "embeds"}
FIELDS = set(SamplingParams.__struct_fields__)


def applicant(params: SamplingParams | None = None, **changes: Any) -> Applicant:
    fields = {
        "prompt": TOKEN,
        "params": params or SamplingParams(),
        "directives": NO_DIRECTIVES,
        "state": 0,
        "cache_sampled": True,
        "media_obstacle": None,
    }
    return Applicant(**{**fields, **changes})


def with_field(name: str, value: Any) -> SamplingParams:
    params = SamplingParams()
    if name in FIELDS:
        setattr(params, name, value)
    return params


CASES: dict[str, list[Applicant]] = {
    "client_bypass": [
        applicant(directives=parse_xarg("bypass")),
        applicant(directives=parse_xarg("no-store,no-cache")),
    ],
    "paused": [applicant(state=PAUSED)],
    "asleep": [applicant(state=ASLEEP)],
    "weights_updating": [applicant(state=UPDATING)],
    "prompt_embeds": [
        applicant(prompt=EMBEDS),
        applicant(prompt={"type": "enc_dec", "encoder_prompt": EMBEDS, "decoder_prompt": TOKEN}),
        applicant(prompt={"type": "enc_dec", "encoder_prompt": TOKEN, "decoder_prompt": EMBEDS}),
    ],
    **{
        obstacle: [
            applicant(prompt=IMAGE, media_obstacle=obstacle),
            applicant(
                prompt={"type": "enc_dec", "encoder_prompt": IMAGE, "decoder_prompt": TOKEN}, media_obstacle=obstacle
            ),
        ]
        for obstacle in ("multimodal_cache", "multimodal_unhashed")
    },
    "kv_transfer": [
        applicant(SamplingParams(extra_args={"kv_transfer_params": {"do_remote_decode": True}})),
        applicant(SamplingParams(extra_args={"ec_transfer_params": {"x": 1}})),
    ],
    "lora_inplace": [applicant(lora=SimpleNamespace(load_inplace=True))],
    "trace_replay": [applicant(with_field("trace_decode_token_ids", [1]))],
    "routed_experts": [applicant(with_field("routed_experts_prompt_start", 1))],
    "prompt_token_scores": [applicant(with_field("prompt_logprob_token_ids", np.array([[1]])))],
    "probe": [
        applicant(SamplingParams(max_tokens=1, logprobs=8, detokenize=False)),
        applicant(SamplingParams(max_tokens=1, detokenize=False)),
        applicant(SamplingParams(max_tokens=1, logprobs=0)),
    ],
    "sampled": [
        applicant(SamplingParams(temperature=1.0), cache_sampled=False),
        applicant(SamplingParams(temperature=0.01), cache_sampled=False),
    ],
}
NEEDS = {
    "trace_replay": "trace_decode_token_ids",
    "routed_experts": "routed_experts_prompt_start",
    "prompt_token_scores": "prompt_logprob_token_ids",
}
ADMITTED = [
    applicant(),
    applicant(SamplingParams(temperature=0.0), cache_sampled=False),
    applicant(SamplingParams(temperature=1.0, seed=0), cache_sampled=False),
    applicant(SamplingParams(max_tokens=1)),
    applicant(SamplingParams(extra_args={"kv_transfer_params": None, "x": 1})),
    applicant(prompt=IMAGE),
    *(applicant(media_obstacle=obstacle) for obstacle in ("multimodal_cache", "multimodal_unhashed")),
    applicant(lora=SimpleNamespace(load_inplace=False)),
    applicant(directives=parse_xarg("no-store")),
    applicant(directives=parse_xarg("no-cache")),
]


def test_every_reason_has_a_case_and_a_sentence() -> None:
    names = [name for name, _ in REASONS]
    assert list(CASES) == names
    assert set(names) <= set(BYPASS_REASONS)


@pytest.mark.parametrize("reason", CASES)
def test_reason(reason: str) -> None:
    if reason in NEEDS and NEEDS[reason] not in FIELDS:
        pytest.skip("this vLLM has no such field")
    assert [bypass_reason(each) for each in CASES[reason]] == [reason] * len(CASES[reason])


@pytest.mark.parametrize("index", range(len(ADMITTED)))
def test_admitted(index: int) -> None:
    assert bypass_reason(ADMITTED[index]) is None


# --------------------------------------------------------------------------- what is not kept


NOT_KEPT: dict[str, tuple[list[Step], dict[str, Any]]] = {
    "aborted": ([Step([97]), Step([], "abort")], {}),
    "error": ([Step([97]), Step([], "error")], {}),
    "cut_by_server": ([Step([97]), Step([98], "length")], {"max_tokens": 10}),
    "no_store": ([Step([97, 98], "length")], {"extra_args": {"enhance": "no-store"}, "max_tokens": 2}),
    "client_bypass": ([Step([97, 98], "length")], {"extra_args": {"enhance": "bypass"}, "max_tokens": 2}),
}


@pytest.mark.parametrize("reason", NOT_KEPT)
async def test_what_is_not_kept_and_why(make_llm: Callable[..., ScriptedLLM], reason: str) -> None:
    steps, fields = NOT_KEPT[reason]
    hook = MemoryHook()
    llm = make_llm(ScriptedCore(lambda request: steps, autorun=True), [hook])
    await collect(llm, greedy(FINAL, **fields))
    await settle()
    assert hook.records == {}
    assert llm.metrics.snapshot()["vllm_enhance_not_stored"] == {reason: 1}
    assert reason in NOT_STORED_REASONS or reason in BYPASS_REASONS


@pytest.mark.parametrize("finish", ["stop", "length", "repetition"])
async def test_what_is_kept(make_llm: Callable[..., ScriptedLLM], finish: str) -> None:
    hook = MemoryHook()
    llm = make_llm(ScriptedCore(lambda request: [Step([97, 98, 99], finish)], autorun=True), [hook])
    await collect(llm, greedy(FINAL, max_tokens=3))
    await settle()
    (record,) = hook.records.values()
    (choice,) = record.choices
    assert (choice.text, choice.num_tokens, choice.finish_reason) == ("ab" if finish == "stop" else "abc", 3, finish)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kv_transfer_params": {"x": 1}}, "kv_transfer"),
        ({"metrics": SimpleNamespace(is_corrupted=True)}, "corrupted"),
        ({"prompt_token_id_logprobs": np.zeros((1, 1))}, "prompt_token_scores"),
        ({"routed_experts": np.zeros(1)}, "debug_outputs"),
        ({"sampling_mask": object()}, "debug_outputs"),
        ({"weight_versions": [("a", 0), ("b", 3)]}, "mixed_weights"),
        ({"weight_versions": [("a", 0)]}, None),
        ({}, None),
    ],
)
def test_outputs_that_make_a_tape_unusable(changes: dict[str, Any], reason: str | None) -> None:
    from vllm.outputs import CompletionOutput, RequestOutput

    from vllm_enhance.engine.tape import Tape

    completion = CompletionOutput(0, "a", [1], None, None, finish_reason="stop")
    output = RequestOutput("r", None, [1], None, [completion], True)
    for name, value in changes.items():
        setattr(completion if name in ("routed_experts", "sampling_mask", "weight_versions") else output, name, value)
    tape = Tape(1)
    tape.ingest(output, FINAL)
    assert tape.unusable == reason
