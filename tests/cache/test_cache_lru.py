"""The memory tier against a plain model, and its caps."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from cache_support import key_of, record_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from vllm_enhance_cache.entries import Entry
from vllm_enhance_cache.lru import LRUCache

from vllm_enhance.errors import DirectiveError
from vllm_enhance.stores import matcher
from vllm_enhance.types import InvalidationScope


def entry_of(
    number: int, *, now: float = 0.0, ttl: float = 100.0, tenant: bytes = b"", model: str = "m", text: str = "x"
) -> Entry:
    return Entry(key_of(number), record_of(text, created_at=now), tenant, model, now, now + ttl)


SIZE = entry_of(1).nbytes


def test_an_entry_comes_back_until_its_time_is_over() -> None:
    cache = LRUCache(10**6, 10)
    entry = entry_of(1, ttl=5.0)
    assert cache.put(entry, 0.0)
    assert cache.get(key_of(1), 4.999) is entry
    assert cache.get(key_of(1), 5.0) is None
    assert len(cache) == 0
    assert cache.nbytes == 0
    assert cache.counts.expired == 1


def test_the_least_recently_used_goes_first() -> None:
    cache = LRUCache(10**6, 2)
    for number in (1, 2):
        cache.put(entry_of(number), 0.0)
    cache.get(key_of(1), 0.0)
    cache.put(entry_of(3), 0.0)
    assert key_of(1) in cache
    assert key_of(2) not in cache
    assert cache.counts.evicted_for_entries == 1


def test_bytes_are_capped() -> None:
    cache = LRUCache(3 * SIZE, 100)
    for number in range(10):
        cache.put(entry_of(number), 0.0)
        assert cache.nbytes <= 3 * SIZE
    assert len(cache) == 3
    assert cache.counts.evicted_for_bytes == 7


def test_what_is_over_goes_before_what_is_used() -> None:
    cache = LRUCache(10**6, 3)
    cache.put(entry_of(1, ttl=1000.0), 0.0)
    cache.put(entry_of(2, ttl=5.0), 0.0)
    cache.put(entry_of(3, ttl=1000.0), 0.0)
    cache.put(entry_of(4, now=50.0, ttl=1000.0), 50.0)
    assert key_of(1) in cache
    assert cache.counts.evicted_for_entries == 0
    assert cache.counts.expired == 1


def test_too_large_an_entry_is_refused_and_replaces_nothing_else() -> None:
    cache = LRUCache(10**6, 10, max_entry_bytes=2 * SIZE)
    cache.put(entry_of(1), 0.0)
    assert not cache.put(entry_of(2, text="x" * 10_000), 0.0)
    assert key_of(1) in cache
    assert cache.counts.too_large == 1


def test_a_newer_answer_replaces_the_older_and_its_bytes() -> None:
    cache = LRUCache(10**6, 10)
    cache.put(entry_of(1, text="x" * 100, tenant=b"a"), 0.0)
    newer = entry_of(1, text="y", tenant=b"b")
    cache.put(newer, 0.0)
    assert cache.get(key_of(1), 0.0) is newer
    assert cache.nbytes == newer.nbytes
    assert cache.select(InvalidationScope("tenant", b"a".hex()), 0.0) == []


def test_a_sweep_is_bounded_and_resumes() -> None:
    cache = LRUCache(10**9, 10_000)
    for number in range(100):
        cache.put(entry_of(number, ttl=1.0), 0.0)
    assert cache.sweep(100.0, limit=30) == 30
    assert cache.sweep(100.0, limit=1000) == 70
    assert cache.sweep(100.0) == 0
    assert len(cache) == 0


def test_index_shrinks_with_the_entries() -> None:
    cache = LRUCache(10**9, 5)
    for number in range(1000):
        cache.put(
            entry_of(number, now=float(number), tenant=key_of(number), model=f"m{number}", ttl=10.0), float(number)
        )
        cache.sweep(float(number))
    assert len(cache._tenants) == len(cache._models) == len(cache) == 5
    assert len(cache._buckets) == len(cache._bucket_order) <= 8


@pytest.mark.parametrize(
    "scope",
    [
        InvalidationScope("key", "zz"),
        InvalidationScope("key", "00"),
        InvalidationScope("tenant", "xyz"),
        InvalidationScope("model", None),
        InvalidationScope("age", "old"),
        InvalidationScope("age", "-1"),
        InvalidationScope("age", "nan"),
        InvalidationScope("everything", None),
    ],
)
def test_a_bad_scope_says_so(scope: InvalidationScope) -> None:
    with pytest.raises(DirectiveError, match="scope"):
        LRUCache(10**6, 10).select(scope, 0.0)


class AgainstModel(RuleBasedStateMachine):
    """An ordered dict does the same, slowly."""

    MAX_ENTRIES = 6

    def __init__(self) -> None:
        super().__init__()
        self.cache = LRUCache(5 * SIZE, self.MAX_ENTRIES)
        self.model: OrderedDict[bytes, Entry] = OrderedDict()
        self.now = 0.0

    @rule(
        number=st.integers(0, 9), ttl=st.integers(1, 30), size=st.integers(0, 900), tenant=st.sampled_from([b"", b"t"])
    )
    def put(self, number: int, ttl: int, size: int, tenant: bytes) -> None:
        entry = entry_of(number, now=self.now, ttl=ttl, tenant=tenant, text="x" * size)
        kept = self.cache.put(entry, self.now)
        self.model.pop(entry.key, None)
        if entry.nbytes > 5 * SIZE:
            assert not kept
            return
        self.model[entry.key] = entry
        if self.over():
            self.sweep()
        while self.over():
            self.model.popitem(last=False)

    def over(self) -> bool:
        return sum(e.nbytes for e in self.model.values()) > 5 * SIZE or len(self.model) > self.MAX_ENTRIES

    def sweep(self) -> None:
        for key, entry in list(self.model.items()):
            if (entry.expires_at // 4 + 1) * 4 <= self.now:  # a bucket is four seconds wide
                del self.model[key]

    @rule(number=st.integers(0, 9))
    def get(self, number: int) -> None:
        key = key_of(number)
        expected = self.model.get(key)
        if expected is not None and expected.expires_at <= self.now:
            self.model.pop(key)
            expected = None
        assert self.cache.get(key, self.now) is expected
        if expected is not None:
            self.model.move_to_end(key)

    @rule(seconds=st.integers(0, 20))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.cache.sweep(self.now)
        self.sweep()

    @rule(
        kind=st.sampled_from(["all", "tenant", "model", "age", "key"]), number=st.integers(0, 9), age=st.integers(0, 30)
    )
    def forget(self, kind: str, number: int, age: int) -> None:
        value = {"all": None, "tenant": b"t".hex(), "model": "m", "age": str(age), "key": key_of(number).hex()}[kind]
        scope = InvalidationScope(kind, value)
        inside = matcher(scope, self.now)
        expected = {k for k, e in self.model.items() if inside(k, e.tags)}
        selected = self.cache.select(scope, self.now)
        assert set(selected) == expected
        for key in selected:
            assert self.cache.delete(key)
            self.model.pop(key)

    @invariant()
    def agrees(self) -> None:
        assert [e.key for e in self.cache.entries()] == list(self.model)
        assert self.cache.nbytes == sum(e.nbytes for e in self.model.values())
        assert self.cache.nbytes <= 5 * SIZE
        assert len(self.cache) <= self.MAX_ENTRIES


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
