"""The whole app as vLLM builds it, with our endpoint plugin in it and an engine side that only decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from server_support import HIT, MISS, SSE, RecordingControl, scope_now, serve

from vllm_enhance.server.endpoint import EnhanceEndpoint
from vllm_enhance.server.middleware import GUARDED, EnhanceMiddleware
from vllm_enhance.settings import Settings, SettingsTable

pytestmark = pytest.mark.usefixtures("vllm_server_modules")

KEY = {"authorization": "Bearer secret"}
SETTINGS = Settings(SettingsTable(), {}, {})
OWN_ROUTES = [
    ("GET", "/v1/enhance/health"),
    ("GET", "/v1/enhance/stats"),
    ("GET", "/v1/enhance/config"),
    ("GET", "/v1/enhance/requests/x"),
    ("DELETE", "/v1/enhance/cache?scope=all"),
    ("POST", "/v1/enhance/feedback"),
]


class Client:
    """What ``init_state`` looks at of an engine client."""

    def __init__(self, control: Any = None) -> None:
        self.enhance_control = control


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds vLLM's app, by its own ``build_app``, from command-line arguments."""
    import vllm.plugins
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    original = vllm.plugins.load_endpoint_plugins
    endpoint = EnhanceEndpoint(SETTINGS)
    monkeypatch.setattr(vllm.plugins, "load_endpoint_plugins", lambda *a, **k: [*original(*a, **k), endpoint])

    def make(*flags: str) -> FastAPI:
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "m", *flags])
        return build_app(args, ("generate",))

    return make


async def started(app: FastAPI, control: Any) -> FastAPI:
    from vllm.plugins.endpoint_plugins.interface import init_endpoint_plugins_state

    await init_endpoint_plugins_state(Client(control), app.state, app.state.args)
    return app


@contextlib.asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def test_the_guarded_prefixes_are_vllms() -> None:
    from vllm.entrypoints.serve.middleware.authenticate import GUARDED_PREFIX

    assert GUARDED == GUARDED_PREFIX


def test_it_is_an_endpoint_plugin() -> None:
    from vllm.plugins.endpoint_plugins.interface import EndpointPlugin

    assert isinstance(EnhanceEndpoint(SETTINGS), EndpointPlugin)


def test_the_middleware_runs_inside_authentication_and_cors(build: Any) -> None:
    names = [middleware.cls.__name__ for middleware in build("--api-key", "secret").user_middleware]
    ours = names.index(EnhanceMiddleware.__name__)
    assert names.index("AuthenticationMiddleware") < names.index("CORSMiddleware") < ours


@pytest.mark.parametrize(("method", "path"), OWN_ROUTES)
async def test_own_routes_are_behind_the_api_key(build: Any, method: str, path: str) -> None:
    control = RecordingControl(explain={"x": {"request_id": "x"}})
    body = {"request_id": "x", "verdict": "right"} if method == "POST" else None
    async with client_of(await started(build("--api-key", "secret"), control)) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "secret"}):
            assert (await client.request(method, path, json=body, headers=headers)).status_code == 401
        assert control.asked == []
        assert (await client.request(method, path, json=body, headers=KEY)).status_code == 200


