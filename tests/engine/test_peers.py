"""API server processes of one server ask each other: explanations, verdicts and pins, whichever process is asked."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from engine_support import MemoryHook, ScriptedCore, ScriptedLLM, collect, greedy, settle

from vllm_enhance.engine import peers
from vllm_enhance.engine.control import Control
from vllm_enhance.engine.peers import DEADLINE, MAX_CONNECTIONS, MAX_QUESTION
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.types import InvalidationScope

MakeLLM = Callable[..., ScriptedLLM]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Cache(MemoryHook):
    """A memory that can forget, and notes the verdicts that it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.verdicts: list[str] = []

    @hookimpl
    async def invalidate(self, scope: InvalidationScope) -> int:
        return int(self.records.pop(bytes.fromhex(scope.value or ""), None) is not None)

    @hookimpl
    async def feedback(self, key: bytes, verdict: str) -> int:
        self.verdicts.append(verdict)
        return 1


class Process:
    """What an API server process has: a client, its control and its memory."""

    def __init__(self, make_llm: MakeLLM, folder: Path, index: int, count: int) -> None:
        self.cache = Cache()
        self.llm = make_llm(
            ScriptedCore(autorun=True), [self.cache], epoch_path=folder / "epoch", api_process=(index, count)
        )
        assert self.llm.enhance is not None
        self.control = Control(self.llm.enhance)
        self.socket = folder / f"api-{index}"

    async def serve(self, request_id: str, text: str = "hello") -> str:
        """Where the answer came from, or why it went past the cache."""
        await collect(self.llm, greedy(), text, request_id)
        await settle()
        found = await self.control.explain(request_id)
        assert found is not None
        return str(found["reason"] or found["source"])

    async def hears(self, count: int) -> None:
        """Until so many others have its ear."""
        assert self.llm.enhance is not None
        async with asyncio.timeout(30):
            while len(self.llm.enhance.peers._serving) < count:
                await asyncio.sleep(0.005)

    def failures(self, why: str) -> float:
        return self.llm.metrics.value("vllm_enhance_peer_failures", why)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the path of a socket has room for a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        yield Path(name)


@pytest.fixture
async def three(make_llm: MakeLLM, folder: Path) -> list[Process]:
    made = [Process(make_llm, folder, index, 3) for index in range(3)]
    for process in made:
        await process.control.start()
    return made


@asynccontextmanager
async def impostor(path: Path, serve: Serve) -> AsyncIterator[None]:
    """Something else in the place of a process."""
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield
    finally:
        server.close()


