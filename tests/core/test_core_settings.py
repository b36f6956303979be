"""Settings: parsing, sources, secrets, and errors that name what the operator wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_enhance.errors import ConfigurationError, SettingError
from vllm_enhance.settings import CORE_SETTINGS, PARSERS, Secret, Setting, Settings, SettingsTable, resolve

URL = Setting(name="store-url", kind="text", default="", help="Where.", secret=True)
LIMIT = Setting(name="limit", kind="int", default="5", help="How many.", minimum=1, maximum=10)
TABLE = SettingsTable([*CORE_SETTINGS, URL, LIMIT])


def test_names_follow_from_the_declaration() -> None:
    setting = Setting(name="cache-ttl", kind="duration", default="1h", help="How long.")
    assert (setting.flag, setting.variable, setting.dest) == (
        "--enhance-cache-ttl",
        "ENHANCE_CACHE_TTL",
        "enhance_cache_ttl",
    )


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("switch", "on", True),
        ("switch", "OFF", False),
        ("switch", "1", True),
        ("switch", "False", False),
        ("int", "-3", -3),
        ("float", "0.85", 0.85),
        ("size", "512MiB", 512 * 2**20),
        ("size", "1.5 kb", 1500),
        ("size", "7", 7),
        ("duration", "25ms", 0.025),
        ("duration", "2h", 7200.0),
        ("duration", "3", 3.0),
        ("text", " as it is ", " as it is "),
        ("words", "a, b,,c ", ("a", "b", "c")),
        ("words", "", ()),
    ],
)
def test_parsing(kind: str, text: str, value: object) -> None:
    assert PARSERS[kind](text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("switch", "maybe"),
        ("switch", ""),
        ("int", "1.5"),
        ("int", "1_000"),
        ("int", "9" * 30),
        ("float", "nan"),
        ("float", "inf"),
        ("float", "x"),
        ("size", "-1MiB"),
        ("size", "5 parsecs"),
        ("duration", ""),
        ("duration", "1e3s"),
    ],
)
def test_nonsense_is_refused_with_the_source_named(kind: str, text: str) -> None:
    setting = Setting(name="thing", kind=kind, default={"switch": "on"}.get(kind, "1"), help="A thing.")
    with pytest.raises(SettingError, match=r"^--enhance-thing: ") as caught:
        setting.parse(text, setting.flag)
    assert isinstance(caught.value, ConfigurationError)
    assert (caught.value.name, caught.value.source) == ("thing", "--enhance-thing")


@given(text=st.text(max_size=40), kind=st.sampled_from(sorted(PARSERS)))
def test_any_text_gives_a_value_or_a_setting_error(text: str, kind: str) -> None:
    default = {"switch": "on", "tenant": "none"}.get(kind, "1")
    setting = Setting(name="thing", kind=kind, default=default, help="A thing.")
    said = "--enhance-thing: "
    try:
        setting.parse(text, setting.flag)
    except SettingError as error:
        said = str(error)
    assert said.startswith("--enhance-thing: ")


@given(st.integers(0, 10**15))
def test_sizes_are_exact(number: int) -> None:
    assert PARSERS["size"](f"{number}b") == number


def test_bounds_are_inclusive_and_named() -> None:
    assert LIMIT.parse("1", "x") == 1
    assert LIMIT.parse("10", "x") == 10
    with pytest.raises(SettingError, match="too small, at least 1"):
        LIMIT.parse("0", "x")
    with pytest.raises(SettingError, match="too large, at most 10"):
        LIMIT.parse("11", "x")


def test_choices_are_listed_in_the_error() -> None:
    with pytest.raises(SettingError, match="'soon' is not one of hedge, blocking"):
        TABLE["lookup"].parse("soon", "--enhance-lookup")


@pytest.mark.parametrize("name", ["Upper", "two words", "-dash", "trailing-", "under_score", ""])
def test_bad_names_cannot_be_declared(name: str) -> None:
    with pytest.raises(ValueError, match="bad setting declaration"):
        Setting(name=name, kind="text", default="", help="")


def test_a_bad_default_cannot_be_declared() -> None:
    with pytest.raises(SettingError, match="default"):
        Setting(name="thing", kind="int", default="many", help="")


def test_flag_over_environment_over_default() -> None:
    environ = {"ENHANCE_LIMIT": "7", "ENHANCE_COALESCE": "off"}
    settings = resolve(TABLE, {"enhance_limit": "3", "enhance_lookup": None}, environ)
    assert (settings["limit"], settings["coalesce"], settings["lookup"]) == (3, False, "hedge")
    assert settings.sources == {"limit": "--enhance-limit", "coalesce": "ENHANCE_COALESCE"}


def test_a_bad_environment_variable_is_named() -> None:
    with pytest.raises(SettingError, match=r"^ENHANCE_LIMIT: 'many' cannot be used: a whole number is wanted"):
        resolve(TABLE, {}, {"ENHANCE_LIMIT": "many"})


@pytest.mark.parametrize(("written", "value"), [(False, False), (True, True), ("off", False), ("on", True)])
def test_a_switch_survives_yaml(written: object, value: bool) -> None:
    """YAML reads a bare ``off`` as a boolean, so ``False`` must mean off, and must not be taken for unset."""
    settings = resolve(TABLE, {"enhance_coalesce": written}, {})  # type: ignore[dict-item]
    assert settings["coalesce"] is value


def test_a_number_from_yaml_is_read_as_text() -> None:
    assert resolve(TABLE, {"enhance_limit": 4}, {})["limit"] == 4  # type: ignore[dict-item]


def test_secrets_do_not_show_themselves() -> None:
    secret = "redis://user:hunter2@host/0"
    settings = resolve(TABLE, {"enhance_store_url": secret}, {})
    assert settings["store-url"] == secret
    assert "hunter2" not in json.dumps(settings.shown()) + repr(settings.shown()) + repr(settings)
    assert settings.shown()["store-url"] == "***"
    assert repr(Secret(secret)) == "'***'"
    assert f"{[Secret(secret)]}" == "['***']"


def test_errors_of_secrets_do_not_quote_them() -> None:
    setting = Setting(name="token", kind="int", default="1", help="", secret=True)
    with pytest.raises(SettingError) as caught:
        setting.parse("hunter2", setting.flag)
    assert "hunter2" not in str(caught.value)


def test_json_round_trip_for_child_processes() -> None:
    settings = resolve(TABLE, {"enhance_limit": "3"}, {"ENHANCE_STORE_URL": "redis://x"})
    again = Settings.from_json(TABLE, settings.to_json())
    assert dict(again) == dict(settings)
    assert Settings.from_json(SettingsTable([LIMIT]), settings.to_json())["limit"] == 3


def test_replace_keeps_the_rest() -> None:
    settings = resolve(TABLE, {"enhance_limit": "3"}, {})
    other = settings.replace(replay_chunk="4")
    assert (other["replay-chunk"], other["limit"], settings["replay-chunk"]) == ("4", 3, "auto")


def test_one_name_one_declaration() -> None:
    table = SettingsTable([LIMIT])
    table.add(Setting(name="limit", kind="int", default="5", help="How many.", minimum=1, maximum=10))
    assert len(table) == 1
    with pytest.raises(ValueError, match="'limit' is declared twice"):
        table.add(Setting(name="limit", kind="int", default="6", help="How many."))
