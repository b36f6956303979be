"""Pictures of results; matplotlib is needed only here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["serving", "soak", "trace"]

COLOURS = {"plain": "#8a8f98", "enhanced": "#1f6feb", "litellm": "#d9822b", "tokenize": "#c9ccd1"}


def _figure(columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(6.5 * columns, 3.2 * rows + 1), constrained_layout=True)
    return figure, axes


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)


def serving(result: Mapping[str, Any], file: Path) -> None:
    """Answers per second and latency by cell and contender."""
    figure, (left, right) = _figure(2)
    kinds = (("hit", "hit"), ("hit-stream", "streamed hit"), ("miss", "miss"), ("miss-stream", "streamed miss"))
    names = [name for name in COLOURS if any(name in cell for cell in result["cells"].values())]
    for axes, suffix, what, title in (
        (left, f"c{result['callers']}", "per_second", f"answers per second, {result['callers']} callers"),
        (right, "c1", "p50_ms", "median latency in ms, 1 caller"),
    ):
        for place, name in enumerate(names):
            values = [result["cells"].get(f"{kind}-{suffix}", {}).get(name, {}).get(what) or 0 for kind, _ in kinds]
            ticks = [number + (place - (len(names) - 1) / 2) * 0.27 for number in range(len(kinds))]
            bars = axes.bar(ticks, values, 0.25, label=name, color=COLOURS[name])
            axes.bar_label(bars, fmt="%.3g", fontsize=7)
        floor = result["cells"].get(f"tokenize-{suffix}", {}).get("enhanced", {}).get(what)
        if floor:
            axes.axhline(floor, color="#444444", linewidth=0.8, linestyle=":", label="POST /tokenize")
        axes.set_yscale("log")
        axes.set_xticks(range(len(kinds)), [label for _, label in kinds])
        axes.set_title(title, fontsize=10)
    left.legend(fontsize=8)
    _save(figure, file)


def trace(result: Mapping[str, Any], file: Path) -> None:
    """Throughput against the share of repeated questions, beside the ideal line."""
    figure, axes = _figure()
    rows = sorted(result["rows"], key=lambda row: row["repetition"])
    ideal = [(row["repetition"], row["ideal_speedup"]) for row in rows]
    axes.plot(*zip(*ideal, strict=True), "--", color="#444444", label="1 / (1 - hit rate)")
    for marker, random, label in (
        ("o-", True, "--enhance, repeats at random"),
        ("s", False, "--enhance, other traces"),
    ):
        points = [(r["repetition"], r["speedup"]) for r in rows if r["trace"].startswith("repeats") is random]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker, color=COLOURS["enhanced" if random else "litellm"], label=label
            )
    axes.set_xlabel("share of requests asked before")
    axes.set_ylabel("throughput / plain vLLM")
    axes.set_yscale("log")
    axes.legend(fontsize=8)
    _save(figure, file)


def soak(result: Mapping[str, Any], file: Path) -> None:
    """Memory and answers over time, with the faults."""
    figure, (upper, lower) = _figure(rows=2)
    curve = result["curve"]
    times = [point["at"] for point in curve]
    memory = [float("nan") if point["server_mib"] is None else point["server_mib"] for point in curve]
    upper.plot(times, memory, color=COLOURS["enhanced"])
    upper.set_ylabel("API server, MiB resident")
    upper.set_ylim(0, 1.2 * max((each for each in memory if each == each), default=1.0))
    lower.plot(times, [point["answers_per_second"] for point in curve], color=COLOURS["enhanced"])
    lower.set_ylabel("answers per second")
    lower.set_xlabel("seconds")
    for axes in (upper, lower):
        for fault in result["faults"]:
            axes.axvspan(fault["from"], fault["to"], color="#d9822b", alpha=0.15)
            axes.text(fault["from"], axes.get_ylim()[1], fault["name"], fontsize=6, rotation=90, va="top")
    _save(figure, file)
