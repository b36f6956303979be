"""Write, or check, the parts of the documentation that are made from tables in the code.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` in any Markdown file of ``docs/`` or in the
README. Names are the keys of :data:`PARTS`.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from vllm_enhance.engine.compat import PROBES
from vllm_enhance.engine.patches import PATCHES
from vllm_enhance.metrics import CORE_METRICS, Metric
from vllm_enhance.plugins import PluginSet, load_plugins
from vllm_enhance.reasons import BYPASS_REASONS, MISS_REASONS, NOT_STORED_REASONS, render_table
from vllm_enhance.settings import Setting

ROOT = Path(__file__).resolve().parent.parent
OWN = ("cache", "nlp", "similarity", "similar-results", "traffic-log")
HEADINGS = {"cache": "Cache", "nlp": "NLP", "similarity": "Similarity", "traffic-log": "Traffic log"}
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def own_plugins() -> PluginSet:
    """The hook packages of this distribution, and no others that happen to be installed."""
    plugins = load_plugins(OWN)
    if plugins.broken:
        raise SystemExit(f"error: {plugins.broken}")
    return plugins


def settings_part() -> str:
    sections: dict[str, list[Setting]] = {}
    for setting in own_plugins().settings_table():
        sections.setdefault(setting.section, []).append(setting)
    return "\n\n".join(
        f"### {section}\n\n"
        + table(
            ("Flag", "Environment", "Default", "Meaning"),
            (
                (f"`{s.flag}`", f"`{s.variable}`", f"`{s.default}`" if s.default else "unset", _meaning(s))
                for s in group
            ),
        )
        for section, group in sections.items()
    )


def _meaning(setting: Setting) -> str:
    parts = [setting.help]
    if setting.choices:
        parts.append("One of " + ", ".join(f"`{choice}`" for choice in setting.choices) + ".")
    elif setting.minimum is not None and setting.maximum is not None:
        parts.append(f"From {_number(setting.minimum)} to {_number(setting.maximum)}{_unit(setting)}.")
    elif setting.minimum is not None:
        parts.append(f"At least {_number(setting.minimum)}{_unit(setting)}.")
    elif setting.maximum is not None:
        parts.append(f"At most {_number(setting.maximum)}{_unit(setting)}.")
    if setting.secret:
        parts.append("Secret: never shown in logs or by `/v1/enhance/config`.")
    return " ".join(parts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _unit(setting: Setting) -> str:
    return {"duration": " seconds", "size": " bytes"}.get(setting.kind, "")


def all_metrics() -> dict[str, list[Metric]]:
    """By heading: the core's, and each hook package's, which are ``METRICS`` in the module of its plugin class."""
    result = {"Core": list(CORE_METRICS)}
    plugins = own_plugins()
    for plugin in plugins.loaded:
        module = importlib.import_module(type(plugins.manager.get_plugin(plugin.name)).__module__)
        result[HEADINGS.get(plugin.name, plugin.name)] = list(getattr(module, "METRICS", ()))
    return result


def metrics_part() -> str:
    return "\n\n".join(
        f"### {heading}\n\n"
        + table(
            ("Name in `/metrics`", "Kind", "Labels", "Meaning"),
            (
                (
                    f"`{m.name}_total`" if m.kind == "counter" else f"`{m.name}`",
                    m.kind,
                    ", ".join(f"`{label}`" for label in m.labels) or "-",
                    m.help,
                )
                for m in metrics
            ),
        )
        for heading, metrics in all_metrics().items()
        if metrics
    )


def patches_part() -> str:
    return "\n\n".join(
        f"### `{patch.target}`\n\n"
        f"Applied {'when vLLM loads its plugins' if patch.always else 'only with `--enhance`'}.\n\n"
        f"- **Why:** {patch.why}\n- **How:** {patch.how}\n- **Goes away when:** {patch.goes_away}"
        for patch in PATCHES
    )


def probes_part() -> str:
    return table(("Probe", "Without it"), ((probe.name, probe.why) for probe in PROBES))


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_part,
    "metrics": metrics_part,
    "patches": patches_part,
    "probes": probes_part,
    "bypass-reasons": lambda: render_table(BYPASS_REASONS),
    "miss-reasons": lambda: render_table(MISS_REASONS),
    "not-stored-reasons": lambda: render_table(NOT_STORED_REASONS),
}


def render(text: str) -> str:
    """A document with its generated parts made anew.

    Raises:
        KeyError: a part has no such name.
    """
    return PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[3]}", text)


def documents() -> list[Path]:
    return [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="only say what is out of date, and fail if anything is")
    mode.add_argument("--write", action="store_true", help="bring every file up to date")
    check = parser.parse_args().check
    stale = []
    for path in documents():
        old = path.read_text(encoding="utf-8")
        new = render(old)
        if new != old:
            stale.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if stale:
        print(f"out of date: {names} (make docs brings them up to date)" if check else f"written: {names}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
