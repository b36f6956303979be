"""What this process has done to vLLM so far, and what it was told."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet
from vllm_enhance.settings import Settings

__all__ = ["CONFIG_VARIABLE", "ON", "STATE", "SWITCH_VARIABLE", "State", "wanted_by_environment"]

SWITCH_VARIABLE = "ENHANCE"
CONFIG_VARIABLE = "ENHANCE_CONFIG"
"""Internal: how the parent process tells API server processes what was set. Never ``VLLM_*``: vLLM would object."""

ON = frozenset({"1", "on", "true", "yes"})


@dataclass(slots=True)
class State:
    """One for each process, :data:`STATE`.

    Attributes:
        settings: what the process was switched on with; ``None`` while it is off.
        plugins: the hook packages whose settings are known here. Engine clients load their own.
        epoch_path: where the API server processes of one server keep their epoch.
        refused: probes that this vLLM failed.
        applied: patch target -> owner, name and what stood there before.
        runtimes: of the engine clients alive.
    """

    settings: Settings | None = None
    plugins: PluginSet | None = None
    metrics: Metrics | None = None
    epoch_path: Path | None = None
    refused: list[str] = field(default_factory=list)
    applied: dict[str, tuple[Any, str, Any]] = field(default_factory=dict)
    runtimes: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)

    @property
    def on(self) -> bool:
        return self.settings is not None and not self.refused

    def stand_aside(self, why: str) -> None:
        """Let every engine client of this process serve plain from now on."""
        for runtime in list(self.runtimes):
            runtime.stand_aside(why)


STATE = State()


def wanted_by_environment(environ: Mapping[str, str]) -> bool:
    """Whether ``ENHANCE`` switches the plugin on."""
    return environ.get(SWITCH_VARIABLE, "").lower() in ON
