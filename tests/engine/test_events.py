"""Events after which stored answers are no longer what the engine would say; the epoch; identities."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from vllm.lora.request import LoRARequest

from vllm_enhance.engine.epoch import ASLEEP, PAUSED, UPDATING, Epoch
from vllm_enhance.engine.identity import lora_identity, model_identity
from vllm_enhance.engine.invalidation import EVENTS, HARMLESS_RPCS

Make = Callable[..., ScriptedLLM]


def core_of(**answers: Any) -> ScriptedCore:
    core = ScriptedCore(lambda request: [Step([97]), Step([98], "length")], autorun=True)
    core.answers = {"is_sleeping_async": False, "is_scheduler_paused_async": False, **answers}
    return core


async def source(llm: ScriptedLLM, text: str = "hello", **kwargs: Any) -> str:
    """Where the answer to a question comes from."""
    before = llm.source_counts
    await collect(llm, greedy(FINAL, max_tokens=2), text, **kwargs)
    await settle()
    ((name, _),) = [(name, count) for name, count in llm.source_counts.items() if count != before.get(name, 0)]
    return name


CALLS: list[tuple[str, Callable[[Any], Any], bool]] = [
    *((f"rpc {name}", lambda llm, name=name: llm.collective_rpc(name), False) for name in sorted(HARMLESS_RPCS)),
    ("rpc reload_weights", lambda llm: llm.collective_rpc("reload_weights"), True),
    ("rpc by keyword", lambda llm: llm.collective_rpc(method="load_weights"), True),
    ("rpc harmless by keyword", lambda llm: llm.collective_rpc(method="profile"), False),
    ("rpc of a function", lambda llm: llm.collective_rpc(print), True),
    ("update_weight_version", lambda llm: llm.update_weight_version("v2"), True),
    ("sleep 1", lambda llm: llm.sleep(1), False),
    ("sleep 1 by default", lambda llm: llm.sleep(), False),
    ("sleep 2", lambda llm: llm.sleep(2), True),
    ("sleep 2 by keyword", lambda llm: llm.sleep(level=2), True),
    ("pause", lambda llm: llm.pause_generation(mode="keep"), False),
    ("resume", lambda llm: llm.resume_generation(), False),
    ("wake_up", lambda llm: llm.wake_up(), False),
    ("reset_prefix_cache", lambda llm: llm.reset_prefix_cache(), True),
    ("checkpoint_restore", lambda llm: llm.checkpoint_restore(), True),
    ("add_lora", lambda llm: llm.add_lora(LoRARequest("a", 1, "/nowhere")), False),
]


@pytest.mark.parametrize(
    ("call", "forgets"), [(call, forgets) for _, call, forgets in CALLS], ids=[c[0] for c in CALLS]
)
async def test_each_event_with_its_arguments(make_llm: Make, call: Callable[[Any], Any], forgets: bool) -> None:
    llm = make_llm(core_of(wake_up_async=True), [MemoryHook()])
    assert llm.enhance is not None
    assert [await source(llm), await source(llm)] == ["engine", "memory"]
    try:
        await call(llm)
    except AttributeError as error:
        pytest.skip(f"not in this vLLM: {error}")
    llm.enhance.epoch.leave(ASLEEP | PAUSED)
    assert await source(llm) == ("engine" if forgets else "memory")


async def test_a_prefix_reset_forgets_only_if_the_operator_wants_it(make_llm: Make) -> None:
    llm = make_llm(core_of(), [MemoryHook()], settings={"flush-on-prefix-reset": "off"})
    assert [await source(llm), await source(llm)] == ["engine", "memory"]
    await llm.reset_prefix_cache()
    assert await source(llm) == "memory"


@pytest.mark.parametrize(
    ("enter", "leave", "flag"),
    [
        (lambda llm: llm.pause_generation(mode="keep"), lambda llm: llm.resume_generation(), PAUSED),
        (lambda llm: llm.sleep(1), lambda llm: llm.wake_up(), ASLEEP),
    ],
)
async def test_states_go_past_the_cache_and_end(make_llm: Make, enter: Any, leave: Any, flag: int) -> None:
    llm = make_llm(core_of(wake_up_async=True), [MemoryHook()])
    assert llm.enhance is not None
    assert [await source(llm), await source(llm)] == ["engine", "memory"]
    await enter(llm)
    assert llm.enhance.epoch.state == flag
    assert await source(llm) == "engine"
    await leave(llm)
    assert llm.enhance.epoch.state == 0
    assert await source(llm) == "memory"


@pytest.mark.parametrize("call", [lambda llm: llm.pause_generation(mode="keep"), lambda llm: llm.sleep(1)])
async def test_a_call_that_failed_leaves_no_state(make_llm: Make, call: Callable[[Any], Any]) -> None:
    names = ("pause_scheduler_async", "pause_generation_async", "sleep_async")
    llm = make_llm(core_of(**dict.fromkeys(names, RuntimeError("no such mode"))), [MemoryHook()])
    assert llm.enhance is not None
    with pytest.raises(RuntimeError, match="no such mode"):
        await call(llm)
    assert llm.enhance.epoch.state == 0


async def test_half_awake_is_asleep(make_llm: Make) -> None:
    llm = make_llm(core_of(wake_up_async=False, is_sleeping_async=True), [MemoryHook()])
    assert llm.enhance is not None
    await llm.sleep(1)
    await llm.wake_up(["weights"])
    assert llm.enhance.epoch.state == ASLEEP


async def test_what_was_admitted_before_is_not_kept_after(make_llm: Make) -> None:
    core = core_of()
    core.autorun = False
    hook = MemoryHook()
    llm = make_llm(core, [hook])
    reading = asyncio.create_task(collect(llm, greedy(FINAL, max_tokens=2)))
    await settle()
    await llm.collective_rpc("load_weights")
    await core.run_all()
    assert (await reading)[0].outputs[0].text == "ab"
    await settle()
    assert hook.records == {}
    assert [outcome.reason for outcome in hook.outcomes] == ["weights_changed"]


async def test_no_one_joins_across_an_event(make_llm: Make) -> None:
    core = core_of()
    core.autorun = False
    llm = make_llm(core)
    first = asyncio.create_task(collect(llm, greedy(FINAL, max_tokens=2)))
    await settle()
    await llm.collective_rpc("load_weights")
    second = asyncio.create_task(collect(llm, greedy(FINAL, max_tokens=2)))
    await settle()
    assert len(core.added) == 2
    await core.run_all()
    await asyncio.gather(first, second)


def test_each_row_names_a_method_of_this_vllm_or_is_known_to_be_missing() -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    missing = {event.method for event in EVENTS if not hasattr(AsyncLLM, event.method)}
    assert missing <= {"start_draft_weight_update", "update_weight_version", "checkpoint_restore", "handle_fault"}


def test_an_unwatched_method_that_changes_weights_would_show() -> None:
    """Every public coroutine of this vLLM's client is in the table or known to be harmless."""
    import inspect

    from vllm.v1.engine.async_llm import AsyncLLM

    harmless = {
        "abort", "add_request", "get_status", "check_health", "compute_weight_checksums", "do_log_stats",
        "get_model_config", "get_external_elastic_ep_status",
        "get_supported_tasks", "get_tokenizer", "get_vllm_config", "get_weight_version", "is_paused", "is_sleeping",
        "is_tracing_enabled", "list_loras", "pin_lora",
        "notify_kv_transfer_request_rejected",
        "release_kv_cache_memory",
        "reset_encoder_cache", "reset_mm_cache", "shutdown_weight_transfer_engine", "start_profile", "stop_profile",
        "wait_for_requests_to_drain", "get_decoding_config", "checkpoint_prepare", "get_draft_weight_version",
    }  # fmt: skip
    coroutines = {
        name for name, value in inspect.getmembers(AsyncLLM, inspect.iscoroutinefunction) if not name.startswith("_")
    }
    assert coroutines - harmless - {event.method for event in EVENTS} == set()


