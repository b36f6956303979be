"""A real server with similarity and context enrichment, and the questions to it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from vllm_enhance.testing.server import ServerProcess

CHAT = "/v1/chat/completions"
EOS, ENDINGS = 257, (*range(97, 123, 3), *range(65, 91, 4))
WHOLE_ANSWERS = {"min_tokens": 6, "logit_bias": {str(EOS): 100, "32": -100, "60": -100, "91": -100, "123": -100}}
"""Six printable characters and an end, whatever the tiny model has in mind."""

RULES = "You answer briefly. " * 150
"""A system prompt of 3000 tokens: its first token takes longer than a look-up."""


def terse_model(model: Path, target: Path) -> Path:
    """The tiny model, which also ends its answer with some letters: for APIs that cannot ask for an end."""
    shutil.copytree(model, target)
    file = target / "generation_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "eos_token_id": [EOS, *ENDINGS]}))
    return target


@contextmanager
def running(model: Path, embedding_model: str, folder: Path, arguments: Sequence[str]) -> Iterator[str]:
    """Where a server with these further arguments listens; similarity is ready."""
    command = [
        *("--enhance", "--max-model-len", "4096", "--no-enable-prefix-caching"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *("--enhance-embedding-model", embedding_model, "--enhance-similarity-policy", "threshold"),
        *(
            "--enhance-similarity-threshold",
            "0.85",
            "--enhance-hook-deadline",
            "10s",
            "--enhance-similarity-deadline",
            "20s",
            "--enhance-nlp",
            "on",
        ),
        *arguments,
    ]
    served = terse_model(model, folder / "model")
    with ServerProcess(served, command, log=folder / "server.log") as server:
        LOGS.append(server)
        # The first request starts the hooks.
        httpx.post(server.base_url + CHAT, json=chat("wake up", max_tokens=2, min_tokens=0), timeout=120)
        wait_for(lambda: similarity(server.base_url).get("enabled"), 120)
        yield server.base_url


LOGS: list[ServerProcess] = []


def tail() -> str:
    """What the server said last."""
    return "\n" + LOGS[-1].tail(40) if LOGS else ""


def wait_for(holds: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def chat(question: str, system: str | None = None, **extra: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    return {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 64,
        "messages": [*messages, {"role": "user", "content": question}],
        **WHOLE_ANSWERS,
        **extra,
    }


def post(url: str, payload: dict[str, Any], path: str = CHAT, tenant: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {tenant}"} if tenant else {}
    answer = httpx.post(url + path, json=payload, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text + tail()
    return answer


def stats(url: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/v1/enhance/stats").json())


def part(value: Any, name: str) -> dict[str, Any]:
    """The numbers of one hook package, wherever they stand."""
    if isinstance(value, dict):
        if isinstance(value.get(name), dict):
            return dict(value[name])
        for item in value.values():
            if found := part(item, name):
                return found
    return {}


def similarity(url: str) -> dict[str, Any]:
    return part(stats(url), "similarity")


def store(url: str, payload: dict[str, Any], path: str = CHAT, tenant: str | None = None) -> httpx.Response:
    """Ask, and wait until similarity has the answer."""
    before = similarity(url)["index"]["entries"]
    answer = post(url, payload, path, tenant)
    wait_for(lambda: similarity(url)["index"]["entries"] > before)
    return answer


def status(answer: httpx.Response) -> str:
    return str(answer.headers.get("cache-status", "")).removeprefix("vllm-enhance; ")


def explain(url: str, request_id: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/v1/enhance/requests/{request_id}").raise_for_status().json())


def note(found: dict[str, Any], who: str = "context") -> str:
    """What one hook noted of a request."""
    return next((what for name, what in found["notes"] if name == who), "")


def text_of(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def events(url: str, payload: dict[str, Any], path: str = CHAT) -> tuple[list[dict[str, Any]], httpx.Headers]:
    """The events of a stream, and its headers."""
    with httpx.stream("POST", url + path, json={**payload, "stream": True}, timeout=120) as answer:
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
        return [json.loads(line) for line in lines], answer.headers
