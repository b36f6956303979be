"""What the server side asks of the engine side, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet
from vllm_enhance.settings import Settings
from vllm_enhance.types import InvalidationScope

__all__ = ["EngineControl"]


@runtime_checkable
class EngineControl(Protocol):
    """``EnhancedAsyncLLM.enhance_control``: one per API server process.

    It may also have ``async start()``, called once when the server starts.
    """

    @property
    def settings(self) -> Settings:
        """The resolved settings."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Where faults of the server side are counted."""
        ...

    @property
    def plugins(self) -> PluginSet:
        """The loaded hook packages, and those that could not be loaded."""
        ...

    async def health(self) -> Mapping[str, Any]:
        """``status`` (``healthy``, ``degraded``, ``unhealthy``) and ``components``: a list of mappings with
        ``component``, ``status``, ``detail``."""
        ...

    async def stats(self) -> Mapping[str, Any]:
        """Numbers of this process, JSON-able."""
        ...

    def config(self) -> Mapping[str, Any]:
        """Settings as the operator wrote them, secrets masked; versions; hook packages."""
        ...

    async def explain(self, request_id: str) -> Mapping[str, Any] | None:
        """Why a recent request hit or missed, or ``None`` when no API server process of this server remembers it."""
        ...

    async def recent(self, limit: int) -> Mapping[str, Any]:
        """``requests``: the latest explanations, newest first; ``top``: the keys asked for most often."""
        ...

    async def invalidate(self, scope: InvalidationScope) -> Mapping[str, Any]:
        """Forget what ``scope`` names; ``removed`` is the count (with ``dry_run``, what would go)."""
        ...

    async def feedback(self, request_id: str, verdict: str) -> Mapping[str, Any]:
        """Take a client's verdict (``wrong`` or ``right``) on an answer.

        Raises:
            LookupError: no such request is remembered.
        """
        ...
