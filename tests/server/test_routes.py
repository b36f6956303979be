"""``/v1/enhance/...`` on a FastAPI app with vLLM's own exception handlers (see ``test_vllm_app`` for the whole app)."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
from argparse import Namespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from server_support import RecordingControl

from vllm_enhance.server import routes
from vllm_enhance.server.control import EngineControl
from vllm_enhance.server.report import jsonable
from vllm_enhance.server.targets import ScopeProblem, read_scope
from vllm_enhance.server.tenant import TenantRule
from vllm_enhance.settings import PARSERS
from vllm_enhance.types import InvalidationScope

KEY = "ab" * 32
ALICE = {"authorization": "Bearer alice"}

pytestmark = pytest.mark.usefixtures("vllm_server_modules")


def client_for(control: Any) -> httpx.AsyncClient:
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

    app = FastAPI()
    app.include_router(routes.build_router(TenantRule()))
    app.state.args = Namespace(log_error_stack=False)
    app.state.enhance_control = control
    init_exception_handler(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test/v1/enhance")


def test_the_double_is_what_the_routes_ask_for() -> None:
    assert isinstance(RecordingControl(), EngineControl)


@pytest.mark.parametrize(("status", "code"), [("healthy", 200), ("degraded", 200), ("unhealthy", 503)])
async def test_health(status: str, code: int) -> None:
    report = {"status": status, "components": [{"component": "cache", "status": status, "detail": ""}], "pid": 7}
    async with client_for(RecordingControl(health=report)) as client:
        response = await client.get("/health")
    assert (response.status_code, response.json()) == (code, report)


async def test_reports_that_hang_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "REPORT_SECONDS", 0.05)

    async def hang() -> Any:
        await asyncio.Event().wait()

    async with client_for(RecordingControl(health=hang, stats=hang)) as client:
        health, stats = await asyncio.gather(client.get("/health"), client.get("/stats"))
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    assert "0.05 seconds" in health.json()["detail"]
    assert (stats.status_code, stats.json()["error"]["code"]) == (503, 503)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", None),
        ("GET", "/stats", None),
        ("GET", "/config", None),
        ("GET", "/requests/x", None),
        ("DELETE", "/cache?scope=all", None),
        ("POST", "/feedback", {"request_id": "x", "verdict": "wrong"}),
    ],
)
async def test_without_an_engine_side_every_route_says_so(method: str, path: str, body: Any) -> None:
    async with client_for(None) as client:
        response = await client.request(method, path, json=body)
    assert response.status_code == 503
    assert "not active" in response.text


async def test_stats_survive_odd_values() -> None:
    odd = {
        "nan": float("nan"),
        "inf": float("inf"),
        "bytes": b"\x01",
        "set": {1},
        "at": datetime.date(2024, 1, 2),
        5: 6,
    }
    async with client_for(RecordingControl(stats=odd)) as client:
        response = await client.get("/stats")
    assert response.json() == {"nan": None, "inf": None, "bytes": "01", "set": [1], "at": "2024-01-02", "5": 6}


async def test_config() -> None:
    async with client_for(RecordingControl()) as client:
        response = await client.get("/config")
    assert response.json()["settings"]["tenant"] == "api-key"


async def test_explain() -> None:
    known = {"chatcmpl-1": {"request_id": "chatcmpl-1", "source": "memory"}}
    async with client_for(RecordingControl(explain=known)) as client:
        assert (await client.get("/requests/chatcmpl-1")).json() == known["chatcmpl-1"]
        missing = await client.get("/requests/other")
        assert missing.status_code == 404
        assert missing.json()["error"]["type"] == "Not Found"
        assert "'other'" in missing.json()["error"]["message"]
        assert (await client.get("/requests/" + "x" * 300)).status_code == 400


# --------------------------------------------------------------------------- DELETE cache


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("scope=all", InvalidationScope("all")),
        ("scope=all&dry_run=true", InvalidationScope("all", None, dry_run=True)),
        (f"scope=key&value={KEY.upper()}", InvalidationScope("key", KEY)),
        (f"scope=tenant&value={'0' * 32}", InvalidationScope("tenant", "0" * 32)),
        (
            "scope=tenant&value=self",
            InvalidationScope("tenant", TenantRule().digest([(b"authorization", b"Bearer alice")]).hex()),
        ),
        ("scope=model&value=meta/Llama%203", InvalidationScope("model", "meta/Llama 3")),
        ("scope=age&value=90", InvalidationScope("age", "90")),
        ("scope=age&value=1.5h&dry_run=1", InvalidationScope("age", "5400", dry_run=True)),
    ],
)
async def test_delete(query: str, expected: InvalidationScope) -> None:
    control = RecordingControl()
    async with client_for(control) as client:
        response = await client.delete(f"/cache?{query}", headers=ALICE)
    assert control.asked == [expected]
    assert response.json() == {"scope": expected.kind, "dry_run": expected.dry_run, "removed": 3}


@pytest.mark.parametrize(
    ("query", "param", "says"),
    [
        ("", "scope", "all, key, tenant, model, age"),
        ("scope=everything", "scope", "'everything' is not one of them"),
        ("scope=all&value=x", "value", "takes no value"),
        ("scope=key", "value", "64 hex digits"),
        ("scope=key&value=abc", "value", "64 hex digits"),
        (f"scope=key&value={'g' * 64}", "value", "64 hex digits"),
        ("scope=tenant&value=sk-secret", "value", "or self"),
        ("scope=model&value=" + "x" * 600, "value", "512 characters"),
        ("scope=age&value=old", "value", "15m"),
        ("scope=age&value=-5", "value", "15m"),
        ("scope=all&dry_run=perhaps", "query.dry_run", "dry_run"),
    ],
)
async def test_delete_says_what_is_allowed(query: str, param: str, says: str) -> None:
    control = RecordingControl()
    async with client_for(control) as client:
        response = await client.delete(f"/cache?{query}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (400, 400, "Bad Request")
    assert error["param"] == param
    assert says in error["message"]
    assert "sk-secret" not in response.text
    assert control.asked == []


async def test_self_needs_a_tenant() -> None:
    async with client_for(RecordingControl()) as client:
        response = await client.delete("/cache?scope=tenant&value=self")
    assert response.status_code == 400
    assert "--enhance-tenant" in response.json()["error"]["message"]


@given(st.text(max_size=20), st.none() | st.text(max_size=80), st.binary(max_size=16))
def test_any_query_is_a_scope_or_a_problem(kind: str, value: str | None, tenant: bytes) -> None:
    for name in (kind, *InvalidationScope.KINDS):
        with contextlib.suppress(ScopeProblem):  # and nothing else
            assert read_scope(name, value, False, own_tenant=tenant).kind in InvalidationScope.KINDS


@given(st.floats(min_value=0, max_value=1e9))
def test_ages_come_out_as_seconds(seconds: float) -> None:
    scope = read_scope("age", f"{seconds:f}", False)
    assert float(str(scope.value)) == pytest.approx(PARSERS["duration"](f"{seconds:f}"), abs=1e-6)


# --------------------------------------------------------------------------- feedback


async def test_feedback() -> None:
    control = RecordingControl(explain={"chatcmpl-1": {}})
    async with client_for(control) as client:
        response = await client.post("/feedback", json={"request_id": "chatcmpl-1", "verdict": "wrong"})
        assert response.json() == {"request_id": "chatcmpl-1", "verdict": "wrong"}
        unknown = await client.post("/feedback", json={"request_id": "other", "verdict": "right"})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "request_id")
        for body in ({}, {"request_id": "x", "verdict": "maybe"}, {"request_id": "", "verdict": "wrong"}, []):
            bad = await client.post("/feedback", json=body)
            assert (bad.status_code, bad.json()["error"]["code"]) == (400, 400)
    assert control.asked == [("chatcmpl-1", "wrong")]


# --------------------------------------------------------------------------- reports

recursive: list[Any] = []
recursive.append(recursive)


def test_a_report_that_holds_itself_ends() -> None:
    assert jsonable(recursive)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.binary(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_report_becomes_strict_json(value: Any) -> None:
    json.dumps(jsonable(value), allow_nan=False)
