"""The tables of the SQLite store and the statements on them. Runs on the store's threads only.

The columns before ``value`` are read without touching the pages of a large value. Expired rows count as absent
everywhere and are deleted by :func:`tidy`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_enhance.errors import ConfigurationError
from vllm_enhance.stores import Horizon, LogLimits, LogPage, scope_value
from vllm_enhance.types import InvalidationScope

APPLICATION_ID = 0x76456E68
SCHEMA_VERSION = 2
BUSY_SECONDS = 2.0
OPEN_SECONDS = 5.0
TOUCH_SECONDS = 60
DELETE_ROWS = 500
LOW_WATER = 0.95
FREE_SHARE = 0.25

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, tenant BLOB NOT NULL, model BLOB NOT NULL,
    created_at REAL NOT NULL, expires_at REAL NOT NULL, used_at INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entries_tenant ON entries (tenant, expires_at);
CREATE INDEX IF NOT EXISTS entries_model ON entries (model, expires_at);
CREATE INDEX IF NOT EXISTS entries_created ON entries (created_at, expires_at);
CREATE INDEX IF NOT EXISTS entries_expires ON entries (expires_at);
CREATE INDEX IF NOT EXISTS entries_used ON entries (used_at);
CREATE TABLE IF NOT EXISTS leases (key BLOB PRIMARY KEY, owner BLOB NOT NULL, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS floors (kind TEXT, tag BLOB, floor REAL NOT NULL, PRIMARY KEY (kind, tag)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, log TEXT NOT NULL, number INTEGER NOT NULL, nbytes INTEGER NOT NULL,
    expires_at REAL NOT NULL, message BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS logs_log ON logs (log, id);
CREATE INDEX IF NOT EXISTS logs_expires ON logs (expires_at);
"""

GET = "SELECT value, used_at FROM entries WHERE key = ? AND expires_at > ?"
PUT = """
INSERT INTO entries (key, tenant, model, created_at, expires_at, used_at, value) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, model = excluded.model, created_at = excluded.created_at,
    expires_at = excluded.expires_at, used_at = excluded.used_at, value = excluded.value
"""
DELETE = "DELETE FROM entries WHERE key = ? AND expires_at > ?"
LEASE = """
INSERT INTO leases (key, owner, expires_at) VALUES (?1, ?2, ?3)
ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at
    WHERE leases.expires_at <= ?4 OR leases.owner = excluded.owner
"""
RENEW = "UPDATE leases SET expires_at = ? WHERE key = ? AND owner = ? AND expires_at > ?"
DROP_LOGS = "DELETE FROM logs"
RELEASE = "DELETE FROM leases WHERE key = ? AND owner = ? AND expires_at > ?"


# --------------------------------------------------------------------------- opening


def connect(path: Path, read_only: bool = False) -> sqlite3.Connection:
    """An open connection to a file with our tables.

    Raises:
        ConfigurationError: the file cannot be opened, belongs to another program, or to a newer version of this one.
    """
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            return _connect(path, read_only)
        except sqlite3.OperationalError as error:
            # Several processes start at once and one of them makes the tables; SQLite does not wait for that by itself.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise ConfigurationError(f"the store {path} cannot be opened: {error}") from error
            time.sleep(0.02)
        except (sqlite3.DatabaseError, OSError) as error:
            raise ConfigurationError(f"the store {path} cannot be used: {error}; name another file") from error


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _prepare(connection, path)
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # In this order: another process may be making the tables just now, and all three change in one transaction.
    empty = _pragma(connection, "schema_version") == 0
    application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if not empty and application != APPLICATION_ID:
        raise ConfigurationError(f"the store {path} is the database of another program; name another file")
    if version > SCHEMA_VERSION:
        raise ConfigurationError(f"the store {path} was made by a newer vllm-enhance; name another file or delete it")
    if empty:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    if empty or version < SCHEMA_VERSION:
        connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


# --------------------------------------------------------------------------- entries


def execute(statement: str, values: Sequence[Any], connection: sqlite3.Connection) -> int:
    """Run one statement; how many rows it changed."""
    return connection.execute(statement, values).rowcount


def condition(scope: InvalidationScope, now: float) -> tuple[str, tuple[Any, ...]]:
    """``scope`` as SQL."""
    value = scope_value(scope)
    if value is None:
        return "1", ()
    if isinstance(value, float):
        return "created_at <= ?", (now - value,)
    return f"{scope.kind} = ?", (value,)  # a kind that passed scope_value is a column


def count(where: str, values: Sequence[Any], connection: sqlite3.Connection) -> int:
    """Living rows that meet ``where``; the last value is the time."""
    row = connection.execute(f"SELECT count(*) FROM entries WHERE {where} AND expires_at > ?", values)  # noqa: S608
    return int(row.fetchone()[0])


def delete_some(where: str, values: Sequence[Any], now: float, connection: sqlite3.Connection) -> tuple[int, int]:
    """Delete up to :data:`DELETE_ROWS` rows; how many of them were living, how many there were."""
    rows = connection.execute(
        f"DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE {where} LIMIT {DELETE_ROWS})"  # noqa: S608
        " RETURNING expires_at > ?",
        (*values, now),
    ).fetchall()
    return sum(row[0] for row in rows), len(rows)


def page(after: int, rows: int, now: float, connection: sqlite3.Connection) -> list[tuple[int, bytes, bytes]]:
    """The next rows by id."""
    return connection.execute(
        "SELECT id, key, value FROM entries WHERE id > ? AND expires_at > ? ORDER BY id LIMIT ?", (after, now, rows)
    ).fetchall()


