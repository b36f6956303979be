"""Two operating system processes on one SQLite file and on one real Redis: what one stores, the other answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_enhance.testing.redis import RedisServer

PROGRAM = Path(__file__).with_name("sharing_process.py")


class Process:
    """One of them. It loads the embedding model by itself."""

    def __init__(self, model: str, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), model, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process has ended with {self._process.wait(10)}"
        return json.loads(line)

    def do(self, kind: str, text: str = "", **more: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": kind, "text": text, **more}) + "\n")
        self._process.stdin.flush()
        return self.read()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def pair(request: pytest.FixtureRequest, minilm: str, tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    server = RedisServer(tmp_path).start() if request.param == "redis" else None
    url = server.url if server is not None else f"sqlite://{tmp_path}/store.db"
    processes = Process(minilm, url), Process(minilm, url)
    try:
        for each in processes:
            assert each.read() == "ready"
        yield processes
    finally:
        for each in processes:
            each.kill()
        if server is not None:
            server.stop()


def test_entries_flushes_and_verdicts_reach_the_other_process_within_a_second(pair: tuple[Process, Process]) -> None:
    one, two = pair
    taken = []
    for question in ("Who wrote Don Quixote?", "What is the capital of Norway?", "How do I open a savings account?"):
        for each in pair:  # so that the time is not that of the first embedding
            assert each.do("ask", question) is None
        stored_at = one.do("generate", question, answer="Like this.")
        taken.append(two.do("until", question, answer="Like this.", seconds=20.0) - stored_at)
    assert min(taken) < 1.0, "also when the machine has had a bad moment"
    assert two.do("ask", "How can I open an account?") == "Like this."
    assert two.do("mark", verdict="wrong") == 1
    assert isinstance(one.do("until", "How can I open an account?", answer=None, seconds=20.0), float)
    assert one.do("ask", "how do i open a savings account") == "Like this."
    forgotten_at = one.do("forget")
    gone_at = two.do("until", "how do i open a savings account", answer=None, seconds=20.0)
    assert gone_at - forgotten_at < 3.0
