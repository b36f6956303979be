"""Replaying under many settings, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vllm_enhance_similarity.policies.base import DecisionPolicy
from vllm_enhance_similarity.policies.bounded import BoundedParameters, BoundedPolicy
from vllm_enhance_similarity.policies.features import NEIGHBOURS
from vllm_enhance_similarity.policies.threshold import ThresholdParameters, ThresholdPolicy
from vllm_enhance_similarity.tune.neighbours import Neighbourhood
from vllm_enhance_similarity.tune.replay import Findings, Replay, Verdicts, judge_pair, replay
from vllm_enhance_similarity.tune.traffic import Traffic

__all__ = ["BOUNDS", "FLOOR", "THRESHOLDS", "Setting", "check_pairs", "run_settings"]

THRESHOLDS = (0.70, 0.75, 0.80, 0.84, 0.88, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
BOUNDS = (0.0025, 0.005, 0.01, 0.02, 0.05)
FLOOR = THRESHOLDS[0]
CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting to try: a policy and its parameter (cosine similarity, or wrong answers per request)."""

    policy: Literal["threshold", "bounded"]
    value: float

    def make(self) -> DecisionPolicy:
        if self.policy == "threshold":
            return ThresholdPolicy(ThresholdParameters(self.value))
        return BoundedPolicy(BoundedParameters(max_error=self.value))


# What the worker processes share; inherited by fork, sent once otherwise.
_shared: tuple[Traffic, Neighbourhood, Findings, int] | None = None


def _share(traffic: Traffic, near: Neighbourhood, findings: Findings, start: int) -> None:
    global _shared
    _shared = (traffic, near, findings, start)


def _begin(*shared: Any) -> None:
    """In each worker process: as many processes as cores leave no core for further threads of the fits."""
    _share(*shared)
    with suppress(ImportError):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)


@contextmanager
def _pool(workers: int, *shared: Any) -> Iterator[ProcessPoolExecutor | None]:
    if workers <= 1:
        _share(*shared)
        yield None
        return
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=shared) as pool:
        yield pool


def check_pairs(
    traffic: Traffic,
    near: Neighbourhood,
    start: int,
    *,
    workers: int = os.cpu_count() or 1,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Findings:
    """Ask the guards beforehand, on all cores, about the neighbours that a replay from `start` on may meet.

    Policies that let neighbours vote look at all of these; a threshold asks about few pairs, and only when it meets
    them.

    Args:
        start: first request of the replay; only what is asked from there on is ever stored in it.
        progress: told how many pairs are done, of how many.
    """
    met = set(traffic.asked[start:]) | set(traffic.stored)
    rows = np.array(sorted(set(traffic.asked[start:])), dtype=np.int64)
    pairs = [
        (text, other)
        for text, others in zip(rows.tolist(), near.ids[rows].tolist(), strict=True)
        for other in [each for each in others if each in met][:NEIGHBOURS]
    ]
    findings = Findings(traffic)
    chunks = [pairs[at : at + CHUNK] for at in range(0, len(pairs), CHUNK)]
    with _pool(workers, traffic, near, findings, 0) as pool:
        results = map(_check, chunks) if pool is None else pool.map(_check, chunks)
        for chunk, verdicts in zip(chunks, results, strict=True):
            findings.known.update(zip(chunk, verdicts, strict=True))
            progress(len(findings.known), len(pairs))
    return findings


def _check(pairs: list[tuple[int, int]]) -> list[Verdicts]:
    assert _shared is not None
    texts = _shared[0].texts
    return [judge_pair(texts[one], texts[other]) for one, other in pairs]


def run_settings(
    traffic: Traffic,
    near: Neighbourhood,
    findings: Findings,
    settings: Sequence[Setting],
    *,
    start: int = 0,
    workers: int = os.cpu_count() or 1,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[Setting, Replay]:
    """Replay the stream under each setting.

    Args:
        start: the bounded policy learns from the requests from here on; thresholds see all of them.
        progress: told when one more setting is done.
    """
    results: dict[Setting, Replay] = {}
    # The slow ones first, so that no core waits long at the end: voting policies, then low thresholds.
    ordered = sorted(settings, key=lambda setting: (setting.policy, setting.value))
    with _pool(workers, traffic, near, findings, start) as pool:
        if pool is None:
            for setting in ordered:
                results[setting] = _run(setting)
                progress(1)
            return results
        waiting: dict[Future[Replay], Setting] = {pool.submit(_run, setting): setting for setting in ordered}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                results[waiting.pop(future)] = future.result()
                progress(1)
    return results


def _run(setting: Setting) -> Replay:
    assert _shared is not None
    traffic, near, findings, start = _shared
    if setting.policy == "threshold":
        return replay(traffic, near, setting.make(), findings, floor=setting.value, nearest_wins=True)
    return replay(traffic, near, setting.make(), findings, draw=random.Random(7).random, start=start)  # noqa: S311
