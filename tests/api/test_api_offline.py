"""``ENHANCE=1`` and ``vllm.LLM``: in a process of its own, since that switches the whole process on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine]

SCRIPT = """
import json, sys, threading
from vllm import LLM, SamplingParams

def main():
    llm = LLM(model=sys.argv[1], max_model_len=1024, enforce_eager=True)
    engine = llm.llm_engine
    enhance = getattr(engine, "enhance", None)
    prompts = [f"question {number % 5}" for number in range(40)]
    greedy = SamplingParams(temperature=0, max_tokens=32)
    several = SamplingParams(n=2, temperature=1, seed=1, max_tokens=8, logprobs=2)
    chats = [[{"role": "user", "content": word}] for word in ("hi", "hi", "ho")]

    def plain(outputs):
        return [
            [o.request_id, o.prompt, o.finished, [[c.index, c.text, list(c.token_ids), c.finish_reason,
              str(c.logprobs)] for c in o.outputs]]
            for o in outputs
        ]

    def counted():
        if enhance is None:
            return None
        found = {}
        for labels, value in enhance.metrics.snapshot().get("vllm_enhance_requests", {}).items():
            found[labels.split("|")[0]] = found.get(labels.split("|")[0], 0) + value
        return found

    told = {"class": type(engine).__name__}
    told["first"], told["first_counts"] = plain(llm.generate(prompts, greedy, use_tqdm=False)), counted()
    told["second"], told["second_counts"] = plain(llm.generate(prompts, greedy, use_tqdm=False)), counted()
    told["chat"] = plain(llm.chat(chats, several, use_tqdm=False))
    told["chat_again"], told["chat_counts"] = plain(llm.chat(chats, several, use_tqdm=False)), counted()
    llm.reset_prefix_cache()
    told["flushed"], told["flushed_counts"] = plain(llm.generate(prompts[:1], greedy, use_tqdm=False)), counted()
    first, second = (engine.add_request(name, llm.renderer.render_cmpl([{"prompt_token_ids": [5, 6, 7]}])[0],
                                        SamplingParams(temperature=0, max_tokens=8)) for name in ("901", "902"))
    engine.abort_request([first], internal=True)
    left = []
    while engine.has_unfinished_requests():
        left += [o.request_id for o in engine.step() if o.finished]
    told["left_after_abort"] = left
    if enhance is not None:
        told["state"] = [len(engine._answers), len(engine._leads), len(engine._by_key)]
        told["faults"] = enhance.metrics.snapshot().get("vllm_enhance_faults", {})
    print("TOLD" + json.dumps(told))
    del llm, engine, enhance

if __name__ == "__main__":
    main()
    import gc
    gc.collect()
    print("THREADS" + json.dumps([t.name for t in threading.enumerate()]))
"""


def run(model: Path, tmp_path: Path, **variables: str) -> tuple[dict[str, object], list[str]]:
    script = tmp_path / "offline.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(model)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = done.stdout.splitlines()
    told = next((line[4:] for line in lines if line.startswith("TOLD")), None)
    assert told is not None, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(told), json.loads(next(line[7:] for line in lines if line.startswith("THREADS")))


def test_llm_deduplicates_and_reuses_with_order_and_ids_as_without(tiny_model: Path, tmp_path: Path) -> None:
    ours, threads = run(tiny_model, tmp_path, ENHANCE="1", ENHANCE_HOOKS="cache")
    plain, _ = run(tiny_model, tmp_path)
    assert (plain["class"], ours["class"]) == ("LLMEngine", "EnhancedLLMEngine")
    for part in ("first", "second", "chat", "chat_again", "flushed"):
        assert ours[part] == plain[part], part
    assert ours["first_counts"] == {"engine": 5, "joined": 35}
    assert ours["second_counts"] == {"engine": 5, "joined": 35, "memory": 40}
    assert ours["chat_counts"] == {"engine": 7, "joined": 36, "memory": 43}
    assert ours["flushed_counts"]["engine"] == 8  # type: ignore[index]
    assert ours["left_after_abort"] == plain["left_after_abort"] == ["902"]
    assert ours["state"] == [0, 0, 0]
    assert ours["faults"] == {}
    assert "enhance-offline" not in threads