def leased(key: bytes, now: float, connection: sqlite3.Connection) -> bool:
    """Whether a lease is held."""
    found = connection.execute("SELECT 1 FROM leases WHERE key = ? AND expires_at > ?", (key, now)).fetchone()
    return found is not None


def size(now: float, connection: sqlite3.Connection) -> tuple[int, int]:
    """Living entries, and bytes of the pages in use."""
    return count("1", (now,), connection), _used_bytes(connection)


# --------------------------------------------------------------------------- the horizon


def read_horizon(connection: sqlite3.Connection) -> Horizon:
    """The horizon as stored; a fresh one when there is none."""
    plain: dict[str, float] = {}
    floors: dict[str, dict[bytes, int]] = {"tenants": {}, "models": {}, "keys": {}}
    for kind, tag, floor in connection.execute("SELECT kind, tag, floor FROM floors"):
        if kind in floors:
            floors[kind][tag] = int(floor)
        else:
            plain[kind] = floor
    return Horizon(
        int(plain.get("generation", 0)),
        int(plain.get("everything", 0)),
        created_after=plain.get("created_after", 0.0),
        **floors,
    )


def change_horizon(change: Callable[[Horizon], Horizon], connection: sqlite3.Connection) -> Horizon:
    """Read, change and write the horizon in one transaction."""
    with _transaction(connection):
        horizon = change(read_horizon(connection))
        plain = ("generation", "everything", "created_after")
        rows: list[tuple[str, bytes, float]] = [(name, b"", getattr(horizon, name)) for name in plain]
        for kind in ("tenants", "models", "keys"):
            rows += [(kind, tag, floor) for tag, floor in getattr(horizon, kind).items()]
        connection.execute("DELETE FROM floors")
        connection.executemany("INSERT INTO floors (kind, tag, floor) VALUES (?, ?, ?)", rows)
    return horizon


# --------------------------------------------------------------------------- logs


def append(log: str, message: bytes, limits: LogLimits, now: float, connection: sqlite3.Connection) -> None:
    """Add a message; ``number`` and ``nbytes`` count messages and bytes up to it, so that a sum is a difference."""
    with _transaction(connection):
        last = connection.execute("SELECT number, nbytes FROM logs WHERE log = ? ORDER BY id DESC LIMIT 1", (log,))
        number, nbytes = last.fetchone() or (0, 0)
        number, nbytes = number + 1, nbytes + len(message)
        connection.execute(
            "INSERT INTO logs (log, number, nbytes, expires_at, message) VALUES (?, ?, ?, ?, ?)",
            (log, number, nbytes, now + limits.ttl, message),
        )
        for _ in range(DELETE_ROWS):
            first = connection.execute(
                "SELECT id, number, nbytes - length(message) FROM logs WHERE log = ? ORDER BY id LIMIT 1", (log,)
            ).fetchone()
            within = number - first[1] < limits.messages and nbytes - first[2] <= limits.nbytes
            if within or first[1] == number:
                break
            connection.execute("DELETE FROM logs WHERE id = ?", (first[0],))
        connection.execute(
            f"DELETE FROM logs WHERE id IN (SELECT id FROM logs WHERE expires_at <= ? LIMIT {DELETE_ROWS})",  # noqa: S608
            (now,),
        )


def read_log(log: str, after: int, count: int, now: float, connection: sqlite3.Connection) -> LogPage:
    """See :meth:`vllm_enhance.stores.Store.read`."""
    rows = connection.execute(
        "SELECT id, message FROM logs WHERE log = ? AND id > ? AND expires_at > ? ORDER BY id LIMIT ?",
        (log, after, now, count),
    ).fetchall()
    if rows:
        return LogPage([message for _, message in rows], str(rows[-1][0]))
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'logs'").fetchone()
    return LogPage((), "" if last is None or after > last[0] else str(after))


# --------------------------------------------------------------------------- housekeeping


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def tidy(connection: sqlite3.Connection, now: float, max_bytes: int, touched: Mapping[bytes, int]) -> None:
    """Note uses, drop what is over, bring the size under the cap, give pages back. Bounded work per call."""
    if touched:
        with _transaction(connection):
            uses = [(at, key) for key, at in touched.items()]
            connection.executemany("UPDATE entries SET used_at = ? WHERE key = ?", uses)
    connection.execute(
        f"DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires_at <= ? LIMIT {DELETE_ROWS})",  # noqa: S608
        (now,),
    )
    connection.execute("DELETE FROM leases WHERE expires_at <= ?", (now,))
    if _used_bytes(connection) > max_bytes:
        _evict(connection, int(max_bytes * LOW_WATER))
    free, pages = _pragma(connection, "freelist_count"), _pragma(connection, "page_count")
    if free > FREE_SHARE * pages:
        connection.executescript("PRAGMA incremental_vacuum(256)")  # execute() would stop after one page


def _evict(connection: sqlite3.Connection, goal: int) -> None:
    while (excess := _used_bytes(connection) - goal) > 0:
        rows = connection.execute(f"SELECT id, length(value) FROM entries ORDER BY used_at, id LIMIT {DELETE_ROWS}")  # noqa: S608
        doomed: list[tuple[int]] = []
        for row_id, nbytes in rows.fetchall():
            doomed.append((row_id,))
            excess -= nbytes
            if excess <= 0:
                break
        if not doomed:
            return
        with _transaction(connection):
            connection.executemany("DELETE FROM entries WHERE id = ?", doomed)
