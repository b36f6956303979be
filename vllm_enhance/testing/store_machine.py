"""Random operations on a store and on a dict, for hypothesis: what both say must agree after each step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vllm_enhance.stores import EntryTags, Horizon, Store, matcher
from vllm_enhance.testing.stores import ALICE, BOB, store_key
from vllm_enhance.types import InvalidationScope

__all__ = ["StoreMachine"]

T = TypeVar("T")


class StoreMachine(RuleBasedStateMachine):
    """Random operations on a store and on a dict. Subclass with :meth:`open_store`, then use ``.TestCase``.

    Time passes only where :meth:`advance` is overridden to move the store's clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store: Store = self.run(self.open_store())
        self.model: dict[bytes, tuple[bytes, EntryTags, float]] = {}
        self.horizon = Horizon()
        self.leases: dict[bytes, tuple[bytes, float]] = {}

    async def open_store(self) -> Store:
        """A store with nothing in it."""
        raise NotImplementedError

    def value_of(self, text: bytes, key: bytes, tags: EntryTags) -> bytes:
        """See :meth:`StoreContract.value_of`."""
        return text

    def now(self) -> float:
        """The store's clock, Unix time."""
        return time.time()

    def advance(self, seconds: float) -> float:
        """Move the store's clock, if it can be moved; by how much."""
        return 0.0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()

    def living(self) -> dict[bytes, tuple[bytes, EntryTags, float]]:
        return {key: held for key, held in self.model.items() if held[2] > self.now()}

    @rule(
        number=st.integers(0, 7),
        text=st.binary(max_size=40),
        ttl=st.sampled_from([30.0, 100.0, 1000.0]),
        tenant=st.sampled_from([b"", ALICE, BOB]),
        model=st.sampled_from(["m", "other"]),
        age=st.sampled_from([0.0, 500.0]),
    )
    def put(self, number: int, text: bytes, ttl: float, tenant: bytes, model: str, age: float) -> None:
        key, tags = store_key(number), EntryTags(tenant, model, self.now() - age)
        value = self.value_of(text, key, tags)
        self.run(self.store.put(key, value, ttl=ttl, tags=tags))
        self.model[key] = (value, tags, self.now() + ttl)

    @rule(number=st.integers(0, 7))
    def delete(self, number: int) -> None:
        key = store_key(number)
        assert self.run(self.store.delete(key)) == (key in self.living())
        self.model.pop(key, None)

    @rule(seconds=st.sampled_from([1.0, 29.0, 70.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.advance(seconds)

    @rule(
        kind=st.sampled_from(["all", "key", "tenant", "model", "age"]),
        number=st.integers(0, 7),
        tenant=st.sampled_from([ALICE, BOB]),
        age=st.sampled_from(["250", "2000"]),
        dry_run=st.booleans(),
    )
    def clear(self, kind: str, number: int, tenant: bytes, age: str, dry_run: bool) -> None:
        value = {"all": None, "key": store_key(number).hex(), "tenant": tenant.hex(), "model": "m", "age": age}[kind]
        scope = InvalidationScope(kind, value, dry_run=dry_run)
        inside = matcher(scope, self.now())
        doomed = [key for key, held in self.living().items() if inside(key, held[1])]
        assert self.run(self.store.clear(scope)) == len(doomed)
        if not dry_run:
            for key in doomed:
                del self.model[key]

    @rule(kind=st.sampled_from(["all", "tenant", "model", "key"]), number=st.integers(0, 3))
    def forget(self, kind: str, number: int) -> None:
        value = {"all": None, "key": store_key(number).hex(), "tenant": ALICE.hex(), "model": f"m{number}"}[kind]
        scope = InvalidationScope(kind, value)
        self.horizon = self.horizon.forget(scope, self.now())
        assert self.run(self.store.forget(scope)) == self.horizon

    @rule(number=st.integers(0, 2), owner=st.sampled_from([b"x", b"y"]), ttl=st.sampled_from([20.0, 200.0]))
    def lease(self, number: int, owner: bytes, ttl: float) -> None:
        key = store_key(number)
        free = self.holder(key) in (None, owner)
        assert self.run(self.store.lease(key, owner, ttl)) is free
        if free:
            self.leases[key] = (owner, self.now() + ttl)

    @rule(number=st.integers(0, 2), owner=st.sampled_from([b"x", b"y"]))
    def release(self, number: int, owner: bytes) -> None:
        key = store_key(number)
        mine = self.holder(key) == owner
        assert self.run(self.store.release(key, owner)) is mine
        if mine:
            del self.leases[key]

    def holder(self, key: bytes) -> bytes | None:
        owner, until = self.leases.get(key, (None, 0.0))
        return owner if until > self.now() else None

    @invariant()
    def agrees(self) -> None:
        expected = {key: held[0] for key, held in self.living().items()}

        async def look() -> dict[bytes, bytes | None]:
            return {store_key(n): await self.store.get(store_key(n)) for n in range(8)}

        assert {key: value for key, value in self.run(look()).items() if value is not None} == expected
        assert self.run(self.store.horizon()) == self.horizon
        for number in range(3):
            assert self.run(self.store.leased(store_key(number))) == (self.holder(store_key(number)) is not None)
