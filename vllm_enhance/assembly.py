"""What one engine is equipped with: its settings and its own hook objects.

A process may run several engines under different settings, so nothing here is shared between them: each assembly loads
the hook packages anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from vllm_enhance.errors import ConfigurationError, HookError, InvalidConfigError
from vllm_enhance.plugins import PluginSet, load_plugins
from vllm_enhance.settings import PARSERS, Settings, resolve

__all__ = ["Assembly", "Chosen", "assemble", "equip"]

Chosen = Mapping[str, tuple[str, str]]
"""Setting name -> its text, and where it was written (for messages), such as ``CacheConfig.ttl``."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """Settings and hook packages of one engine.

    Attributes:
        vector_dimension: what the caller says the embedder has; checked when the system starts.
    """

    settings: Settings
    plugins: PluginSet
    vector_dimension: int | None = None


def assemble(
    chosen: Chosen,
    environ: Mapping[str, str],
    *,
    given: Mapping[str, object] | None = None,
    vector_dimension: int | None = None,
) -> Assembly:
    """Load hook packages and resolve settings: what was chosen in code over the environment over the defaults.

    Args:
        given: a caller's own hook objects, by the name of the package whose place they take.

    Raises:
        ConfigurationError: an impossible value, a setting that no installed package declares, or an object that is no
            hook package.
    """
    hooks = chosen["hooks"][0] if "hooks" in chosen else environ.get("ENHANCE_HOOKS", "")
    plugins = load_plugins(PARSERS["words"](hooks))
    for name, plugin in (given or {}).items():
        try:
            plugins.replace(plugin, name)
        except HookError as error:
            raise InvalidConfigError(f"{name}: {type(plugin).__name__} is not a hook package: {error}") from error
    table = plugins.settings_table()
    for name in given or {}:
        if name in plugins.broken:
            raise InvalidConfigError(f"{name}: {plugins.broken[name]}")
    known = {name: place for name, place in chosen.items() if name in table or not _idle(*place)}
    for name, (_, source) in known.items():
        if name not in table:
            raise ConfigurationError(
                f"{source}: no loaded hook package has the setting {name!r} (loaded: {_names(plugins)})"
            )
    settings = resolve(table, {}, environ)
    texts = {**json.loads(settings.to_json()), **{name: text for name, (text, _) in known.items()}}
    sources = {**settings.sources, **{name: source for name, (_, source) in known.items()}}
    return Assembly(Settings(table, texts, sources), plugins, vector_dimension)


def equip(settings: Settings) -> Assembly:
    """An assembly of settings that are resolved already, with hook objects of its own."""
    plugins = load_plugins(settings["hooks"])
    plugins.settings_table()  # drops a package whose declaration is broken
    return Assembly(settings, plugins)


def _idle(text: str, source: str) -> bool:
    """Whether a choice is met by a hook package that is not there."""
    return text == "off"


def _names(plugins: PluginSet) -> str:
    return ", ".join(each.name for each in plugins.loaded) or "none"
