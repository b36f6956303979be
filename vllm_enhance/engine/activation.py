"""Switching the plugin on: by flag, by environment, and in the API server processes that a server spawns."""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from vllm_enhance.assembly import Assembly, assemble, equip
from vllm_enhance.engine.flags import hooks_in_environment, known_plugins, known_settings
from vllm_enhance.engine.patches import PATCHES
from vllm_enhance.engine.state import CONFIG_VARIABLE, ON, STATE, wanted_by_environment
from vllm_enhance.errors import ConfigurationError, SettingError, UnsupportedEngineError
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import load_plugins
from vllm_enhance.settings import PARSERS, Settings, resolve

__all__ = ["activate", "make_runtime", "register", "switch"]

logger = logging.getLogger("vllm_enhance")

SERVER_MODULES = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")


def register() -> None:
    """Called by vLLM in each of its processes, through :func:`vllm_enhance.plugin.register`."""
    for patch in PATCHES:
        if patch.always:
            patch.apply()
    if STATE.settings is not None:
        return
    config = os.environ.get(CONFIG_VARIABLE)
    if config is not None and any(name in sys.modules for name in SERVER_MODULES):
        told = json.loads(config)  # a spawned API server process: the parent has checked all of it
        STATE.epoch_path = Path(told["epoch"]) if told.get("epoch") else None
        STATE.plugins = load_plugins(PARSERS["words"](told["settings"].get("hooks", "")))
        activate(Settings.from_json(STATE.plugins.settings_table(), json.dumps(told["settings"])))
    elif config is None and wanted_by_environment(os.environ):
        activate(resolve(known_settings(), {}, os.environ))


def activate(settings: Settings) -> None:
    """Put the remaining patches in place, if this vLLM has the seams for them.

    Raises:
        UnsupportedEngineError: it has not, and ``--enhance-strict`` is on.
    """
    STATE.settings = settings
    known_plugins()
    _fit(settings)


def _fit(settings: Settings) -> None:
    """Probe this vLLM and patch it, once."""
    from vllm_enhance.engine.compat import TESTED, failed_probes

    _share_log_handlers()
    STATE.metrics = STATE.metrics or Metrics()
    if STATE.refused or any(not patch.always and patch.target in STATE.applied for patch in PATCHES):
        return
    STATE.refused = failed_probes()
    if not STATE.refused:
        for patch in PATCHES:
            patch.apply()
        return
    import vllm

    message = (
        f"vllm-enhance does not fit this vLLM ({vllm.__version__}; tested with {TESTED}): {'; '.join(STATE.refused)}"
    )
    if settings["strict"]:
        raise UnsupportedEngineError(message, tuple(STATE.refused))
    logger.error("%s. Serving continues without vllm-enhance", message)
    STATE.metrics.gauge("vllm_enhance_enabled", 0)


def make_runtime(client: Any, made_with: Mapping[str, Any], assembly: Assembly | None = None) -> Any:
    """The plugin's side of an engine client that has just been made; ``None`` when it serves plain.

    Args:
        assembly: what this one is equipped with; by default what the process was switched on with, or else what the
            environment says. Hook objects are never shared between clients.
    """
    if assembly is None:
        assembly = equip(STATE.settings) if STATE.settings is not None else assemble({}, os.environ)
    settings = assembly.settings
    _fit(settings)
    if STATE.refused:
        return None
    from vllm_enhance.engine.runtime import Runtime

    assert STATE.metrics is not None
    try:
        runtime = Runtime(
            client,
            settings,
            assembly.plugins,
            STATE.metrics.separate(),
            epoch_path=STATE.epoch_path,
            api_process=(made_with.get("client_index") or 0, made_with.get("client_count") or 1),
        )
        STATE.runtimes.add(runtime)
        return runtime
    except Exception:
        if settings["strict"]:
            raise
        logger.exception("vllm-enhance could not start; vLLM serves plain")
        STATE.metrics.gauge("vllm_enhance_enabled", 0)
        return None


def switch(args: Any) -> None:
    """Read the flags of a server that is about to start."""
    wanted = bool(getattr(args, "enhance", False)) or wanted_by_environment(os.environ)
    if not wanted:
        os.environ.pop(CONFIG_VARIABLE, None)
        return
    if getattr(args, "subparser", None) == "snapshot":
        logger.warning("--enhance is ignored: a snapshot must see what the engine really says")
        STATE.settings = None
        return
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0").lower() in ON:
        _exit("--enhance needs vLLM's Python front end: unset VLLM_USE_RUST_FRONTEND")
    if getattr(args, "headless", False):
        logger.warning("--enhance has no effect with --headless: this process serves no requests")
        return
    try:
        settings = _with_server_facts(_resolved(vars(args)), args)
        if STATE.epoch_path is None:
            STATE.epoch_path = _new_epoch_file()
        told = {"settings": json.loads(settings.to_json()), "epoch": str(STATE.epoch_path)}
        os.environ[CONFIG_VARIABLE] = json.dumps(told)
        activate(settings)
    except ConfigurationError as error:
        _exit(str(error))


def _resolved(flags: Mapping[str, Any]) -> Settings:
    """The settings of a server that is about to start, and in ``STATE`` the hook packages that they choose."""
    settings = resolve(known_settings(), flags, os.environ)
    if list(settings["hooks"]) != hooks_in_environment():
        STATE.plugins = load_plugins(settings["hooks"])
        settings = resolve(STATE.plugins.settings_table(), flags, os.environ)
    chunk = settings["replay-chunk"]
    if chunk != "auto" and not (chunk.isascii() and chunk.isdigit() and 1 <= int(chunk) <= 4096):
        raise SettingError("replay-chunk", "--enhance-replay-chunk", f"{chunk!r} is neither auto nor 1 to 4096")
    return settings


def _with_server_facts(settings: Settings, args: Any) -> Settings:
    """Settle ``auto`` settings that depend on the server's own flags."""
    if settings["replay-chunk"] != "auto":
        return settings
    parsers = getattr(args, "tool_call_parser", None) or getattr(args, "reasoning_parser", None)
    return settings.replace(replay_chunk="1" if parsers else "64")


def _share_log_handlers() -> None:
    """Log where vLLM logs: it sets up handlers for its own name only (``vllm/logger.py``)."""
    theirs = logging.getLogger("vllm")
    if theirs.handlers and not logger.handlers:
        logger.handlers = theirs.handlers
        logger.setLevel(theirs.level)
        logger.propagate = False


def _new_epoch_file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vllm-enhance-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # forked children inherit atexit handlers
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder / "epoch"


def _exit(message: str) -> NoReturn:
    sys.stderr.write(f"vllm serve: error: {message}\n")
    raise SystemExit(2)
