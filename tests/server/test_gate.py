"""The gate, message by message: what is held, until when, and that nothing is lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from server_support import HIT, MISS, SSE, Raw, chunk, enhance_tasks, scope_now, start

from vllm_enhance.errors import RequestRejected
from vllm_enhance.server.gate import HELD_BYTES

STREAM = (b"content-type", SSE.encode())
COMMENT = b": keep-alive\n\n"
CREATED = b"event: response.created\ndata: {}\n\n"
DATA = b'data: {"choices": []}\n\n'
LONG = 30.0


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
async def no_task_is_left() -> Any:
    yield
    await settle()
    assert enhance_tasks() == []


async def test_a_stream_waits_for_its_decision() -> None:
    raw: Raw
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await send(chunk(COMMENT))
        await send(chunk(CREATED))
        seen.append(len(raw.sent))
        scope_now().decide(HIT)
        async with asyncio.timeout(LONG / 2):
            while not raw.sent:
                await asyncio.sleep(0.01)
        seen.append(len(raw.sent))
        await send(chunk(DATA))
        await send(chunk(b"", more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert seen == [0, 3]  # held, then let go by the decision alone
    assert raw.headers["cache-status"].startswith("vllm-enhance; hit")
    assert raw.sent[1:] == [chunk(COMMENT), chunk(CREATED), chunk(DATA), chunk(b"", more=False)]


async def test_headers_of_a_miss_leave_while_the_engine_works() -> None:
    raw: Raw
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await settle()
        seen.append(len(raw.sent))
        scope_now().decide(MISS)
        await settle()
        seen.append(len(raw.sent))
        await send(chunk(DATA, more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert seen == [0, 1]
    assert raw.headers["cache-status"] == "vllm-enhance; fwd=miss; stored"


async def test_headers_of_a_hit_leave_with_its_first_token() -> None:
    raw: Raw
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        scope_now().decide(HIT)
        await settle()
        seen.append(len(raw.sent))
        await send(chunk(DATA, more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert seen == [0]
    assert raw.headers["cache-status"].startswith("vllm-enhance; hit")


@pytest.mark.parametrize("ends", ["decided", "refused", "answered", "raised", "cancelled"])
async def test_headers_wait_for_those_who_are_not_with_the_engine_yet(ends: str) -> None:
    raw: Raw
    sent: list[int] = []
    arrived, go_on, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/completions":
            await send(start(STREAM))
            scope_now().decide(MISS)
            await settle()
            sent.append(len(raw.sent))
            go_on.set()
            await over.wait()
            await settle()
            sent.append(len(raw.sent))
            await send(chunk(DATA, more=False))
            return
        arrived.set()
        await go_on.wait()
        if ends == "decided":
            scope_now().decide(MISS)
        elif ends == "refused":
            scope_now().reject(RequestRejected(429, "later"))
        elif ends == "raised":
            over.set()
            raise ValueError("the app failed")
        elif ends == "cancelled":
            over.set()
            await asyncio.sleep(LONG)
        over.set()

    raw = Raw(app, header_wait=LONG)
    other = asyncio.create_task(raw("/v1/chat/completions"))
    await arrived.wait()
    waiting = asyncio.create_task(raw())
    await go_on.wait()
    if ends == "cancelled":
        await over.wait()
        other.cancel()
    await asyncio.gather(other, waiting, return_exceptions=True)
    own = [message for message in raw.sent if message.get("status") == 200]
    assert sent[0] == 0  # while the other one was undecided
    assert len(own) == 1
    assert raw.sent[-1] == chunk(DATA, more=False)
    if ends != "cancelled":
        assert sent[1] >= 1


async def test_headers_leave_with_the_first_token_while_others_still_arrive() -> None:
    raw: Raw
    seen: list[int] = []
    arrived, done = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/v1/completions":
            arrived.set()
            await done.wait()
            return
        await send(start(STREAM))
        scope_now().decide(MISS)
        await settle()
        seen.append(len(raw.sent))
        await send(chunk(DATA))
        seen.append(len(raw.sent))
        await send(chunk(b"", more=False))

    raw = Raw(app, header_wait=LONG)
    other = asyncio.create_task(raw("/v1/chat/completions"))
    await arrived.wait()
    await raw()
    done.set()
    await other
    assert seen == [0, 2]
    assert raw.headers["cache-status"] == "vllm-enhance; fwd=miss; stored"


async def test_a_late_decision_does_not_extend_the_wait() -> None:
    raw: Raw
    seen: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        before = time.monotonic()
        await send(start(STREAM))
        for _ in range(100):  # each of them alone would start the wait anew
            await asyncio.sleep(0.02)
            scope_now().decide(HIT)
            if raw.sent:
                seen.append(time.monotonic() - before)
                break
        await send(chunk(DATA, more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert len(seen) == 1  # let go while decisions still came
    assert seen[0] >= 0.1
    assert raw.headers["cache-status"].startswith("vllm-enhance; hit")


async def test_a_decision_in_a_child_task() -> None:
    async def engine() -> None:
        await asyncio.sleep(0.01)
        scope_now().decide(MISS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await asyncio.create_task(engine())
        await send(chunk(DATA))
        await send(chunk(b"", more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert raw.headers["cache-status"] == "vllm-enhance; fwd=miss; stored"
    assert raw.body == DATA


async def test_decisions_of_one_turn_of_the_loop_are_told_together() -> None:
    async def engine(decision: Any) -> None:
        scope_now().decide(decision)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await asyncio.gather(engine(HIT), engine(MISS))
        await send(chunk(DATA, more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert raw.headers["cache-status"] == "vllm-enhance; fwd=miss; detail=partial"


async def test_a_decision_before_the_response() -> None:
    raw: Raw
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope_now().decide(HIT)
        await send(start(STREAM))
        seen.append(len(raw.sent))
        await send(chunk(DATA, more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert seen == [1]
    assert "cache-status" in raw.headers


async def test_no_decision_ever() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await send(chunk(COMMENT))
        await asyncio.sleep(0.1)
        await send(chunk(COMMENT))
        await send(chunk(b"", more=False))

    raw = Raw(app, header_wait=0.03)
    before = time.monotonic()
    await raw()
    assert time.monotonic() - before < 5
    assert raw.sent == [start(STREAM), chunk(COMMENT), chunk(COMMENT), chunk(b"", more=False)]


async def test_the_deadline_lets_go_without_the_app() -> None:
    raw: Raw
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await asyncio.sleep(0.1)
        seen.append(len(raw.sent))
        scope_now().decide(HIT)  # too late to tell
        await send(chunk(DATA, more=False))

    raw = Raw(app, header_wait=0.02)
    await raw()
    assert seen == [1]
    assert raw.headers == {"content-type": SSE}


@pytest.mark.parametrize("body", [DATA, b"data: [DONE]\n\n", b"\x00\x01", memoryview(DATA)])
async def test_a_chunk_of_the_engine_means_that_no_decision_comes(body: bytes) -> None:
    raw: Raw
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await send(chunk(body))
        seen.append(len(raw.sent))
        await send(chunk(b"", more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert seen == [2]
    assert raw.sent[1]["body"] is body  # not copied


async def test_header_wait_zero_holds_nothing() -> None:
    raw: Raw
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        seen.append(len(raw.sent))
        await send(chunk(COMMENT, more=False))

    raw = Raw(app, header_wait=0.0)
    await raw()
    assert seen == [1]


async def test_held_bytes_are_capped() -> None:
    raw: Raw
    comment = b": " + b"x" * 1000
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        while not raw.sent and len(seen) < 1000:
            await send(chunk(comment))
            seen.append(1)
        await send(chunk(b"", more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert len(seen) == HELD_BYTES // len(comment) + 1
    assert raw.body == comment * len(seen)


async def test_only_a_start_and_then_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"0")))

    raw = Raw(app)
    await raw()
    assert raw.sent == [start((b"content-length", b"0"))]


async def test_an_exception_mid_stream_loses_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await send(chunk(COMMENT))
        raise RuntimeError("mid-stream")

    raw = Raw(app, header_wait=LONG)
    with pytest.raises(RuntimeError, match="mid-stream"):
        await raw()
    assert raw.sent == [start(STREAM), chunk(COMMENT)]


async def test_cancellation_leaves_nothing() -> None:
    held = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        held.set()
        await asyncio.Event().wait()

    raw = Raw(app, header_wait=LONG)
    task = asyncio.create_task(raw())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert raw.sent == []


# --------------------------------------------------------------------------- refusals


async def test_a_stream_that_is_refused_gets_the_status() -> None:
    raw: Raw
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await send(chunk(CREATED))
        scope_now().reject(RequestRejected(504, "nothing is stored for this request"))
        await settle()
        seen.append(len(raw.sent))
        await send(chunk(b'data: {"error": {}}\n\n'))
        await send(chunk(b"", more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert seen == [2]
    assert raw.sent[0]["status"] == 504
    assert len(raw.sent) == 2
    assert raw.headers["content-type"] == "application/json"
    assert int(raw.headers["content-length"]) == len(raw.body)


async def test_a_refusal_after_the_headers_have_left_changes_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope_now().decide(MISS)
        await send(start(STREAM))
        await send(chunk(DATA))
        scope_now().reject(RequestRejected(429, "too late"))
        await send(chunk(DATA))
        await send(chunk(b"", more=False))

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert raw.sent[0]["status"] == 200
    assert raw.body == DATA + DATA


async def test_an_exception_after_a_late_refusal_is_the_apps() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope_now().decide(MISS)
        await send(start(STREAM))
        scope_now().reject(RequestRejected(429, "too late"))
        raise RuntimeError("mid-stream")

    with pytest.raises(RuntimeError, match="mid-stream"):
        await Raw(app, header_wait=LONG)()


# --------------------------------------------------------------------------- a slow or gone client


class SlowRaw(Raw):
    """A server whose ``send`` waits, as uvicorn's does when the client does not read."""

    def __init__(self, app: Any, **middleware: Any) -> None:
        super().__init__(app, **middleware)
        self.writable = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        await super().send(message)


