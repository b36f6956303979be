"""The report: one HTML file with everything in it, readable without a network and without scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from vllm_enhance_similarity.tune.outcome import Advice, Outcome, top_questions
from vllm_enhance_similarity.tune.replay import Hit
from vllm_enhance_similarity.tune.svg import Series, bars, lines, round_up
from vllm_enhance_similarity.tune.sweep import FLOOR
from vllm_enhance_similarity.tune.traffic import Traffic

__all__ = ["ReportFacts", "render_report", "render_yaml"]

SHOWN = 15
BARS = 15
NEAR_MISSES = 25
LENGTH = 300

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4;
  --c0: #0b63ce; --c1: #c9252d; --c2: #12652a; --c3: #8a4bd0; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #171b21; --ink: #e6e9ee; --soft: #9aa4b0;
  --line: #2b323b; --c0: #6cb0ff; --c1: #ff7b72; --c2: #56d17b; --c3: #c297ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 0 0 1rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 0 1rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .5rem 2rem; } .tiles b { display: block; font-size: 1.5rem; }
.soft { color: var(--soft); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-size: .85rem; } td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
tr.chosen td { font-weight: 700; } td { overflow-wrap: break-word; } td:not(.n) { min-width: 6.5rem; max-width: 34rem; }
pre { background: var(--page); padding: .75rem; border-radius: 6px; overflow-x: auto; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; } svg .label { fill: var(--ink); }
svg .halo { paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.grid { stroke: var(--line); } .mark { stroke: var(--soft); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; } .band { opacity: .18; stroke: none; } .bar { fill: var(--c0); }
.line.c0, .dot.c0 { stroke: var(--c0); } .band.c0, .dot.c0 { fill: var(--c0); }
.line.c1, .dot.c1 { stroke: var(--c1); } .band.c1, .dot.c1 { fill: var(--c1); }
.line.c2, .dot.c2 { stroke: var(--c2); } .band.c2, .dot.c2 { fill: var(--c2); }
.line.c3, .dot.c3 { stroke: var(--c3); } .band.c3, .dot.c3 { fill: var(--c3); }
.key { display: inline-block; width: 1rem; height: .3rem; border-radius: 2px; margin-right: .35rem;
  vertical-align: middle; }
.k0 { background: var(--c0); } .k1 { background: var(--c1); }
"""


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Everything that the report tells.

    Attributes:
        sources: names of the files read.
        embedder: name of the embedding model, or how the embeddings came.
        texts: whether questions may be shown.
    """

    traffic: Traffic
    rows: Sequence[Outcome]
    advice: Advice
    max_error: float
    sources: Sequence[str]
    embedder: str
    seconds: float
    texts: bool = True


def render_report(facts: ReportFacts) -> str:
    """The whole page."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>vllm-enhance tune</title><style>{STYLE}</style></head><body>",
            "<h1>What similarity would have done</h1>",
            _overview(facts),
            _advice(facts),
            _policy_plots(facts),
            _settings_table(facts),
            '<div class="two">',
            _similarities(facts),
            _guards(facts),
            "</div>",
            _frequent(facts),
            _near_misses(facts),
            "</body></html>",
        ]
    )


def render_yaml(advice: Advice) -> str:
    """The settings as a file for `vllm serve --config`. Quoted: a bare `on` would be read as a boolean."""
    lines_ = ["# vllm serve MODEL --config this-file.yaml", "enhance: true"]
    if "enhance-embedding-model" not in advice.settings:
        lines_.append("# enhance-embedding-model: the model that made the embeddings; without it similarity is off")
    return "\n".join([*lines_, *(f'{name}: "{_yaml(value)}"' for name, value in advice.settings.items())]) + "\n"


