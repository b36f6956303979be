"""Reading a question: language, connectives, clauses, sub-questions and the signals that similarity must not miss.

Pure functions for English and Chinese that need no downloaded data; NLTK and jieba make them finer when installed.
Public names load on first use: every server process imports this package to read its settings, few analyse text.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "DEFAULT_TEMPLATE": "enrich",
    "Clause": "types",
    "Connective": "types",
    "NLPHook": "plugin",
    "NLPResult": "analysis",
    "Reference": "enrich",
    "ReferenceBlock": "enrich",
    "Span": "types",
    "SubQuestion": "types",
    "Template": "enrich",
    "analyze": "analysis",
    "compose_references": "enrich",
    "detect_language": "language",
    "parse_template": "enrich",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"vllm_enhance_nlp.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'vllm_enhance_nlp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
