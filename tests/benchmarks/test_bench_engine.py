"""The scripts against a real server: each runs to its end and measures something."""

from __future__ import annotations

from pathlib import Path

import bench_serve
import pytest
from bench_support import run_script

from vllm_enhance.testing.server import ServerProcess

pytestmark = pytest.mark.engine


def test_serving(enhance_server: ServerProcess, tmp_path: Path) -> None:
    target = f"{enhance_server.base_url},{enhance_server.pid}"
    found = run_script("serving.py", "--quick", "--enhanced", target)
    cells = found["cells"]
    assert found["answers"]["all_equal"]
    for cell in ("hit-c1", "hit-stream-c16"):
        figures = cells[cell]["enhanced"]
        assert (set(figures["sources"]), figures["failed"], figures["generations"]) == ({"hit"}, 0, 0)
    misses = cells["miss-c16"]["enhanced"]
    assert set(misses["sources"]) == {"miss"}
    assert misses["generations"] == misses["requests"]
    assert cells["joined"]["enhanced"]["generations"] == 1
    assert cells["joined"]["enhanced"]["different_answers"] == 1
    assert cells["hit-c16"]["enhanced"]["cpu_ms"]["vllm server"] > 0


def test_trace(enhance_server: ServerProcess) -> None:
    # The same server stands for both: what matters here is that traces, arrivals and sums work.
    url = enhance_server.base_url
    found = run_script("trace.py", "--quick", "--plain", url, "--enhanced", url)
    by_name = {row["trace"]: row for row in found["rows"]}
    assert by_name["repeats 0%"]["hit_rate"] == 0
    assert by_name["repeats 50%"]["hit_rate"] == pytest.approx(by_name["repeats 50%"]["repetition"], abs=0.01)
    assert all(row["failed"] == 0 for row in found["rows"])
    assert {row["arrivals"] for row in found["arrivals"]} == {"poisson", "bursty", "steady"}


def test_soak(enhance_server: ServerProcess) -> None:
    target = f"{enhance_server.base_url},{enhance_server.pid}"
    found = run_script("soak.py", "--quick", "--enhanced", target)
    assert (found["num_wrong"], found["num_lost"], found["verdict"]) == (0, 0, [])
    assert found["answered"] > 50
    assert found["sources"]["hit"] > 0
    assert found["leaks"]["mib_per_minute"] is None or found["curve"]


def test_bench_serve(enhance_server: ServerProcess) -> None:
    # The same server stands for both: what matters here is that vLLM's load generator is started and read right.
    url = enhance_server.base_url
    found = run_script("bench_serve.py", "--quick", "--plain", url, "--enhanced", url)
    assert set(found["loads"]) == {"sixteen callers", "by the clock"}
    throughput = found["loads"]["sixteen callers"]["output_throughput"]
    assert throughput["plain"] > 0
    assert throughput["ratio"] == pytest.approx(throughput["enhanced"] / throughput["plain"], rel=1e-4)


def test_bench_serve_wants_two_servers_or_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_serve.py", "--plain", "http://127.0.0.1:1"])
    with pytest.raises(SystemExit):
        bench_serve.main()
    assert "give both --plain and --enhanced" in capsys.readouterr().err


def test_request_cost(tmp_path: Path) -> None:
    found = run_script("request_cost.py", "--quick", "--hooks", "cache")
    assert found["sources"]["engine|"] > 20
    assert found["sources"]["memory|"] >= 60
    assert [goal["kind"] for goal in found["goals"]] == ["at most"] * 2
    assert found["hit_ms"]["streamed, 1 token a chunk"]["outputs"] == 500