def saying(line: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(line)
        writer.close()

    return serve


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the other side gives up
    writer.close()


def lines_about_peers(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "between API server processes" in record.message]


@pytest.fixture
def caplog_of_ours(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("vllm_enhance"), "propagate", True)
    return caplog


# --------------------------------------------------------------------------- what it is for


async def test_every_process_explains_what_any_has_served(three: list[Process]) -> None:
    one, two, last = three
    await one.serve("cmpl-1", "hello")
    await one.serve("cmpl-2-0", "hellos")
    told = await one.control.explain("cmpl-2-0")
    assert told is not None
    assert told["nearest"]["request_id"] == "cmpl-1"
    for other in (two, last):
        found = await other.control.explain("cmpl-2-0")
        assert found is not None
        assert found == json.loads(json.dumps(told))
        assert not {"params", "head"} & found.keys()
        by_the_responses_id = await other.control.explain("cmpl-2")
        assert by_the_responses_id == found
        assert await other.control.explain("cmpl-3") is None
    assert [process.failures(why) for process in three for why in ("nonsense", "deadline", "answering")] == [0.0] * 9


@pytest.mark.parametrize("asked", [0, 1])
async def test_a_wrong_answer_is_taken_by_who_served_it_and_pinned_everywhere(three: list[Process], asked: int) -> None:
    one = three[0]
    await one.serve("r1")
    assert await one.serve("r2") == "memory"
    marked = await three[asked].control.feedback("r2", "wrong")
    assert marked == {"request_id": "r2", "verdict": "wrong", "removed": 1, "learned": 1}
    assert [process.cache.verdicts for process in three] == [["wrong"], [], []]
    for number, process in enumerate(three):
        assert await process.serve(f"again-{number}") == "marked_wrong"


async def test_a_right_answer_pins_nothing(three: list[Process]) -> None:
    await three[0].serve("r1")
    assert (await three[2].control.feedback("r1", "right"))["learned"] == 1
    assert [process.cache.verdicts for process in three] == [["right"], [], []]
    assert await three[0].serve("r2") == "memory"
    with pytest.raises(LookupError):
        await three[1].control.feedback("nobody", "wrong")


async def test_recent_requests_are_those_of_all_processes(three: list[Process]) -> None:
    for number in range(6):
        await three[number % 3].serve(f"r{number}", "often" if number else "once")
    found = await three[1].control.recent(4)
    assert [entry["request_id"] for entry in found["requests"]] == ["r5", "r4", "r3", "r2"]
    assert found["remembered"] == 6
    assert found["api_process"] == [1, 3]
    assert [(top["requests"], top["reused"], top["request_id"]) for top in found["top"]] == [(5, 2, "r5"), (1, 0, "r0")]


# --------------------------------------------------------------------------- who can ask


async def test_only_the_servers_user_can_ask_and_only_while_it_runs(three: list[Process]) -> None:
    for process in three:
        assert stat.S_ISSOCK(process.socket.stat().st_mode)
        assert stat.S_IMODE(process.socket.stat().st_mode) == 0o600
    await three[0].serve("r1")
    assert await three[1].control.explain("r1") is not None
    await three[0].llm.close()
    assert not three[0].socket.exists()
    assert await three[1].control.explain("r1") is None
    assert three[1].failures("nonsense") == 0


async def test_a_single_process_starts_nothing(make_llm: MakeLLM, folder: Path) -> None:
    alone = Process(make_llm, folder, 0, 1)
    await alone.control.start()
    await alone.serve("r1")
    assert await alone.control.explain("r2") is None
    assert (await alone.control.feedback("r1", "wrong"))["removed"] == 1
    assert [path.name for path in folder.iterdir()] == ["epoch"]


async def test_a_place_that_cannot_be_had_costs_only_the_answers(
    make_llm: MakeLLM, folder: Path, caplog_of_ours: pytest.LogCaptureFixture
) -> None:
    deep = folder / ("d" * 120)
    deep.mkdir()
    process = Process(make_llm, deep, 0, 2)
    await process.control.start()
    assert await process.serve("r1") == "engine"
    assert await process.control.explain("r2") is None
    assert "cannot ask this one" in caplog_of_ours.text
    assert process.llm.faults == 0


# --------------------------------------------------------------------------- others that are sick


async def test_a_dead_process_is_not_waited_for(three: list[Process]) -> None:
    one, two, last = three
    await last.serve("r1")
    await two.llm.close()
    with socket.socket(socket.AF_UNIX) as left:  # killed: the file is there, nobody listens
        left.bind(str(two.socket))
        assert await one.control.explain("r1") is not None
        assert await one.control.explain("unknown") is None
    assert one.failures("nonsense") + one.failures("deadline") == 0


async def test_a_process_takes_its_place_from_a_dead_one(make_llm: MakeLLM, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "api-0"))
    first, second = (Process(make_llm, folder, index, 2) for index in range(2))
    await first.control.start()
    await first.serve("r1")
    assert await second.control.explain("r1") is not None


async def test_a_process_that_hangs_costs_the_deadline_and_a_line_in_the_log(
    three: list[Process], caplog_of_ours: pytest.LogCaptureFixture
) -> None:
    one, two, last = three
    await last.serve("r1")
    taken = []
    async with impostor(two.socket, hang):
        for failures in (1, 2):
            started = time.monotonic()
            found = await one.control.explain("r1")
            taken.append(time.monotonic() - started)
            assert found is not None, "the others answer"
            assert one.failures("deadline") == failures
    assert DEADLINE * 0.9 < min(taken) < DEADLINE + 0.4, "also when the machine has had a bad moment"
    assert len(lines_about_peers(caplog_of_ours)) == 1
    assert one.llm.faults == 0


