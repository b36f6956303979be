"""A similar answer on a real server, and what happens when its user says that it was wrong."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_enhance.testing.server import ServerProcess

pytestmark = pytest.mark.engine

STORED, ASKED = "How do I open a savings account?", "How can I open an account?"
NEAR_STORED, NEAR_ASKED = "how do i open a savings account", "how can i open an account"


@pytest.fixture(scope="module")
def url(tiny_model: Path, minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("similar")
    arguments = ["--enhance", "--max-model-len", "1024"]
    arguments += ["--enhance-embedding-model", minilm]
    arguments += ["--enhance-similarity-policy", "threshold", "--enhance-similarity-threshold", "0.6"]
    arguments += ["--enhance-lookup", "blocking", "--enhance-lookup-deadline", "10s"]
    arguments += ["--enhance-similarity-deadline", "10s", "--enhance-store", f"sqlite://{folder}/store.db"]
    environment = {"HF_HUB_OFFLINE": "1", "ENHANCE_STORE_KEY": "a secret of the test"}
    with ServerProcess(tiny_model, arguments, log=folder / "server.log", env={**os.environ, **environment}) as server:
        ask(server.base_url, "wake up")  # the first request starts the hooks
        until = time.monotonic() + 120
        while not fetch(f"{server.base_url}/v1/enhance/stats")["hooks"]["similarity"].get("shared"):
            assert time.monotonic() < until, fetch(f"{server.base_url}/v1/enhance/health")
            time.sleep(0.2)
        yield server.base_url


def fetch(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def ask(url: str, text: str) -> dict[str, Any]:
    """Ask, and the explanation of what was answered."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 16,
        "temperature": 0,
    }
    answered = fetch(f"{url}/v1/chat/completions", body)
    found: dict[str, Any] = fetch(f"{url}/v1/enhance/requests/{answered['id']}")
    return {**found, "text": answered["choices"][0]["message"]["content"], "id": answered["id"]}


def test_wrong_ends_the_reuse_in_its_neighbourhood_and_nowhere_else(url: str) -> None:
    stored = ask(url, STORED)
    assert stored["source"] == "engine"
    until = time.monotonic() + 10
    while (hit := ask(url, ASKED))["source"] != "similar":  # it is stored in the background
        assert time.monotonic() < until, hit
        time.sleep(0.1)
    assert hit["text"] == stored["text"]
    wrong = {"request_id": hit["id"], "verdict": "wrong"}
    while (marked := fetch(f"{url}/v1/enhance/feedback", wrong))["learned"] < 1:  # noted in the background, too
        assert time.monotonic() < until, marked
        time.sleep(0.1)
    assert ask(url, ASKED)["source"] == "engine"
    near = ask(url, NEAR_ASKED)
    assert near["source"] == "engine", near
    assert ask(url, NEAR_STORED)["source"] == "similar", "the stored question keeps its answer"
    stats = fetch(f"{url}/v1/enhance/stats")["hooks"]["similarity"]
    assert stats["corrections"] == 1
