"""OpenTelemetry spans for decisions, where vLLM's own tracing is on (``--otlp-traces-endpoint``).

vLLM makes its span ``llm_request`` when the engine has finished a request (``vllm/v1/engine/output_processor.py``,
``do_tracing``), so a request that the engine never sees would leave no trace at all. Two spans close that gap, both
under the caller's trace context: ``vllm_enhance.decide`` for every request, from its arrival to the decision, and
``llm_request`` for answers that were reused. They carry no text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["RequestTracer", "make_tracer"]

Attributes = Mapping[str, Any]


class RequestTracer:
    """Writes spans.

    Args:
        tracer: an OpenTelemetry ``Tracer``.
        clock: Unix time, seconds.
    """

    def __init__(self, tracer: Any, clock: Callable[[], float]) -> None:
        self._tracer = tracer
        self._clock = clock

    def decided(self, headers: Mapping[str, str] | None, seconds: float, attributes: Attributes) -> None:
        """A request will be answered so; ``seconds`` since it arrived."""
        self._span("vllm_enhance.decide", headers, seconds, _named(attributes))

    def reused(self, headers: Mapping[str, str] | None, seconds: float, attributes: Attributes) -> None:
        """A request was answered without the engine; ``seconds`` since it arrived.

        Args:
            attributes: ``request_id``, ``prompt_tokens`` and ``output_tokens`` take the names that vLLM gives them.
        """
        self._span("llm_request", headers, seconds, _named({**attributes, "seconds": seconds}))

    def _span(self, name: str, headers: Mapping[str, str] | None, seconds: float, attributes: Attributes) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        end = int(self._clock() * 1e9)
        context = TraceContextTextMapPropagator().extract(headers) if headers else None
        span = self._tracer.start_span(
            name, context=context, kind=SpanKind.SERVER, attributes=attributes, start_time=end - int(seconds * 1e9)
        )
        span.end(end_time=end)


def make_tracer(endpoint: str | None, clock: Callable[[], float]) -> RequestTracer | None:
    """A tracer that writes where vLLM's own writes; ``None`` when tracing is off, or OpenTelemetry is not there.

    Args:
        endpoint: vLLM's ``otlp_traces_endpoint``.
    """
    if not endpoint:
        return None
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return RequestTracer(trace.get_tracer("vllm_enhance"), clock)


NAMES = {
    # vllm/tracing/utils.py, SpanAttributes
    "request_id": "gen_ai.request.id",
    "prompt_tokens": "gen_ai.usage.prompt_tokens",
    "output_tokens": "gen_ai.usage.completion_tokens",
    "seconds": "gen_ai.latency.e2e",
}


def _named(attributes: Attributes) -> dict[str, Any]:
    return {NAMES.get(name, f"vllm_enhance.{name}"): value for name, value in attributes.items() if value is not None}
