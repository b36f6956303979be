"""Dashboard and alerts ask only for what is really exported: names as Prometheus shows them, with their labels."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from vllm_enhance.metrics import CORE_METRICS, Metrics
from vllm_enhance.types import Source

FOLDER = Path(__file__).parents[2] / "docs" / "observability"
HOOK_METRICS = (
    "vllm_enhance.traffic_log",
    "vllm_enhance_cache.meters",
    "vllm_enhance_nlp.meters",
    "vllm_enhance_similarity.meters",
)
FROM_PROMETHEUS = {"job", "instance", "le"}
SOURCES = {source.value for source in Source} | {"rejected"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return found


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Labels by sample name, read back from the exposition text of one of each metric."""
    registry = prometheus_client.CollectorRegistry()
    declared = [*CORE_METRICS, *(each for name in HOOK_METRICS for each in importlib.import_module(name).METRICS)]
    metrics = Metrics(declared, registry=registry)
    touch = {"counter": metrics.count, "gauge": metrics.gauge, "histogram": metrics.observe}
    for metric in declared:
        touch[metric.kind](metric.name, 1.0, *("x" for _ in metric.labels))
    text = prometheus_client.generate_latest(registry).decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize(("where", "expr"), list(expressions()))
def test_every_name_and_label_is_exported(where: str, expr: str, exported: dict[str, set[str]]) -> None:
    names = re.findall(r"\bvllm_enhance_[a-z0-9_]+", expr)
    assert names or "vllm:" in expr, where
    for name in names:
        assert name in exported, (where, name)
    labels = {label for name in names for label in exported[name]} | FROM_PROMETHEUS
    if "vllm:" in expr:
        labels |= {"model_name", "engine"}
    used = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expr))
    used |= {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expr) for label in group.split(",")}
    assert used <= labels, (where, used - labels)
    for values in re.findall(r'source(?:=~|!=|=)"([^"]*)"', expr):
        assert set(values.split("|")) <= SOURCES


def test_names_of_vllm_stand_in_its_source() -> None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    source = (Path(spec.submodule_search_locations[0]) / "v1" / "metrics" / "loggers.py").read_text(encoding="utf-8")
    names = {name for _, expr in expressions() for name in re.findall(r"vllm:[a-z0-9_]+", expr)}
    assert names
    for name in names:
        assert f'"{re.sub("_(bucket|sum|count|total)$", "", name)}"' in source


def test_legends_use_labels_that_the_query_keeps() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            kept = {
                label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_panels_do_not_overlap_and_ids_differ() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_alerts_say_what_they_mean() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_every_core_metric_is_on_the_dashboard() -> None:
    whole = " ".join(expr for _, expr in expressions())
    assert [metric.name for metric in CORE_METRICS if metric.name not in whole] == []
