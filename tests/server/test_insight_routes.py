"""The routes for looking, over real Starlette."""

from __future__ import annotations

from typing import Any

import httpx
import prometheus_client
import pytest
from fastapi import FastAPI

from vllm_enhance.metrics import Metrics
from vllm_enhance.server.insight import build_insight_router
from vllm_enhance.server.series import read_series


class Control:
    async def recent(self, limit: int) -> dict[str, Any]:
        return {"requests": [{"request_id": str(n)} for n in range(limit)], "top": []}


def client_of(control: Any) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(build_insight_router())
    app.state.enhance_control = control
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_recent_requests_up_to_a_limit() -> None:
    async with client_of(Control()) as client:
        assert len((await client.get("/v1/enhance/requests")).json()["requests"]) == 50
        assert len((await client.get("/v1/enhance/requests?limit=3")).json()["requests"]) == 3
        for limit in ("0", "501", "x"):
            assert (await client.get(f"/v1/enhance/requests?limit={limit}")).status_code == 422


@pytest.mark.parametrize("path", ["requests", "series"])
async def test_without_an_engine_side_503(path: str) -> None:
    async with client_of(None) as client:
        assert (await client.get(f"/v1/enhance/{path}")).status_code == 503


async def test_series_hold_ours_and_a_few_of_vllms() -> None:
    async with client_of(Control()) as client:
        found = (await client.get("/v1/enhance/series")).json()
    assert found["at"] > 1e9
    assert all(sample["name"].startswith(("vllm_enhance_", "vllm:")) for sample in found["series"])


def test_each_sample_has_its_value_and_creation_times_are_left_out() -> None:
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry=registry)
    metrics.count("vllm_enhance_requests", 3, "memory", "")
    metrics.observe("vllm_enhance_replay_seconds", 0.5)
    prometheus_client.Counter("other_thing", "Not ours.", registry=registry).inc()
    series = read_series({}, registry)["series"]
    names = {sample["name"] for sample in series}
    assert {"name": "vllm_enhance_requests_total", "labels": {"source": "memory", "reason": ""}, "value": 3.0} in series
    assert {"vllm_enhance_replay_seconds_bucket", "vllm_enhance_replay_seconds_count"} <= names
    assert not any(name.endswith("_created") or name.startswith("other") for name in names)


def test_processes_are_summed(tmp_path: Any) -> None:
    """Two real processes write Prometheus' files; what is read is their sum."""
    import subprocess
    import sys

    script = (
        "from vllm_enhance.metrics import Metrics\nm = Metrics()\n"
        "m.count('vllm_enhance_requests', 2, 'memory', '')\nm.gauge('vllm_enhance_inflight_generations', 4)\n"
    )
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PATH": "/usr/bin"}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], env=environ, check=True, timeout=60)
    reader = (
        "import json\nfrom vllm_enhance.server.series import read_series\nprint(json.dumps(read_series()['series']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", reader], env=environ, check=True, timeout=60, capture_output=True, text=True
    )
    import json

    values = {sample["name"]: sample["value"] for sample in json.loads(done.stdout)}
    assert values["vllm_enhance_requests_total"] == 4.0
