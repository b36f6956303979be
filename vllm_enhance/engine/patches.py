"""Everything that is changed in vLLM, as one table that the code applies and the docs render.

Three patches are always in place once vLLM loads its plugins: they add flags to the server's parser and read them. The
others are applied only when the plugin is switched on. Each wraps the original and calls it.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_enhance.engine.flags import add_group, switched_off
from vllm_enhance.engine.state import STATE

__all__ = ["PATCHES", "Patch"]

logger = logging.getLogger("vllm_enhance")


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
            add_group(parser)
        except Exception as error:
            logger.error("the --enhance flags could not be added: %s", error)
        return result

    return staticmethod(add_cli_args)


def _hear_off(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @functools.wraps(original)
    def load_config_file(self: Any, file_path: str) -> list[str]:
        arguments = original(self, file_path)
        try:
            arguments += switched_off(file_path)
        except Exception as error:
            logger.error("the switches in %s could not be read: %s", file_path, error)
        return arguments

    return load_config_file


def _read_flags(original: classmethod[Any, Any, Any]) -> classmethod[Any, Any, Any]:
    @functools.wraps(original.__func__)
    def from_cli_args(cls: Any, args: Any, *rest: Any, **kwargs: Any) -> Any:
        from vllm_enhance.engine.activation import switch

        switch(args)
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
                STATE.stand_aside("its server side is missing")
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
