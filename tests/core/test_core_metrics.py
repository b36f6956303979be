"""Metrics: declared once, in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import prometheus_client
import pytest

from vllm_enhance.metrics import CORE_METRICS, Metric, Metrics

HITS = Metric("vllm_enhance_test_hits", "counter", "Hits.", ("source",))
LEVEL = Metric("vllm_enhance_test_level", "gauge", "Level.")
TIME = Metric("vllm_enhance_test_seconds", "histogram", "Time.")


@pytest.fixture
def registry() -> prometheus_client.CollectorRegistry:
    return prometheus_client.CollectorRegistry()


@pytest.fixture
def metrics(registry: prometheus_client.CollectorRegistry) -> Metrics:
    return Metrics([HITS, LEVEL, TIME], registry)


def test_values_reach_prometheus_and_the_plain_copy(
    metrics: Metrics, registry: prometheus_client.CollectorRegistry
) -> None:
    metrics.count("vllm_enhance_test_hits", 2, "memory")
    metrics.count("vllm_enhance_test_hits", 1, "store")
    metrics.gauge("vllm_enhance_test_level", 7)
    metrics.observe("vllm_enhance_test_seconds", 0.25)
    assert registry.get_sample_value("vllm_enhance_test_hits_total", {"source": "memory"}) == 2
    assert registry.get_sample_value("vllm_enhance_test_level") == 7
    assert registry.get_sample_value("vllm_enhance_test_seconds_sum") == 0.25
    assert metrics.value("vllm_enhance_test_hits", "memory") == 2
    assert metrics.value("vllm_enhance_test_seconds_count") == 1
    assert metrics.snapshot() == {
        "vllm_enhance_test_hits": {"memory": 2.0, "store": 1.0},
        "vllm_enhance_test_level": 7,
        "vllm_enhance_test_seconds_count": 1.0,
        "vllm_enhance_test_seconds_sum": 0.25,
    }


def test_nothing_is_created_before_it_is_used(metrics: Metrics, registry: prometheus_client.CollectorRegistry) -> None:
    assert list(registry.collect()) == []
    assert metrics.declared == (HITS, LEVEL, TIME)


def test_a_second_declaration_must_be_the_same(metrics: Metrics) -> None:
    metrics.declare(HITS)
    with pytest.raises(ValueError, match="declared twice"):
        metrics.declare(Metric(HITS.name, "counter", "Other."))
    with pytest.raises(ValueError, match="names start with vllm_enhance_"):
        metrics.declare(Metric("hits", "counter", "Hits."))


def test_an_undeclared_metric_is_a_mistake_of_the_caller(metrics: Metrics) -> None:
    with pytest.raises(KeyError):
        metrics.count("vllm_enhance_unheard_of")


def test_the_core_table_is_sound() -> None:
    names = [metric.name for metric in CORE_METRICS]
    assert len(set(names)) == len(names)
    for metric in CORE_METRICS:
        assert metric.help.endswith(".")
        assert not metric.name.endswith("_total")
        assert not {"request_id", "tenant", "key", "prompt", "user"} & set(metric.labels)


def test_several_processes_add_up(tmp_path: Path) -> None:
    """Prometheus' multiprocess mode: counters and histograms sum, and gauges carry no ``pid``."""
    work = """
import sys
from vllm_enhance.metrics import Metric, Metrics
metrics = Metrics([
    Metric("vllm_enhance_test_hits", "counter", "Hits.", ("source",)),
    Metric("vllm_enhance_test_level", "gauge", "Level."),
    Metric("vllm_enhance_test_low", "gauge", "Lowest.", (), (), "livemin"),
    Metric("vllm_enhance_test_seconds", "histogram", "Time."),
])
number = int(sys.argv[1])
metrics.count("vllm_enhance_test_hits", number, "memory")
metrics.gauge("vllm_enhance_test_level", number)
metrics.gauge("vllm_enhance_test_low", number)
metrics.observe("vllm_enhance_test_seconds", number)
"""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for number in ("1", "2"):
        subprocess.run([sys.executable, "-c", work, number], env=env, check=True)
    read = """
import os
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""
    said = subprocess.run([sys.executable, "-c", read], env=env, check=True, capture_output=True, text=True).stdout
    assert 'vllm_enhance_test_hits_total{source="memory"} 3.0' in said
    assert "vllm_enhance_test_level 3.0" in said
    assert "vllm_enhance_test_low 1.0" in said
    assert "vllm_enhance_test_seconds_sum 3.0" in said
    assert "pid=" not in said


def test_importing_writes_no_file_into_the_multiprocess_directory(tmp_path: Path) -> None:
    code = "import vllm_enhance.metrics as m; m.Metrics(); import vllm_enhance.plugins as p; p.load_plugins()"
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert list(tmp_path.iterdir()) == []


def test_held_values_come_with_the_next_scrape(metrics: Metrics, registry: prometheus_client.CollectorRegistry) -> None:
    metrics.gauge("vllm_enhance_test_level", 1)
    metrics.hold()
    metrics.count("vllm_enhance_test_hits", 2, "memory")
    metrics.gauge("vllm_enhance_test_level", 7)
    metrics.watch("vllm_enhance_test_level", lambda: 8)
    assert metrics.value("vllm_enhance_test_hits", "memory") == 2
    assert metrics.value("vllm_enhance_test_level") == 8
    assert registry.get_sample_value("vllm_enhance_test_hits_total", {"source": "memory"}) == 2
    assert registry.get_sample_value("vllm_enhance_test_level") == 8
    metrics.count("vllm_enhance_test_hits", 1, "memory")
    metrics.release()
    metrics.count("vllm_enhance_test_hits", 1, "memory")
    assert registry.get_sample_value("vllm_enhance_test_hits_total", {"source": "memory"}) == 4


def test_held_mistakes_are_heard_of_at_once(metrics: Metrics) -> None:
    metrics.hold()
    for write in (metrics.count, metrics.observe, metrics.gauge):
        with pytest.raises(KeyError):
            write("vllm_enhance_unheard_of", 1.0)
    with pytest.raises(ValueError, match="label"):
        metrics.count("vllm_enhance_test_hits", 1)


def test_observations_are_added_as_prometheus_adds_them(
    metrics: Metrics, registry: prometheus_client.CollectorRegistry
) -> None:
    """``PrometheusSide`` writes into the buckets of a histogram; its own ``observe`` must come to the same."""
    theirs = prometheus_client.Histogram("theirs", "Time.", registry=registry, buckets=TIME.buckets)
    metrics.hold()
    values = [0.0, TIME.buckets[0], TIME.buckets[3], 0.003, 0.003, 4.9, TIME.buckets[-1], 1e9]
    for value in values:
        theirs.observe(value)
        metrics.observe(TIME.name, value)
    for bound in (*map(str, TIME.buckets), "+Inf"):
        labels = {"le": bound if bound == "+Inf" else prometheus_client.utils.floatToGoString(float(bound))}
        ours = registry.get_sample_value(f"{TIME.name}_bucket", labels)
        assert ours is not None
        assert ours == registry.get_sample_value("theirs_bucket", labels)
    for what in ("sum", "count"):
        assert registry.get_sample_value(f"{TIME.name}_{what}") == registry.get_sample_value(f"theirs_{what}")


def test_nothing_is_lost_between_threads(metrics: Metrics, registry: prometheus_client.CollectorRegistry) -> None:
    metrics.hold()
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            metrics.publish()

    def write() -> None:
        for _ in range(5000):
            metrics.count("vllm_enhance_test_hits", 1, "memory")
            metrics.observe("vllm_enhance_test_seconds", 0.5)

    scraper, writers = threading.Thread(target=scrape), [threading.Thread(target=write) for _ in range(4)]
    for thread in (scraper, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    scraper.join()
    assert registry.get_sample_value("vllm_enhance_test_hits_total", {"source": "memory"}) == 20000
    assert registry.get_sample_value("vllm_enhance_test_seconds_count") == 20000
    assert registry.get_sample_value("vllm_enhance_test_seconds_sum") == 10000
