"""Routes for looking: recent requests and the series behind the plots. Used by the status page and ``vllm-enhance``."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from vllm_enhance.server.report import jsonable
from vllm_enhance.server.routes import PREFIX, Control, Refused, present
from vllm_enhance.server.series import read_series

__all__ = ["MAX_RECENT", "build_insight_router"]

MAX_RECENT = 500


def build_insight_router() -> APIRouter:
    """``GET /v1/enhance/requests`` and ``GET /v1/enhance/series``."""
    router = APIRouter(prefix=PREFIX, tags=["vllm-enhance"])

    @router.get("/requests", response_model=dict[str, Any])
    async def recent(
        control: Control,
        limit: Annotated[int, Query(ge=1, le=MAX_RECENT, description="how many requests")] = 50,
    ) -> Any:
        """The latest requests of all API server processes, as remembered, and what was asked most often."""
        try:
            return JSONResponse(jsonable(await present(control).recent(limit)))
        except Refused as refused:
            return refused.response

    @router.get("/series", response_model=dict[str, Any])
    async def series(control: Control) -> Any:
        """Counters, gauges and histograms of all API server processes together."""
        try:
            present(control)
            return JSONResponse(jsonable(await asyncio.to_thread(read_series)))
        except Refused as refused:
            return refused.response

    return router
