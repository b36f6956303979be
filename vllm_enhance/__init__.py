"""vllm-enhance: vLLM answers repeated and similar questions without generating them again.

Public names load on first use: importing this package loads neither vLLM nor torch and starts nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Continue": "types",
    "GenerationRecord": "records",
    "HookContext": "context",
    "InvalidationScope": "types",
    "Lookup": "types",
    "Outcome": "types",
    "Reject": "types",
    "RequestContext": "types",
    "Respond": "types",
    "Rewrite": "types",
    "Setting": "settings",
    "Source": "types",
    "hookimpl": "hookspecs",
}

__all__ = sorted([*_EXPORTS, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vllm-enhance")
    if name in _EXPORTS:
        return getattr(import_module(f"vllm_enhance.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'vllm_enhance' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
