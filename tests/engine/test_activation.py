"""Probes, patches, flags and switches: what is changed in vLLM, when, and what happens when it does not fit."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_support import PlainLLM, ScriptedCore, ScriptedLLM

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import vllm.plugins
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.cli.serve import ServeSubcommand  # noqa: F401  registers nothing, warms the import
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine import async_llm, llm_engine, output_processor

import vllm_enhance.plugin
from vllm_enhance.engine import activation, compat
from vllm_enhance.engine.activation import activate, register, switch
from vllm_enhance.engine.flags import known_settings
from vllm_enhance.engine.patches import PATCHES
from vllm_enhance.engine.state import CONFIG_VARIABLE, STATE, SWITCH_VARIABLE, State
from vllm_enhance.errors import UnsupportedEngineError
from vllm_enhance.settings import CORE_SETTINGS, SettingsTable, resolve

pytestmark = pytest.mark.filterwarnings("ignore")

TARGETS = [patch.target for patch in PATCHES]


def current(target: str) -> Any:
    """What stands at a patch's target now, unbound."""
    patch = next(patch for patch in PATCHES if patch.target == target)
    owner, name = patch._owner()
    return vars(owner).get(name, getattr(owner, name))


@pytest.fixture(autouse=True)
def collector_in_place() -> None:
    """Nothing is in place here but what a test puts there."""


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that the plugin has not touched, before and after each test."""
    state = State()
    for name in ("settings", "plugins", "metrics", "epoch_path", "refused", "applied", "runtimes"):
        monkeypatch.setattr(STATE, name, getattr(state, name))
    environ = dict(os.environ)
    yield
    for patch in reversed(PATCHES):
        patch.revert()
    os.environ.clear()
    os.environ.update(environ)


@pytest.fixture(autouse=True)
def shared_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics outside the global registry: a process makes its own only once."""
    from prometheus_client import CollectorRegistry

    from vllm_enhance.metrics import Metrics

    monkeypatch.setattr(activation, "Metrics", lambda: Metrics(registry=CollectorRegistry()))


def settings_of(**flags: str) -> Any:
    return resolve(SettingsTable(CORE_SETTINGS), {f"enhance_{name}": text for name, text in flags.items()}, {})


def serve_parser() -> FlexibleArgumentParser:
    """The real parser of ``vllm serve``."""
    return make_serve(FlexibleArgumentParser(prog="vllm serve"))


def make_serve(parser: FlexibleArgumentParser) -> FlexibleArgumentParser:
    try:
        from vllm.entrypoints.common.cli_args import make_arg_parser  # 0.33
    except ImportError:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    return make_arg_parser(parser)


# --------------------------------------------------------------------------- probes


def test_this_vllm_fits() -> None:
    assert compat.failed_probes() == []


def _without(name: str) -> Callable[..., Any]:
    """A function whose code does not name ``name``."""
    source = f"async def stand_in(self, {name if name.isidentifier() else ''}=None):\n    return None\n"
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope["stand_in"]  # type: ignore[no-any-return]


DOCTORED: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "AsyncLLM has no constructor of its own": lambda m: m.setattr(
        async_llm.AsyncLLM, "__new__", lambda cls, *a, **k: object.__new__(cls)
    ),
    "AsyncLLM.add_request takes the known arguments": lambda m: m.setattr(
        async_llm.AsyncLLM, "add_request", _without("request")
    ),
    "AsyncLLM.add_request makes its collector by name": lambda m: m.setattr(
        async_llm.AsyncLLM, "add_request", _without("prompt")
    ),
    "AsyncLLM.generate reads from the collector": lambda m: m.setattr(
        async_llm.AsyncLLM, "generate", _without("prompt")
    ),
    "RequestOutputCollector has the known shape": lambda m: m.delattr(
        output_processor.RequestOutputCollector, "get_nowait"
    ),
    "RequestState can be built alone": lambda m: m.setattr(
        output_processor.RequestState, "from_new_request", staticmethod(lambda request: None)
    ),
    "a tape plays back as it was recorded": lambda m: m.setattr(
        output_processor.RequestState, "make_request_output", lambda *a, **k: None
    ),
    "endpoint plugins are looked up by name": lambda m: m.delattr(vllm.plugins, "load_endpoint_plugins"),
}


