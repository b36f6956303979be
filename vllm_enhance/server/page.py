"""The status page: a static shell without data, outside ``/v1`` so that a browser can open it.

A browser sends no ``Authorization`` header when it opens an address, so a page under ``/v1`` could not be opened on a
server with ``--api-key``. The shell is the same for everybody and says nothing about the server; the script in it asks
for the key, keeps it for the tab's life, and fetches ``/v1/enhance/...`` with it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

__all__ = ["FILES", "PAGE", "SECURITY_HEADERS", "build_page_router"]

PAGE = "/enhance/ui"

FILES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "actions.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "plot.js": "text/javascript; charset=utf-8",
    "rates.js": "text/javascript; charset=utf-8",
    "tables.js": "text/javascript; charset=utf-8",
}
"""Everything the page consists of, with its type. Nothing else is served."""

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-cache",
}


@cache
def _content(name: str) -> bytes:
    return files("vllm_enhance.server").joinpath("ui", name).read_bytes()


def build_page_router() -> APIRouter:
    """``/enhance/ui``, its files, and ``/v1/enhance/ui``, which leads there."""
    router = APIRouter(include_in_schema=False)

    @router.get(PAGE)
    async def page() -> Response:
        return _response("index.html")

    @router.get(PAGE + "/{name}")
    async def part(name: str) -> Response:
        return _response(name) if name in FILES else Response("no such file", 404, SECURITY_HEADERS, "text/plain")

    @router.get("/v1/enhance/ui")
    async def lead_there() -> Any:
        # Relative, so that it also holds behind a proxy that serves the API under a path of its own.
        return RedirectResponse("../../enhance/ui", 307, {"cache-control": "no-store"})

    return router


def _response(name: str) -> Response:
    return Response(_content(name), 200, SECURITY_HEADERS, FILES[name])
