"""Which URLs name a store, and what is said of those that do not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from vllm_enhance_cache.options import SETTINGS, CacheOptions
from vllm_enhance_cache.stores import check_store_url, open_store, shares, sqlite_path
from vllm_enhance_cache.stores.memory import MemoryStore
from vllm_enhance_cache.stores.null import NullStore
from vllm_enhance_cache.stores.redis_url import parse

from vllm_enhance.errors import ConfigurationError, SettingError
from vllm_enhance.settings import Settings, SettingsTable

GOOD = (
    "memory://",
    "null://",
    "sqlite:///var/lib/enhance/cache.db",
    "sqlite:////var/lib/enhance/cache.db",
    "redis://127.0.0.1:6379/0",
    "redis://:hunter2@host",
    "rediss://user:hunter2@host:6380/1?ssl_cert_reqs=required",
    "unix:///run/redis.sock?db=2",
    "redis+cluster://a:1,b:2,[::1]:3",
    "rediss+cluster://user:p%40ss@a",
    "redis+sentinel://a:1,b/mymaster/3",
)
BAD = (
    "",
    "hunter2",
    "postgres://u:hunter2@h/db",
    "sqlite://relative.db",
    "sqlite://",
    "sqlite:///folder/",
    "redis://",
    "redis://user:hunter2@",
    "redis://h:notaport",
    "redis+cluster://",
    "redis+cluster://u:hunter2@a:99999999",
    "redis+sentinel://u:hunter2@a:1",
    "redis+sentinel://a:1/mymaster/zero",
    "redis+nothing://hunter2",
)


@pytest.mark.parametrize("url", GOOD)
def test_good(url: str) -> None:
    check_store_url(url)
    assert shares(url) is not url.startswith(("memory", "null"))


@pytest.mark.parametrize("url", BAD)
def test_bad_names_the_flag_and_never_the_password(url: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings(SettingsTable(SETTINGS), {"store": url}, {"store": "--enhance-store"})
    assert str(caught.value).startswith("--enhance-store: ")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError):
        open_store(url)


def test_parts_of_an_address() -> None:
    address = parse("rediss+sentinel://user:p%40ss@a:1,b/mymaster/3")
    assert (address.kind, address.hosts, address.service, address.db) == (
        "sentinel",
        (("a", 1), ("b", 26379)),
        "mymaster",
        3,
    )
    assert (address.username, address.password, address.tls) == ("user", "p@ss", True)
    assert parse("redis+cluster://a").hosts == (("a", 6379),)


def test_paths_are_absolute() -> None:
    assert sqlite_path("sqlite:///a/b%20c.db") == sqlite_path("sqlite:////a/b%20c.db") == "/a/b c.db"


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_enhance_cache.stores.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'vllm-enhance\[redis\]'"):
        open_store("redis://127.0.0.1")
    check_store_url("sqlite:///a.db")


def test_opening_connects_to_nothing(tmp_path: Path) -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    assert isinstance(open_store("null://"), NullStore)
    open_store(f"sqlite://{tmp_path}/x.db")
    assert list(tmp_path.iterdir()) == []


def test_secrets_do_not_show() -> None:
    settings = Settings(SettingsTable(SETTINGS), {"store": "redis://:hunter2@h", "store-key": "hunter2"}, {})
    assert "hunter2" not in repr(settings.shown())
    assert "hunter2" not in repr(CacheOptions.from_settings(settings))


def test_the_hook_is_cheap_to_import() -> None:
    import subprocess
    import sys

    heavy = ("redis", "zstandard", "sqlite3", "prometheus_client", "numpy", "torch", "vllm")
    code = f"import sys, vllm_enhance_cache.plugin; print([m for m in {heavy!r} if m in sys.modules])"
    assert importlib.util.find_spec("vllm_enhance_cache") is not None
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "hooks" / "cache")]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"
