"""`export`, `import` and `warm` on real stores and real HTTP."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner, Result
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.envelope import Envelope
from vllm_enhance_cache.stores import open_store

from vllm_enhance.cli import GROUP, build
from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids

ROOT = Path(__file__).parents[2]


def invoke(*arguments: object, **environ: str) -> Result:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    app = build([EntryPoint(name, value, GROUP) for name, value in declared.items()])
    return CliRunner().invoke(app, [str(each) for each in arguments], env=environ)


def fill(url: str, key: str, count: int) -> None:
    async def work() -> None:
        store, envelope, now = open_store(url), Envelope(key), time.time()
        for number in range(count):
            record = GenerationRecord(RECORD_VERSION, (ChoiceRecord(pack_token_ids([number]), "x", "stop"),), 3, now)
            entry = Entry(bytes([number]) * 32, record, bytes(16), "m", now, now + 600, 0)
            await store.put(entry.key, envelope.seal(entry), ttl=600, tags=entry.tags)
        await store.close()

    asyncio.run(work())


def count(url: str) -> int:
    async def work() -> int:
        store = open_store(url)
        try:
            return (await store.stats()).entries or 0
        finally:
            await store.close()

    return asyncio.run(work())


def test_answers_move_from_one_store_to_another(tmp_path: Path) -> None:
    old, new = f"sqlite://{tmp_path}/old.db", f"sqlite://{tmp_path}/new.db"
    fill(old, "first secret", 5)
    file = tmp_path / "answers.zst"
    done = invoke("export", file, "--json", ENHANCE_STORE=old, ENHANCE_STORE_KEY="first secret")
    assert json.loads(done.stdout) == {"done": 5, "skipped": 0, "failed": 0}
    done = invoke("import", file, "--store", new, "--store-key", "second", "--ttl", "7d", "--json")
    assert json.loads(done.stdout)["done"] == 5
    assert count(new) == 5
    again = invoke("import", file, "--store", new, "--store-key", "second")
    assert "0 imported, 5 skipped" in again.stdout
    wrong = invoke("export", tmp_path / "x", "--json", "--store", old, "--store-key", "another")
    assert json.loads(wrong.stdout)["done"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "x"), "wants the URL of a shared store"),
        (("export", "x", "--store", "ftp://u:hunter2@h/"), "schemes"),
        (("import", "missing.zst", "--store", "sqlite:///tmp/none.db"), "is not there"),
        (("import", __file__, "--store", "sqlite:///tmp/none.db", "--ttl", "soon"), "--ttl"),
        (("warm", "missing.jsonl"), "is not there"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert said in str(result.exception)
    assert "hunter2" not in str(result.exception)


class Api(http.server.BaseHTTPRequestHandler):
    """Takes requests like a server, and remembers them."""

    asked: ClassVar[list[tuple[str, Any]]] = []

    def do_GET(self) -> None:
        self._answer({"status": "healthy", "components": [{"component": "x", "status": "healthy", "detail": ""}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, body))
        self._answer({}, 500 if body.get("prompt") == "fail" else 200)

    def _answer(self, answer: Any, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    Api.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_warming_asks_each_line_once(api: str, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    rows = [
        {"model": "m", "messages": [{"role": "user", "content": "a"}], "stream": True},
        {"custom_id": "1", "body": {"model": "m", "prompt": "b"}},
        {"model": "m", "prompt": "fail"},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    first = invoke("warm", file, "--base-url", api, "--json")
    assert first.exit_code == 1  # one failed
    assert json.loads(first.stdout) == {"done": 2, "skipped": 0, "failed": 1}
    assert {path for path, _ in Api.asked} == {"/v1/chat/completions", "/v1/completions"}
    assert all(body["stream"] is False for _, body in Api.asked)
    second = invoke("warm", file, "--base-url", api, "--json")
    assert json.loads(second.stdout) == {"done": 0, "skipped": 2, "failed": 1}
