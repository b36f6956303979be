"""The `vllm-enhance` command.

It needs typer, rich and httpx (``pip install 'vllm-enhance[cli]'``; vLLM brings them along). Hook packages and third
parties add commands of their own through the entry-point group ``vllm_enhance.commands``: a function with typer's
annotations, named by the entry point.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

__all__ = ["GROUP", "build", "main"]

GROUP = "vllm_enhance.commands"

OWN = {
    "doctor": "vllm_enhance.commands.doctor:doctor",
    "stats": "vllm_enhance.commands.stats:stats",
    "top": "vllm_enhance.commands.top:top",
    "explain": "vllm_enhance.commands.explain:explain",
    "flush": "vllm_enhance.commands.flush:flush",
    "feedback": "vllm_enhance.commands.feedback:feedback",
}
"""The core's own commands, in the order of ``--help``."""


def main() -> None:
    """Run the command line; ends the process with 0, 1 (a problem, told in one sentence) or 2 (a usage error)."""
    try:
        app = build()
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "httpx"):
            raise
        sys.stderr.write(f"vllm-enhance: {error.name} is missing; pip install 'vllm-enhance[cli]' brings it\n")
        raise SystemExit(1) from None
    from vllm_enhance.errors import EnhanceError

    try:
        app()
    except EnhanceError as error:
        sys.stderr.write(f"vllm-enhance: {error}\n")
        raise SystemExit(1) from None


def build(installed: Iterable[EntryPoint] | None = None) -> typer.Typer:
    """The typer application with all commands.

    Args:
        installed: commands of hook packages; by default those of this environment.
    """
    import typer

    app = typer.Typer(
        name="vllm-enhance",
        help="See, explain, correct and tune what vllm-enhance does in a running `vllm serve --enhance`.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    points = [EntryPoint(name, value, GROUP) for name, value in OWN.items()]
    found = entry_points(group=GROUP) if installed is None else installed
    points += [point for point in sorted(found, key=lambda point: point.name) if point.name not in OWN]
    for point in points:
        app.command(point.name)(_load(point))
    return app


def _load(point: EntryPoint) -> Any:
    """The command's function; one that cannot be loaded says so when it is called, and harms no other."""
    try:
        return point.load()
    except Exception as error:
        if point.value in OWN.values():
            raise
        reason = f"the command {point.name!r} cannot be loaded ({type(error).__name__}: {error})"

    def broken() -> None:
        from vllm_enhance.errors import HookError

        raise HookError(reason)

    broken.__doc__ = f"Not available: {reason}."
    return broken
