"""From a URL to a redis-py client.

- ``redis://[user:password@]host[:port][/db]``, ``rediss://...`` (TLS), ``unix://[user:password@]/path[?db=n]``: as in
  redis-py, options in the query included.
- ``redis+cluster://[user:password@]host:port[,host:port...]`` (``rediss+cluster`` for TLS).
- ``redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]`` (``rediss+sentinel`` for TLS).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["RedisAddress", "connect", "parse"]

PLAIN = ("redis", "rediss", "unix")
TIMEOUT_SECONDS = 1.0
MAX_CONNECTIONS = 128


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed URL: ``kind`` is ``plain``, ``cluster`` or ``sentinel``."""

    kind: str
    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    username: str | None = None
    password: str | None = None
    service: str = ""
    db: int = 0
    tls: bool = False


def parse(url: str) -> RedisAddress:
    """What a URL says.

    Raises:
        ValueError: it cannot be understood; the message repeats nothing that may be a password.
    """
    parts = urlsplit(url)
    if parts.scheme in PLAIN:
        if not (parts.hostname or parts.path.strip("/")):
            raise ValueError(f"a host or a path is wanted, as in {parts.scheme}://127.0.0.1:6379/0")
        _ = parts.port  # urlsplit checks it when it is read
        return RedisAddress("plain", url)
    base, _, kind = parts.scheme.partition("+")
    if base not in ("redis", "rediss") or kind not in ("cluster", "sentinel"):
        raise ValueError("the scheme is not one of redis, rediss, unix, redis+cluster, redis+sentinel")
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    path = [piece for piece in parts.path.split("/") if piece]
    if kind == "sentinel" and not path:
        raise ValueError("the name of the service is wanted, as in redis+sentinel://host:26379/mymaster")
    db = path[1] if kind == "sentinel" and len(path) > 1 else "0"
    if not db.isdigit():
        raise ValueError("the database is a number")
    return RedisAddress(
        kind,
        url,
        tuple(_host(place, 26379 if kind == "sentinel" else 6379) for place in places.split(",")),
        unquote(username) or None,
        unquote(password) or None,
        path[0] if kind == "sentinel" else "",
        int(db),
        base == "rediss",
    )


def _host(place: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("hosts are wanted, as in host:port,host:port")
    return parts.hostname, parts.port or default


def connect(address: RedisAddress) -> tuple[Any, list[Callable[[], Awaitable[object]]]]:
    """A ``redis.asyncio`` client, which connects on first use, and what else must be closed after it."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # No retries: the breaker decides when to ask again, and a retry would only spend the deadline.
    common: dict[str, Any] = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "protocol": 2,
        "max_connections": MAX_CONNECTIONS,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.kind == "plain":
        return Redis.from_url(address.url, **common), []
    common |= {"username": address.username, "password": address.password}
    if address.kind == "cluster":
        from redis.asyncio.cluster import ClusterNode, RedisCluster

        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        client = RedisCluster(startup_nodes=nodes, ssl=address.tls, **common)
        # The client forgets these nodes, open connections and all, once it has learnt the topology from them.
        return client, [node.disconnect for node in nodes]
    from redis.asyncio.sentinel import Sentinel

    if address.tls:
        common["ssl"] = True
    timeouts = {name: common[name] for name in ("socket_timeout", "socket_connect_timeout")}
    sentinel = Sentinel(address.hosts, sentinel_kwargs=timeouts, **common)
    return sentinel.master_for(address.service, db=address.db), [asker.aclose for asker in sentinel.sentinels]
