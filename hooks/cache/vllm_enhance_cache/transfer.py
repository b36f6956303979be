"""Answers out of a store, into a store, and questions through a server.

An export is JSON lines packed with zstd: a header line, then one line per entry with the record as base64 of its
msgpack form. It is checked line by line when it is read, and a line that is no entry is counted and left out. An export
holds the answers themselves: keep it as you keep your logs of answers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vllm_enhance.errors import ConfigurationError, RecordError
from vllm_enhance.records import decode_record, encode_record
from vllm_enhance.stores import KEY_BYTES, Store
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.envelope import Envelope
from vllm_enhance_cache.errors import EnvelopeError

__all__ = ["Tally", "export_entries", "import_entries", "warm"]

FORMAT = "vllm-enhance-export"
VERSION = 1
MAX_LINE = 64 * 2**20
PROGRESS_EVERY = 1000

Progress = Callable[["Tally"], None]


@dataclass(slots=True)
class Tally:
    """How far a transfer has come."""

    done: int = 0
    skipped: int = 0
    failed: int = 0


def _silent(tally: Tally) -> None:
    """No progress is shown."""


# --------------------------------------------------------------------------- export


async def export_entries(
    store: Store,
    envelope: Envelope,
    path: Path,
    *,
    progress: Progress = _silent,
    clock: Callable[[], float] = time.time,
) -> Tally:
    """Write all living entries of ``store`` to ``path``, which appears only when it is complete.

    Entries that a flush has passed over, that the envelope's key does not open or that are damaged are skipped.

    Raises:
        StoreError: the store failed.
        ConfigurationError: zstandard is not installed.
    """
    tally = Tally()
    horizon = await store.horizon()
    part = path.with_name(path.name + ".part")
    with _packed(part, "w") as lines:
        lines.write(json.dumps({"format": FORMAT, "version": VERSION, "created_at": clock()}) + "\n")
        async for key, value in store.scan():
            try:
                entry = envelope.open(value, key=key, tenant=None, now=clock())
            except EnvelopeError:
                tally.skipped += 1
                continue
            if not entry.admitted_by(horizon):
                tally.skipped += 1
                continue
            lines.write(_line_of(entry) + "\n")
            tally.done += 1
            if tally.done % PROGRESS_EVERY == 0:
                progress(tally)
        lines.write(json.dumps({"entries": tally.done}) + "\n")
    part.replace(path)
    progress(tally)
    return tally


def _line_of(entry: Entry) -> str:
    return json.dumps(
        {
            "key": entry.key.hex(),
            "tenant": entry.tenant.hex(),
            "model": entry.model,
            "created_at": entry.created_at,
            "expires_at": entry.expires_at,
            "record": base64.b64encode(encode_record(entry.record)).decode("ascii"),
        }
    )


# --------------------------------------------------------------------------- import


async def import_entries(
    store: Store,
    envelope: Envelope,
    path: Path,
    *,
    ttl: float | None = None,
    progress: Progress = _silent,
    clock: Callable[[], float] = time.time,
) -> Tally:
    """Put the entries of an export into ``store``, signed with the envelope's key.

    May be broken off and run again: what is there already is skipped. An entry keeps its end, or with ``ttl`` lives
    that many seconds from now. Keys carry the identity of the model: answers of other weights are never asked for.

    Raises:
        ConfigurationError: ``path`` is not an export, of another version, or cut short; what could be read of a short
            one has been imported.
        StoreError: the store failed.
    """
    tally, complete = Tally(), False
    generation = (await store.horizon()).generation
    with _packed(path, "r") as lines:
        _check_header(lines.readline(MAX_LINE), path)
        for line in iter(lambda: lines.readline(MAX_LINE), ""):
            if line.startswith('{"entries":'):
                complete = True
                break
            now = clock()
            entry = _entry_of(line, generation, None if ttl is None else now + ttl)
            if entry is None:
                tally.failed += 1
            elif entry.expires_at <= now or await _present(store, envelope, entry, now):
                tally.skipped += 1
            else:
                try:
                    value = envelope.seal(entry)
                except EnvelopeError:
                    tally.failed += 1
                    continue
                await store.put(entry.key, value, ttl=entry.expires_at - now, tags=entry.tags)
                tally.done += 1
            if (tally.done + tally.skipped) % PROGRESS_EVERY == 0:
                progress(tally)
    progress(tally)
    if not complete:
        raise ConfigurationError(f"{path} is cut short; {tally.done} entries were imported")
    return tally


async def _present(store: Store, envelope: Envelope, entry: Entry, now: float) -> bool:
    value = await store.get(entry.key)
    if value is None:
        return False
    try:
        found = envelope.open(value, key=entry.key, tenant=entry.tenant, now=now)
    except EnvelopeError:
        return False
    return found.admitted_by(await store.horizon())


def _check_header(line: str, path: Path) -> None:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ConfigurationError(f"{path} is not an export of vllm-enhance")
    if header.get("version") != VERSION:
        raise ConfigurationError(f"{path} has version {header.get('version')!r}, this reads {VERSION}")


def _entry_of(line: str, generation: int, expires_at: float | None) -> Entry | None:
    try:
        data: dict[str, Any] = json.loads(line)
        key, tenant = bytes.fromhex(data["key"]), bytes.fromhex(data["tenant"])
        record = decode_record(base64.b64decode(data["record"], validate=True))
        ends = float(data["expires_at"]) if expires_at is None else expires_at
        entry = Entry(key, record, tenant, str(data["model"]), float(data["created_at"]), ends, generation)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecordError, RecursionError):
        return None
    return entry if len(key) == KEY_BYTES and len(tenant) == 16 else None


@contextmanager
def _packed(path: Path, mode: str) -> Iterator[IO[str]]:
    try:
        import zstandard
    except ImportError:
        raise ConfigurationError("exports need the zstandard package: pip install 'vllm-enhance[redis]'") from None
    binary: Any = path.open(mode + "b")
    with binary:
        try:
            if mode == "w":
                packer: Any = zstandard.ZstdCompressor(level=6).stream_writer(binary)
            else:
                packer = zstandard.ZstdDecompressor().stream_reader(binary)
            with packer, io.TextIOWrapper(packer, "utf-8") as text:
                yield text
        except (zstandard.ZstdError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is not an export of vllm-enhance, or is cut: {error}") from error


# --------------------------------------------------------------------------- warm-up


async def warm(
    questions: AsyncIterator[str],
    ask: Callable[[str], Awaitable[None]],
    journal: Path,
    *,
    concurrency: int = 8,
    progress: Progress = _silent,
) -> Tally:
    """Send questions through a server so that it has their answers.

    Args:
        questions: request bodies as JSON lines.
        ask: sends one; raises when it was not answered.
        journal: notes which lines are done; with the same journal a second run skips them.
        concurrency: requests at once.
    """
    tally, slots = Tally(), asyncio.Semaphore(concurrency)
    done, notes = _open_journal(journal)
    running: set[asyncio.Task[None]] = set()
    with notes:

        async def one(number: int, line: str) -> None:
            try:
                await ask(line)
            except Exception:
                tally.failed += 1
            else:
                tally.done += 1
                notes.write(f"{number}\n")
                notes.flush()
            finally:
                slots.release()
                progress(tally)

        number = -1
        try:
            async for line in questions:
                number += 1
                if not line.strip() or str(number) in done:
                    tally.skipped += 1
                    continue
                await slots.acquire()
                task = asyncio.create_task(one(number, line))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            await asyncio.gather(*running, return_exceptions=True)
    return tally


def _open_journal(path: Path) -> tuple[set[str], IO[str]]:
    notes = path.open("a+", encoding="ascii")
    notes.seek(0)
    return set(notes.read().split()), notes
