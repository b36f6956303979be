"""The commands `vllm-enhance export`, `import` and `warm`."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_enhance.commands.options import ApiKey, AsJson, BaseUrl
from vllm_enhance.commands.output import console, print_json, text
from vllm_enhance.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm_enhance.stores import Store
    from vllm_enhance_cache.envelope import Envelope
    from vllm_enhance_cache.transfer import Progress, Tally

__all__ = ["export", "import_", "warm"]

StoreUrl = Annotated[
    str, typer.Option("--store", envvar="ENHANCE_STORE", help="As --enhance-store; prefer the variable for passwords.")
]
StoreKey = Annotated[str, typer.Option("--store-key", envvar="ENHANCE_STORE_KEY", help="As --enhance-store-key.")]
Prefix = Annotated[
    str, typer.Option("--store-prefix", envvar="ENHANCE_STORE_PREFIX", help="As --enhance-store-prefix.")
]

PATIENCE = 600.0
ROUTES = {"messages": "/v1/chat/completions", "prompt": "/v1/completions", "input": "/v1/responses"}
"""Where a request body belongs, by the field that it has."""


def export(
    file: Annotated[Path, typer.Argument(help="Where to write; the file appears when it is complete.")],
    store: StoreUrl = "",
    store_key: StoreKey = "",
    store_prefix: Prefix = "vllm-enhance",
    as_json: AsJson = False,
) -> None:
    """Write all stored answers of a shared store to a file. It holds the answers themselves: keep it carefully."""
    from vllm_enhance_cache.transfer import export_entries

    async def work(opened: Store, envelope: Envelope, progress: Progress) -> Tally:
        return await export_entries(opened, envelope, file, progress=progress)

    _tell("exported", _with_store(work, store, store_key, store_prefix, as_json), as_json)


def import_(
    file: Annotated[Path, typer.Argument(help="An export.")],
    store: StoreUrl = "",
    store_key: StoreKey = "",
    store_prefix: Prefix = "vllm-enhance",
    ttl: Annotated[str, typer.Option(help="Let entries live so long from now on, such as 7d; else as exported.")] = "",
    as_json: AsJson = False,
) -> None:
    """Put the answers of an export into a shared store. May be broken off and run again."""
    from vllm_enhance.settings import PARSERS
    from vllm_enhance_cache.transfer import import_entries

    try:
        seconds = PARSERS["duration"](ttl) if ttl else None
    except ValueError as error:
        raise ConfigurationError(f"--ttl: {error}") from None
    if not file.exists():
        raise ConfigurationError(f"{file} is not there")

    async def work(opened: Store, envelope: Envelope, progress: Progress) -> Tally:
        return await import_entries(opened, envelope, file, ttl=seconds, progress=progress)

    _tell("imported", _with_store(work, store, store_key, store_prefix, as_json), as_json)


def warm(
    file: Annotated[Path, typer.Argument(help="Request bodies, JSON lines, gzip or not.")],
    base_url: BaseUrl = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests at once.")] = 8,
    journal: Annotated[
        Path | None,
        typer.Option(help="Notes which lines are done, so that a second run skips them; FILE.done by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send recorded requests through a server, so that it has their answers before anybody asks."""
    from vllm_enhance.commands.client import Server
    from vllm_enhance_cache.transfer import warm as warm_up

    if not file.exists():
        raise ConfigurationError(f"{file} is not there")
    with Server(base_url, api_key) as server:
        server.get("health")  # trouble is told before the first request
        address = server.base_url
    notes = journal or file.with_name(file.name + ".done")

    async def run() -> Tally:
        import httpx

        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=PATIENCE) as client:

            async def ask(line: str) -> None:
                body = json.loads(line)
                body = body.get("body", body)
                route = next(route for field, route in ROUTES.items() if field in body)
                (await client.post(route, json={**body, "stream": False})).raise_for_status()

            return await warm_up(_lines(file), ask, notes, concurrency=concurrency, progress=_show(as_json))

    tally = asyncio.run(run())
    _tell("asked", tally, as_json)
    if tally.failed:
        raise typer.Exit(1)


async def _lines(file: Path) -> AsyncIterator[str]:
    # Local files in big buffered reads: no need for a thread each.
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for line in lines:
            yield line


def _with_store(
    work: Callable[[Store, Envelope, Progress], Awaitable[Tally]], url: str, key: str, prefix: str, as_json: bool
) -> Tally:
    from vllm_enhance_cache.envelope import Envelope
    from vllm_enhance_cache.stores import open_store, shares

    if not shares(url):
        raise ConfigurationError(
            "--store (or ENHANCE_STORE) wants the URL of a shared store: sqlite:///PATH, redis://…"
        )

    async def run() -> Tally:
        store = open_store(url, prefix=prefix)
        try:
            return await work(store, Envelope(key), _show(as_json))
        finally:
            await store.close()

    return asyncio.run(run())


def _show(quiet: bool) -> Progress:
    def progress(tally: Tally) -> None:
        if not quiet:
            typer.echo(f"\r{tally.done} done, {tally.skipped} skipped, {tally.failed} failed", nl=False, err=True)

    return progress


def _tell(done: str, tally: Tally, as_json: bool) -> None:
    if as_json:
        print_json({"done": tally.done, "skipped": tally.skipped, "failed": tally.failed})
        return
    typer.echo("", err=True)
    console().print(text(f"{tally.done} {done}, {tally.skipped} skipped, {tally.failed} failed"))