def _yaml(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _overview(facts: ReportFacts) -> str:
    traffic = facts.traffic
    exact = max((row.repeat_rate for row in facts.rows), default=0.0)
    judged = len({(hit.asked, hit.stored) for row in facts.rows for hit in row.replay.hits if hit.right is not None})
    pairs = len({(hit.asked, hit.stored) for row in facts.rows for hit in row.replay.hits})
    tiles = [
        ("requests", f"{len(traffic.asked):,}"),
        ("different questions", f"{len(traffic.texts):,}"),
        ("exact repeats", _percent(exact)),
        ("pairs judged", f"{judged:,} of {pairs:,}"),
    ]
    skipped = f" {traffic.skipped} lines could not be read." if traffic.skipped else ""
    return (
        '<section><div class="tiles">'
        + "".join(f"<div>{name}<b>{value}</b></div>" for name, value in tiles)
        + f'</div><p class="soft">From {escape(", ".join(facts.sources))}; embeddings: {escape(facts.embedder)}; '
        f"{facts.seconds:.0f} seconds.{skipped} Bands hold the central 90%.</p></section>"
    )


def _advice(facts: ReportFacts) -> str:
    return (
        f"<section><h2>Recommended</h2><p>{escape(facts.advice.reason)}</p>"
        f"<pre>{escape(render_yaml(facts.advice))}</pre></section>"
    )


def _series(rows: Iterable[Outcome]) -> tuple[Series, Series]:
    rows = list(rows)
    hits = [(r.setting.value, r.saved_rate.value, r.saved_rate.low, r.saved_rate.high) for r in rows]
    wrong = [(r.setting.value, r.error.value, r.error.low, r.error.high) for r in rows]
    return Series("not generated", hits, 0), Series("wrong answers", wrong, 1)


def _plots(facts: ReportFacts, policy: str, x_label: str, show: str) -> list[str]:
    rows = [row for row in facts.rows if row.setting.policy == policy]
    if not rows:
        return []
    hits, wrong = _series(rows)
    ticks = [row.setting.value for row in rows]
    chosen = facts.advice.chosen
    mark = chosen.setting.value if chosen is not None and chosen.setting.policy == policy else None

    def shown(value: float) -> str:
        return f"{100 * value:g}%" if show == "percent" else f"{value:g}"

    upper = lines(
        [hits], title=f"Share not generated against {x_label}", x_label=x_label, y_label="not generated, of requests",
        x_ticks=ticks, show_x=shown, mark_x=mark, mark_y=(rows[0].repeat_rate, "exact repeats alone"), even=True,
    )  # fmt: skip
    top = max(facts.max_error * 4, *(min(point[3], 4 * point[1] + facts.max_error) for point in wrong.points))
    lower = lines(
        [wrong], title=f"Wrong answers against {x_label}", x_label=x_label, y_label="wrong, of requests",
        x_ticks=ticks, show_x=shown, mark_x=mark, mark_y=(facts.max_error, "--max-error"),
        y_limit=min(round_up(top), 1.0), even=True,
    )  # fmt: skip
    return [upper, lower]


def _policy_plots(facts: ReportFacts) -> str:
    """Both policies side by side; without the second, both plots of the first."""
    threshold = _plots(facts, "threshold", "least similarity", "plain")
    bounded = _plots(facts, "bounded", "bound on the error", "percent")
    keys = (
        '<p class="soft"><span class="key k0"></span>not generated <span class="key k1"></span>wrong answers. '
        "Points tell their numbers.</p>"
    )
    fixed = f"<section><h2>A fixed threshold</h2>{keys}"
    if bounded:
        about = "The policy learns from verdicts and aims at its bound; below is what came of it."
        return (
            f'<div class="two">{fixed}{"".join(threshold)}</section>'
            f'<section><h2>A bounded error</h2><p class="soft">{about}</p>{"".join(bounded)}</section></div>'
        )
    why = "The bounded policy is not replayed: it learns from verdicts, and too few of the questions have a label."
    beside = "".join(f"<div>{plot}</div>" for plot in threshold)
    return f'{fixed}<div class="two">{beside}</div><p class="soft">{why}</p></section>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], marked: int | None = None) -> str:
    """A table; headings that end in `>` are of numbers. Cells are text.

    Args:
        marked: number of the row to print bold.
    """
    kinds = [" class=n" if heading.endswith(">") else "" for heading in headings]
    names = (f"<th{kind}>{heading.rstrip('>')}</th>" for heading, kind in zip(headings, kinds, strict=True))
    body = (
        f"<tr{' class=chosen' if number == marked else ''}>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return (
        f"<div class=scroll><table><thead><tr>{''.join(names)}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


SETTINGS_TRIED = (
    "Policy", "Value>", "Requests>", "Not generated>", "Exact repeats>", "Similar>", "Wrong>", "Similar and right>",
    "Judged>", "Audits>",
)  # fmt: skip


def _settings_table(facts: ReportFacts) -> str:
    rows = [
        (
            row.setting.policy,
            f"{row.setting.value:g}" if row.setting.policy == "threshold" else f"{100 * row.setting.value:g}%",
            f"{row.replay.requests:,}",
            _percent(row.saved_rate.value),
            _percent(row.exact_rate),
            _percent(row.hit_rate.value),
            _band(row.error),
            f"{sum(hit.right is not False for hit in row.replay.hits):,}",
            f"{row.judged:,}",
            f"{row.replay.audits:,}",
        )
        for row in facts.rows
    ]
    marked = next((number for number, row in enumerate(facts.rows) if row is facts.advice.chosen), None)
    return (
        f"<section><h2>All settings tried</h2>{_table(SETTINGS_TRIED, rows, marked)}"
        '<p class="soft">Not generated: exact repeats and similar questions together. A repeat of a question that got '
        "a similar one's answer counts as similar again, so similarity takes over some exact repeats. Similar and "
        "right leaves out what is known to be wrong.</p></section>"
    )


def _similarities(facts: ReportFacts) -> str:
    loosest = next((row for row in facts.rows if row.setting.policy == "threshold"), None)
    if loosest is None:
        return ""
    seen = [hit.similarity for hit in loosest.replay.hits] + loosest.replay.nearest.tolist()
    counts = [0] * (BARS + 1)  # the first holds all that is below the floor
    for similarity in seen:
        counts[min(BARS, max(0, 1 + math.floor((similarity - FLOOR) / (1.0 - FLOOR) * BARS)))] += 1
    names = [f"< {FLOOR:g}", *(f"{FLOOR + (1.0 - FLOOR) * at / BARS:.3g}" for at in range(BARS))]
    values = [(name, float(count)) for name, count in zip(names, counts, strict=True)]
    plot = bars(values, title="Similarity to the nearest stored question", x_label="similarity", y_label="questions")
    return f"<section><h2>How near the nearest stored question is</h2>{plot}</section>"


def _guards(facts: ReportFacts) -> str:
    row = facts.advice.chosen or next((row for row in facts.rows if row.setting.policy == "threshold"), None)
    refused = sorted(row.replay.refused.items(), key=lambda item: -item[1]) if row else []
    rows = [(name, f"{count:,}") for name, count in refused] or [("nothing", "")]
    table = _table(("Guard", "Nearest neighbours refused>"), rows)
    return f"<section><h2>What the guards refused</h2>{table}</section>"


def _frequent(facts: ReportFacts) -> str:
    if not facts.texts:
        return ""
    rows = [
        (text[:LENGTH], f"{requests:,}", f"{reworded:,}")
        for text, requests, reworded in top_questions(facts.traffic, facts.advice.chosen, SHOWN)
    ]
    return f"<section><h2>Asked most often</h2>{_table(('Question', 'Requests>', 'In other words>'), rows)}</section>"


def _near_misses(facts: ReportFacts) -> str:
    """Pairs without a verdict around the level that would be chosen: what to judge next."""
    if not facts.texts:
        return ""
    level = facts.advice.chosen.setting.value if facts.advice.chosen else 0.95
    level = level if level > 0.5 else 0.95
    unknown: dict[tuple[int, int], Hit] = {
        (hit.asked, hit.stored): hit for row in facts.rows for hit in row.replay.hits if hit.right is None
    }
    nearest = sorted(unknown.values(), key=lambda hit: abs(hit.similarity - level))[:NEAR_MISSES]
    if not nearest:
        return ""
    texts = facts.traffic.texts
    rows = [(f"{hit.similarity:.3f}", texts[hit.asked][:LENGTH], texts[hit.stored][:LENGTH]) for hit in nearest]
    table = _table(("Similarity>", "Asked", "Stored"), rows)
    return (
        "<section><h2>Near misses to judge</h2><p class=soft>Does one answer fit both? "
        f"<code>vllm-enhance tune ... --label</code> asks.</p>{table}</section>"
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _band(estimate: object) -> str:
    value, low, high = (getattr(estimate, name) for name in ("value", "low", "high"))
    return f"{100 * value:.2f}% ({100 * low:.2f} to {100 * high:.2f})"
