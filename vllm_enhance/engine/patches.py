"""Everything that is changed in vLLM, as one table that the code applies and the docs render.

Two patches are always in place once vLLM loads its plugins: they add flags to the server's parser and read them. The
others are applied only when the plugin is switched on. Each wraps the original and calls it.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import logging
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from vllm_enhance.assembly import Assembly, assemble, equip
from vllm_enhance.errors import ConfigurationError
from vllm_enhance.metrics import Metrics
from vllm_enhance.plugins import PluginSet, load_plugins
from vllm_enhance.settings import CORE_SETTINGS, Secret, Settings, SettingsTable, resolve

__all__ = [
    "CONFIG_VARIABLE",
    "PATCHES",
    "STATE",
    "SWITCH_VARIABLE",
    "Patch",
    "State",
    "activate",
    "make_runtime",
    "register",
]

logger = logging.getLogger("vllm_enhance")

SWITCH_VARIABLE = "ENHANCE"
CONFIG_VARIABLE = "ENHANCE_CONFIG"
"""Internal: how the parent process tells API server processes what was set. Never ``VLLM_*``: vLLM would object."""

ON = frozenset({"1", "on", "true", "yes"})
SERVER_MODULES = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")


@dataclass(slots=True)
class State:
    """What this process has done to vLLM so far."""

    settings: Settings | None = None
    plugins: PluginSet | None = None
    metrics: Metrics | None = None
    epoch_path: Path | None = None
    refused: list[str] = field(default_factory=list)
    applied: dict[str, tuple[Any, str, Any]] = field(default_factory=dict)
    runtimes: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)

    @property
    def on(self) -> bool:
        return self.settings is not None and not self.refused


STATE = State()


@dataclass(frozen=True, slots=True)
class Patch:
    """One change.

    Attributes:
        target: ``module:attribute.path``.
        wrap: makes the replacement from the original.
        why, how: for the reader of ``docs/patches.md``.
        goes_away: what vLLM would have to offer for the patch to go.
        always: applied at plugin load, not only when switched on.
    """

    target: str
    wrap: Callable[[Any], Any]
    why: str
    how: str
    goes_away: str
    always: bool = False

    def apply(self) -> None:
        """Put the replacement in place, once."""
        if self.target in STATE.applied:
            return
        owner, name = self._owner()
        original = vars(owner).get(name, getattr(owner, name))
        STATE.applied[self.target] = (owner, name, original)
        setattr(owner, name, self.wrap(original))

    def revert(self) -> None:
        """Put the original back."""
        owner, name, original = STATE.applied.pop(self.target, (None, "", None))
        if owner is not None:
            setattr(owner, name, staticmethod(_plain_new) if original is object.__new__ else original)

    def _owner(self) -> tuple[Any, str]:
        module, _, path = self.target.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name


def _plain_new(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """``object.__new__`` for a class that once had its own: CPython refuses arguments from then on (bpo-25731)."""
    return object.__new__(cls)


# --------------------------------------------------------------------------- the replacements


def _add_flags(original: staticmethod[Any, Any]) -> staticmethod[Any, Any]:
    @functools.wraps(original.__func__)
    def add_cli_args(parser: Any) -> Any:
        result = original.__func__(parser)
        try:
            _add_group(parser)
        except Exception as error:
            logger.error("the --enhance flags could not be added: %s", error)
        return result

    return staticmethod(add_cli_args)


def _add_group(parser: Any) -> None:
    """Add our flags to a server's parser: one with a group ``Frontend``, whatever it is called."""
    titles = {group.title for group in parser._action_groups}
    if "Frontend" not in titles or "--enhance" in parser._option_string_actions:
        return
    group = parser.add_argument_group(
        title="Enhance", description="Answer repeated and similar questions without generating them again."
    )
    group.add_argument(
        "--enhance", action="store_true", default=False, help=f"Switch the plugin on (or set {SWITCH_VARIABLE}=1)."
    )
    for setting in _table():
        group.add_argument(
            setting.flag,
            dest=setting.dest,
            default=None,
            nargs="?" if setting.kind == "switch" else None,
            const="on" if setting.kind == "switch" else None,
            type=Secret if setting.secret else str,
            metavar="{" + ",".join(setting.choices) + "}" if setting.choices else setting.kind.upper(),
            help=f"{setting.help} Default: {setting.default or 'unset'}. Environment: {setting.variable}.".replace(
                "%", "%%"
            ),
        )


