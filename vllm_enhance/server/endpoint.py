"""What hangs routes and middleware into vLLM's app: an ``EndpointPlugin`` (``vllm/plugins/endpoint_plugins``).

vLLM calls ``attach_router`` while it builds the app, before it adds authentication, so that what is added here runs
inside it, and ``init_state`` once the engine client is there.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import State

from vllm_enhance.metrics import Metrics
from vllm_enhance.server.insight import build_insight_router
from vllm_enhance.server.middleware import EnhanceMiddleware
from vllm_enhance.server.page import build_page_router
from vllm_enhance.server.routes import build_router
from vllm_enhance.server.tenant import parse_tenant_rule
from vllm_enhance.settings import Settings

__all__ = ["EnhanceEndpoint"]

logger = logging.getLogger("vllm_enhance")


class EnhanceEndpoint:
    """The endpoint plugin of one API server process.

    Args:
        settings: reads ``tenant``, ``header-wait`` and ``ui``.
    """

    name = "vllm-enhance"
    required_tasks = None

    def __init__(self, settings: Settings) -> None:
        self._tenant = parse_tenant_rule(settings["tenant"])
        self._header_wait = float(settings["header-wait"])
        self._ui = bool(settings["ui"])
        self._strict = bool(settings["strict"])
        self._metrics: Metrics | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add ``/v1/enhance`` and the middleware."""
        app.include_router(build_router(self._tenant))
        app.include_router(build_insight_router())
        if self._ui:
            app.include_router(build_page_router())
        app.add_middleware(
            EnhanceMiddleware,
            tenant=self._tenant,
            header_wait=self._header_wait,
            count_fault=self._count_fault,
        )

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Meet the engine client and start the hooks.

        A failure here is logged once and the server serves plain vLLM; with ``--enhance-strict`` it refuses to start.
        """
        state.enhance_control = None
        control = getattr(engine_client, "enhance_control", None)
        if control is None:
            logger.error(
                "--enhance has no effect: the engine client is %s, which the plugin did not make; vLLM serves plain",
                "missing (a render server)" if engine_client is None else type(engine_client).__name__,
            )
            return
        self._metrics = control.metrics
        start = getattr(control, "start", None)
        try:
            if start is not None:
                await start()
        except Exception as error:
            self._count_fault("startup")
            logger.exception("the hooks did not start; vLLM serves without them")
            if self._strict:
                raise RuntimeError("vllm-enhance did not start, and --enhance-strict is on") from error
        state.enhance_control = control

    def _count_fault(self, where: str) -> None:
        if self._metrics is not None:
            self._metrics.count("vllm_enhance_faults", 1, where)
