"""vllm-enhance: vLLM answers repeated and similar questions without generating them again.

Public names load on first use: importing this package loads neither vLLM nor torch and starts nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, the same names as below
    from vllm_enhance.config import CacheConfig as CacheConfig
    from vllm_enhance.config import CacheType as CacheType
    from vllm_enhance.config import FeaturesConfig as FeaturesConfig
    from vllm_enhance.config import HandlerConfig as HandlerConfig
    from vllm_enhance.config import NLPConfig as NLPConfig
    from vllm_enhance.config import SimilarityConfig as SimilarityConfig
    from vllm_enhance.config import VLLMConfig as VLLMConfig
    from vllm_enhance.context import HookContext as HookContext
    from vllm_enhance.engine.client import EnhancedAsyncLLM as EnhancedAsyncLLM
    from vllm_enhance.engine.collector import EnhancedRequestOutputCollector as EnhancedRequestOutputCollector
    from vllm_enhance.errors import EnhanceError as EnhanceError
    from vllm_enhance.factory import SystemFactory as SystemFactory
    from vllm_enhance.factory import create_enhanced_system as create_enhanced_system
    from vllm_enhance.factory import get_global_factory as get_global_factory
    from vllm_enhance.handler import EnhancedHandler as EnhancedHandler
    from vllm_enhance.hookspecs import hookimpl as hookimpl
    from vllm_enhance.outputs import EnhancedOutput as EnhancedOutput
    from vllm_enhance.records import GenerationRecord as GenerationRecord
    from vllm_enhance.settings import Setting as Setting
    from vllm_enhance.similar_results import read_similar_results as read_similar_results
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
    "Continue": "types",
    "EnhanceError": "errors",
    "EnhancedAsyncLLM": "engine.client",
    "EnhancedHandler": "handler",
    "EnhancedOutput": "outputs",
    "EnhancedRequestOutputCollector": "engine.collector",
    "FeaturesConfig": "config",
    "GenerationRecord": "records",
    "HandlerConfig": "config",
    "HookContext": "context",
    "InvalidationScope": "types",
    "Lookup": "types",
    "NLPConfig": "config",
    "Outcome": "types",
    "Reject": "types",
    "RequestContext": "types",
    "Respond": "types",
    "Rewrite": "types",
    "Setting": "settings",
    "SimilarityConfig": "config",
    "Source": "types",
    "SystemFactory": "factory",
    "VLLMConfig": "config",
    "create_enhanced_system": "factory",
    "get_global_factory": "factory",
    "hookimpl": "hookspecs",
    "read_similar_results": "similar_results",
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
