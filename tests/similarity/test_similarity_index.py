"""The vector indexes: recall, deletes, growth, caps, order, snapshots, and hnswlib's known faults."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from vllm_enhance_similarity.encoders import EmbedderIdentity
from vllm_enhance_similarity.index.flat import FlatIndex
from vllm_enhance_similarity.index.growing import GrowingIndex
from vllm_enhance_similarity.index.hnsw import HnswIndex, HnswParameters
from vllm_enhance_similarity.index.partitioned import IndexLimits, PartitionedIndex
from vllm_enhance_similarity.index.snapshot import restore_index, save_index

DIM = 32
IDENTITY = EmbedderIdentity("test", "d1", DIM, 256)


def unit_vectors(count: int, seed: int = 0, dimension: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(count: int, *, partition: bytes = b"p", limits: IndexLimits | None = None) -> PartitionedIndex:
    index = PartitionedIndex(DIM, limits=limits)
    for row, vector in enumerate(unit_vectors(count)):
        add(index, row, vector, partition=partition)
    return index


def add(index: PartitionedIndex, row: int, vector: np.ndarray, *, partition: bytes = b"p", **more: object) -> None:
    given_: dict[str, object] = {"text": f"t{row}", "tenant": b"a", "now": 0.0} | more
    index.add(partition, b"%06d" % row, vector, **given_)  # type: ignore[arg-type]


@pytest.fixture(params=["flat", "hnsw", "growing"])
def index(request: pytest.FixtureRequest) -> FlatIndex | HnswIndex | GrowingIndex:
    return {
        "flat": lambda: FlatIndex(DIM),
        "hnsw": lambda: HnswIndex(DIM),
        "growing": lambda: GrowingIndex(DIM, HnswParameters(), 64),
    }[request.param]()


class TestEveryIndex:
    def test_empty_finds_nothing(self, index: FlatIndex) -> None:
        assert index.search(unit_vectors(2), 5) == [[], []]

    def test_ids_are_python_ints_and_matches_are_sorted(self, index: FlatIndex) -> None:
        vectors = unit_vectors(50)
        index.add(list(range(50)), vectors)
        found = index.search(vectors[:3], 7)
        assert all(type(match.id) is int for row in found for match in row)
        assert [row[0].id for row in found] == [0, 1, 2]
        for row in found:
            assert [match.similarity for match in row] == sorted((m.similarity for m in row), reverse=True)
            assert row[0].similarity == pytest.approx(1.0, abs=1e-5)

    def test_k_beyond_the_live_count(self, index: FlatIndex) -> None:
        index.add([1, 2, 3], unit_vectors(3))
        index.remove([2])
        assert {match.id for match in index.search(unit_vectors(1), 100)[0]} == {1, 3}

    def test_a_removed_id_that_comes_back_is_found_at_its_new_place(self, index: FlatIndex) -> None:
        vectors = unit_vectors(20)
        index.add(list(range(10)), vectors[:10])
        assert index.remove([4, 99]) == 1
        index.add([4], vectors[15:16])
        assert index.search(vectors[15:16], 1)[0][0].id == 4
        assert len(index) == 10

    def test_replacing_an_id_moves_it(self, index: FlatIndex) -> None:
        vectors = unit_vectors(4)
        index.add([7], vectors[:1])
        index.add([7], vectors[1:2])
        assert len(index) == 1
        assert index.search(vectors[1:2], 2)[0][0].similarity == pytest.approx(1.0, abs=1e-5)

    def test_everything_deleted_never_raises(self, index: FlatIndex) -> None:
        vectors = unit_vectors(300)
        index.add(list(range(300)), vectors)
        index.remove(range(299))
        assert [match.id for match in index.search(vectors[:1], 8)[0]] == [299]
        index.remove([299])
        assert index.search(vectors[:1], 8) == [[]]

    def test_export_gives_back_what_was_added(self, index: FlatIndex) -> None:
        vectors = unit_vectors(30)
        index.add(list(range(30)), vectors)
        index.remove([3, 5])
        ids, rows = index.export()
        assert sorted(ids) == [row for row in range(30) if row not in (3, 5)]
        np.testing.assert_allclose(rows, vectors[ids], atol=1e-6)


@hypothesis_settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 40)), max_size=120))
def test_hnsw_agrees_with_flat_under_any_churn(steps: list[tuple[str, int]]) -> None:
    vectors = unit_vectors(41)
    flat, graph = FlatIndex(DIM), HnswIndex(DIM, HnswParameters(ef_search=64))
    for action, row in steps:
        for index in (flat, graph):
            if action == "add":
                index.add([row], vectors[row : row + 1])
            else:
                index.remove([row])
    assert len(flat) == len(graph)
    expected = [match.id for match in flat.search(vectors[:1], 3)[0]]
    assert [match.id for match in graph.search(vectors[:1], 3)[0]] == expected


class TestGrowing:
    def test_promotes_above_the_limit_and_goes_back_below_half(self) -> None:
        index = GrowingIndex(DIM, HnswParameters(), 64)
        vectors = unit_vectors(100)
        index.add(list(range(100)), vectors)
        assert index.needs_maintenance
        index.maintain(threading.Lock())
        assert isinstance(index.backing, HnswIndex)
        assert not index.needs_maintenance
        index.remove(range(80))
        assert index.needs_maintenance
        index.maintain(threading.Lock())
        assert isinstance(index.backing, FlatIndex)
        assert index.search(vectors[90:91], 1)[0][0].id == 90

    def test_changes_during_a_build_are_kept(self) -> None:
        vectors = unit_vectors(200)
        index = GrowingIndex(DIM, HnswParameters(), 64)
        index.add(list(range(100)), vectors[:100])

        class Meanwhile:
            entered = 0

            def __enter__(self) -> None:
                self.entered += 1
                if self.entered == 2:  # the build is done, the swap comes
                    index.add([150], vectors[150:151])
                    index.remove([0])
                    index.add([1], vectors[160:161])

            def __exit__(self, *_: object) -> None:
                pass

        index.maintain(Meanwhile())
        assert isinstance(index.backing, HnswIndex)
        assert len(index) == 100
        assert index.search(vectors[150:151], 1)[0][0].id == 150
        assert index.search(vectors[160:161], 1)[0][0].id == 1
        assert 0 not in {match.id for match in index.search(vectors[:1], 100)[0]}

    def test_recall_after_ten_times_churn(self) -> None:
        size, index = 400, GrowingIndex(DIM, HnswParameters(), 100)
        vectors = unit_vectors(size * 11, seed=3)
        index.add(list(range(size)), vectors[:size])
        for start in range(size, size * 11, 100):
            index.remove(range(start - size, start - size + 100))
            index.add(list(range(start, start + 100)), vectors[start : start + 100])
            while index.needs_maintenance:
                index.maintain(threading.Lock())
        live = vectors[size * 10 :]
        queries = unit_vectors(200, seed=9)
        expected = np.argmax(queries @ live.T, axis=1) + size * 10
        found = [row[0].id for row in index.search(queries, 1)]
        assert np.mean(np.array(found) == expected) >= 0.98


class TestPartitions:
    def test_search_sees_its_partition_only(self) -> None:
        index = PartitionedIndex(DIM)
        vectors = unit_vectors(2)
        for partition in (b"p", b"q"):
            add(index, 0, vectors[0], partition=partition, tenant=partition)
        assert index.search(b"r", vectors[0], 5, now=0.0) == []
        assert [found.entry.partition for found in index.search(b"q", vectors[0], 5, now=0.0)] == [b"q"]

    def test_ttl(self) -> None:
        index = PartitionedIndex(DIM)
        vector = unit_vectors(1)[0]
        add(index, 0, vector, expires=10.0)
        assert len(index.search(b"p", vector, 1, now=9.9)) == 1
        assert index.search(b"p", vector, 1, now=10.0) == []
        assert index.expire(10.0) == 1
        assert len(index) == 0
        assert index.stats().partitions == 0

    def test_deletion_by_scope_with_dry_run(self) -> None:
        index = filled(6)
        add(index, 9, unit_vectors(1)[0], partition=b"q", tenant=b"b", model="m", now=5.0)
        assert index.delete("tenant", b"a", dry_run=True) == 6
        assert len(index) == 7
        assert index.delete("key", b"000001") == 1
        assert index.delete("model", "m", dry_run=True) == 1
        assert index.delete("older_than", 1.0) == 5
        assert index.delete("partition", b"q") == 1
        assert index.delete("all") == 0

    def test_entry_and_byte_caps_hold(self) -> None:
        index = filled(100, limits=IndexLimits(max_entries=10))
        assert len(index) == 10
        assert index.stats().evicted == 90
        small = filled(100, limits=IndexLimits(max_bytes=20_000))
        assert 0 < small.stats().bytes <= 20_000

    def test_a_flood_in_one_partition_leaves_the_others(self) -> None:
        index = PartitionedIndex(DIM, limits=IndexLimits(max_entries=20))
        vectors = unit_vectors(500)
        for row in range(5):
            add(index, row, vectors[row], partition=b"quiet")
        for row in range(5, 500):
            add(index, row, vectors[row], partition=b"flood")
        assert len(index.search(b"quiet", vectors[0], 10, now=0.0)) == 5

    def test_least_recently_used_goes_first(self) -> None:
        index = filled(3, limits=IndexLimits(max_entries=3))
        vectors = unit_vectors(4)
        entry = index.find(b"p", b"000000")
        assert entry is not None
        index.touch(entry)
        add(index, 3, vectors[3])
        assert index.find(b"p", b"000000") is not None
        assert index.find(b"p", b"000001") is None

    def test_equal_similarities_are_ordered_by_key(self) -> None:
        index = PartitionedIndex(DIM)
        vector = unit_vectors(1)[0]
        for row in (3, 1, 2):
            add(index, row, vector)
        assert [found.entry.key for found in index.search(b"p", vector, 3, now=0.0)] == [
            b"000001",
            b"000002",
            b"000003",
        ]

    @pytest.mark.parametrize("vector", [np.full(DIM, np.nan), np.ones(3)])
    def test_bad_vectors_are_refused(self, vector: np.ndarray) -> None:
        index = PartitionedIndex(DIM)
        with pytest.raises(ValueError, match="dimensions"):
            add(index, 0, vector.astype(np.float32))
        assert len(index) == 0

    def test_no_cross_partition_result_in_many_random_trials(self) -> None:
        dice = np.random.default_rng(1)
        index = PartitionedIndex(DIM, limits=IndexLimits(max_entries=300, flat_limit=16))
        vectors = unit_vectors(64)
        for trial in range(20_000):
            partition = b"p%d" % dice.integers(8)
            row = int(dice.integers(64))
            if dice.random() < 0.2:
                add(index, row, vectors[row], partition=partition, tenant=partition)
            for found in index.search(partition, vectors[row], 4, now=0.0):
                assert found.entry.tenant == partition
            if trial % 4000 == 0:
                index.maintain()


class TestSnapshot:
    def save(self, directory: Path) -> PartitionedIndex:
        index = filled(120, limits=IndexLimits(flat_limit=64))
        add(index, 500, unit_vectors(1)[0], partition=b"\x00\xff", expires=100.0, payload=b"\x01\x02")
        index.maintain()
        assert save_index(index, directory, IDENTITY, now=1.0) == 121
        return index

    def test_round_trip(self, tmp_path: Path) -> None:
        index = self.save(tmp_path)
        outcome = restore_index(tmp_path, IDENTITY, now=1.0, limits=IndexLimits(flat_limit=64))
        assert (outcome.reason, outcome.entries) == ("restored", 121)
        for query in unit_vectors(20, seed=5):
            assert [f.entry for f in outcome.index.search(b"p", query, 5, now=1.0)] == [
                f.entry for f in index.search(b"p", query, 5, now=1.0)
            ]
        assert outcome.index.find(b"\x00\xff", b"000500").payload == b"\x01\x02"  # type: ignore[union-attr]
        assert outcome.index.stats().graph_partitions == 1
        add(outcome.index, 900, unit_vectors(1, seed=8)[0])  # goes on growing
        assert len(outcome.index) == 122

    def test_expired_entries_stay_out(self, tmp_path: Path) -> None:
        self.save(tmp_path)
        assert restore_index(tmp_path, IDENTITY, now=100.0).entries == 120

    def test_a_second_save_removes_the_first_generation(self, tmp_path: Path) -> None:
        index = self.save(tmp_path)
        before = {path.name for path in tmp_path.iterdir()}
        save_index(index, tmp_path, IDENTITY, now=2.0)
        after = {path.name for path in tmp_path.iterdir()}
        assert len(after) == len(before)
        assert before & after == {"manifest.json"}

    @pytest.mark.parametrize(
        ("identity", "reason"),
        [
            (EmbedderIdentity("test", "other", DIM, 256), "other_embedder"),
            (EmbedderIdentity("test", "d1", DIM + 1, 256), "other_dimension"),
        ],
    )
    def test_another_embedder_starts_empty(self, tmp_path: Path, identity: EmbedderIdentity, reason: str) -> None:
        self.save(tmp_path)
        outcome = restore_index(tmp_path, identity, now=1.0)
        assert (outcome.reason, len(outcome.index)) == (reason, 0)

    def test_absent(self, tmp_path: Path) -> None:
        assert restore_index(tmp_path / "none", IDENTITY, now=1.0).reason == "absent"

    @pytest.mark.parametrize("kind", ["entries", "vectors", "graph"])
    @pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
    def test_any_damage_starts_empty(self, tmp_path: Path, kind: str, damage: str) -> None:
        self.save(tmp_path)
        path = next(path for path in tmp_path.iterdir() if path.name.startswith(kind))
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        else:
            path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        outcome = restore_index(tmp_path, IDENTITY, now=1.0)
        assert (outcome.reason, len(outcome.index)) == ("damaged", 0)

    def test_a_damaged_or_foreign_manifest(self, tmp_path: Path) -> None:
        self.save(tmp_path)
        manifest = tmp_path / "manifest.json"
        content = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(content | {"version": 99}))
        assert restore_index(tmp_path, IDENTITY, now=1.0).reason == "other_version"
        manifest.write_text(json.dumps(content | {"space": "l2"}))
        assert restore_index(tmp_path, IDENTITY, now=1.0).reason == "other_space"
        names = {"../" + name: digest for name, digest in content["sha256"].items()}
        manifest.write_text(json.dumps(content | {"sha256": names}))
        assert restore_index(tmp_path, IDENTITY, now=1.0).reason == "damaged"
        manifest.write_bytes(b"\x80not json")
        assert restore_index(tmp_path, IDENTITY, now=1.0).reason == "unreadable"
