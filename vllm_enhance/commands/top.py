"""`vllm-enhance top`: live, until Ctrl-C."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from vllm_enhance.commands.client import Server, ServerProblem
from vllm_enhance.commands.options import ApiKey, AsJson, BaseUrl
from vllm_enhance.commands.output import SOURCES, console, duration, number, percent, print_json, table, text
from vllm_enhance.commands.rates import Look, Rates, rates
from vllm_enhance.commands.stats import summary

__all__ = ["top"]

BAR = 30
STYLES = {"healthy": "green", "degraded": "yellow", "unhealthy": "bold red"}


def top(
    base_url: BaseUrl = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    as_json: AsJson = False,
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    count: Annotated[int, typer.Option(min=0, help="End after so many looks; 0 goes on until Ctrl-C.")] = 0,
) -> None:
    """Live: requests per second by outcome, hit rate, latency, what is saved, health."""
    try:
        with Server(base_url, api_key) as server:
            watch(server, every, count, as_json)
    except KeyboardInterrupt:
        return


def watch(server: Server, every: float, count: int, as_json: bool) -> None:
    """Look again and again; after the first look, trouble is shown and waited out."""
    before: Look = server.get("series")
    shown = 0
    with Live(console=console(), screen=False, auto_refresh=False) as live:
        while count == 0 or shown < count:
            time.sleep(every)
            try:
                after, health = server.get("series"), server.get("health")
            except ServerProblem as problem:
                if as_json or count:
                    raise
                live.update(text(f"{problem}. Trying again…", "red"), refresh=True)
                continue
            change = rates(before, after)
            before = after
            if change is None:  # the server has started anew
                continue
            shown += 1
            if as_json:
                print_json({"at": after["at"], **asdict(change), "health": health["status"]}, indent=None)
            else:
                live.update(frame(change, after, health), refresh=True)


def frame(change: Rates, look: Look, health: dict[str, Any]) -> RenderableType:
    """What one look shows."""
    whole = summary(look)
    most = max(change.by_source.values(), default=0.0)
    rows = [
        (words, number(rate), Text("█" * round(BAR * rate / most) if most else "", "cyan"))
        for source, words in SOURCES.items()
        if (rate := change.by_source.get(source, 0.0)) or source in ("memory", "engine")
    ]
    least = change.generated_least
    generated = [f"under {duration(least)}" if each < least else duration(each) for each in change.generated]
    facts = [
        ("hit rate", f"{percent(change.hit_rate)} now, {percent(whole['hit_rate'])} since the start"),
        ("time, reused", f"{duration(change.reused[0])} median, {duration(change.reused[1])} 95th percentile"),
        ("time, generated", f"{generated[0]} median, {generated[1]} 95th percentile"),
        ("saved now", f"{number(change.saved_tokens)} tokens/s, {number(change.saved_engine_seconds)} engine-s/s"),
        ("saved so far", f"{number(whole['saved_tokens'])} tokens, {duration(whole['saved_engine_seconds'])}"),
        ("under way", f"{number(whole['inflight'])} generations, {number(whole['joined'])} joined requests"),
        ("faults", number(whole["faults"])),
    ]
    components = [
        (text(each["status"], STYLES.get(each["status"], "")), each["component"], each.get("detail"))
        for each in health.get("components", [])
    ]
    return Group(
        table(("Answer", "Requests/s>", ""), rows),
        Text(),
        table(("", ""), facts),
        Text(),
        table(("Health", "", ""), components),
    )