NONSENSE = {
    "nothing": b"",
    "no JSON": b"hello\n",
    "no object": b"[1, 2]\n",
    "too deep": b"[" * 100_000 + b"\n",
    "no text": b"\xff\xfe\n",
    "too long": b'{"request_id": "' + b"x" * 300_000 + b'"}\n',
    "without end": b"x" * 300_000,
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_nonsense_is_no_answer(three: list[Process], monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(peers, "MAX_ANSWER", 200_000)
    one, two, last = three
    await last.serve("r1")
    async with impostor(two.socket, saying(NONSENSE[what])):
        assert await one.control.explain("r2") is None
        assert one.failures("nonsense") == 1
        assert await one.control.explain("r1") is not None
        assert [entry["request_id"] for entry in (await one.control.recent(5))["requests"]] == ["r1"]
        assert (await one.control.feedback("r1", "wrong"))["removed"] == 1
    assert one.llm.faults == 0


SHAPES = (b'{"request_id": 5}\n', b'{"requests": 5, "top": {}}\n', b'{"request_id": "r2", "key": "none"}\n')


@pytest.mark.parametrize("line", SHAPES)
async def test_objects_of_another_shape_are_no_answer(three: list[Process], line: bytes) -> None:
    one, two, _ = three
    await one.serve("r1")
    async with impostor(two.socket, saying(line)):
        assert await one.control.explain("r2") is None
        with pytest.raises(LookupError):
            await one.control.feedback("r2", "wrong")
        assert [entry["request_id"] for entry in (await one.control.recent(5))["requests"]] == ["r1"]
    assert one.failures("nonsense") == 3


async def test_a_verdict_holds_though_the_process_that_served_hangs_over_it(
    three: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_enhance.engine.control.VERDICT_DEADLINE", 0.3)
    one, two, last = three
    await two.serve("r1")
    told = json.dumps(await two.control.explain("r1")).encode()

    async def explain_and_hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"explain" in await reader.readline():
            writer.write(told + b"\n")
        else:
            await reader.read()
        writer.close()

    async with impostor(two.socket, explain_and_hang):
        marked = await one.control.feedback("r1", "wrong")
    assert marked == {"request_id": "r1", "verdict": "wrong", "removed": 0, "learned": 1}
    assert await one.serve("r2") == "marked_wrong"
    assert await last.serve("r3") == "marked_wrong"


# --------------------------------------------------------------------------- others that ask nonsense


BAD_QUESTIONS = {
    "no JSON": b"hello\n",
    "no object": b"[]\n",
    "unknown": b'{"ask": "secrets"}\n',
    "an id that is none": b'{"ask": "explain", "request_id": 5}\n',
    "a key that is none": b'{"ask": "pin", "key": "xyz"}\n',
    "too long": b'{"ask": "explain", "request_id": "' + b"x" * 2 * MAX_QUESTION + b'"}\n',
}


@pytest.mark.parametrize("what", BAD_QUESTIONS)
async def test_a_bad_question_has_no_answer_and_harms_nobody(three: list[Process], what: str) -> None:
    one, two, _ = three
    reader, writer = await asyncio.open_unix_connection(str(one.socket))
    writer.write(BAD_QUESTIONS[what])
    assert await reader.read() == b""
    writer.close()
    assert one.failures("answering") == 1
    await one.serve("r1")
    assert await two.control.explain("r1") is not None


async def test_who_says_nothing_is_shown_out_and_who_comes_on_top_is_not_let_in(
    three: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "DEADLINE", 2.0)  # long enough for all to come before the first is shown out
    one, two, _ = three
    await one.serve("r1")
    silent = [await asyncio.open_unix_connection(str(one.socket)) for _ in range(MAX_CONNECTIONS)]
    await one.hears(MAX_CONNECTIONS)
    assert await two.control.explain("r1") is None
    assert two.failures("nonsense") == 1
    for reader, writer in silent:
        assert await reader.read() == b""
        writer.close()
    assert await two.control.explain("r1") is not None
    assert one.failures("answering") == MAX_CONNECTIONS


async def test_the_end_does_not_wait_for_who_asks(
    make_llm: MakeLLM, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "DEADLINE", 60.0)
    process = Process(make_llm, folder, 0, 2)
    await process.control.start()
    _, writer = await asyncio.open_unix_connection(str(process.socket))
    await process.hears(1)
    async with asyncio.timeout(30):
        await process.llm.close()
    writer.close()
    assert [path.name for path in folder.iterdir()] == ["epoch"]