@pytest.mark.parametrize("probe", DOCTORED)
def test_a_vllm_without_a_seam_is_found_out(probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as doctored:
        DOCTORED[probe](doctored)
        failed = compat.failed_probes()
    assert any(each.startswith(probe) for each in failed), failed
    monkeypatch.undo()


def test_a_vllm_that_does_not_fit_is_served_plain(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compat, "failed_probes", lambda: ["no seam: nothing works"])
    monkeypatch.setattr(logging.getLogger("vllm_enhance"), "propagate", True)
    activate(settings_of())
    assert not STATE.on
    assert STATE.applied == {}
    assert STATE.metrics is not None
    assert STATE.metrics.value("vllm_enhance_enabled") == 0
    lines = [record.message for record in caplog.records if "does not fit" in record.message]
    assert len(lines) == 1
    assert "no seam: nothing works" in lines[0]
    activate(settings_of())
    assert len([record for record in caplog.records if "does not fit" in record.message]) == 1


def test_strict_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "failed_probes", lambda: ["no seam: nothing works"])
    with pytest.raises(UnsupportedEngineError, match="no seam"):
        activate(settings_of(strict="on"))
    assert STATE.applied == {}


# --------------------------------------------------------------------------- patches


@pytest.mark.parametrize("target", TARGETS)
def test_a_patch_is_applied_once_and_taken_back(target: str) -> None:
    patch = next(patch for patch in PATCHES if patch.target == target)
    before = current(target)
    patch.apply()
    during = current(target)
    assert during is not before
    patch.apply()
    assert current(target) is during
    patch.revert()
    if not target.endswith("__new__"):
        assert current(target) is before
    patch.revert()
    patch.apply()
    assert current(target) is not before
    assert patch.why
    assert patch.how
    assert patch.goes_away


def test_after_all_is_taken_back_vllm_is_whole() -> None:
    for _ in range(2):
        activate(settings_of())
        assert STATE.on
        for patch in reversed(PATCHES):
            patch.revert()
        assert compat.failed_probes() == []
        assert type(PlainLLM(ScriptedCore())) is PlainLLM
        STATE.settings = None


def test_registering_twice_changes_nothing_more() -> None:
    register()
    first = {patch.target: current(patch.target) for patch in PATCHES}
    vllm_enhance.plugin.register()
    register()
    assert {patch.target: current(patch.target) for patch in PATCHES} == first
    assert set(STATE.applied) == {patch.target for patch in PATCHES if patch.always}


def test_off_means_off() -> None:
    register()
    assert STATE.settings is None
    assert async_llm.RequestOutputCollector is output_processor.RequestOutputCollector
    parser = serve_parser()
    args = parser.parse_args([])
    switch(args)
    assert STATE.settings is None
    assert CONFIG_VARIABLE not in os.environ
    assert set(STATE.applied) == {patch.target for patch in PATCHES if patch.always}


def test_the_class_is_swapped_only_where_plain_asyncllm_is_made() -> None:
    activate(settings_of())
    from vllm_enhance.engine.client import EnhancedAsyncLLM

    made = async_llm.AsyncLLM.__new__(async_llm.AsyncLLM, 1, x=2)
    assert type(made) is EnhancedAsyncLLM
    made.shutdown = lambda timeout=None: None
    assert type(PlainLLM(ScriptedCore())) is PlainLLM
    assert llm_engine.LLMEngine is not None
    assert issubclass(ScriptedLLM, EnhancedAsyncLLM)


