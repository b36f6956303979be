"""Which hook packages are in play.

Installed packages announce themselves under the entry-point group ``vllm_enhance``; ``--enhance-hooks`` chooses among
them and can name a local ``module:object``. They are loaded one by one: a broken one is reported and skipped.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from vllm_enhance import hookspecs
from vllm_enhance.errors import HookError, SettingError
from vllm_enhance.settings import CORE_SETTINGS, SettingsTable

__all__ = ["GROUP", "LoadedPlugin", "PluginSet", "load_plugins"]

GROUP = "vllm_enhance"


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A hook package: its name, where it came from, which hooks it implements."""

    name: str
    source: str
    hooks: tuple[str, ...]


@dataclass(slots=True)
class PluginSet:
    """The loaded hook packages, and the ones that could not be loaded with the reason."""

    manager: pluggy.PluginManager
    loaded: list[LoadedPlugin] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    def settings_table(self) -> SettingsTable:
        """Core settings and those that the packages declare; a package with a bad declaration is dropped."""
        table = SettingsTable(CORE_SETTINGS)
        for plugin in list(self.loaded):
            declare = getattr(self.manager.get_plugin(plugin.name), "declare_settings", None)
            if declare is None or "declare_settings" not in plugin.hooks:
                continue
            try:
                for setting in declare():
                    table.add(setting)
            except Exception as error:
                self.drop(plugin.name, f"declare_settings: {error}")
        return table

    def register(self, plugin: object, name: str, source: str) -> None:
        """Add one hook package.

        Raises:
            HookError: it implements no known hook, misspells one, misnames an argument, or its name is taken.
        """
        if self.manager.has_plugin(name):
            raise HookError(f"two hook packages are called {name!r}; the first one stays")
        try:
            registered = self.manager.register(plugin, name=name)
        except (pluggy.PluginValidationError, ValueError) as error:
            self.manager.unregister(name=name)
            raise HookError(str(error)) from error
        if registered is None:
            raise HookError("blocked")
        callers = self.manager.get_hookcallers(plugin) or []
        hooks = tuple(sorted(caller.name for caller in callers))
        unknown = [hook for hook in hooks if not hasattr(hookspecs, hook)]
        if unknown or not hooks:
            self.manager.unregister(name=name)
            raise HookError(f"unknown hooks: {', '.join(unknown)}" if unknown else "no function marked @hookimpl")
        self.loaded.append(LoadedPlugin(name, source, hooks))

    def replace(self, plugin: object, name: str) -> None:
        """Put a caller's own object in the place of the package called ``name``, if there is one.

        Raises:
            HookError: see :meth:`register`.
        """
        self.loaded = [each for each in self.loaded if each.name != name]
        self.broken.pop(name, None)
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)
        self.register(plugin, name, "given")

    def drop(self, name: str, reason: str) -> None:
        """Take a hook package out of play and remember why."""
        self.loaded = [plugin for plugin in self.loaded if plugin.name != name]
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)
        self.broken[name] = reason


def new_manager() -> pluggy.PluginManager:
    """An empty plugin manager that knows our specs."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def load_plugins(chosen: Iterable[str] = (), *, installed: Iterable[EntryPoint] | None = None) -> PluginSet:
    """Load hook packages.

    Args:
        chosen: ``--enhance-hooks``: names of entry points, ``module:object``, or ``name=module:object``, which is known
            by that name and so can stand in the place of a package; empty means all that are installed, ``none`` none.
        installed: the entry points to choose from; by default those of this environment.

    Raises:
        SettingError: a chosen name is not installed. A package that exists but cannot be loaded never raises.
    """
    result = PluginSet(new_manager())
    wanted = list(chosen)
    if wanted == ["none"]:
        return result
    found = {point.name: point for point in (entry_points(group=GROUP) if installed is None else installed)}
    for name in wanted or sorted(found):
        if ":" in name:
            called, _, value = name.rpartition("=")
            _load(result, called or value, EntryPoint(name=called or value, value=value, group=GROUP), "local")
        elif name in found:
            _load(result, name, found[name], _origin(found[name]))
        else:
            known = ", ".join(sorted(found)) or "none is installed"
            raise SettingError("hooks", "--enhance-hooks", f"no hook package named {name!r} (installed: {known})")
    return result


def _load(result: PluginSet, name: str, point: EntryPoint, source: str) -> None:
    try:
        importlib.invalidate_caches()
        plugin: Any = point.load()
        if inspect.isclass(plugin):
            plugin = plugin()
        result.register(plugin, name, source)
    except Exception as error:
        result.broken[name] = f"{type(error).__name__}: {error}"


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "entry point"
