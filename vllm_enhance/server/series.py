"""The numbers behind rates and latency plots, summed over all API server processes, as JSON.

``/v1/enhance/stats`` tells one process' numbers. Rates that a person looks at must not jump with the process that
happens to answer, so this reads what ``/metrics`` reads: in Prometheus' multiprocess mode, the files of all processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["VLLM_METRICS", "read_series"]

PREFIX = "vllm_enhance_"
VLLM_METRICS = frozenset(
    {
        "vllm:e2e_request_latency_seconds",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:generation_tokens",
    }
)
"""What is shown of vLLM's own metrics beside ours."""

KEPT = ("_total", "_bucket", "_sum", "_count", "")


def read_series(environ: Mapping[str, str] = os.environ, registry: Any = None) -> dict[str, Any]:
    """Every sample of ours, and a few of vLLM's, now.

    Blocking (it may read files): call it off the event loop.

    Args:
        registry: a ``prometheus_client`` registry; by default what ``/metrics`` of this server shows.

    Returns:
        ``at`` (Unix time, seconds) and ``series``: ``name``, ``labels``, ``value`` of each sample, in the order of
        the exposition format; a counter's name ends in ``_total``, a histogram has ``_bucket``, ``_sum``, ``_count``.
    """
    series = [
        {"name": sample.name, "labels": dict(sample.labels), "value": sample.value}
        for family in (registry or _registry(environ)).collect()
        if family.name.startswith(PREFIX) or family.name in VLLM_METRICS
        for sample in family.samples
        if sample.name[len(family.name) :] in KEPT
    ]
    return {"at": time.time(), "series": series}


def _registry(environ: Mapping[str, str]) -> Any:
    import prometheus_client
    from prometheus_client import multiprocess

    if not environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return prometheus_client.REGISTRY
    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return registry
