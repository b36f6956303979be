"""A hook that fails when it is told to, and tells how many asyncio tasks there are; for ``soak.py``.

In a directory of its own, which is all of the benchmarks that the server gets to see.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.types import RequestContext

__all__ = ["CONTROL_VARIABLE", "SoakHook"]

CONTROL_VARIABLE = "SOAK_CONTROL"
"""Names a file; while it holds ``raise``, ``hang`` or ``nonsense``, that is what the hook does."""


class SoakHook:
    """Fails on command."""

    def __init__(self) -> None:
        self._file = Path(os.environ.get(CONTROL_VARIABLE, "soak-control-is-not-set"))

    @hookimpl
    async def pre_request(self, request: RequestContext) -> Any:
        order = self._file.read_text().strip() if self._file.exists() else ""
        if order == "raise":
            raise RuntimeError("the soak test wants this hook to fail")
        if order == "hang":
            await asyncio.sleep(5)
        return 42 if order == "nonsense" else None

    @hookimpl(inline=True)
    def stats(self) -> Mapping[str, Any]:
        return {"tasks": len(asyncio.all_tasks())}
