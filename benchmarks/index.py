"""Recall, latency and churn of the vector index.

    python benchmarks/index.py --size 100000 --churn 10 --json

Vectors are those of real questions if `--vectors FILE.npy` gives some, otherwise clustered random ones. A part is held
out as queries; recall@1 is against exact search. Churn replaces the whole content `--churn` times, a block at a
time, with the rebuilds that the index asks for, as the server does. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, machine
from vllm_enhance_similarity.index.flat import FlatIndex
from vllm_enhance_similarity.index.growing import GrowingIndex
from vllm_enhance_similarity.index.hnsw import HnswIndex, HnswParameters


def make_vectors(arguments: argparse.Namespace) -> np.ndarray:
    """Unit vectors, shape (size + queries, dimension)."""
    count = arguments.size + arguments.queries
    dice = np.random.default_rng(arguments.seed)
    if arguments.vectors:
        rows = np.load(arguments.vectors, allow_pickle=False).astype(np.float32)
        rows = rows[dice.permutation(len(rows))]
        if len(rows) < count:  # more of the same kind: real vectors, moved a little
            more = rows[dice.integers(len(rows), size=count - len(rows))]
            rows = np.concatenate([rows, more + dice.normal(scale=0.02, size=more.shape).astype(np.float32)])
        rows = rows[dice.permutation(len(rows))[:count]]
    else:
        centers = dice.normal(size=(max(1, count // 20), arguments.dimension))
        rows = centers[dice.integers(len(centers), size=count)]
        rows = (rows + 0.5 * dice.normal(size=rows.shape)).astype(np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def measure(index: GrowingIndex, queries: np.ndarray) -> dict[str, float]:
    """Recall@1 and recall@8 against exact search, and the latency of single queries."""
    exact = FlatIndex(queries.shape[1])
    exact.add(*index.export())
    wanted = exact.search(queries, 8)
    seconds, first, all_eight = [], 0, 0
    for query, right in zip(queries, wanted, strict=True):
        started = time.perf_counter()
        found = index.search(query[None], 8)[0]
        seconds.append(time.perf_counter() - started)
        first += bool(found) and found[0].similarity >= right[0].similarity - 1e-5
        all_eight += len({match.id for match in found} & {match.id for match in right})
    p50, p99 = np.percentile(seconds, [50, 99])
    return {
        "recall_at_1": round(first / len(queries), 4),
        "recall_at_8": round(all_eight / sum(map(len, wanted)), 4),
        "p50_us": round(1e6 * float(p50), 1),
        "p99_us": round(1e6 * float(p99), 1),
    }


def churn(index: GrowingIndex, vectors: np.ndarray, times: float) -> dict[str, Any]:
    """Replace a block of the oldest by new ids until `times` the size has gone through."""
    size, block = len(vectors), max(1, len(vectors) // 100)
    next_id, rebuilds, started = size, index.rebuilds, time.perf_counter()
    while next_id < size * (1 + times):
        index.remove(range(next_id - size, next_id - size + block))
        rows = (np.arange(next_id, next_id + block) * 7919) % size  # other vectors under new ids
        index.add(list(range(next_id, next_id + block)), vectors[rows])
        next_id += block
        if index.needs_maintenance:
            index.maintain(threading.Lock())
    return {
        "replaced": next_id - size,
        "rebuilds": index.rebuilds - rebuilds,
        "seconds": round(time.perf_counter() - started, 1),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--churn", type=float, default=10, help="how many times the size is replaced")
    parser.add_argument("--vectors", default="", help="unit vectors of real questions, .npy")
    parser.add_argument("--m", type=int, default=HnswParameters().m)
    parser.add_argument("--ef-construction", type=int, default=HnswParameters().ef_construction)
    parser.add_argument("--ef-search", type=int, default=HnswParameters().ef_search)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result here too, as indented JSON")
    return parser.parse_args()


def main() -> None:
    arguments, before = parse(), machine()
    vectors = make_vectors(arguments)
    stored, queries = vectors[: arguments.size], vectors[arguments.size :]
    parameters = HnswParameters(arguments.m, arguments.ef_construction, arguments.ef_search)
    index = GrowingIndex(stored.shape[1], parameters, 4096)
    index.add(list(range(len(stored))), stored)
    started = time.perf_counter()
    if index.needs_maintenance:
        index.maintain(threading.Lock())
    result: dict[str, Any] = {
        "size": len(stored),
        "dimension": stored.shape[1],
        "real_vectors": bool(arguments.vectors),
        "build_seconds": round(time.perf_counter() - started, 1),
        "fresh": measure(index, queries),
    }
    if not arguments.json:
        print(json.dumps(result), flush=True)
    if arguments.churn:
        result["churn"] = churn(index, stored, arguments.churn)
        result["after_churn"] = measure(index, queries)
    backing = index.backing
    result["short_searches"] = backing.short_searches if isinstance(backing, HnswIndex) else 0
    finish("index", result, out=arguments.out, before=before)


if __name__ == "__main__":
    main()
