"""``/v1/enhance/...``: what operators ask and order. Under ``/v1``, so vLLM's own API key check covers it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from vllm_enhance.reasons import REASONS
from vllm_enhance.server.control import EngineControl
from vllm_enhance.server.refusal import error_body
from vllm_enhance.server.report import jsonable
from vllm_enhance.server.targets import ScopeProblem, read_scope
from vllm_enhance.server.tenant import TenantRule

__all__ = ["PREFIX", "build_router"]

PREFIX = "/v1/enhance"
REPORT_SECONDS = 15.0
"""How long ``health`` and ``stats`` may take: hooks look at real stores, and a store may hang."""

T = TypeVar("T")
RequestId = Annotated[str, Field(min_length=1, max_length=256)]


class Component(BaseModel):
    """One component's health."""

    model_config = ConfigDict(extra="allow")
    component: str
    status: Literal["healthy", "degraded", "unhealthy"]
    detail: str = ""


class Health(BaseModel):
    """The state of the plugin in this API server process."""

    model_config = ConfigDict(extra="allow")
    status: Literal["healthy", "degraded", "unhealthy"]
    components: list[Component] = []


class Invalidated(BaseModel):
    """What was forgotten, or with ``dry_run`` would be."""

    model_config = ConfigDict(extra="allow")
    removed: int = Field(description="Entries that went, or would go.")
    dry_run: bool
    scope: str


class Feedback(BaseModel):
    """A verdict on an answer."""

    model_config = ConfigDict(extra="forbid")
    request_id: RequestId = Field(description="The id of the response, such as chatcmpl-...")
    verdict: Literal["wrong", "right"]


class ErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: int


class Error(BaseModel):
    """vLLM's error shape."""

    error: ErrorInfo


class Refused(Exception):
    """Ends a route with an error; never leaves this module."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.response = JSONResponse(error_body(status, message, param=param), status)


async def _control(request: Request) -> EngineControl | None:
    # vLLM deletes ``app.state`` when it shuts down.
    control: EngineControl | None = getattr(getattr(request.app, "state", None), "enhance_control", None)
    return control


Control = Annotated[EngineControl | None, Depends(_control)]


def present(control: EngineControl | None) -> EngineControl:
    if control is None:
        raise Refused(503, "vllm-enhance is not active in this API server process; its start-up log says why")
    return control


async def _in_time(what: str, report: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(REPORT_SECONDS):
            return await report
    except TimeoutError:
        raise Refused(503, f"{what} did not answer within {REPORT_SECONDS:g} seconds") from None


def _meanings(found: Mapping[str, Any]) -> dict[str, str]:
    """What the labels of an explanation mean, in a sentence each."""
    labels = {name: found.get(name) for name in ("reason", "not_stored")}
    return {f"{name}_meaning": REASONS[label] for name, label in labels.items() if label in REASONS}


def build_router(tenant: TenantRule) -> APIRouter:
    """The routes.

    Args:
        tenant: what separates callers, for ``DELETE cache?scope=tenant&value=self``.
    """
    errors: dict[int | str, dict[str, Any]] = {code: {"model": Error} for code in (400, 404, 503)}
    router = APIRouter(prefix=PREFIX, tags=["vllm-enhance"], responses=errors)

    @router.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health(control: Control) -> Any:
        """Healthy, degraded (still served, something is missing), or unhealthy (503)."""
        try:
            report = jsonable(await _in_time("health", present(control).health()))
        except Refused as refused:
            return JSONResponse({"status": "unhealthy", "components": [], "detail": str(refused)}, 503)
        return JSONResponse(report, 503 if report.get("status") == "unhealthy" else 200)

    @router.get("/stats", response_model=dict[str, Any])
    async def stats(control: Control) -> Any:
        """Numbers of the API server process that happens to answer; ``/metrics`` sums over all of them."""
        try:
            return JSONResponse(jsonable(await _in_time("stats", present(control).stats())))
        except Refused as refused:
            return refused.response

    @router.get("/config", response_model=dict[str, Any])
    async def config(control: Control) -> Any:
        """The settings in force, secrets masked."""
        try:
            return JSONResponse(jsonable(present(control).config()))
        except Refused as refused:
            return refused.response

    @router.get("/requests/{request_id}", response_model=dict[str, Any])
    async def explain(request_id: RequestId, control: Control) -> Any:
        """Why a recent request hit or missed."""
        try:
            found = await present(control).explain(request_id)
            if found is None:
                raise Refused(
                    404,
                    f"no request {request_id[:64]!r} is remembered; each API server process remembers its last ones "
                    "(--enhance-explain-entries)",
                )
            return JSONResponse(jsonable({**found, **_meanings(found)}))
        except Refused as refused:
            return refused.response

    @router.delete("/cache", response_model=Invalidated)
    async def invalidate(
        request: Request,
        control: Control,
        scope: Annotated[str, Query(description="all, key, tenant, model or age")] = "",
        value: Annotated[str | None, Query(description="what of it; for tenant a digest, or self")] = None,
        dry_run: Annotated[bool, Query(description="only count")] = False,
    ) -> Any:
        """Forget stored answers."""
        try:
            target = read_scope(scope, value, dry_run, own_tenant=tenant.digest(request.scope["headers"]))
            result = jsonable(await present(control).invalidate(target))
        except ScopeProblem as problem:
            return Refused(400, str(problem), problem.param).response
        except Refused as refused:
            return refused.response
        return JSONResponse({"scope": target.kind, "dry_run": dry_run, **result})

    @router.post("/feedback", response_model=dict[str, Any])
    async def feedback(body: Feedback, control: Control) -> Any:
        """Say that an answer was wrong, so that it is not given again, or right."""
        try:
            return JSONResponse(jsonable(await present(control).feedback(body.request_id, body.verdict)))
        except LookupError:
            return Refused(404, f"no request {body.request_id[:64]!r} is remembered", "request_id").response
        except Refused as refused:
            return refused.response

    return router
