"""hedge.py: what its judge says, and its arithmetic on the answers of small servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hedge
import load
import pytest
from scripted_judge import LABELS_VARIABLE, ScriptedSimilarity

Serve = Callable[[str, float], Awaitable[load.Target]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Servers whose first token takes a given time; they count their embeddings as the real one does."""
    servers: list[asyncio.Server] = []

    async def start(status: str, delay: float) -> load.Target:
        asked = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
                    if head.startswith(b"GET /metrics"):
                        body = f"{hedge.EMBED}_sum {asked * 0.005}\n{hedge.EMBED}_count {asked}\n".encode()
                    else:
                        asked += 1
                        await asyncio.sleep(delay)
                        body = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
                    lines = f"cache-status: {status}\r\ncontent-length: {len(body)}\r\n\r\n"
                    writer.write(b"HTTP/1.1 200 OK\r\n" + lines.encode() + body)
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return load.Target("127.0.0.1", server.sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()


async def test_misses_are_compared_pair_by_pair(serve: Serve) -> None:
    plain, similar = await serve("enhance; fwd=miss", 0.01), await serve("enhance; fwd=miss", 0.03)
    found = await hedge.misses(hedge.Asker(plain, "", 0.0), hedge.Asker(similar, "", 0.0), list("abcdef"))
    assert (found["pairs"], found["sources"]) == (6, {"miss": 6})
    assert 1.5 < found["ratio"] < 3.5
    assert found["plain"]["p50_ms"] < found["similar"]["p50_ms"]


async def test_a_hit_is_no_miss(serve: Serve) -> None:
    plain, similar = await serve("enhance; fwd=miss", 0.0), await serve("enhance; hit; detail=similar", 0.0)
    found = await hedge.misses(hedge.Asker(plain, "", 0.0), hedge.Asker(similar, "", 0.0), list("abc"))
    assert (found["pairs"], found["sources"]) == (0, {"hit": 3})


async def test_hits_against_what_the_server_says_of_its_embeddings(serve: Serve) -> None:
    target = await serve("enhance; hit; detail=similar", 0.02)
    found = await hedge.hits(target, hedge.Asker(target, "", 0.0), ["one", "two", "three"])
    assert (found["asked"], found["hits"]) == (3, 3)
    assert found["embedding_mean_ms"] == pytest.approx(5.0)
    # A mean: no less than what the server waits, no more than the slowest; and without the embedding.
    assert 20.0 - 5.0 <= found["beyond_embedding_ms"] <= found["first_token"]["p99_ms"] - 5.0
    assert found["beyond_both_ms"] == pytest.approx(found["beyond_embedding_ms"] - found["rendering_p50_ms"])


async def test_a_lost_connection_is_opened_again(serve: Serve) -> None:
    target = await serve("enhance; fwd=miss", 0.0)
    asker = hedge.Asker(target, "", 0.0)
    await asker("one")
    asker._connection.close()  # type: ignore[union-attr]
    await asyncio.sleep(0.05)
    assert (await asker("two")).ok


@pytest.mark.parametrize(("question", "other", "verdict"), [
    ("How?", "This way.", True), ("How?", "That way.", False), ("Why?", "This way.", None), ("How?", "New.", None),
])  # fmt: skip
async def test_the_judge_knows_what_belongs_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str, other: str, verdict: bool | None
) -> None:
    monkeypatch.setenv(LABELS_VARIABLE, str(tmp_path / "labels.json"))
    script = hedge.Script(tmp_path / "labels.json")
    for text, label in (("How?", 1), ("This way.", 1), ("That way.", 2)):
        script.knows(text, label)
    script.write()
    judge: Any = ScriptedSimilarity()._judge
    assert await judge.same(question, "whatever was generated", other) is verdict
    assert set(json.loads((tmp_path / "labels.json").read_text()).values()) == {1, 2}
