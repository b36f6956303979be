"""The parts that need no server: the load generator, traces, judgement, rendering."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import common
import load
import pairs
import pytest
import render
import serving
import shapes
import soak
import traces
from bench_support import ROOT, run_script

Respond = Callable[[bytes, asyncio.StreamWriter], Any]


class Served:
    """A server that answers as a test says, and counts connections."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.connections = 0
        self.target = load.Target("127.0.0.1", 0)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                await self.respond(head + body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Respond], Any]]:
    servers: list[asyncio.Server] = []

    async def start(respond: Respond) -> Served:
        served = Served(respond)
        server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
        servers.append(server)
        served.target = load.Target("127.0.0.1", server.sockets[0].getsockname()[1])
        return served

    yield start
    for server in servers:
        server.close()


def plain(body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 200 OK\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


async def test_keep_alive_and_source(serve: Any) -> None:
    async def respond(request: bytes, writer: asyncio.StreamWriter) -> None:
        said = plain(b'{"choices": [{"message": {"content": "hi"}}]}', "Cache-Status: vllm-enhance; hit; ttl=3")
        for byte in range(len(said)):  # in as many pieces as there can be
            writer.write(said[byte : byte + 1])
            await writer.drain()

    served = await serve(respond)
    sample = await load.closed_loop(served.target, iter([load.chat("a")] * 6), concurrency=2, keep_body=True)
    assert (len(sample.answers), sample.failed, served.connections) == (6, 0, 2)
    assert sample.sources() == {"hit": 6}
    assert {load.text_of(answer.body, False) for answer in sample.answers} == {"hi"}


async def test_stream_in_pieces(serve: Any) -> None:
    events = [event(""), event("one"), event(" two"), b"data: [DONE]\n\n"]

    async def respond(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Status: x; fwd=miss; collapsed\r\n\r\n")
        for number, each in enumerate(events):
            await asyncio.sleep(0.02 if number == 1 else 0)
            writer.write(f"{len(each):x}\r\n".encode() + each + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    served = await serve(respond)
    sample = await load.closed_loop(
        served.target, iter([load.chat("a", stream=True)] * 3), concurrency=1, keep_body=True
    )
    assert [load.text_of(answer.body, True) for answer in sample.answers] == ["one two"] * 3
    assert sample.sources() == {"joined": 3}
    # The empty first piece is no token, and the last byte is not the first.
    assert all(0.015 < answer.first_token <= answer.seconds for answer in sample.answers)


async def test_failures_are_told_not_raised(serve: Any) -> None:
    async def respond(request: bytes, writer: asyncio.StreamWriter) -> None:
        if b'"cut"' in request:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf")
            writer.close()
        else:
            writer.write(plain(b"{}").replace(b"200 OK", b"429 Too Many"))

    served = await serve(respond)
    sample = await load.closed_loop(served.target, iter([load.chat("cut"), load.chat("no")]), concurrency=1)
    assert [(answer.status, answer.failure) for answer in sample.answers] == [(200, "connection lost"), (429, "")]
    assert sample.failed == 2
    assert math.isnan(sample.latency(0.5))


async def test_open_loop_counts_from_when_a_request_was_due(serve: Any) -> None:
    async def respond(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(plain(b"{}"))

    served = await serve(respond)
    sample = await load.open_loop(served.target, [(0.0, load.get("/"))] * 5 + [(0.2, load.get("/"))])
    assert sample.failed == 0
    assert served.connections == 5  # together, then one of them again
    assert all(answer.seconds >= 0.05 for answer in sample.answers)
    nobody = load.Target("127.0.0.1", 1)
    lost = await load.open_loop(nobody, [(0.0, load.get("/"))])
    assert [answer.failure for answer in lost.answers] == ["ConnectionRefusedError"]


# --------------------------------------------------------------------------- traces


def test_traces_repeat_as_much_as_asked() -> None:
    for share in (0.0, 0.5, 0.9):
        numbers = traces.repeating(2000, share, random.Random(1))
        assert traces.repetition(numbers) == pytest.approx(share, abs=0.03)
    flat, steep = (traces.repetition(traces.zipf(2000, 1000, s, random.Random(1))) for s in (0.6, 1.2))
    assert flat < steep


@pytest.mark.parametrize("process", traces.ARRIVALS)
def test_arrivals_have_the_rate(process: str) -> None:
    times = traces.arrivals(process, 50.0, 200.0, random.Random(3))
    assert times == sorted(times)
    assert len(times) / 200.0 == pytest.approx(50.0, rel=0.1)


def test_bursty_is_burstier_than_poisson() -> None:
    def variation(process: str) -> float:
        times = traces.arrivals(process, 10.0, 1000.0, random.Random(3))
        gaps = [after - before for before, after in itertools.pairwise(times)]
        mean = sum(gaps) / len(gaps)
        return math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean

    assert variation("poisson") == pytest.approx(1.0, abs=0.1)
    assert variation("bursty") > 2.0


def test_questions_are_read_in_both_forms(tmp_path: Path) -> None:
    pairs, texts = tmp_path / "pairs.jsonl.gz", tmp_path / "texts.jsonl"
    pairs.write_bytes(gzip.compress(b'{"a": "x", "b": "y", "same": 1}\n{"a": "x", "b": "z", "same": 0}\n'))
    texts.write_text('{"text": "q", "label": "l"}\n')
    assert traces.read_questions(pairs) == ["x", "y", "x", "z"]
    assert traces.read_questions(texts) == ["q"]
    texts.write_text('{"other": 1}\n')
    with pytest.raises(ValueError, match=r"texts\.jsonl"):
        traces.read_questions(texts)


# --------------------------------------------------------------------------- judgement


def test_quantiles_and_results(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert [common.quantile(range(1, 101), q) for q in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert math.isnan(common.median([math.nan]))
    out = tmp_path / "new" / "result.json"
    common.finish("name", {"value": math.nan, "values": (1.23456789,)}, out=out)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads(out.read_text())
    assert (printed["value"], printed["values"]) == (None, [1.23457])
    assert printed["machine"]["cores"] >= 1


def test_a_wrong_answer_is_noticed() -> None:
    books = soak.Books({(1, 16): {"right"}})
    question = soak.Question(1, 16, False)

    def answer(text: str) -> load.Answer:
        return load.Answer(200, 0.1, 0.1, "hit", json.dumps({"choices": [{"message": {"content": text}}]}).encode())

    books.take(question, answer("right"), 0.0)
    books.take(question, answer("another's"), 1.0)
    books.take(question, load.Answer(500), 2.0)
    books.down = True
    books.take(question, load.Answer(failure="connection lost"), 3.0)
    assert (books.answered, len(books.wrong), len(books.lost), books.failed_while_down) == (2, 1, 1, 1)
    broken = soak.Question(1, 16, True)
    books.take(broken, load.Answer(200, 0.1, 0.1, "hit", b'data: {"error": "x"}\n\n'), 4.0)
    assert len(books.wrong) == 2


def test_growth_of_memory() -> None:
    curve = [{"at": float(second), "server_mib": 100 + second / 60} for second in range(100)]
    assert soak.growth(curve, 0.0) == pytest.approx(1.0)
    assert math.isnan(soak.growth(curve, 99.0))


def figures(rate: float, milliseconds: float) -> dict[str, Any]:
    return {
        "requests": 10, "failed": 0, "per_second": rate, "p50_ms": milliseconds, "p99_ms": milliseconds,
        "first_token_p50_ms": milliseconds, "first_token_p99_ms": milliseconds, "sources": {"hit": 10},
        "generations": 0.0, "cpu_ms": {"vllm server": 1.0},
    }  # fmt: skip


def misses(per_second: float, batch: float = 15.0) -> dict[str, Any]:
    return {**figures(per_second, 300.0), "batch": batch, "cpu_ms": {"vllm server": 2.0}}


def serving_result() -> dict[str, Any]:
    cells = {
        "tokenize-c1": {"enhanced": serving.summary([figures(1000, 1.0)])},
        "hit-c1": {"enhanced": serving.summary([figures(700, 1.5)])},
        "hit-c16": {
            "enhanced": serving.summary([figures(900, 12.0), figures(1000, 11.0), figures(1100, 10.0)]),
            "litellm": serving.summary([figures(200, 12.0)]),
        },
        "joined": {
            "enhanced": {
                **serving.summary([figures(500, 900)]), "callers": 1000.0, "generations": 1.0, "last_ms": 1100.0,
                "generation_alone_ms": 160.0, "different_answers": 1.0,
            }
        },
    }  # fmt: skip
    even = [(misses(100.0), misses(97.0)), (misses(50.0), misses(48.5)), (misses(80.0), misses(79.0))]
    # In one round the enhanced server's engine made its answers one by one.
    rounds = [*even, (misses(90.0), misses(20.0, batch=1.2))]
    paired = {
        "miss-c16": pairs.paired({"plain": [plain for plain, _ in rounds], "enhanced": [ours for _, ours in rounds]})
    }
    floor = {"tokenize-c1": {"enhanced": [figures(1000, 1.0)] * 3}, "hit-c1": {"enhanced": [figures(700, 1.5)] * 3}}
    result = {
        "callers": 16,
        "cells": cells,
        "paired": paired,
        "hit_over_tokenize": pairs.over_floor(floor),
        "memory_mib": {},
        "answers": {"all_equal": True},
    }
    return {**result, "goals": serving.goals(result)}


def test_goals_are_ratios() -> None:
    met = {goal["goal"]: (goal["measured"], goal["met"]) for goal in serving_result()["goals"]}
    assert met["exact hit: latency / tokenize latency of the same server"] == (1.5, True)
    assert met["exact hits per second / LiteLLM's"] == (5.0, True)
    assert met["never repeating, against plain vLLM: throughput"] == (0.97, False)
    assert met["streamed hits per second / LiteLLM's"][1] is None
    assert met["1000 identical at once: last answer / (one generation + as many hits)"][0] == pytest.approx(1100 / 1160)


def test_rounds_are_compared_where_both_engines_batched_alike() -> None:
    found = serving_result()["paired"]["miss-c16"]
    assert (found["rounds"], found["alike"]) == (4, 3)
    assert found["throughput"]["ratio"] == 0.97
    assert found["throughput"]["ratio_of_all"] == pytest.approx(0.97)
    assert found["throughput"]["interval"] == (0.97, 0.9875)
    assert found["server_cpu"]["ratio"] == 1.0


def test_a_start_counts_once_however_many_rounds_it_has() -> None:
    def rounds(start: int, *ratios: float) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [({**misses(100.0), "start": start}, {**misses(100.0 * ratio), "start": start}) for ratio in ratios]

    every = [*rounds(0, *[0.90] * 9), *rounds(1, 0.98, 1.00, 1.02), *rounds(2, 1.01, 1.01)]
    found = pairs.paired({"plain": [plain for plain, _ in every], "enhanced": [ours for _, ours in every]})
    assert found["throughput"]["by_start"] == pytest.approx([0.90, 1.00, 1.01])
    assert found["throughput"]["ratio"] == pytest.approx(1.00)
    assert found["throughput"]["ratio_of_all"] == pytest.approx(0.90)
    low, high = found["throughput"]["interval"]
    assert low == pytest.approx(0.90)  # all three draws may be the slow start
    assert high >= 1.01


def test_interval_of_a_median_narrows_with_more_rounds() -> None:
    few, many = (pairs.interval([1 + 0.01 * (number % 7) for number in range(count)]) for count in (7, 700))
    assert few[1] - few[0] > many[1] - many[0]
    assert few[0] <= 1.03 <= few[1]
    assert all(math.isnan(each) for each in pairs.interval([1.0, 2.0]))


def test_calm_reaches_vllm_and_shows_in_the_result() -> None:
    code = (
        "import sys, time; sys.path.append(sys.argv[1]); import common, render\n"
        "from vllm.distributed.utils import sched_yield\n"
        "before = time.perf_counter(); sched_yield(); took = time.perf_counter() - before\n"
        "print(took >= 5e-5, render.where({'machine': common.machine(), 'versions': {}}))"
    )
    said = {}
    for path in ("", str(ROOT / "benchmarks" / "calm")):
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-c", code, str(ROOT / "benchmarks")]
        said[bool(path)] = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said[True].startswith("True")
    assert "waiting asleep" in said[True]
    assert "waiting asleep" not in said[False]


def test_servers_with_hooks_of_a_benchmark_inherit_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "calm")
    assert common.python_path("hedge_hooks") == os.pathsep.join((str(ROOT / "benchmarks" / "hedge_hooks"), "calm"))
    monkeypatch.delenv("PYTHONPATH")
    assert common.python_path("hedge_hooks") == str(ROOT / "benchmarks" / "hedge_hooks")


def test_page_is_filled_and_checked(tmp_path: Path) -> None:
    result = {"benchmark": "serving", "machine": common.machine(), "versions": {"python": "3"}, **serving_result()}
    page, file = tmp_path / "page.md", tmp_path / "serving.json"
    page.write_text("before\n<!-- figures serving -->\nold\n<!-- end of figures -->\n<!-- figures soak -->\nkept\n"
                    "<!-- end of figures -->\nafter\n")  # fmt: skip
    file.write_text(json.dumps(result, default=str).replace("NaN", "null"))
    once = render.filled(page.read_text(), {"serving": json.loads(file.read_text())})
    assert "| hit-c16 | enhanced | 1 000 |" in once
    assert "0.97 | **no** |" in once
    assert "\nold\n" not in once
    assert "kept" in once
    assert render.filled(once, {"serving": json.loads(file.read_text())}) == once


def test_the_page_shows_the_committed_results() -> None:
    results = {}
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        result = json.loads(file.read_text())
        if result.get("benchmark") in render.RENDERERS:
            results[result["benchmark"]] = result
    page = render.PAGE.read_text()
    assert render.filled(page, results) == page, "python benchmarks/render.py benchmarks/results/*.json"


# --------------------------------------------------------------------------- scripts that need no server


def test_gpu_script_skips_cleanly() -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU")
    assert run_script("gpu.py", "--quick")["skipped"]


def test_inprocess_script_saves_and_compares() -> None:
    name = "selftest"
    try:
        found = run_script("inprocess.py", "--quick", "-k", "test_memory_get or test_record_encode", "--save", name)
        assert {row["name"] for row in found["rows"]} == {
            "memory_get[1000]",
            "record_encode[64]",
            "record_encode[1000]",
        }
        assert all(0 < row["us"] < 1e5 for row in found["rows"])
        compared = run_script("inprocess.py", "--quick", "-k", "test_record_encode", "--compare", name)
        assert len(compared["rows"]) == 2
    finally:
        for file in (ROOT / ".benchmarks").glob(f"*/*_{name}.json"):
            file.unlink()


def test_shape_can_say_every_token(tmp_path: Path) -> None:
    """A made-up model of real size is configured as published, and its tokenizer has a word for each id."""
    transformers = pytest.importorskip("transformers")
    directory = shapes.make_shape("1b", tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (2048, 16, 128256)
    assert len(tokenizer) == config.vocab_size
    ids = tokenizer.encode("Ask me: é?", add_special_tokens=False)
    assert tokenizer.decode(ids) == "Ask me: é?"
    assert tokenizer.decode([1000, 128_000]) == "w1000w128000"
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert rendered == "<|bos|><|user|>hi<|end|><|assistant|>"
