"""Loading hook packages: a broken one is reported and skipped, a wrong name is the operator's to mend."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from vllm_enhance.errors import HookError, SettingError
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.plugins import GROUP, PluginSet, load_plugins, new_manager
from vllm_enhance.settings import CORE_SETTINGS, Setting
from vllm_enhance.types import RequestContext


class Good:
    @hookimpl
    def pre_request(self, request: RequestContext) -> None:
        return None

    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return [Setting(name="good-limit", kind="int", default="1", help="A limit.")]


class Misspelt:
    @hookimpl
    def pre_requests(self, request: RequestContext) -> None:
        return None


class Misnamed:
    @hookimpl
    def pre_request(self, reqeust: RequestContext) -> None:
        return None


class Unmarked:
    def pre_request(self, request: RequestContext) -> None:
        return None


class Unmakeable:
    def __init__(self) -> None:
        raise RuntimeError("no such thing")


class BadSettings:
    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return [Setting(name="hooks", kind="text", default="", help="The core's own name.")]


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


HERE = __name__


def test_broken_packages_are_reported_and_the_others_work() -> None:
    installed = [
        point("absent", "no_such_module_at_all:Hook"),
        point("good", f"{HERE}:Good"),
        point("lacking", f"{HERE}:NoSuchClass"),
        point("misnamed", f"{HERE}:Misnamed"),
        point("misspelt", f"{HERE}:Misspelt"),
        point("unmakeable", f"{HERE}:Unmakeable"),
        point("unmarked", f"{HERE}:Unmarked"),
    ]
    plugins = load_plugins(installed=installed)
    assert [(p.name, p.hooks) for p in plugins.loaded] == [("good", ("declare_settings", "pre_request"))]
    assert set(plugins.broken) == {p.name for p in installed} - {"good"}
    assert "ModuleNotFoundError" in plugins.broken["absent"]
    assert "pre_requests" in plugins.broken["misspelt"]
    assert "reqeust" in plugins.broken["misnamed"]
    assert "no such thing" in plugins.broken["unmakeable"]
    assert "@hookimpl" in plugins.broken["unmarked"]
    assert [impl.plugin_name for impl in plugins.manager.hook.pre_request.get_hookimpls()] == ["good"]


def test_a_name_that_is_not_installed_lists_those_that_are() -> None:
    with pytest.raises(SettingError, match=r"--enhance-hooks: no hook package named 'caches' \(installed: cache\)"):
        load_plugins(["caches"], installed=[point("cache", f"{HERE}:Good")])
    with pytest.raises(SettingError, match="none is installed"):
        load_plugins(["caches"], installed=[])


def test_none_means_none() -> None:
    plugins = load_plugins(["none"], installed=[point("good", f"{HERE}:Good")])
    assert (plugins.loaded, plugins.broken) == ([], {})


def test_only_the_chosen_are_loaded_in_the_order_chosen() -> None:
    installed = [point("a", f"{HERE}:Good"), point("b", f"{HERE}:Good"), point("c", f"{HERE}:Good")]
    assert [plugin.name for plugin in load_plugins(["c", "a"], installed=installed).loaded] == ["c", "a"]


def test_a_local_file_by_module_and_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_hook.py").write_text(
        "from vllm_enhance import hookimpl\n"
        "class Hook:\n"
        "    @hookimpl\n"
        "    def pre_request(self, request):\n"
        "        return None\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins = load_plugins(["my_own_hook:Hook", "mine=my_own_hook:Hook"], installed=[])
    assert [(p.name, p.source, p.hooks) for p in plugins.loaded] == [
        ("my_own_hook:Hook", "local", ("pre_request",)),
        ("mine", "local", ("pre_request",)),
    ]
    sys.modules.pop("my_own_hook")


def test_of_two_with_one_name_the_first_stays() -> None:
    plugins = load_plugins(["good", f"good={HERE}:Good"], installed=[point("good", f"{HERE}:Good")])
    assert [plugin.name for plugin in plugins.loaded] == ["good"]
    assert plugins.manager.has_plugin("good")
    assert "two hook packages" in plugins.broken["good"]


def test_a_broken_local_file_is_reported() -> None:
    plugins = load_plugins(["no_such_file:hook"], installed=[])
    assert "ModuleNotFoundError" in plugins.broken["no_such_file:hook"]


def test_settings_of_packages_join_the_table() -> None:
    plugins = load_plugins(installed=[point("good", f"{HERE}:Good")])
    table = plugins.settings_table()
    assert table["good-limit"].flag == "--enhance-good-limit"
    assert len(table) == len(CORE_SETTINGS) + 1


def test_a_package_with_bad_settings_is_dropped_and_the_core_keeps_its_own() -> None:
    plugins = load_plugins(installed=[point("bad", f"{HERE}:BadSettings"), point("good", f"{HERE}:Good")])
    table = plugins.settings_table()
    assert "declare_settings" in plugins.broken["bad"]
    assert [plugin.name for plugin in plugins.loaded] == ["good"]
    assert table["hooks"].kind == "words"


def test_one_name_one_package() -> None:
    plugins = PluginSet(new_manager())
    plugins.register(Good(), "good", "here")
    with pytest.raises(HookError):
        plugins.register(Good(), "good", "there")


def test_a_dropped_package_is_no_longer_called() -> None:
    plugins = load_plugins(installed=[point("good", f"{HERE}:Good")])
    plugins.drop("good", "because")
    assert plugins.manager.hook.pre_request.get_hookimpls() == []
    assert (plugins.loaded, plugins.broken) == ([], {"good": "because"})


def test_the_hook_packages_of_this_distribution_load() -> None:
    plugins = load_plugins(["cache", "nlp", "similarity"])
    assert plugins.broken == {}
    assert {plugin.name for plugin in plugins.loaded} == {"cache", "nlp", "similarity"}
    assert all(plugin.source.startswith("vllm-enhance ") for plugin in plugins.loaded)
