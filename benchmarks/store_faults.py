"""What a user sees while a Redis is sick: each fault on a real redis-server, under traffic, through the cache hook.

Prints JSON, and with ``--write docs/reliability.md`` puts the table between the markers of that page. A request here is
what the engine does: ask the hook, run the lookup that it offers, and on a miss "generate" and hand the answer over.
The hook's memory holds one entry, so that every hit must come from Redis. Four of five requests repeat a known
question, and hits are counted among those; the fifth is new and gives Redis something to write. With
``--enhance-lookup hedge`` the engine works meanwhile, and a user does not even wait for the longest lookup shown.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import prometheus_client
from vllm_enhance_cache.options import SETTINGS
from vllm_enhance_cache.plugin import CacheHook

from vllm_enhance.context import HookContext
from vllm_enhance.metrics import Metrics
from vllm_enhance.records import ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable
from vllm_enhance.testing.redis import RedisServer, SlowProxy
from vllm_enhance.types import Lookup, Outcome, RequestContext, Source

KEYS = 20
RATE = 100.0
START, END = "<!-- store faults: made by benchmarks/store_faults.py -->", "<!-- end of store faults -->"

Step = Callable[[RedisServer, SlowProxy], None]


@dataclass(frozen=True)
class Fault:
    """How to make a Redis sick and well again."""

    name: str
    how: str
    begin: Step
    end: Step
    reads_go_on: bool = False


def _nothing(server: RedisServer, proxy: SlowProxy) -> None:
    """It heals by itself."""


def _start(server: RedisServer, proxy: SlowProxy) -> None:
    server.start()


def _restart(server: RedisServer, proxy: SlowProxy) -> None:
    server.kill()
    server.start()


def _requirepass(server: RedisServer, proxy: SlowProxy) -> None:
    server.command("CONFIG", "SET", "requirepass", "secret")
    server.command_with("secret", "CLIENT", "KILL", "TYPE", "normal")


def _spoil(server: RedisServer, proxy: SlowProxy) -> None:
    for name in server.command("KEYS", "*:e:*"):
        server.command("SET", name, os.urandom(300))


def _set(name: str, value: Any) -> Step:
    return lambda server, proxy: setattr(proxy, name, value)


FAULTS = (
    Fault("frozen", "SIGSTOP", lambda s, p: s.freeze(), lambda s, p: s.thaw()),
    Fault("killed", "SIGKILL, started again later, empty", lambda s, p: s.kill(), _start),
    Fault("restarted", "SIGKILL and at once started, empty", _restart, _nothing),
    Fault(
        "full",
        "`maxmemory` reached, `noeviction`: writes get OOM",
        lambda s, p: s.command("CONFIG", "SET", "maxmemory", "1"),
        lambda s, p: s.command("CONFIG", "SET", "maxmemory", "0"),
        reads_go_on=True,
    ),
    Fault(
        "read-only",
        "became a replica: writes get READONLY",
        lambda s, p: s.command("REPLICAOF", "127.0.0.1", "1"),
        lambda s, p: s.command("REPLICAOF", "NO", "ONE"),
        reads_go_on=True,
    ),
    Fault(
        "credentials refused",
        "a password is set, connections dropped",
        _requirepass,
        lambda s, p: s.command_with("secret", "CONFIG", "SET", "requirepass", ""),
    ),
    Fault("slow", "a proxy holds each packet for 200 ms", _set("delay", 0.2), _set("delay", 0.0)),
    Fault("cut", "a proxy cuts each answer after 3 bytes", _set("cut_after", 3), _set("cut_after", None)),
    Fault("memory lost", "FLUSHALL", lambda s, p: s.command("FLUSHALL"), _nothing),
    Fault("foreign values", "every value overwritten with noise", _spoil, _nothing),
)


@dataclass
class Phase:
    """What happened to the requests of one phase."""

    requests: int = 0
    repeats: int = 0
    failed: int = 0
    hits: int = 0
    delays: list[float] = field(default_factory=list)

    @property
    def hit_share(self) -> float:
        return self.hits / self.repeats if self.repeats else 0.0

    @property
    def longest_ms(self) -> float:
        return 1000 * max(self.delays, default=0.0)


@dataclass
class Seen:
    """What a user saw of one fault."""

    fault: str
    how: str
    requests: int
    failed: int
    median_delay_ms: float
    longest_delay_ms: float
    hits_before: float
    hits_during: float
    hits_after: float
    back_after_s: float
    log_lines: int
    longest_stall_ms: float


_new_keys = itertools.count(KEYS)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _request(number: int) -> RequestContext:
    return RequestContext(f"r{number}", [1, 2, 3], None, model="m", key=number.to_bytes(32, "big"))


def _record() -> GenerationRecord:
    choice = ChoiceRecord(pack_token_ids(range(200)), "a stored answer " * 50, "stop")
    return GenerationRecord(1, (choice,), prompt_tokens=3, created_at=time.time())


async def _one(hook: CacheHook, number: int, phase: Phase) -> None:
    request = _request(number)
    phase.requests += 1
    phase.repeats += number < KEYS
    started = time.perf_counter()
    try:
        decision = hook.pre_request(request)
        answer = await decision.run() if isinstance(decision, Lookup) else decision
        phase.delays.append(time.perf_counter() - started)
        if answer is not None:
            phase.hits += 1
            return
        await asyncio.sleep(0.002)
        hook.post_output(request, _record(), Outcome(Source.ENGINE, storable=True))
    except Exception:
        phase.failed += 1


async def _traffic(hook: CacheHook, seconds: float, until: Callable[[Phase], bool] = lambda phase: False) -> Phase:
    """Requests at a steady rate, each on its own."""
    phase, number = Phase(), 0
    tasks: set[asyncio.Task[None]] = set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until(phase):
        key = next(_new_keys) if number % 5 == 4 else number % KEYS
        task = asyncio.create_task(_one(hook, key, phase))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        await asyncio.sleep(1.0 / RATE)
    await asyncio.gather(*tasks)
    return phase


def _warmed(phase: Phase) -> bool:
    return phase.repeats > 2 * KEYS


async def _watch_loop(longest: list[float]) -> None:
    """How long the event loop itself stood still, which is the machine's doing and not the store's."""
    while True:
        started = time.perf_counter()
        await asyncio.sleep(0.005)
        longest[0] = max(longest[0], time.perf_counter() - started - 0.005)


async def observe(fault: Fault, folder: Path, seconds: float = 2.0, deadline: str = "25ms") -> Seen:
    """Run one fault from health to health."""
    server = RedisServer(folder).start()
    lines = _Lines()
    log = logging.getLogger("vllm_enhance.cache")
    log.addHandler(lines)
    log.propagate = False
    stall = [0.0]
    watcher = asyncio.create_task(_watch_loop(stall))
    try:
        async with SlowProxy(server.port) as proxy:
            table = SettingsTable((*CORE_SETTINGS, *SETTINGS))
            texts = {
                "store": f"redis://127.0.0.1:{proxy.port}",
                "store-key": "k",
                "store-deadline": deadline,
                "cache-max-entries": "1",
            }
            hook = CacheHook()
            metrics = Metrics(registry=prometheus_client.CollectorRegistry())
            await hook.startup(HookContext(settings=Settings(table, texts, {}), metrics=metrics))
            await _traffic(hook, 10.0, until=_warmed)
            before = await _traffic(hook, seconds / 2)
            # In a thread, as the world would do it: the event loop goes on serving meanwhile.
            await asyncio.to_thread(fault.begin, server, proxy)
            during = await _traffic(hook, seconds)
            await asyncio.to_thread(fault.end, server, proxy)
            healed = time.monotonic()
            await _traffic(hook, 15.0, until=lambda phase: phase.hits > 0)
            back = time.monotonic() - healed
            await _traffic(hook, 10.0, until=_warmed)
            after = await _traffic(hook, seconds / 2)
            await hook.shutdown()
    finally:
        watcher.cancel()
        server.stop()
        log.removeHandler(lines)
        log.propagate = True
    phases = (before, during, after)
    delays = [delay for phase in phases for delay in phase.delays]
    return Seen(
        fault.name,
        fault.how,
        sum(phase.requests for phase in phases),
        sum(phase.failed for phase in phases),
        round(1000 * statistics.median(delays), 2),
        round(max(phase.longest_ms for phase in phases), 1),
        round(before.hit_share, 2),
        round(during.hit_share, 2),
        round(after.hit_share, 2),
        round(back, 1),
        len(lines.lines),
        round(1000 * stall[0], 1),
    )


def table_of(rows: list[Seen]) -> str:
    """The rows as Markdown."""
    head = (
        "| Fault | Requests | Failed | Lookup: median, longest | Hits before, during, after | Back after | Log lines |"
    )
    lines = [head, "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row.fault}: {row.how} | {row.requests} | {row.failed} "
        f"| {row.median_delay_ms:g}, {row.longest_delay_ms:g} ms "
        f"| {row.hits_before:.0%}, {row.hits_during:.0%}, {row.hits_after:.0%} "
        f"| {row.back_after_s:g} s | {row.log_lines} |"
        for row in rows
    ]
    return "\n".join(lines)


def write(page: Path, table: str) -> None:
    """Put ``table`` between the markers of ``page``, or at its end."""
    text = page.read_text("utf-8") if page.exists() else "# Reliability\n"
    block = f"{START}\n\n{table}\n\n{END}"
    if START in text and END in text:
        text = text[: text.index(START)] + block + text[text.index(END) + len(END) :]
    else:
        text = f"{text.rstrip()}\n\n## A sick Redis\n\n{block}\n"
    page.write_text(text, "utf-8")


async def main(arguments: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, fault in enumerate(FAULTS):
            rows.append(await observe(fault, Path(folder) / str(number), arguments.seconds))
            print(f"{fault.name}: done", file=sys.stderr)
    if arguments.write:
        write(Path(arguments.write), table_of(rows))
    print(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each fault lasts")
    parser.add_argument("--write", metavar="PAGE", help="put the table into this Markdown page")
    asyncio.run(main(parser.parse_args()))
