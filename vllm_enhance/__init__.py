"""vllm-enhance: vLLM answers repeated and similar questions without generating them again.

Public names load on first use: importing this package loads neither vLLM nor torch and starts nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, the same names as below
    from vllm_enhance.context import HookContext as HookContext
    from vllm_enhance.hookspecs import hookimpl as hookimpl
    from vllm_enhance.records import GenerationRecord as GenerationRecord
    from vllm_enhance.settings import Setting as Setting
    from vllm_enhance.types import Continue as Continue
    from vllm_enhance.types import InvalidationScope as InvalidationScope
    from vllm_enhance.types import Lookup as Lookup
    from vllm_enhance.types import Outcome as Outcome
    from vllm_enhance.types import Reject as Reject
    from vllm_enhance.types import RequestContext as RequestContext
    from vllm_enhance.types import Respond as Respond
    from vllm_enhance.types import Rewrite as Rewrite
    from vllm_enhance.types import Source as Source

_EXPORTS = {
    "CacheConfig": "config",
    "CacheType": "config",
    "EnhancedAsyncLLM": "engine.client",
    "EnhancedHandler": "handler",
    "EnhancedOutput": "outputs",
    "EnhancedRequestOutputCollector": "engine.collector",
    "FeaturesConfig": "config",
    "HandlerConfig": "config",
    "NLPConfig": "config",
    "SimilarityConfig": "config",
    "SystemFactory": "factory",
    "VLLMConfig": "config",
    "create_enhanced_system": "factory",
    "get_global_factory": "factory",
    "read_similar_results": "similar_results",
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