async def test_without_a_key_nobody_reaches_the_middleware(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    inner = EnhanceMiddleware.__call__

    async def watched(self: EnhanceMiddleware, scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope.get("path", scope["type"]))
        await inner(self, scope, receive, send)

    monkeypatch.setattr(EnhanceMiddleware, "__call__", watched)
    async with client_of(await started(build("--api-key", "secret"), RecordingControl())) as client:
        bad = {"cache-control": "max-age=soon"}
        for path in (
            "/v1/completions",
            "/v1/chat/completions",
            "/v1/messages",
            "/v1/responses",
            "/inference/v1/generate",
        ):
            response = await client.post(path, json={}, headers=bad)
            assert response.status_code == 401
            assert "cache-status" not in response.headers
        assert reached == []
        assert (await client.post("/v1/completions", json={}, headers={**bad, **KEY})).status_code == 400
        assert reached == ["/v1/completions"]


async def test_vllms_own_answers_are_as_before(build: Any) -> None:
    """Where nothing is generated, only the date may differ from a server without us."""
    ours = await started(build(), RecordingControl())
    theirs = build()
    theirs.user_middleware = [each for each in theirs.user_middleware if each.cls is not EnhanceMiddleware]
    asked = [
        ("POST", "/v1/completions", b"no json"),
        ("POST", "/v1/nothing", b"{}"),
        ("GET", "/ping/x", b""),
        ("OPTIONS", "/v1/completions", b""),
    ]
    async with client_of(ours) as one, client_of(theirs) as other:
        for method, path, body in asked:
            headers = {"content-type": "application/json"}
            left = await one.request(method, path, content=body, headers=headers)
            right = await other.request(method, path, content=body, headers=headers)
            assert (left.status_code, left.content, dict(left.headers)) == (
                right.status_code,
                right.content,
                dict(right.headers),
            )


def with_generation(app: FastAPI) -> FastAPI:
    """Two routes made of the same parts as vLLM's: cancellation, load tracking, SSE keep-alive."""
    from vllm.entrypoints.serve.utils.api_utils import load_aware_call, with_cancellation
    from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive

    async def tokens(think: float) -> AsyncIterator[str]:
        await asyncio.sleep(think)
        scope_now().decide(MISS)
        yield 'data: {"choices": []}\n\n'
        yield "data: [DONE]\n\n"

    @app.post("/v1/test/json")
    @with_cancellation
    @load_aware_call
    async def whole(body: dict[str, Any], raw_request: Request) -> JSONResponse:
        scope_now().decide(HIT)
        return JSONResponse(body)

    @app.post("/v1/test/stream")
    @with_cancellation
    @load_aware_call
    async def stream(body: dict[str, Any], raw_request: Request) -> StreamingResponse:
        return StreamingResponse(with_sse_keep_alive(tokens(body["think"]), 0.05), media_type=SSE)

    return app


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_generation_through_vllms_stack(build: Any, spec_version: str) -> None:
    app = with_generation(
        await started(build("--api-key", "secret", "--enable-request-id-headers"), RecordingControl())
    )
    async with serve(app, spec_version=spec_version) as url, httpx.AsyncClient(base_url=url, headers=KEY) as client:
        response = await client.post("/v1/test/json", json={"a": 1})
        assert response.json() == {"a": 1}
        assert response.headers["cache-status"] == "vllm-enhance; hit; ttl=3540; detail=exact"
        assert "x-request-id" in response.headers
        response = await client.post("/v1/test/stream", json={"think": 0.3})
        assert response.headers["cache-status"] == "vllm-enhance; fwd=miss; stored"
        assert response.text.startswith(": keep-alive\n\n: keep-alive\n\n")
        assert response.text.endswith('data: {"choices": []}\n\ndata: [DONE]\n\n')


async def test_openapi_lists_the_routes(build: Any) -> None:
    async with client_of(build()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for method, path in OWN_ROUTES:
        name = path.split("?")[0].replace("/requests/x", "/requests/{request_id}")
        assert method.lower() in paths[name]
    assert paths["/v1/enhance/cache"]["delete"]["responses"]["200"]["content"]["application/json"]["schema"]


# --------------------------------------------------------------------------- init_state


async def test_the_hooks_are_started_once(build: Any) -> None:
    control = RecordingControl()
    app = await started(build(), control)
    assert control.started == 1
    assert app.state.enhance_control is control


@pytest.mark.parametrize("client", [None, object(), Client(None)])
async def test_a_foreign_engine_client_is_one_error_and_503(
    build: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = build()
    (endpoint,) = app.state.endpoint_plugins
    logger = logging.getLogger("vllm_enhance")
    logger.addHandler(caplog.handler)
    try:
        await endpoint.init_state(client, app.state, app.state.args)
    finally:
        logger.removeHandler(caplog.handler)
    errors = {record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR}
    assert len(errors) == 1
    assert "no effect" in errors.pop()
    async with client_of(app) as http:
        assert (await http.get("/v1/enhance/health")).status_code == 503


class Unstartable(RecordingControl):
    async def start(self) -> None:
        raise OSError("the disk is full")


async def test_hooks_that_do_not_start_are_counted_and_the_server_goes_on(build: Any) -> None:
    control = Unstartable()
    app = await started(build(), control)
    assert app.state.enhance_control is control
    assert control.metrics.value("vllm_enhance_faults", "startup") == 1


async def test_strict_refuses_instead() -> None:
    endpoint = EnhanceEndpoint(Settings(SettingsTable(), {"strict": "on"}, {}))
    with pytest.raises(RuntimeError, match="--enhance-strict"):
        await endpoint.init_state(Client(Unstartable()), FastAPI().state, None)  # type: ignore[arg-type]


async def test_routes_after_vllm_has_deleted_its_state(build: Any) -> None:
    app = await started(build(), RecordingControl())
    async with client_of(app) as client:
        del app.state  # as vLLM's lifespan does on shutdown
        assert (await client.get("/v1/enhance/stats")).status_code == 503