# --------------------------------------------------------------------------- the epoch


def test_two_processes_share_one_epoch(tmp_path: Path) -> None:
    path = tmp_path / "epoch"
    ours = Epoch(path)
    assert (ours.value, ours.state, ours.bumps) == (bytes(8), 0, 0)
    code = (
        "import sys; from pathlib import Path; from vllm_enhance.engine.epoch import *;"
        "epoch = Epoch(Path(sys.argv[1])); epoch.bump(); epoch.enter(PAUSED); epoch.enter(UPDATING);"
        "epoch.leave(UPDATING); print(epoch.value.hex())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    assert ours.value.hex() == said != bytes(8).hex()
    assert (ours.state, ours.bumps) == (PAUSED, 1)
    assert oct(os.stat(path).st_mode & 0o777) == "0o600"
    assert Epoch(path).value == ours.value


def test_an_epoch_without_a_file_is_its_own() -> None:
    first, second = Epoch(), Epoch()
    first.bump()
    assert second.value == bytes(8)
    assert len({bytes(8), first.value, (first.bump(), first.value)[1]}) == 3  # type: ignore[func-returns-value]


def test_states_are_flags() -> None:
    epoch = Epoch()
    for flag in (PAUSED, ASLEEP, UPDATING):
        epoch.enter(flag)
        epoch.enter(flag)
    assert epoch.state == PAUSED | ASLEEP | UPDATING
    epoch.leave(ASLEEP)
    epoch.leave(ASLEEP)
    assert epoch.state == PAUSED | UPDATING


# --------------------------------------------------------------------------- identities


def config(model: Path, **changes: Any) -> Any:
    fields = {"model": str(model), "tokenizer": str(model), "hf_config": SimpleNamespace(), "seed": 0, "dtype": "x"}
    return SimpleNamespace(
        model_config=SimpleNamespace(**{**fields, **changes}),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        speculative_config=None,
        compute_hash=lambda: "hash",
    )


def test_another_weight_file_is_another_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("{}")
    before = model_identity(config(tmp_path))
    assert model_identity(config(tmp_path)) == before
    (tmp_path / "notes.md").write_text("not part of the model")
    assert model_identity(config(tmp_path)) == before
    (tmp_path / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    after = model_identity(config(tmp_path))
    assert after != before
    (tmp_path / "tokenizer.json").write_text("{} ")
    assert model_identity(config(tmp_path)) not in (before, after)
    os.rename(tmp_path / "model.safetensors", tmp_path / "other.safetensors")
    assert len({model_identity(config(tmp_path)), before, after}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"dtype": "y"},
        {"revision": "main"},
        {"hf_overrides": {"rope_theta": 1}},
        {"hf_config": SimpleNamespace(_commit_hash="abc")},
        {"logprobs_mode": "raw_logits"},
        {"override_generation_config": {"temperature": 0.5}},
        {"quantization": "awq"},
    ],
)
def test_settings_that_change_answers_change_the_identity(tmp_path: Path, changes: Any) -> None:
    assert model_identity(config(tmp_path, **changes)) != model_identity(config(tmp_path))


