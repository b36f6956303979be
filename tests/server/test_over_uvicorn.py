"""The middleware where timing, disconnects and back-pressure are real: uvicorn on loopback, Starlette inside."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from server_support import HIT, JOINED, MISS, SSE, enhance_tasks, scope_now, serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from vllm_enhance.errors import RequestRejected
from vllm_enhance.scope import RequestScope
from vllm_enhance.server.middleware import EnhanceMiddleware

WIRES = [("httptools", "2.3"), ("httptools", "2.4"), ("h11", "2.3"), ("h11", "2.4")]
COMMENT = ": keep-alive\n\n"
DATA = 'data: {"choices": []}\n\n'


class Engine:
    """A stand-in for everything behind the middleware: streams as told by the request's JSON body.

    Attributes:
        closed: how many streams were closed, by their end or by a disconnect.
        scopes: of all requests, weakly.
    """

    def __init__(self, **middleware: Any) -> None:
        self.closed = 0
        self.scopes: list[weakref.ref[Any]] = []
        routes = [Route("/v1/completions", self.complete, methods=["POST"])]
        self.app = EnhanceMiddleware(Starlette(routes=routes), **middleware)

    async def complete(self, request: Request) -> Response:
        order = await request.json()
        if order.get("stream"):
            return StreamingResponse(self.stream(order), media_type=SSE)
        scope_now().decide(HIT)
        return JSONResponse({"text": "x" * order.get("size", 1)})

    async def stream(self, order: dict[str, Any]) -> AsyncIterator[str]:
        scope: RequestScope = scope_now()
        try:
            for _ in range(order.get("comments", 0)):
                yield COMMENT
            if order.get("reject"):
                scope.reject(RequestRejected(order["reject"], "refused"))
                await asyncio.sleep(3.0)
            await asyncio.sleep(order.get("think", 0.0))
            if order.get("decide", True):
                scope.decide(MISS)
            for _ in range(order.get("chunks", 3)):
                await asyncio.sleep(order.get("gap", 0.0))
                yield DATA
        finally:
            self.closed += 1


LONG = 30.0


@pytest.fixture(params=WIRES, ids="-".join)
async def wire(request: pytest.FixtureRequest) -> dict[str, str]:
    http, spec_version = request.param
    return {"http": http, "spec_version": spec_version}


async def until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_stream_and_json(wire: dict[str, str]) -> None:
    engine = Engine(header_wait=LONG)
    async with serve(engine.app, **wire) as url, httpx.AsyncClient(base_url=url) as client:
        for _ in range(2):  # one connection
            response = await client.post("/v1/completions", json={"stream": True, "comments": 2, "think": 0.05})
            assert response.text == COMMENT * 2 + DATA * 3
            assert response.headers["cache-status"] == "vllm-enhance; fwd=miss; stored"
            response = await client.post("/v1/completions", json={})
            assert response.json() == {"text": "x"}
            assert response.headers["age"] == "59"
    assert engine.closed == 2
    assert enhance_tasks() == []


async def test_headers_come_with_the_decision_not_with_the_first_token(wire: dict[str, str]) -> None:
    engine = Engine(header_wait=LONG)
    async with serve(engine.app, **wire) as url, httpx.AsyncClient(base_url=url) as client:
        before = time.monotonic()
        async with client.stream("POST", "/v1/completions", json={"stream": True, "gap": 0.5, "chunks": 1}) as response:
            assert time.monotonic() - before < 0.4
            assert "cache-status" in response.headers
            assert [line async for line in response.aiter_lines()] == DATA.splitlines()


async def test_header_wait_is_kept(wire: dict[str, str]) -> None:
    engine = Engine(header_wait=0.1)
    order = {"stream": True, "comments": 1, "think": 1.0, "chunks": 1}
    async with serve(engine.app, **wire) as url, httpx.AsyncClient(base_url=url) as client:
        before = time.monotonic()
        async with client.stream("POST", "/v1/completions", json=order) as response:
            assert 0.09 < time.monotonic() - before < 0.9
            assert "cache-status" not in response.headers
            assert (await response.aread()).decode() == COMMENT + DATA


async def test_never_decided(wire: dict[str, str]) -> None:
    engine = Engine(header_wait=LONG)
    async with serve(engine.app, **wire) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.post("/v1/completions", json={"stream": True, "comments": 1, "decide": False})
        assert response.text == COMMENT + DATA * 3
        assert "cache-status" not in response.headers
        response = await client.post("/v1/completions", json={"stream": True, "chunks": 0, "decide": False})
        assert (response.status_code, response.text) == (200, "")


async def test_a_refused_stream(wire: dict[str, str]) -> None:
    engine = Engine(header_wait=LONG)
    async with serve(engine.app, **wire) as url, httpx.AsyncClient(base_url=url) as client:
        before = time.monotonic()
        response = await client.post("/v1/completions", json={"stream": True, "comments": 1, "reject": 504})
        assert time.monotonic() - before < 2.0
        assert response.status_code == 504
        assert response.json()["error"]["message"] == "refused"
        if wire["spec_version"] == "2.3":  # uvicorn says http.disconnect once a response is complete
            await until(lambda: engine.closed == 1)


# Under 2.4 Starlette learns of it from ``send``, and uvicorn's ``send`` says nothing; uvicorn itself tells apps 2.3.
@pytest.mark.parametrize("wire", [wire for wire in WIRES if wire[1] == "2.3"], indirect=True, ids="-".join)
@pytest.mark.parametrize("when", ["held", "open"])
async def test_a_client_that_hangs_up_leaves_nothing(wire: dict[str, str], when: str) -> None:
    engine = Engine(header_wait=LONG)
    order = {"stream": True, "comments": 1, "think": LONG if when == "held" else 0.0, "chunks": 10_000, "gap": 0.01}
    async with serve(engine.app, **wire) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.post("/v1/completions", json=order, timeout=LONG)
        await until(lambda: engine.closed == 1)
        await until(lambda: enhance_tasks() == [])


async def test_a_client_that_reads_slowly_gets_everything(wire: dict[str, str]) -> None:
    engine = Engine(header_wait=LONG)
    chunks = 20_000  # more than the socket's buffers
    async with serve(engine.app, **wire) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", "/v1/completions", json={"stream": True, "chunks": chunks}) as response:
            await asyncio.sleep(0.2)
            size = 0
            async for part in response.aiter_bytes():
                size += len(part)
        assert size == chunks * len(DATA)


async def test_two_hundred_at_once() -> None:
    engine = Engine(header_wait=LONG)
    limits = httpx.Limits(max_connections=200)
    async with serve(engine.app) as url, httpx.AsyncClient(base_url=url, limits=limits, timeout=LONG) as client:

        async def one(number: int) -> None:
            stream = number % 2 == 0
            response = await client.post("/v1/completions", json={"stream": stream, "comments": 1, "think": 0.02})
            expected = "vllm-enhance; fwd=miss; stored" if stream else "vllm-enhance; hit; ttl=3540; detail=exact"
            assert response.headers["cache-status"] == expected
            assert response.text == (COMMENT + DATA * 3 if stream else '{"text":"x"}')

        await asyncio.gather(*(one(number) for number in range(200)))
        assert enhance_tasks() == []
    assert engine.closed == 100


async def test_scopes_do_not_outlive_their_requests() -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Tracked:
        """Hangs on the scope, which itself allows no weak references."""

    async def answer(request: Request) -> Response:
        tracked = Tracked()
        alive.add(tracked)
        scope_now().request_ids.append(tracked)  # type: ignore[arg-type]
        scope_now().decide(JOINED)

        async def stream() -> AsyncIterator[str]:
            yield DATA

        return StreamingResponse(stream(), media_type=SSE)

    app = EnhanceMiddleware(Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])]), header_wait=60.0)
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as client:
        for _ in range(20):
            await client.post("/v1/completions")
        gc.collect()
        # The connection keeps its last cycle, and its keep-alive timer the context of that.
        assert len(alive) <= 3
