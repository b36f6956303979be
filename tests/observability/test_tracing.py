"""Spans of decisions, read back from OpenTelemetry's own SDK."""

from __future__ import annotations

import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from vllm_enhance.engine.tracing import NAMES, RequestTracer, make_tracer

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
    assert make_tracer(None, float) is None


def test_names_are_vllms_own() -> None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    source = (Path(spec.submodule_search_locations[0]) / "tracing" / "utils.py").read_text(encoding="utf-8")
    for name in NAMES.values():
        assert re.search(rf'"{re.escape(name)}"', source), name


class Collector(http.server.BaseHTTPRequestHandler):
    """A collector that remembers what it is sent."""

    received: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


AS_IN_A_SERVER = """
import sys
from vllm.tracing import init_tracer
from vllm_enhance.engine.tracing import make_tracer
tracer = make_tracer(sys.argv[1], __import__("time").time)
init_tracer("vllm.llm_engine", sys.argv[1])
tracer.decided({"traceparent": sys.argv[2]}, 0.01, {"request_id": "r1", "source": "memory"})
"""


def test_spans_go_where_vllms_own_tracing_sends_its_spans() -> None:
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
            done = subprocess.run(
                [sys.executable, "-c", AS_IN_A_SERVER, endpoint, PARENT["traceparent"]],
                env={**os.environ, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "NO_PROXY": "127.0.0.1"},
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        finally:
            collector.shutdown()
            thread.join()
    assert done.returncode == 0, done.stderr[-2000:]
    spans = [
        span
        for body in Collector.received
        for each in service.ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in each.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == ["vllm_enhance.decide"]
    assert spans[0].trace_id.hex() == PARENT["traceparent"].split("-")[1]