def test_adapters_are_told_apart_by_name_path_and_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"1")
        os.utime(folder / "adapter_model.safetensors", ns=(1, 1))
    one = lora_identity(LoRARequest("one", 1, str(first)))
    assert one == lora_identity(LoRARequest("one", 9, str(first)))  # the number does not survive a restart
    assert one != lora_identity(LoRARequest("two", 1, str(first)))
    assert one != lora_identity(LoRARequest("one", 1, str(second)))
    (first / "adapter_model.safetensors").write_bytes(b"22")
    assert one != lora_identity(LoRARequest("one", 1, str(first)))
    assert lora_identity(None) == b""


async def test_an_adapter_loaded_anew_under_its_old_number(make_llm: Make, tmp_path: Path) -> None:
    """Training loops write new adapter files, remove the adapter and add it again."""
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"1")
    adapter = LoRARequest("a", 1, str(tmp_path))
    llm = make_llm(core_of(), [MemoryHook()])
    assert await source(llm, lora_request=adapter) == "engine"
    assert await source(llm, lora_request=adapter) == "memory"
    await llm.remove_lora(1)
    weights.write_bytes(b"22")
    await llm.add_lora(adapter)
    assert await source(llm, lora_request=adapter) == "engine"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert await source(llm, lora_request=LoRARequest("a", 1, str(elsewhere))) == "engine"
