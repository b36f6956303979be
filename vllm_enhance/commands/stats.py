"""`vllm-enhance stats`: what has been saved so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vllm_enhance.commands.client import Server
from vllm_enhance.commands.options import ApiKey, AsJson, BaseUrl
from vllm_enhance.commands.output import SOURCES, console, duration, number, percent, print_json, table, tree_rows
from vllm_enhance.commands.rates import REQUESTS, totals

__all__ = ["stats"]


def stats(base_url: BaseUrl = "http://127.0.0.1:8000", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Requests by outcome, hit rate, what was saved, and the numbers of each hook package."""
    with Server(base_url, api_key) as server:
        found, series = server.get("stats"), server.get("series")
    if as_json:
        print_json({"all_processes": summary(series), "process": found})
        return
    out, whole = console(), summary(series)
    by_source = whole["requests"]
    served = sum(by_source.values())
    rows = [
        (SOURCES.get(source, source), number(count), percent(count / served if served else 0.0))
        for source, count in sorted(by_source.items(), key=lambda item: -item[1])
    ]
    out.print(table(("Answer", "Requests>", "Share>"), rows or [("no request yet", "", "")]))
    out.print()
    index, of = found.get("api_process", (0, 1))
    facts = [
        ("hit rate", percent(whole["hit_rate"])),
        ("tokens not generated", number(whole["saved_tokens"])),
        ("engine time saved", duration(whole["saved_engine_seconds"])),
        ("under way", f"{number(whole['inflight'])} generations, {number(whole['joined'])} joined requests"),
        ("faults", number(whole["faults"])),
        ("plugin", "on" if found.get("enabled", True) else "stands aside"),
        ("running for", duration(found.get("uptime_seconds"))),
    ]
    mode = found.get("hooks", {}).get("similarity", {}).get("mode")
    if whole["similarity"]["considered"]:
        facts += [(f"similar questions ({mode})" if mode else "similar questions", measured(whole["similarity"]))]
    out.print(table(("", ""), facts))
    out.print()
    title = f"Hook packages (API process {index + 1} of {of})" if of > 1 else "Hook packages"
    out.print(table(("", ""), tree_rows(found.get("hooks", {})), title=title))


def summary(series: Mapping[str, Any]) -> dict[str, Any]:
    """Totals since the start, of all API server processes."""

    def total(name: str) -> float:
        return sum(totals(series, name).values())

    by_source = {source: int(n) for source, n in totals(series, REQUESTS, "source").items() if source in SOURCES}
    served = sum(by_source.values())
    return {
        "requests": by_source,
        "hit_rate": (served - by_source.get("engine", 0)) / served if served else 0.0,
        "saved_tokens": int(total("vllm_enhance_saved_tokens_total")),
        "saved_engine_seconds": total("vllm_enhance_saved_engine_seconds_total"),
        "inflight": int(total("vllm_enhance_inflight_generations")),
        "joined": int(total("vllm_enhance_joined_requests")),
        "faults": int(total("vllm_enhance_faults_total")),
        "similarity": _similarity(series),
    }


WOULD_REUSE = ("reuse", "audit")
Z95 = 1.645


def _similarity(series: Mapping[str, Any]) -> dict[str, Any]:
    """What similarity decided, and what the judge said where an answer was generated all the same."""
    actions = totals(series, "vllm_enhance_similarity_decisions_total", "action")
    judged = {"same": 0, "different": 0}
    for sample in series["series"]:
        labels = sample["labels"]
        if sample["name"] == "vllm_enhance_similarity_verdicts_total" and labels.get("action") in WOULD_REUSE:
            judged[labels["verdict"]] = judged.get(labels["verdict"], 0) + int(sample["value"] or 0)
    count = judged["same"] + judged["different"]
    return {
        "considered": int(sum(actions.values())),
        "would_reuse": int(sum(actions.get(action, 0) for action in WOULD_REUSE)),
        "judged": count,
        "different": judged["different"],
        "different_at_most": upper(judged["different"], count),
    }


def upper(count: int, of: int) -> float:
    """Upper end, with 95% confidence, of a share of which ``count`` of ``of`` were seen (Wilson's score)."""
    if not of:
        return 1.0
    share, square = count / of, Z95 * Z95 / of
    half = Z95 * math.sqrt(share * (1 - share) / of + square / (4 * of))
    return min(1.0, (share + square / 2 + half) / (1 + square))


def measured(found: Mapping[str, Any]) -> str:
    """In words: how often a similar question would do, and how often that would be wrong."""
    text = f"an answer for {number(found['would_reuse'])} of {number(found['considered'])} looked up"
    if not found["judged"]:
        return f"{text}; none of them judged"
    share = found["different"] / found["judged"]
    return (
        f"{text}; of {number(found['judged'])} that were generated all the same and judged, {percent(share)} differed "
        f"(at most {percent(found['different_at_most'])}, 95% sure)"
    )