def _hear_off(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @functools.wraps(original)
    def load_config_file(self: Any, file_path: str) -> list[str]:
        arguments = original(self, file_path)
        try:
            arguments += _switched_off(file_path)
        except Exception as error:
            logger.error("the switches in %s could not be read: %s", file_path, error)
        return arguments

    return load_config_file


def _switched_off(file_path: str) -> list[str]:
    """Flags for our switches that are ``off`` without quotes in a YAML file, which YAML reads as a boolean."""
    import yaml

    with open(file_path, encoding="utf-8") as file:
        entries = yaml.safe_load(file) or {}
    flags = {setting.flag for setting in _table() if setting.kind == "switch"}
    off = [f"--{str(key).replace('_', '-')}" for key, value in entries.items() if value is False]
    return [argument for flag in off if flag in flags for argument in (flag, "off")]


def _read_flags(original: classmethod[Any, Any, Any]) -> classmethod[Any, Any, Any]:
    @functools.wraps(original.__func__)
    def from_cli_args(cls: Any, args: Any, *rest: Any, **kwargs: Any) -> Any:
        _switch(args)
        return original.__func__(cls, args, *rest, **kwargs)

    return classmethod(from_cli_args)


def _swap_class(original: Any) -> staticmethod[Any, Any]:
    def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        from vllm.v1.engine.async_llm import AsyncLLM

        if cls is AsyncLLM and STATE.on:
            from vllm_enhance.engine.client import EnhancedAsyncLLM

            cls = EnhancedAsyncLLM
        return object.__new__(cls)

    return staticmethod(__new__)


def _swap_offline(original: Any) -> staticmethod[Any, Any]:
    def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        from vllm.v1.engine.llm_engine import LLMEngine

        if cls is LLMEngine and STATE.on:
            try:
                from vllm_enhance.engine.offline import EnhancedLLMEngine

                cls = EnhancedLLMEngine
            except Exception as error:
                logger.error("LLM serves plain: its engine is not as expected (%s)", error)
        return object.__new__(cls)

    return staticmethod(__new__)


def _swap_collector(original: Any) -> Any:
    from vllm_enhance.engine.collector import EnhancedRequestOutputCollector

    return EnhancedRequestOutputCollector


def _add_endpoints(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load_endpoint_plugins(*args: Any, **kwargs: Any) -> Any:
        found = list(original(*args, **kwargs))
        if STATE.settings is not None:
            try:
                from vllm_enhance.server.endpoint import EnhanceEndpoint

                found.append(EnhanceEndpoint(STATE.settings))
            except Exception:
                # Without the middleware nobody knows who asks, and callers could see each other's answers.
                logger.exception("the server side of vllm-enhance cannot be built")
                _stand_aside()
        return found

    return load_endpoint_plugins


PATCHES: tuple[Patch, ...] = (
    Patch(
        "vllm.engine.arg_utils:EngineArgs.add_cli_args",
        _add_flags,
        why="`vllm serve` must know the --enhance flags.",
        how="Calls the original, then adds a group `Enhance` to parsers that have a group `Frontend`.",
        goes_away="vLLM lets general plugins declare command-line arguments.",
        always=True,
    ),
    Patch(
        "vllm.utils.argparse_utils:FlexibleArgumentParser.load_config_file",
        _hear_off,
        why="A switch that is `off` in the YAML file of `--config` must be heard: vLLM drops what YAML reads as false.",
        how="Calls the original, then adds `--enhance-x off` for switches of ours that are false in the file.",
        goes_away="vLLM passes false values of options that take a value.",
        always=True,
    ),
    Patch(
        "vllm.engine.arg_utils:EngineArgs.from_cli_args",
        _read_flags,
        why="The flags' values must be read: engine arguments keep only vLLM's own fields.",
        how="Reads our flags, switches the plugin on if asked, then calls the original.",
        goes_away="vLLM hands the parsed namespace to general plugins.",
        always=True,
    ),
    Patch(
        "vllm.v1.engine.async_llm:AsyncLLM.__new__",
        _swap_class,
        why="Servers and libraries make the engine client in several ways, some before the plugin is loaded.",
        how="Makes an `EnhancedAsyncLLM` where plain `AsyncLLM` was asked for; subclasses of others are left alone.",
        goes_away="vLLM has a setting for the engine client's class.",
    ),
    Patch(
        "vllm.v1.engine.async_llm:RequestOutputCollector",
        _swap_collector,
        why="What the engine produces is recorded where it passes to the caller.",
        how="Rebinds the name that `add_request` looks up to a subclass, which behaves as the original until it leads.",
        goes_away="`AsyncLLM` gets its collector from a method that a subclass can override.",
    ),
    Patch(
        "vllm.v1.engine.llm_engine:LLMEngine.__new__",
        _swap_offline,
        why="`vllm.LLM` has an engine of its own, without an event loop.",
        how="Makes an `EnhancedLLMEngine` where plain `LLMEngine` was asked for.",
        goes_away="`LLM` runs on `AsyncLLM`, or has a setting for its engine's class.",
    ),
    Patch(
        "vllm.plugins:load_endpoint_plugins",
        _add_endpoints,
        why="Cache-Status headers and the /v1/enhance routes need a place inside the server's own authentication.",
        how="Appends one endpoint plugin to those that vLLM found.",
        goes_away="vLLM loads endpoint plugins without `VLLM_PLUGINS` being set.",
    ),
)
"""In the order of application."""


# --------------------------------------------------------------------------- switching on


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
        activate(Settings.from_json(_table(), json.dumps(told["settings"])))
    elif config is None and _wanted_by_environment(os.environ):
        activate(resolve(_table(), {}, os.environ))


def activate(settings: Settings) -> None:
    """Put the remaining patches in place, if this vLLM has the seams for them.

    Raises:
        UnsupportedEngineError: it has not, and ``--enhance-strict`` is on.
    """
    STATE.settings = settings
    _plugins()
    _fit(settings)


def _fit(settings: Settings) -> None:
    """Probe this vLLM and patch it, once."""
    from vllm_enhance.engine.compat import TESTED, failed_probes
    from vllm_enhance.errors import UnsupportedEngineError

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


def _stand_aside() -> None:
    for runtime in list(STATE.runtimes):
        runtime.stand_aside("its server side is missing")


def _switch(args: Any) -> None:
    """Read the flags of a server that is about to start."""
    wanted = bool(getattr(args, "enhance", False)) or _wanted_by_environment(os.environ)
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
        settings = resolve(_table(), vars(args), os.environ)
        _check(settings)
        settings = _with_server_facts(settings, args)
        if STATE.epoch_path is None:
            STATE.epoch_path = _new_epoch_file()
        told = {"settings": json.loads(settings.to_json()), "epoch": str(STATE.epoch_path)}
        os.environ[CONFIG_VARIABLE] = json.dumps(told)
        activate(settings)
    except ConfigurationError as error:
        _exit(str(error))


def _check(settings: Settings) -> None:
    """What one setting alone cannot tell."""
    from vllm_enhance.errors import SettingError

    if _plugins_chosen() != tuple(settings["hooks"]):
        STATE.plugins = load_plugins(settings["hooks"])
    chunk = settings["replay-chunk"]
    if chunk != "auto" and not (chunk.isascii() and chunk.isdigit() and 1 <= int(chunk) <= 4096):
        raise SettingError("replay-chunk", "--enhance-replay-chunk", f"{chunk!r} is neither auto nor 1 to 4096")


def _with_server_facts(settings: Settings, args: Any) -> Settings:
    """Settle ``auto`` settings that depend on the server's own flags."""
    if settings["replay-chunk"] != "auto":
        return settings
    parsers = getattr(args, "tool_call_parser", None) or getattr(args, "reasoning_parser", None)
    return settings.replace(replay_chunk="1" if parsers else "64")


def _wanted_by_environment(environ: Mapping[str, str]) -> bool:
    return environ.get(SWITCH_VARIABLE, "").lower() in ON


def _plugins() -> PluginSet:
    if STATE.plugins is None:
        chosen = tuple(word.strip() for word in os.environ.get("ENHANCE_HOOKS", "").split(",") if word.strip())
        STATE.plugins = load_plugins(chosen)
    return STATE.plugins


def _plugins_chosen() -> tuple[str, ...]:
    return tuple(word.strip() for word in os.environ.get("ENHANCE_HOOKS", "").split(",") if word.strip())


def _table() -> SettingsTable:
    try:
        return _plugins().settings_table()
    except ConfigurationError:
        return SettingsTable(CORE_SETTINGS)


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
