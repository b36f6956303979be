"""The flags on the command line of ``vllm serve``, and in the file of its ``--config``.

The parser is built before it has seen a word of the command line. Installed hook packages announce their settings by
themselves; a file of the operator's own, named as ``module:object`` in ``--enhance-hooks``, is only there: so the
command line is looked at for that one flag beforehand.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from vllm_enhance.engine.state import STATE, SWITCH_VARIABLE
from vllm_enhance.errors import ConfigurationError
from vllm_enhance.plugins import PluginSet, load_plugins
from vllm_enhance.settings import CORE_SETTINGS, PARSERS, Secret, SettingsTable

__all__ = ["add_group", "hooks_in_environment", "known_plugins", "known_settings", "switched_off"]


def add_group(parser: Any) -> None:
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
    for setting in known_settings():
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


def switched_off(file_path: str) -> list[str]:
    """Flags for our switches that are ``off`` without quotes in a YAML file, which YAML reads as a boolean."""
    flags = {setting.flag for setting in known_settings() if setting.kind == "switch"}
    off = [f"--{str(key).replace('_', '-')}" for key, value in _from_yaml(file_path).items() if value is False]
    return [argument for flag in off if flag in flags for argument in (flag, "off")]


def known_settings() -> SettingsTable:
    """Settings of the core, of the hook packages, and of the files of his own that the operator names."""
    try:
        table = known_plugins().settings_table()
    except ConfigurationError:
        table = SettingsTable(CORE_SETTINGS)
    local = [name for name in _hooks_on_command_line(sys.argv[1:]) if ":" in name]
    for setting in load_plugins(local or ["none"]).settings_table():
        if setting.name not in table:
            table.add(setting)
    return table


def known_plugins() -> PluginSet:
    """The hook packages of this process, loaded once: those that the environment chooses, or all."""
    if STATE.plugins is None:
        STATE.plugins = load_plugins(hooks_in_environment())
    return STATE.plugins


def hooks_in_environment() -> list[str]:
    """The names in ``ENHANCE_HOOKS``."""
    return list(PARSERS["words"](os.environ.get("ENHANCE_HOOKS", "")))


def _hooks_on_command_line(arguments: Sequence[str]) -> list[str]:
    """What ``--enhance-hooks``, or else the file of ``--config``, names; nothing where the parser will object."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--enhance-hooks", "--enhance_hooks", dest="hooks")
    peek.add_argument("--config")
    try:
        found, _ = peek.parse_known_args(list(arguments))
        written = _from_yaml(found.config) if found.hooks is None and found.config else {}
    except (argparse.ArgumentError, SystemExit, OSError, ValueError):
        return []
    hooks = found.hooks or written.get("enhance-hooks") or written.get("enhance_hooks") or ""
    return list(PARSERS["words"](str(hooks)))


def _from_yaml(file_path: str) -> dict[str, Any]:
    import yaml

    with open(file_path, encoding="utf-8") as file:
        try:
            entries = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
    return entries if isinstance(entries, dict) else {}
