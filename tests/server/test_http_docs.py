"""``docs/http.md`` against the code: forms, routes, reasons, and examples that are sent as they stand."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_support import RecordingControl
from test_cache_status import read_back

import vllm_enhance.engine
from vllm_enhance.reasons import BYPASS_REASONS, REASONS, render_table
from vllm_enhance.server.cache_status import refusal_status
from vllm_enhance.server.endpoint import EnhanceEndpoint
from vllm_enhance.settings import Settings, SettingsTable
from vllm_enhance.types import InvalidationScope

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(curl .*?)\n```$", TEXT, re.DOTALL | re.MULTILINE)
FLAGS_WITH_VALUE = {"-H", "-d", "-X"}


def own_app() -> Any:
    from fastapi import FastAPI

    app = FastAPI()
    EnhanceEndpoint(Settings(SettingsTable(), {}, {})).attach_router(app)
    app.state.enhance_control = RecordingControl(explain={"chatcmpl-123": {"request_id": "chatcmpl-123"}})
    return app


def test_every_route_is_documented_with_an_example() -> None:
    documented = set(re.findall(r"`(GET|POST|DELETE) (/v1/enhance/[^`?]*)`", TEXT))
    schema = own_app().openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in schema.items() for method in methods}
    assert routes == documented - {("GET", "/v1/enhance/ui")}
    asked = {(request.method, request.url.path) for request in map(parse, BLOCKS)}
    for method, path in routes:
        assert any(method == m and re.fullmatch(re.sub(r"\{.*?\}", "[^/]+", path), p) for m, p in asked), path


def parse(command: str) -> httpx.Request:
    """The request that a ``curl`` line of the documentation makes."""
    words = iter(shlex.split(command.replace("\\\n", " ").replace("$MODEL", "m"))[1:])
    method, url, headers, data = "", "", {}, None
    for word in words:
        value = next(words) if word in FLAGS_WITH_VALUE else ""
        if word == "-H":
            name, _, content = value.partition(": ")
            headers[name] = content
        elif word == "-d":
            data = value
        elif word == "-X":
            method = value
        elif not word.startswith("-"):
            url = word
    return httpx.Request(method or ("POST" if data else "GET"), url, headers=headers, content=data)


@pytest.mark.parametrize("command", BLOCKS)
async def test_examples_are_understood(command: str) -> None:
    request = parse(command)
    app = own_app()
    served = request.url.path.startswith("/v1/enhance")

    if not served:

        @app.post(request.url.path)
        async def generate(body: dict[str, Any]) -> dict[str, Any]:
            assert body["model"] == "m"
            return {}

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        assert (await client.send(request)).status_code == 200


def test_every_form_of_cache_status_is_valid() -> None:
    forms = re.findall(r"^\| `(vllm-enhance; [^`]*)` \|", TEXT, re.MULTILINE)
    assert {refusal_status(504), refusal_status(429)} <= set(forms)
    assert len(forms) == len(set(forms)) >= 10
    for form in forms:
        found = read_back(form)
        assert found.get("fwd", "miss") in ("miss", "request", "bypass")
        if found.get("fwd") == "bypass":
            assert found["detail"] in BYPASS_REASONS


def test_every_scope_is_documented() -> None:
    section = TEXT.split("### Forgetting")[1].split("###")[0]
    assert tuple(re.findall(r"^\| `([a-z]+)` \|", section, re.MULTILINE)[1:]) == InvalidationScope.KINDS


@pytest.mark.parametrize("reasons", [BYPASS_REASONS, REASONS])
def test_every_reason_is_in_the_tables(reasons: dict[str, str]) -> None:
    for row in render_table(reasons).splitlines():
        assert row in TEXT


def labels_in_engine() -> set[str]:
    """Words that the engine side uses as a reason: assigned to ``reason`` or ``unusable``, or in a table of reasons."""
    found: set[str] = set()
    (folder,) = vllm_enhance.engine.__path__
    for path in Path(folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = {getattr(target, "attr", getattr(target, "id", "")) for target in targets}
                if names & {"unusable", "reason"}:
                    found |= words(node.value)
                elif "REASONS" in names and isinstance(node.value, ast.Tuple):
                    found |= {row.elts[0].value for row in node.value.elts}  # type: ignore[attr-defined]
            elif isinstance(node, ast.keyword) and node.arg == "reason":
                found |= words(node.value)
            elif isinstance(node, ast.FunctionDef) and node.name in ("unstorable", "_cut_by_server", "bypass_reason"):
                for part in ast.walk(node):
                    if isinstance(part, ast.Return):
                        found |= words(part.value)
    return found


def words(node: ast.AST | None) -> set[str]:
    """String constants that a value may come out as; not those it is compared with."""
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, ast.BoolOp):
        return set().union(*map(words, node.values))
    if isinstance(node, ast.IfExp):
        return words(node.body) | words(node.orelse)
    return set()


def test_the_engine_side_gives_no_reason_that_is_not_documented() -> None:
    used = labels_in_engine()
    assert {"sampled", "no_cache", "corrupted", "aborted", "cut_by_server", "unkeyable"} <= used
    assert used <= REASONS.keys()
