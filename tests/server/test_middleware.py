"""The middleware over real Starlette and FastAPI apps, in process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from server_support import HIT, JOINED, MISS, SIMILAR, Raw, chunk, client_of, scope_now, start
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from vllm_enhance.directives import Directives
from vllm_enhance.errors import RequestRejected
from vllm_enhance.scope import Decision, RequestScope, current_scope
from vllm_enhance.server.middleware import BODY_BYTES, BYPASS, keep_body
from vllm_enhance.server.tenant import TenantRule
from vllm_enhance.types import Source

PATHS = ["/v1/chat/completions", "/v2/rerank", "/inference/v1/generate", "/cohere/v2/chat"]


def app_deciding(*decisions: Decision, status: int = 200) -> Starlette:
    async def answer(request: Request) -> JSONResponse:
        body = await request.json()
        for decision in decisions:
            scope_now().decide(decision)
        return JSONResponse({"echo": body}, status)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])


@pytest.mark.parametrize("path", PATHS)
async def test_a_hit_tells_its_age(path: str) -> None:
    async with client_of(app_deciding(HIT)) as client:
        response = await client.post(path, json={"a": 1})
    assert response.json() == {"echo": {"a": 1}}
    assert response.headers["cache-status"] == "vllm-enhance; hit; ttl=3540; detail=exact"
    assert response.headers["age"] == "59"
    assert "x-enhance-similarity" not in response.headers


async def test_a_similar_hit_tells_its_similarity() -> None:
    async with client_of(app_deciding(SIMILAR)) as client:
        response = await client.post("/v1/completions", json={})
    assert response.headers["x-enhance-similarity"] == "0.9731"


async def test_several_generations_of_one_request() -> None:
    async with client_of(app_deciding(HIT, MISS, JOINED)) as client:
        response = await client.post("/v1/completions", json={})
    assert response.headers["cache-status"] == "vllm-enhance; fwd=miss; detail=partial"
    assert "age" not in response.headers


async def test_no_decision_leaves_the_response_as_it_is() -> None:
    app = app_deciding()
    async with client_of(app) as client:
        response = await client.post("/v1/embeddings", json={})
    assert set(response.headers) == {"content-type", "content-length"}


async def test_an_error_of_the_server_is_told_as_not_stored() -> None:
    async with client_of(app_deciding(MISS, status=500)) as client:
        response = await client.post("/v1/completions", json={})
    assert response.status_code == 500
    assert response.headers["cache-status"] == "vllm-enhance; fwd=miss"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_other_methods_are_not_ours(method: str) -> None:
    seen: list[RequestScope | None] = []

    async def answer(request: Request) -> PlainTextResponse:
        seen.append(current_scope.get())
        return PlainTextResponse("x")

    app = Starlette(routes=[Route("/{path:path}", answer, methods=[method])])
    async with client_of(app) as client:
        response = await client.request(method, "/v1/models", headers={"cache-control": "max-age=nonsense"})
    assert response.status_code == 200
    assert seen == [None]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/enhance", "/v1/enhance/feedback", "/tokenize"])
async def test_other_paths_are_not_ours(path: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_scope.get() is None
        await send(start())
        await send(chunk(b"x", more=False))

    raw = Raw(app)
    assert await raw(path, headers=[(b"cache-control", b"max-age=x")]) == [start(), chunk(b"x", more=False)]


async def test_v1_enhanced_is_a_path_of_its_own() -> None:
    async with client_of(app_deciding(HIT)) as client:
        assert "cache-status" in (await client.post("/v1/enhanced", json={})).headers


async def test_root_path_is_left_out_of_the_path() -> None:
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope_now().path)
        await send(start())
        await send(chunk(b"", more=False))

    await Raw(app)("/proxy/v1/completions", root_path="/proxy")
    assert paths == ["/v1/completions"]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_websockets_and_lifespan_pass_untouched(kind: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([scope["type"], receive, send, current_scope.get()])

    raw = Raw(app)
    scope = {"type": kind, "path": "/v1/realtime", "headers": []}
    await raw._middleware(scope, raw.inbox.get, raw.send)
    assert seen == [kind, raw.inbox.get, raw.send, None]


# --------------------------------------------------------------------------- what the client asks


async def scope_of(headers: list[tuple[bytes, bytes]], **middleware: Any) -> RequestScope:
    found: list[RequestScope] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope_now())
        await send(start())
        await send(chunk(b"", more=False))

    await Raw(app, **middleware)(headers=headers)
    return found[0]


async def test_directives_and_tenant_reach_the_engine_side() -> None:
    headers = [(b"cache-control", b"no-store, max-age=60"), (b"authorization", b"Bearer alice")]
    scope = await scope_of(headers)
    assert scope.directives == Directives(no_store=True, max_age=60)
    assert scope.tenant == TenantRule().digest(headers)
    assert len(scope.tenant) == 16
    assert (await scope_of(headers, tenant=TenantRule("none"))).tenant == b""


async def test_several_cache_control_lines_are_one() -> None:
    scope = await scope_of([(b"cache-control", b"no-store"), (b"cache-control", b"no-cache")])
    assert scope.directives.bypass


@pytest.mark.parametrize(
    ("path", "message_of"),
    [
        ("/v1/chat/completions", lambda body: body["error"]["message"]),
        ("/v1/messages", lambda body: body["error"]["message"]),
        ("/cohere/v2/chat", lambda body: body["message"]),
    ],
)
async def test_a_bad_directive_is_a_400_that_says_what_is_allowed(path: str, message_of: Any) -> None:
    async with client_of(app_deciding(HIT)) as client:
        response = await client.post(path, json={}, headers={"cache-control": "max-age=soon"})
    assert response.status_code == 400
    message = message_of(response.json())
    assert "'soon'" in message
    for word in ("no-store", "no-cache", "only-if-cached", "max-age=SECONDS"):
        assert word in message


async def test_the_400_has_vllms_shape() -> None:
    async with client_of(app_deciding()) as client:
        response = await client.post("/v1/completions", json={}, headers={"cache-control": "no-cache, only-if-cached"})
    error = response.json()["error"]
    assert {**error, "message": ""} == {"message": "", "type": "Bad Request", "param": "Cache-Control", "code": 400}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=3), st.binary(max_size=60))
def test_any_headers_are_served_or_refused_and_never_a_fault(lines: list[bytes], authorization: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(chunk(b"", more=False))

    async def run() -> tuple[int, list[str]]:
        raw = Raw(app)
        headers = [(b"cache-control", line) for line in lines] + [(b"authorization", authorization)]
        await raw(headers=headers)
        return raw.sent[0]["status"], raw.faults

    status, faults = asyncio.run(run())
    assert status in (200, 400)
    assert faults == []


WORDS = ("no-store", "no-cache", "max-age=7", "no-transform", "max-stale", 'x="a"', "")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=5), st.sampled_from([",", ", ", " ,\t", ",,"]), st.booleans())
def test_known_words_are_read_in_any_dress(words: list[str], joint: str, upper: bool) -> None:
    text = joint.join(words)
    header = (text.upper() if upper else text).encode()
    scope = asyncio.run(scope_of([(b"cache-control", header)]))
    assert scope.directives == Directives(
        no_store="no-store" in words, no_cache="no-cache" in words, max_age=7 if "max-age=7" in words else None
    )


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", [400, 429, 451, 503, 504, 599])
async def test_a_rejection_takes_the_place_of_the_response(status: int) -> None:
    async def answer(request: Request) -> JSONResponse:
        scope_now().reject(RequestRejected(status, "no \N{SNOWMAN}"))
        return JSONResponse({"error": "something vague"}, 500, headers={"x-vague": "1"})

    app = Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])])
    async with client_of(app) as client:
        response = await client.post("/v1/completions")
    assert response.status_code == status
    assert response.json()["error"]["message"] == "no \N{SNOWMAN}"
    assert response.json()["error"]["code"] == status
    assert "x-vague" not in response.headers
    assert response.headers["cache-status"] == (
        "vllm-enhance; detail=only-if-cached" if status == 504 else "vllm-enhance; detail=rejected"
    )


async def test_a_rejection_raised_through_the_app_is_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope_now().reject(RequestRejected(429, "slow down"))
        raise RequestRejected(429, "slow down")

    raw = Raw(app)
    await raw()
    assert raw.sent[0]["status"] == 429
    assert json.loads(raw.body)["error"]["message"] == "slow down"


async def test_an_exception_of_the_app_goes_its_way() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("of the app")

    raw = Raw(app)
    with pytest.raises(ValueError, match="of the app"):
        await raw()
    assert raw.sent == []
    assert current_scope.get() is None


async def test_fastapi_handlers_inside_see_exceptions_as_before() -> None:
    app = FastAPI()

    @app.exception_handler(ValueError)
    async def handled(request: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"handled": str(error)}, 418)

    @app.post("/v1/completions")
    async def completions() -> None:
        scope_now().decide(MISS)
        raise ValueError("x")

    async with client_of(app) as client:
        response = await client.post("/v1/completions")
    assert (response.status_code, response.json()) == (418, {"handled": "x"})
    assert response.headers["cache-status"] == "vllm-enhance; fwd=miss"


# --------------------------------------------------------------------------- the body, kept and not read


async def receive_all(chunks: list[bytes], limit: int) -> list[bytes]:
    inbox = [{"type": "http.request", "body": body, "more_body": True} for body in chunks]
    inbox.append({"type": "http.disconnect"})

    async def receive() -> Any:
        return inbox.pop(0)

    kept: list[bytes] = []
    wrapped = keep_body(receive, kept, limit)
    for _ in range(len(chunks) + 1):
        await wrapped()
    return kept


async def test_body_chunks_are_kept_by_reference() -> None:
    chunks = [b"x" * 1000, b"", b"y" * 1000]
    kept = await receive_all(chunks, 2000)
    assert [id(each) for each in kept] == [id(chunks[0]), id(chunks[2])]


async def test_a_body_that_is_too_long_is_not_kept_at_all() -> None:
    assert await receive_all([b"x" * 1000, b"y" * 1001, b"z"], 2000) == [b""]


async def test_the_engine_side_finds_the_body() -> None:
    kept: list[bytes] = []

    async def answer(request: Request) -> JSONResponse:
        body = await request.body()
        kept.append(b"".join(scope_now().body))
        return JSONResponse(len(body))

    app = Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])])
    async with client_of(app) as client:
        assert (await client.post("/v1/completions", content=b"x" * 10)).json() == 10
        assert (await client.post("/v1/completions", content=b"x" * (BODY_BYTES + 1))).json() == BODY_BYTES + 1
    assert kept == [b"x" * 10, b""]


# --------------------------------------------------------------------------- our own faults


async def test_a_fault_of_ours_on_the_way_in_serves_plain_and_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[RequestScope] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope_now())
        await send(start())
        await send(chunk(b"", more=False))

    def broken(self: TenantRule, headers: Any) -> bytes:
        raise RuntimeError("broken")

    monkeypatch.setattr(TenantRule, "digest", broken)
    raw = Raw(app)
    await raw(headers=[(b"authorization", b"Bearer alice")])
    assert raw.sent[0]["status"] == 200
    assert found[0].directives == BYPASS
    assert raw.faults == ["middleware_request"]


async def test_a_fault_of_ours_on_the_way_out_sends_the_response_as_it_is() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope_now().decide(Decision(Source.MEMORY, age=float("nan")))
        await send(start((b"content-length", b"1")))
        await send(chunk(b"x", more=False))

    raw = Raw(app)
    await raw()
    assert raw.sent == [start((b"content-length", b"1")), chunk(b"x", more=False)]
    assert raw.faults == ["middleware_response"]


async def test_a_scope_ends_with_its_request() -> None:
    scope = await scope_of([])
    assert scope.closed
    assert scope.on_decision is None
    scope.decide(MISS)  # background work still holds it
    assert current_scope.get() is None
