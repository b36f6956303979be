"""Making what hooks report into JSON, whatever they report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

__all__ = ["jsonable"]

MAX_DEPTH = 16


def jsonable(value: Any, depth: int = 0) -> Any:
    """A copy that ``json`` can write: bytes as hex, numbers that JSON lacks as ``None``, the unknown as ``str``.

    Hooks are third parties' too, and one odd value must not cost the operator the whole report.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(key): jsonable(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | Set):
            return [jsonable(item, depth + 1) for item in value]
    return str(value)