def test_register_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(activation, "register", broken)
    vllm_enhance.plugin.register()


def test_engine_processes_are_left_alone() -> None:
    code = (
        "import sys, vllm_enhance.plugin as plugin; plugin.register();"
        "assert 'vllm_enhance.engine' not in sys.modules and 'vllm' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "ENHANCE": "1"})


# --------------------------------------------------------------------------- flags


def test_the_flags_are_on_the_servers_parser_once() -> None:
    register()
    for _ in range(2):
        parser = serve_parser()
        groups = [group for group in parser._action_groups if group.title == "Enhance"]
        assert len(groups) == 1
        for setting in known_settings():
            assert setting.flag in parser._option_string_actions
    other = FlexibleArgumentParser()
    EngineArgs.add_cli_args(other)
    assert "--enhance" not in other._option_string_actions


def test_help_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    register()
    for wanted in ("--help=Enhance", "--help=enhance-coalesce"):
        with pytest.raises(SystemExit) as end:
            serve_parser().parse_args([wanted])
        assert end.value.code in (0, None)
        assert "--enhance-coalesce" in capsys.readouterr().out


def test_values_come_from_flags_then_environment_then_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setenv("ENHANCE_COALESCE", "off")
    monkeypatch.setenv("ENHANCE_HEADER_WAIT", "5s")
    args = serve_parser().parse_args(["--enhance", "--enhance-header-wait", "7s", "--enhance_lookup=blocking"])
    switch(args)
    assert STATE.on
    assert STATE.settings is not None
    chosen = [STATE.settings[name] for name in ("coalesce", "header-wait", "lookup", "cache-sampled")]
    assert chosen == [False, 7.0, "blocking", True]
    told = json.loads(os.environ[CONFIG_VARIABLE])
    assert told["settings"]["header-wait"] == "7s"
    assert Path(told["epoch"]).parent.is_dir()


@pytest.mark.parametrize("value", ["on", "off", "true", "false"])
def test_yaml_switches(tmp_path: Path, value: str) -> None:
    register()
    config = tmp_path / "serve.yaml"
    config.write_text(f"enhance: true\nenhance-coalesce: '{value}'\nenhance-lookup-deadline: 50ms\n")
    args = serve_parser().parse_args(["--config", str(config)])
    switch(args)
    assert STATE.settings is not None
    assert STATE.settings["coalesce"] is (value in ("on", "true"))
    assert STATE.settings["lookup-deadline"] == 0.05


@pytest.mark.parametrize("value", ["off", "no", "false"])
def test_an_unquoted_yaml_off_is_not_lost_silently(tmp_path: Path, value: str) -> None:
    """YAML reads ``off`` as a boolean, which vLLM's loader drops for flags with values."""
    register()
    config = tmp_path / "serve.yaml"
    config.write_text(f"enhance: true\nenhance-coalesce: {value}\nenhance-cache-sampled: on\nenforce-eager: false\n")
    command = FlexibleArgumentParser()  # as in the real command: the file is read by the parser above that of serve
    serve = command.add_subparsers().add_parser("serve")
    make_serve(serve)
    args = command.parse_args(["serve", "model", "--config", str(config)])
    switch(args)
    assert STATE.settings is not None
    assert STATE.settings["coalesce"] is False
    assert STATE.settings["cache-sampled"] is True
    overruled = command.parse_args(["serve", "model", "--config", str(config), "--enhance-coalesce", "on"])
    assert overruled.enhance_coalesce == "on"


@pytest.mark.parametrize("switch", ["1", "on", "TRUE", "yes"])
def test_the_environment_switches_on(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv(SWITCH_VARIABLE, switch)
    register()
    assert STATE.on


@pytest.mark.parametrize("switch", ["", "0", "off", "false", "no", "2"])
def test_other_words_do_not(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv(SWITCH_VARIABLE, switch)
    register()
    assert STATE.settings is None


BAD = [
    (["--enhance-coalesce", "maybe"], {}, "--enhance-coalesce"),
    (["--enhance-lookup", "sometimes"], {}, "--enhance-lookup"),
    (["--enhance-lookup-deadline", "soon"], {}, "--enhance-lookup-deadline"),
    (["--enhance-lookup-deadline=-1s"], {}, "--enhance-lookup-deadline"),
    (["--enhance-replay-chunk", "0"], {}, "--enhance-replay-chunk"),
    (["--enhance-replay-chunk", "²"], {}, "--enhance-replay-chunk"),
    (["--enhance-explain-entries", "1e9"], {}, "--enhance-explain-entries"),
    (["--enhance-tenant", "ip"], {}, "--enhance-tenant"),
    (["--enhance-tenant", "header:"], {}, "--enhance-tenant"),
    (["--enhance-hooks", "no-such-hook"], {}, "--enhance-hooks"),
    ([], {"ENHANCE_HOOK_DEADLINE": "2h"}, "ENHANCE_HOOK_DEADLINE"),
    ([], {"ENHANCE_STRICT": "very"}, "ENHANCE_STRICT"),
]


@pytest.mark.parametrize(("flags", "environ", "named"), BAD, ids=[" ".join(flags) or str(env) for flags, env, _ in BAD])
def test_a_bad_value_ends_the_server_with_a_sentence_that_names_it(
    flags: list[str],
    environ: dict[str, str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register()
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    args = serve_parser().parse_args(["--enhance", *flags])
    with pytest.raises(SystemExit) as end:
        EngineArgs.from_cli_args(args)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert CONFIG_VARIABLE not in os.environ


def test_the_rust_front_end_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    register()
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(SystemExit) as end:
        switch(argparse.Namespace(enhance=True))
    assert end.value.code == 2
    assert "VLLM_USE_RUST_FRONTEND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "word"), [({"headless": True}, "--headless"), ({"subparser": "snapshot"}, "snapshot")]
)
def test_where_it_has_no_place_it_says_so_and_stays_out(
    flag: dict[str, Any], word: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("vllm_enhance"), "propagate", True)
    switch(argparse.Namespace(enhance=True, **flag))
    assert not STATE.on
    assert CONFIG_VARIABLE not in os.environ
    assert any(word in record.message for record in caplog.records)


def test_a_parser_that_reads_token_by_token_gets_single_tokens() -> None:
    for args, chunk in (({}, "64"), ({"tool_call_parser": "hermes"}, "1"), ({"reasoning_parser": "qwen3"}, "1")):
        assert activation._with_server_facts(settings_of(), argparse.Namespace(**args))["replay-chunk"] == chunk
    fixed = settings_of(replay_chunk="4")
    assert activation._with_server_facts(fixed, argparse.Namespace(tool_call_parser="hermes"))["replay-chunk"] == "4"


def test_a_namespace_made_by_hand_is_enough() -> None:
    """Libraries build their own namespaces, without our flags."""
    register()
    switch(argparse.Namespace())
    switch(SimpleNamespace())
    assert STATE.settings is None


def test_secrets_do_not_show_in_vllms_log_of_arguments() -> None:
    register()
    secrets = [setting for setting in known_settings() if setting.secret]
    if not secrets:
        pytest.skip("no installed hook package has a secret")
    setting = secrets[0]
    args = serve_parser().parse_args(["--enhance", setting.flag, "redis://user:hunter2@127.0.0.1/0"])
    value = getattr(args, setting.dest)
    shown = {setting.dest: value}
    for text in (str(shown), repr(shown), f"{shown}", repr(args), str(args), f"{shown!s}"):
        assert "hunter2" not in text
    assert str.__str__(pickle.loads(pickle.dumps(value))) == "redis://user:hunter2@127.0.0.1/0"
    assert "hunter2" not in repr(pickle.loads(pickle.dumps(args)))


LOCAL_HOOK = """
from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.settings import Setting

class Greeter:
    @hookimpl
    def declare_settings(self):
        return [Setting(name="greeting-words", kind="int", default="1", help="How many.")]
"""


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--enhance-hooks", "{hook}", "--enhance-greeting-words", "3"], {}),
        (["--enhance_hooks={hook}", "--enhance-greeting-words=3"], {}),
        (["--config", "{yaml}", "--enhance-greeting-words=3"], {}),
        (["--enhance-hooks", "{hook}"], {"ENHANCE_GREETING_WORDS": "3"}),
        (["--enhance-greeting-words", "3"], {"ENHANCE_HOOKS": "{hook}"}),
    ],
)
def test_a_hook_in_a_file_has_its_flags(
    arguments: list[str], environ: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings are in no entry point, so the command line is looked at before the parser is built."""
    (tmp_path / "greeter.py").write_text(LOCAL_HOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    hook = "cache,greeter:Greeter"
    config = tmp_path / "serve.yaml"
    config.write_text(f"enhance-hooks: {hook}\n")
    filled = [argument.format(hook=hook, yaml=config) for argument in arguments]
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(hook=hook))
    monkeypatch.setattr(sys, "argv", ["vllm", "serve", *filled])
    register()
    switch(serve_parser().parse_args(["--enhance", *filled]))
    assert STATE.settings is not None
    assert STATE.plugins is not None
    assert STATE.settings["greeting-words"] == 3
    assert [plugin.name for plugin in STATE.plugins.loaded] == ["cache", "greeter:Greeter"]
    STATE.settings = STATE.plugins = None
    monkeypatch.setattr(activation, "SERVER_MODULES", ("vllm",))
    monkeypatch.setattr(sys, "argv", ["-c"])
    register()  # as in an API server process that the parent spawned
    assert STATE.settings is not None
    assert STATE.settings["greeting-words"] == 3


@pytest.mark.parametrize(
    "arguments", [["--enhance-hooks"], ["--config"], ["--config", "no-such-file"], ["--config", "{folder}/broken.yaml"]]
)
def test_a_command_line_that_makes_no_sense_is_left_to_the_parser(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    monkeypatch.setattr(sys, "argv", ["vllm", *(each.format(folder=tmp_path) for each in arguments)])
    register()
    assert "--enhance-coalesce" in serve_parser()._option_string_actions


def test_an_api_server_process_is_switched_on_by_its_parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A spawned API server has no flags of ours left: what the parent resolved comes by the environment."""
    told = {"settings": {"coalesce": "off"}, "epoch": str(tmp_path / "epoch")}
    monkeypatch.setenv(CONFIG_VARIABLE, json.dumps(told))
    monkeypatch.setattr(activation, "SERVER_MODULES", ("no.such.module",))
    register()
    assert STATE.settings is None  # an engine core, say
    monkeypatch.setattr(activation, "SERVER_MODULES", ("vllm",))
    register()
    assert STATE.on
    assert STATE.settings is not None
    assert STATE.settings["coalesce"] is False
    assert STATE.epoch_path == tmp_path / "epoch"


# --------------------------------------------------------------------------- the command itself


def vllm_command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENHANCE", "VLLM"))}
    return subprocess.run(
        [str(Path(sys.executable).parent / "vllm"), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env={**kept, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", **environ},
    )


@pytest.mark.engine
def test_a_bad_flag_ends_vllm_serve_before_anything_is_loaded() -> None:
    done = vllm_command("serve", "no-such-model", "--enhance", "--enhance-coalesce", "maybe")
    assert done.returncode == 2
    assert "--enhance-coalesce" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.engine
def test_without_the_plugin_the_flag_is_unknown() -> None:
    done = vllm_command("serve", "no-such-model", "--enhance", VLLM_PLUGINS="")
    assert done.returncode == 2
    assert "--enhance" in done.stderr
    assert "unrecognized" in done.stderr
