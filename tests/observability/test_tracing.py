"""Spans of decisions, read back from OpenTelemetry's own SDK."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from vllm_enhance.engine.tracing import NAMES, NO_TRACER, RequestTracer, make_tracer

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def tracer() -> tuple[RequestTracer, Callable[[], tuple[ReadableSpan, ...]]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return RequestTracer(provider.get_tracer("test"), lambda: 1000.0), exporter.get_finished_spans


def test_a_decision_is_a_span_under_the_callers_trace(tracer) -> None:
    made, spans = tracer
    made.decided(PARENT, 0.25, {"request_id": "r1", "source": "similar", "similarity": 0.97, "reason": None})
    (span,) = spans()
    assert span.name == "vllm_enhance.decide"
    assert format(span.context.trace_id, "032x") == PARENT["traceparent"].split("-")[1]
    assert format(span.parent.span_id, "016x") == PARENT["traceparent"].split("-")[2]
    assert (span.start_time, span.end_time) == (999_750_000_000, 1_000_000_000_000)
    assert dict(span.attributes) == {
        "gen_ai.request.id": "r1",
        "vllm_enhance.source": "similar",
        "vllm_enhance.similarity": 0.97,
    }


def test_a_reused_answer_leaves_the_span_that_vllm_would_have_left(tracer) -> None:
    made, spans = tracer
    made.reused(None, 0.01, {"request_id": "r1", "prompt_tokens": 3, "output_tokens": 7, "source": "memory"})
    (span,) = spans()
    assert span.name == "llm_request"
    assert span.parent is None
    assert span.attributes["gen_ai.usage.completion_tokens"] == 7
    assert span.attributes["gen_ai.latency.e2e"] == pytest.approx(0.01)


def test_damaged_trace_headers_start_a_trace_of_their_own(tracer) -> None:
    made, spans = tracer
    made.decided({"traceparent": "nonsense"}, 0.0, {"source": "engine"})
    assert spans()[0].parent is None


def test_off_means_off() -> None:
    assert make_tracer(None, float) is NO_TRACER
    NO_TRACER.decided(PARENT, 1.0, {"source": "engine"})


def test_names_are_vllms_own() -> None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    source = (Path(spec.submodule_search_locations[0]) / "tracing" / "utils.py").read_text(encoding="utf-8")
    for name in NAMES.values():
        assert re.search(rf'"{re.escape(name)}"', source), name
