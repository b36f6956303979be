"""Printing: JSON for scripts, tables for people. Text from a server is never read as markup or control codes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.control import strip_control_codes
from rich.table import Table
from rich.text import Text

from vllm_enhance.server.report import jsonable

__all__ = ["SOURCES", "console", "duration", "number", "percent", "print_json", "table", "text", "tree_rows"]

SOURCES = {
    "memory": "from memory",
    "store": "from the shared store",
    "similar": "similar question",
    "joined": "joined another request",
    "hook": "answered by a hook",
    "engine": "generated",
}
"""Where answers come from, in words; the order of tables."""


def console() -> Console:
    """Standard output, whatever it is by now."""
    return Console(highlight=False, soft_wrap=False)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON value on standard output; numbers that JSON lacks become ``null``."""
    print(json.dumps(jsonable(value), indent=indent, ensure_ascii=False), flush=True)  # noqa: T201


def text(value: Any, style: str = "") -> Text:
    """A value as plain text: no markup, no terminal escapes."""
    plain = "–" if value is None or value == "" else str(value)
    return Text(strip_control_codes(plain).replace("\x1b", ""), style=style)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table; headers that end in ``>`` are right-aligned."""
    result = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for header in headers:
        result.add_column(header.rstrip(">"), justify="right" if header.endswith(">") else "left", overflow="fold")
    for row in rows:
        result.add_row(*(each if isinstance(each, Text) else text(each) for each in row))
    return result


def tree_rows(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Nested JSON as rows of dotted names and values."""
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in tree_rows(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, float):
        return [(name, f"{value:.4g}")]
    return [(name, value)]


def percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}%"


def number(value: float) -> str:
    """With thousands separators; decimals only below ten."""
    if math.isnan(value):
        return "–"
    return f"{value:,.2f}" if value < 10 and value != int(value) else f"{value:,.0f}"


UNITS = ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min"), (172800.0, 1 / 3600, "h"))


def duration(seconds: float | None) -> str:
    """Seconds, in the unit that reads best."""
    if seconds is None or math.isnan(seconds):
        return "–"
    for limit, factor, unit in UNITS:
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"
