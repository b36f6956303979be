"""Redis, alone, behind Sentinel, as a Cluster; shared by hosts.

Every name starts with the operator's prefix and the format version, and ends in a digest: no name carries text that
anybody typed. Values expire by Redis' own TTL, and what goes when memory is short is Redis' own policy. The horizon is
one hash, moved by scripts so that concurrent flushes are all kept; a message on a channel wakes the others, and they
look every quarter of a second anyway. A Cluster has no such channel here: there the look alone is relied on.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from vllm_enhance.stores import EntryTags, Horizon, LogLimits, LogPage, StoreStats, scope_value
from vllm_enhance.types import InvalidationScope
from vllm_enhance_cache.envelope import HEADER_BYTES, read_tags
from vllm_enhance_cache.errors import StoreFault
from vllm_enhance_cache.stores import redis_scripts as scripts

__all__ = ["RedisStore"]

FORMAT = 1
BATCH = 200
MAX_CALLS = 64
MAX_SEEN = 100_000


class RedisStore:
    """Entries in a Redis.

    Args:
        client: a ``redis.asyncio`` client, as ``redis_url.connect`` makes; closed with the store.
        prefix: in front of every name.
        cluster: whether ``client`` is a Cluster's.
        closers: what else to close after the client.
        clock: Unix time in seconds, for ages.
    """

    name = "redis"

    def __init__(
        self,
        client: Any,
        prefix: str = "vllm-enhance",
        *,
        cluster: bool = False,
        closers: Sequence[Callable[[], Awaitable[object]]] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._closers = (client.aclose, *closers)
        self._cluster = cluster
        self._clock = clock
        base = f"{prefix}:{FORMAT}:"
        self._entry = (base + "e:").encode()
        self._lease = (base + "l:").encode()
        self._log = (base + "g:").encode()
        self._horizon = (base + "horizon").encode()
        self._channel = (base + "moved").encode()
        self._seen: tuple[bytes, Horizon] = (b"", Horizon())
        self._pubsub: Any = None
        self._closed = False
        self._guard = _Guard(MAX_CALLS, client.initialize if cluster else None)

    # ------------------------------------------------------------------ entries

    async def get(self, key: bytes) -> bytes | None:
        async with self._guard:
            value: bytes | None = await self._client.get(self._entry + key.hex().encode())
            return value

    async def put(self, key: bytes, value: bytes, *, ttl: float, tags: EntryTags) -> None:
        async with self._guard:
            await self._client.set(self._entry + key.hex().encode(), value, px=max(1, int(ttl * 1000)))

    async def delete(self, key: bytes) -> bool:
        async with self._guard:
            return bool(await self._client.unlink(self._entry + key.hex().encode()))

    async def clear(self, scope: InvalidationScope) -> int:
        value, now, total = scope_value(scope), self._clock(), 0
        async with self._guard:
            if scope.kind == "key" and isinstance(value, bytes):
                name = self._entry + value.hex().encode()
                return int(await (self._client.exists if scope.dry_run else self._client.unlink)(name))
            if not scope.dry_run:
                async for name in self._client.scan_iter(match=_glob(self._log) + b"*", count=BATCH):
                    # Emptied, not removed: ids go on from the last, so that no reader takes a new one for a known one.
                    await self._client.xtrim(name, maxlen=0, approximate=False)
            async for names in self._batches():
                doomed = names if value is None else await self._matching(names, scope.kind, value, now)
                total += len(doomed) if scope.dry_run else sum(await self._each("UNLINK", doomed))
        return total

    async def _batches(self) -> AsyncIterator[list[bytes]]:
        """Names of the entries, by and by. SCAN shows a name twice at times; the first 100,000 are remembered."""
        seen: set[bytes] = set()
        batch: list[bytes] = []
        async for name in self._client.scan_iter(match=_glob(self._entry) + b"*", count=BATCH):
            if name in seen:
                continue
            if len(seen) < MAX_SEEN:
                seen.add(name)
            batch.append(name)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _matching(self, names: Sequence[bytes], kind: str, value: bytes | float, now: float) -> list[bytes]:
        heads = await self._each("GETRANGE", names, 0, HEADER_BYTES - 1)
        found = []
        for name, head in zip(names, heads, strict=True):
            tags = read_tags(head) if isinstance(head, bytes) else None
            if tags is None:
                continue
            tenant, model, created_at = tags
            if isinstance(value, float):
                inside = created_at <= now - value
            else:
                inside = (tenant if kind == "tenant" else model) == value
            if inside:
                found.append(name)
        return found

    async def _each(self, command: str, names: Sequence[bytes], *arguments: Any) -> list[Any]:
        """One command on each name, in one round trip (one per node in a Cluster)."""
        if not names:
            return []
        pipeline = self._client.pipeline(transaction=False) if not self._cluster else self._client.pipeline()
        for name in names:
            pipeline.execute_command(command, name, *arguments)
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        for result in results:
            if isinstance(result, Exception) and _reason(result) != "error":
                raise result
        return [0 if isinstance(result, Exception) else result for result in results]

    async def scan(self) -> AsyncIterator[tuple[bytes, bytes]]:
        async with self._guard:
            async for names in self._batches():
                for name, value in zip(names, await self._each("GET", names), strict=True):
                    key = _key(name.removeprefix(self._entry))
                    if key is not None and isinstance(value, bytes):
                        yield key, value

    # ------------------------------------------------------------------ the horizon

    async def horizon(self) -> Horizon:
        async with self._guard:
            version: bytes = await self._client.hget(self._horizon, "version") or b""
            if version != self._seen[0]:
                fields = await self._client.hgetall(self._horizon)
                self._seen = (fields.get(b"version", b""), scripts.horizon_of(fields))
            return self._seen[1] if version else Horizon()

    async def forget(self, scope: InvalidationScope) -> Horizon:
        return await self._change(scripts.FORGET, scripts.forget_arguments(scope, self._clock()))

    async def restore(self, horizon: Horizon) -> Horizon:
        return await self._change(scripts.RESTORE, scripts.fields_of(horizon))

    async def _change(self, script: str, arguments: Sequence[str | int | float]) -> Horizon:
        async with self._guard:
            flat = await self._client.eval(script, 1, self._horizon, self._channel, secrets.token_hex(8), *arguments)
        return scripts.horizon_of(dict(zip(flat[::2], flat[1::2], strict=True)))

    async def changed(self, timeout: float) -> None:
        if self._cluster or self._closed:
            await asyncio.sleep(timeout)
            return
        try:
            async with asyncio.timeout(timeout):
                if self._pubsub is None:
                    self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                    await self._pubsub.subscribe(self._channel)
                while await self._pubsub.get_message(timeout=timeout) is None:
                    continue
        except TimeoutError:
            if self._pubsub is not None and not self._pubsub.subscribed:
                await self._unsubscribe()
        except Exception:
            await self._unsubscribe()
            await asyncio.sleep(timeout)

    async def _unsubscribe(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            try:
                await pubsub.aclose()
            except Exception:
                return

    # ------------------------------------------------------------------ leases

    async def lease(self, key: bytes, owner: bytes, ttl: float) -> bool:
        return await self._on_lease(scripts.LEASE, key, owner, ttl)

    async def renew(self, key: bytes, owner: bytes, ttl: float) -> bool:
        return await self._on_lease(scripts.RENEW, key, owner, ttl)

    async def release(self, key: bytes, owner: bytes) -> bool:
        return await self._on_lease(scripts.RELEASE, key, owner, 0.0)

    async def leased(self, key: bytes) -> bool:
        async with self._guard:
            return bool(await self._client.exists(self._lease + key.hex().encode()))

    async def _on_lease(self, script: str, key: bytes, owner: bytes, ttl: float) -> bool:
        async with self._guard:
            name = self._lease + key.hex().encode()
            return bool(await self._client.eval(script, 1, name, owner, max(1, int(ttl * 1000))))

    # ------------------------------------------------------------------ logs

    async def append(self, log: str, message: bytes, limits: LogLimits) -> None:
        arguments = (message, limits.messages, limits.nbytes, max(1, int(limits.ttl * 1000)))
        async with self._guard:
            await self._client.eval(scripts.APPEND, 1, self._log + log.encode(), *arguments)

    async def read(self, log: str, after: str = "", count: int = 64) -> LogPage:
        async with self._guard:
            flat = await self._client.eval(scripts.READ, 1, self._log + log.encode(), after or "0-0", count)
        if len(flat) > 1:
            # An item that a stranger put there without our fields comes as an empty message, which nobody takes.
            return LogPage([bytes(message) for message in flat[1::2]], flat[-2].decode())
        last = flat[0].decode()
        return LogPage((), "" if last and _place(after) > _place(last) else after)

    # ------------------------------------------------------------------ the rest

    async def stats(self) -> StoreStats:
        async with self._guard:
            info = await self._client.info("memory")
        if self._cluster and info and all(isinstance(value, dict) for value in info.values()):
            info = next(iter(info.values()))
        limit, policy = int(info.get("maxmemory", 0)), str(info.get("maxmemory_policy", ""))
        detail = {"maxmemory": limit, "maxmemory_policy": policy, "advice": _advice(limit, policy)}
        return StoreStats(None, int(info.get("used_memory", 0)), detail)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._unsubscribe()
        # What cannot be closed is gone already.
        await asyncio.gather(*(close() for close in self._closers), return_exceptions=True)


def _advice(limit: int, policy: str) -> list[str]:
    if limit == 0 and policy == "noeviction":
        return ["Redis has no maxmemory and evicts nothing: it grows until the machine is full; set both"]
    if policy == "noeviction":
        return ["Redis evicts nothing: once full it refuses new answers; set maxmemory-policy allkeys-lru"]
    return []


def _place(stream_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in stream_id.split("-")) if stream_id else (0, 0)


def _glob(text: bytes) -> bytes:
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^" else bytes([c]) for c in text)


def _key(digits: bytes) -> bytes | None:
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return None


# --------------------------------------------------------------------------- errors

_REFUSED = ("NOAUTH", "WRONGPASS", "NOPERM", "OOM", "READONLY", "MISCONF", "NOREPLICAS", "NOSCRIPT")
_UNAVAILABLE = ("LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY", "UNBLOCKED")


def _reason(error: Exception) -> str:
    import redis.exceptions as theirs

    refusals = (theirs.AuthenticationError, theirs.AuthorizationError, theirs.NoPermissionError, theirs.ReadOnlyError)
    if isinstance(error, (*refusals, theirs.OutOfMemoryError)) or any(word in str(error) for word in _REFUSED):
        return "refused"
    if isinstance(error, theirs.ResponseError) and not isinstance(error, theirs.ClusterError):
        return "unavailable" if str(error).startswith(_UNAVAILABLE) else "error"
    return "unavailable"


class _Guard:
    """Around each use of the client: bounds how many there are, so that its pool is never exhausted, and turns its
    errors into ours.

    Args:
        limit: uses at once.
        prepare: awaited before the first use, by one user: a Cluster's client loses calls that are made while it
            learns the topology.
    """

    def __init__(self, limit: int, prepare: Callable[[], Awaitable[object]] | None) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._prepare = prepare
        self._preparing = asyncio.Lock()

    async def __aenter__(self) -> None:
        if self._prepare is not None:
            await self._prepared()
        await self._slots.acquire()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._slots.release()
        self._translate(error)

    async def _prepared(self) -> None:
        async with self._preparing:
            if self._prepare is None:
                return
            try:
                await self._prepare()
            except Exception as error:
                self._translate(error)
                raise
            self._prepare = None

    @staticmethod
    def _translate(error: BaseException | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, (StoreFault, TimeoutError)):
            return
        import redis.exceptions as theirs

        if isinstance(error, (theirs.RedisError, OSError, EOFError)):
            reason = _reason(error)
            raise StoreFault("redis", reason, f"{type(error).__name__}: {str(error)[:120]}") from error
