"""`vllm-enhance flush`: forget stored answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from vllm_enhance.commands.client import Server
from vllm_enhance.commands.options import ApiKey, AsJson, BaseUrl
from vllm_enhance.commands.output import console, print_json, text
from vllm_enhance.types import InvalidationScope

__all__ = ["flush"]


def flush(
    scope: Annotated[str, typer.Option(help=f"What to forget: {', '.join(InvalidationScope.KINDS)}.")],
    value: Annotated[
        str | None, typer.Option(help="Which: a key, a tenant's digest or self, a model's name, an age such as 2h.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    base_url: BaseUrl = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Forget stored answers; counts them and asks first."""
    with Server(base_url, api_key) as server:
        counted = server.delete("cache", scope=scope, value=value, dry_run=True)
        if not dry_run:
            what = "everything" if scope == "all" else f"{scope} {value}"
            # Without a terminal, or for a script, silence is no consent.
            if not yes and not typer.confirm(f"Forget {what}: {told(counted)}?", err=True):
                raise typer.Exit(1)
            counted = server.delete("cache", scope=scope, value=value, dry_run=False)
    if as_json:
        print_json(counted)
        return
    console().print(text(f"{told(counted)} {'would go' if dry_run else 'forgotten'}."))


def told(counted: Mapping[str, Any]) -> str:
    """The count, and whose entries they are when several packages keep some: one answer may stand in each."""
    by_hook = {name: count for name, count in counted.get("by_hook", {}).items() if count}
    if len(by_hook) < 2:
        return answers(counted["removed"])
    return "stored answers (" + ", ".join(f"{name} {count}" for name, count in by_hook.items()) + ")"


def answers(count: int) -> str:
    return "1 stored answer" if count == 1 else f"{count} stored answers"