async def test_order_holds_while_the_client_is_slow() -> None:
    raw: SlowRaw
    chunks = [b"data: %d\n\n" % number for number in range(20)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        await send(chunk(COMMENT))
        scope_now().decide(MISS)
        await settle()  # the drain has begun and waits for the client
        asyncio.get_running_loop().call_later(0.02, raw.writable.set)
        for body in chunks:
            await send(chunk(body))
        await send(chunk(b"", more=False))

    raw = SlowRaw(app, header_wait=LONG)
    await raw()
    assert raw.body == COMMENT + b"".join(chunks)
    assert "cache-status" in raw.headers


async def test_concurrent_senders_do_not_overtake_the_start() -> None:
    raw: SlowRaw

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        asyncio.get_running_loop().call_later(0.02, raw.writable.set)
        await asyncio.gather(*(send(chunk(DATA)) for _ in range(10)))
        await send(chunk(b"", more=False))

    raw = SlowRaw(app, header_wait=LONG)
    await raw()
    assert raw.sent[0]["type"] == "http.response.start"
    assert raw.body == DATA * 10


async def test_cancelled_while_the_client_is_slow() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        scope_now().decide(MISS)
        await settle()
        await send(chunk(DATA))

    raw = SlowRaw(app, header_wait=LONG)
    task = asyncio.create_task(raw())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_that_has_gone_is_told_to_the_app() -> None:
    told: list[str] = []

    class Gone(Raw):
        async def send(self, message: Any) -> None:
            raise OSError("gone")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(STREAM))
        scope_now().decide(MISS)
        await settle()  # the drain finds out first
        try:
            await send(chunk(DATA))
        except OSError as error:
            told.append(str(error))
            raise

    raw = Gone(app, header_wait=LONG)
    with pytest.raises(OSError, match="gone"):
        await raw()
    assert told == ["gone"]
    assert raw.faults == []


async def test_extensions_pass_in_their_place() -> None:
    hint = {"type": "http.response.early_hint", "links": []}
    path = {"type": "http.response.pathsend", "path": "x"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(hint)
        await send(start())
        await send(path)

    raw = Raw(app, header_wait=LONG)
    await raw()
    assert raw.sent == [hint, start(), path]
