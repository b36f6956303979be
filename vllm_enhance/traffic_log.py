"""The traffic log: what was asked, for `vllm-enhance tune`. Off by default, since it holds questions as text.

A hook of the core. One JSON object a line:

- ``"event": "request"``: a finished request. ``at`` (arrival, Unix time), ``request_id``, ``model``, ``tenant``,
  ``key``, ``text`` (the last user text; ``null`` when nothing may vary, or when it is very long), ``partition`` (digest
  of all the rest), ``source`` (where the answer came from), ``reason``, ``seconds``, ``prompt_tokens``,
  ``output_tokens``, and, when similarity has decided, ``similar``: ``action``, ``reason``, ``question`` (the stored
  one), ``similarity``.
- ``"event": "verdict"``: the judge compared a generated answer with the one that similarity would have reused. ``at``,
  ``request_id``, ``partition``, ``asked``, ``stored``, ``similarity``, ``action``, ``same``.
- ``"event": "feedback"``: somebody called an answer ``wrong`` or ``right``. ``at``, ``key``, ``verdict``.

Answers are not in it, nor requests whose client said ``Cache-Control: no-store``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_enhance.hookspecs import hookimpl
from vllm_enhance.metrics import Metric
from vllm_enhance.segments import MakeLine, SegmentWriter
from vllm_enhance.settings import Setting
from vllm_enhance.types import (
    SIMILAR_DECISION,
    SIMILAR_VERDICT,
    HealthReport,
    Outcome,
    RequestContext,
    SimilarDecision,
    Standby,
)

if TYPE_CHECKING:
    from vllm_enhance.context import HookContext
    from vllm_enhance.metrics import Metrics
    from vllm_enhance.records import GenerationRecord

__all__ = ["PREFIX", "TrafficLogHook"]

logger = logging.getLogger("vllm_enhance.traffic_log")

PREFIX = "traffic"
SECTION = "Insight"
MAX_TEXT = 16_384
"""Characters. A longer question is logged without its text: a part of it would be another question."""

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="traffic-log-dir",
        kind="text",
        default="",
        section=SECTION,
        help="Directory for a log of questions as text, with what was decided, for vllm-enhance tune. Unset writes "
        "none.",
    ),
    Setting(
        name="traffic-log-max-bytes",
        kind="size",
        default="256MiB",
        minimum=65536,
        section=SECTION,
        help="Size of the log for each API server process; the oldest lines go first.",
    ),
)

METRICS = (
    Metric("vllm_enhance_traffic_log_dropped", "counter", "Lines that found the queue of the traffic log full."),
)


class TrafficLogHook:
    """Writes a line for each finished request, off the event loop; a log that fails costs nobody anything."""

    def __init__(self) -> None:
        self._writer: SegmentWriter | None = None
        self._metrics: Metrics | None = None
        self._context: HookContext | None = None

    @hookimpl
    def declare_settings(self) -> Sequence[Setting]:
        return SETTINGS

    @hookimpl
    async def startup(self, context: HookContext) -> Standby | None:
        folder = context.settings["traffic-log-dir"]
        if not folder:
            return Standby()
        index = context.api_process[0]
        writer = SegmentWriter(
            Path(folder), f"{PREFIX}-p{index}", context.settings["traffic-log-max-bytes"], clock=context.clock
        )
        for metric in METRICS:
            context.metrics.declare(metric)
        await asyncio.to_thread(writer.start)
        self._context, self._metrics, self._writer = context, context.metrics, writer
        logger.info("the traffic log is on: questions are kept as text in %s", folder)
        return None

    @hookimpl(inline=True)
    def pre_request(self, request: RequestContext) -> None:
        """Ask for the judge's verdict, should there be one."""
        if _may_log(request):
            request.annotations.set(SIMILAR_VERDICT, self._judged)

    def _judged(self, request: RequestContext, decision: SimilarDecision, same: bool) -> None:
        self._write(lambda: self._verdict(request, decision, same))

    @hookimpl(inline=True)
    def post_output(self, request: RequestContext, record: GenerationRecord, outcome: Outcome) -> None:
        """Queue a line; finding the question reads the rendered prompt, so that is done on the writer's thread."""
        if _may_log(request):
            at = self._now() - outcome.seconds
            self._write(lambda: _request(request, record, outcome, at))

    @hookimpl(inline=True)
    def feedback(self, key: bytes, verdict: str) -> int:
        """What people say of answers is worth more than a judge's word."""
        at = self._now()
        self._write(lambda: {"event": "feedback", "at": round(at, 3), "key": key.hex(), "verdict": verdict})
        return 0

    @hookimpl
    async def shutdown(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.close)

    @hookimpl(inline=True)
    def health(self) -> HealthReport:
        writer = self._writer
        if writer is None:
            return HealthReport("traffic-log", "healthy", "off")
        if writer.last_failure:
            return HealthReport("traffic-log", "degraded", f"lines are lost: {writer.last_failure}")
        return HealthReport("traffic-log", "healthy", f"{writer.written} lines in {writer.folder}")

    @hookimpl(inline=True)
    def stats(self) -> dict[str, Any]:
        writer = self._writer
        if writer is None:
            return {"enabled": False}
        return {"enabled": True, "written": writer.written, "dropped": writer.dropped, "failed": writer.failed}

    def _write(self, line: MakeLine) -> None:
        writer = self._writer
        if writer is not None and not writer.write(line) and self._metrics is not None:
            self._metrics.count("vllm_enhance_traffic_log_dropped")

    def _now(self) -> float:
        return 0.0 if self._context is None else self._context.clock()

    def _verdict(self, request: RequestContext, decision: SimilarDecision, same: bool) -> dict[str, Any]:
        text, partition = _question(request)
        return {
            "event": "verdict",
            "at": round(self._now(), 3),
            "request_id": request.request_id,
            "partition": partition,
            "asked": text,
            "stored": _limited(decision.question),
            "similarity": decision.similarity,
            "action": decision.action,
            "same": same,
        }


def _request(request: RequestContext, record: GenerationRecord, outcome: Outcome, at: float) -> dict[str, Any]:
    text, partition = _question(request)
    line: dict[str, Any] = {
        "event": "request",
        "at": round(at, 3),
        "request_id": request.request_id,
        "model": request.model,
        "tenant": request.tenant.hex(),
        "key": None if request.key is None else request.key.hex(),
        "partition": partition,
        "text": text,
        "source": outcome.source.value,
        "reason": outcome.reason,
        "seconds": round(outcome.seconds, 4),
        "prompt_tokens": request.num_asked_tokens,
        "output_tokens": record.num_tokens,
    }
    decision = request.annotations.get(SIMILAR_DECISION)
    if decision is not None:
        line["similar"] = {
            "action": decision.action,
            "reason": decision.reason,
            "question": _limited(decision.question),
            "similarity": decision.similarity,
        }
    return line


def _question(request: RequestContext) -> tuple[str | None, str | None]:
    question = request.question
    return (None, None) if question is None else (_limited(question.text), question.partition.hex())


def _limited(text: str) -> str | None:
    return text if len(text) <= MAX_TEXT else None


def _may_log(request: RequestContext) -> bool:
    """Cacheable, and the client did not forbid to keep what it asks."""
    return request.key is not None and not request.directives.no_store
