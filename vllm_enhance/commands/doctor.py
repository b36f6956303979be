"""`vllm-enhance doctor`: does it work here, what is on, and why not."""

from __future__ import annotations

from typing import Annotated

import typer

from vllm_enhance.commands import checks
from vllm_enhance.commands.client import Server, ServerProblem
from vllm_enhance.commands.options import ApiKey, AsJson
from vllm_enhance.commands.output import console, print_json, table, text

__all__ = ["doctor"]

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}


def doctor(
    flags: Annotated[
        list[str] | None, typer.Argument(help="Flags as for `vllm serve`, after --: -- --enhance-cache-ttl 1h ...")
    ] = None,
    config: Annotated[str | None, typer.Option(help="The YAML file of `vllm serve --config`.")] = None,
    start: Annotated[
        bool, typer.Option(help="Start the hook packages for a moment: open the store, load the embedding model.")
    ] = True,
    base_url: Annotated[
        str, typer.Option("--base-url", envvar="ENHANCE_BASE_URL", help="Also look at this running server.")
    ] = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Check this installation, its settings, and a running server; exit code 1 when something is wrong.

    Settings come from the flags after `--`, from --config, and from ENHANCE_* variables, as in `vllm serve`.
    """
    found = [*checks.installation(), *checks.engine()]
    settings_checks, loaded = checks.settings(flags or [], config)
    found += settings_checks
    if loaded is not None and start:
        found += checks.hooks(*loaded)
    if base_url:
        found += _server(base_url, api_key)
    worst = any(each.status == "problem" for each in found)
    if as_json:
        print_json({"ok": not worst, "checks": [each.as_dict() for each in found]})
    else:
        rows = [(each.area, text(each.status, STYLES[each.status]), each.what, each.detail) for each in found]
        console().print(table(("Area", "", "Check", "Detail"), rows))
    if worst:
        raise typer.Exit(1)


def _server(base_url: str, api_key: str) -> list[checks.Check]:
    """What a running server says of itself."""
    try:
        with Server(base_url, api_key) as server:
            health = server.get("health")
    except ServerProblem as problem:
        return [checks.Check("server", "problem", base_url, str(problem))]
    if not health.get("components"):
        return [checks.Check("server", "problem", base_url, str(health.get("detail", "no report")))]
    return [
        checks.Check("server", checks.FROM_HEALTH.get(each["status"], "warning"), each["component"], each["detail"])
        for each in health["components"]
    ]
