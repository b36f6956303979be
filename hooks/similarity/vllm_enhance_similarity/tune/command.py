"""The command `vllm-enhance tune`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_enhance.commands.options import AsJson
from vllm_enhance.commands.output import console, percent, print_json, table, text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import Progress

    from vllm_enhance_similarity.tune.outcome import Advice, Outcome
    from vllm_enhance_similarity.tune.replay import Replay
    from vllm_enhance_similarity.tune.sweep import Setting
    from vllm_enhance_similarity.tune.traffic import Traffic

__all__ = ["tune"]

NEIGHBOURS = 24
MIN_LABELLED = 0.5
"""Share of texts with a label from which on the bounded policy is replayed: it learns from verdicts."""


def tune(
    logs: Annotated[
        list[Path],
        typer.Argument(
            help="Recorded traffic: JSON lines, gzip or not, or the directory of --enhance-traffic-log-dir."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The report.")] = Path("tune.html"),
    config: Annotated[Path | None, typer.Option(help="Also write the recommended settings, as YAML.")] = None,
    max_error: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Wrong answers per request to allow.")] = 0.01,
    embedding_model: Annotated[
        str,
        typer.Option(envvar="ENHANCE_EMBEDDING_MODEL", help="Sentence-transformers model: a directory or hub name."),
    ] = "",
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Where embeddings are kept: FILE.npz grows with the log; FILE.npy has one row for each request."
        ),
    ] = None,
    label: Annotated[bool, typer.Option("--label", help="Judge pairs in the terminal first.")] = False,
    labels: Annotated[Path, typer.Option(help="Where verdicts are kept.")] = Path("tune-labels.jsonl"),
    limit: Annotated[int, typer.Option(min=0, help="Read at most this many lines; 0 reads all.")] = 0,
    bounded_requests: Annotated[
        int, typer.Option(min=0, help="The bounded policy is replayed on the last so many requests.")
    ] = 30_000,
    show_questions: Annotated[bool, typer.Option(help="Show questions in the report.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    as_json: AsJson = False,
) -> None:
    """Replay recorded traffic through guards and policies, and write a report with recommended settings."""
    from vllm_enhance_similarity.tune.embeddings import embed_traffic
    from vllm_enhance_similarity.tune.outcome import advise, outcomes, rejudge
    from vllm_enhance_similarity.tune.report import ReportFacts, render_report, render_yaml
    from vllm_enhance_similarity.tune.traffic import read_judgements, read_traffic

    started = time.monotonic()
    traffic = read_traffic(logs, limit=limit)
    traffic.judged.pairs.update(read_judgements(labels).pairs)
    with _progress(quiet=as_json) as progress:
        task = progress.add_task("embeddings", total=len(traffic.texts), visible=False)
        vectors, embedder = embed_traffic(
            traffic,
            embedding_model,
            embeddings,
            lambda done, of: progress.update(task, completed=done, total=of, visible=True),
        )
        replays = _replays(traffic, vectors, bounded_requests, workers, progress)
    if label:
        _label(traffic, replays, labels)
        rejudge(traffic, replays)
    rows = outcomes(traffic, replays)
    advice = advise(rows, max_error, embedding_model)
    facts = ReportFacts(
        traffic,
        rows,
        advice,
        max_error,
        [path.name for path in logs],
        embedder,
        time.monotonic() - started,
        show_questions,
    )
    out.write_text(render_report(facts), encoding="utf-8")
    if config is not None:
        config.write_text(render_yaml(advice), encoding="utf-8")
    _tell(traffic, rows, advice, out, as_json)


def _progress(*, quiet: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=quiet)


def _replays(
    traffic: Traffic, vectors: NDArray[np.float32], bounded_requests: int, workers: int, progress: Progress
) -> dict[Setting, Replay]:
    from vllm_enhance_similarity.tune.neighbours import find_neighbours
    from vllm_enhance_similarity.tune.replay import Findings
    from vllm_enhance_similarity.tune.sweep import BOUNDS, THRESHOLDS, Setting, check_pairs, run_settings

    order = list(dict.fromkeys([*traffic.stored, *traffic.asked]))
    task = progress.add_task("nearest questions", total=len(order))
    near = find_neighbours(
        vectors, traffic.partitions, order, NEIGHBOURS, threads=workers, progress=lambda n: progress.advance(task, n)
    )
    settings = [Setting("threshold", value) for value in THRESHOLDS]
    labelled = sum(found is not None for found in traffic.labels) / max(1, len(traffic.labels))
    start, findings = max(0, len(traffic.asked) - bounded_requests), Findings(traffic)
    if labelled >= MIN_LABELLED and bounded_requests:
        settings += [Setting("bounded", value) for value in BOUNDS]
        task = progress.add_task("guards", total=None)
        findings = check_pairs(
            traffic,
            near,
            start,
            workers=workers,
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    task = progress.add_task("policies", total=len(settings))
    return run_settings(
        traffic, near, findings, settings, start=start, workers=workers, progress=lambda n: progress.advance(task, n)
    )


def _label(traffic: Traffic, replays: dict[Setting, Replay], file: Path) -> None:
    from vllm_enhance_similarity.tune.labelling import label_pairs, pair_pool

    out = console()
    out.print("Does one answer fit both questions?  [b]y[/b]es  [b]n[/b]o  [b]s[/b]kip  [b]q[/b]uit")

    def ask(asked: str, stored: str, similarity: float) -> str:
        out.print()
        out.print(table(("", ""), [("asked", asked), ("stored", stored), ("similarity", f"{similarity:.3f}")]))
        while True:
            try:
                answer = str(typer.prompt("same answer", prompt_suffix="? [y/n/s/q] ")).strip().lower()[:1]
            except typer.Abort:  # Ctrl-C or the end of the input: what was answered is kept, and the report is written
                return "q"
            if answer in ("y", "n", "s", "q"):
                return answer

    given = label_pairs(traffic, pair_pool(each.hits for each in replays.values()), file, ask=ask)
    out.print(text(f"{given} verdict{'' if given == 1 else 's'} written to {file}"))


def _tell(traffic: Traffic, rows: list[Outcome], advice: Advice, out: Path, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "requests": len(traffic.asked),
                "texts": len(traffic.texts),
                "skipped": traffic.skipped,
                "report": str(out),
                "recommended": advice.settings,
                "reason": advice.reason,
                "settings": [_row(row) for row in rows],
            }
        )
        return
    shown = [
        (row.setting.policy, f"{row.setting.value:g}", percent(row.saved_rate.value), percent(row.hit_rate.value),
         f"{100 * row.error.value:.2f}%", f"{100 * row.error.high:.2f}%", row.judged)
        for row in rows
    ]  # fmt: skip
    console().print(table(("Policy", "Value>", "Not generated>", "Similar>", "Wrong>", "at most>", "Judged>"), shown))
    console().print(text(f"\n{advice.reason}\nReport: {out}"))


def _row(row: Outcome) -> dict[str, Any]:
    return {
        "policy": row.setting.policy,
        "value": row.setting.value,
        "requests": row.replay.requests,
        "exact_rate": row.exact_rate,
        "saved_rate": [row.saved_rate.value, row.saved_rate.low, row.saved_rate.high],
        "repeat_rate": row.repeat_rate,
        "hit_rate": [row.hit_rate.value, row.hit_rate.low, row.hit_rate.high],
        "error": [row.error.value, row.error.low, row.error.high],
        "judged": row.judged,
        "audits": row.replay.audits,
    }
