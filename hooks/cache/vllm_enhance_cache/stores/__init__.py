"""Where answers are shared: a store per URL scheme, loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

from vllm_enhance.errors import ConfigurationError
from vllm_enhance.stores import Store

__all__ = ["check_store_url", "open_store", "shares"]

SCHEMES = (
    "memory",
    "null",
    "sqlite",
    "redis",
    "rediss",
    "unix",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
)


def shares(url: str) -> bool:
    """Whether ``url`` names a store besides this process' memory."""
    return urlsplit(url).scheme not in ("", "memory", "null")


def check_store_url(url: str) -> None:
    """Look at a URL without touching what it names.

    Raises:
        ValueError: what is wrong and what is allowed. Never repeats the URL, which may hold a password.
    """
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise ValueError(f"a URL with one of the schemes {', '.join(SCHEMES)} is wanted")
    if scheme == "sqlite":
        sqlite_path(url)
    elif scheme not in ("memory", "null"):
        from vllm_enhance_cache.stores import redis_url

        redis_url.parse(url)
        if find_spec("redis") is None:
            raise ValueError("the redis package is not installed: pip install 'vllm-enhance[redis]'")


def sqlite_path(url: str) -> str:
    """The file of a ``sqlite:///PATH`` URL, always absolute.

    Raises:
        ValueError: there is no path, or a host.
    """
    parts = urlsplit(url)
    if parts.netloc or len(parts.path) < 2 or parts.path.endswith("/"):
        raise ValueError("an absolute path is wanted, as in sqlite:///var/lib/vllm-enhance/cache.db")
    return unquote(parts.path).replace("//", "/", 1)


def open_store(
    url: str, *, prefix: str = "vllm-enhance", max_bytes: int = 4 * 2**30, clock: Callable[[], float] | None = None
) -> Store:
    """The store that a URL names; connects on first use.

    Args:
        prefix: in front of every name in a Redis.
        max_bytes: cap of a SQLite file, or of a memory store.
        clock: Unix time in seconds; the system's by default.

    Raises:
        ConfigurationError: the URL cannot be used, or its package is not installed.
    """
    try:
        check_store_url(url)
    except ValueError as error:
        raise ConfigurationError(f"store: {error}") from None
    scheme = urlsplit(url).scheme
    timing = {} if clock is None else {"clock": clock}
    if scheme == "null":
        from vllm_enhance_cache.stores.null import NullStore

        return NullStore()
    if scheme == "memory":
        from vllm_enhance_cache.stores.memory import MemoryStore

        return MemoryStore(max_bytes, **timing)
    if scheme == "sqlite":
        from vllm_enhance_cache.stores.sqlite import SqliteStore

        return SqliteStore(sqlite_path(url), max_bytes, **timing)
    from vllm_enhance_cache.stores import redis_url
    from vllm_enhance_cache.stores.redis import RedisStore

    address = redis_url.parse(url)
    client, closers = redis_url.connect(address)
    return RedisStore(client, prefix, cluster=address.kind == "cluster", closers=closers, **timing)
