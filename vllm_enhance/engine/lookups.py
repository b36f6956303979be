"""Slow lookups (a shared store, similarity): several at once, the first answer counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from vllm_enhance.metrics import Metrics
from vllm_enhance.types import Lookup, Respond, Waiting

__all__ = ["first_answer"]


async def first_answer(
    lookups: Sequence[Lookup], metrics: Metrics, deadline: float | None = None
) -> Respond | Waiting | None:
    """Run lookups side by side; the first that answers wins and the others are cancelled.

    Never raises what a lookup raised: that is a lookup without an answer, and is counted.

    Args:
        deadline: seconds for all of them together; ``None`` waits until each has ended.
    """
    tasks = [asyncio.create_task(_timed(lookup, metrics)) for lookup in lookups]
    try:
        async with asyncio.timeout(deadline):
            for next_done in asyncio.as_completed(tasks):
                answer = await next_done
                if answer is not None:
                    return answer
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            task.cancel()  # not awaited: a lookup that does not hear must not hold the request
    return None


async def _timed(lookup: Lookup, metrics: Metrics) -> Respond | Waiting | None:
    started, result = time.perf_counter(), "cancelled"
    try:
        answer: Any = await lookup.run()
        if isinstance(answer, Waiting):
            result = "waiting"
            return answer
        if answer is not None and not isinstance(answer, Respond):
            result = "nonsense"
            return None
        result = "miss" if answer is None else "hit"
        return answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        result = "failed"  # something inside the lookup was cancelled, not the lookup
        return None
    except Exception:
        result = "failed"
        return None
    finally:
        metrics.observe("vllm_enhance_lookup_seconds", time.perf_counter() - started, lookup.name, result)
