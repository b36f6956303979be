"""Reading a collector: an iterator of enhanced outputs that cleans up after itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from vllm.v1.engine.exceptions import EngineDeadError

from vllm_enhance.errors import AlreadyClosedError, EngineStoppedError, EnhanceError, GenerationError
from vllm_enhance.outputs import EnhancedOutput, output_metadata
from vllm_enhance.types import NLP_RESULT, Source

if TYPE_CHECKING:
    from vllm_enhance.engine.call import Call
    from vllm_enhance.engine.collector import EnhancedRequestOutputCollector

__all__ = ["ReadableCollector"]

READING_WAIT = 0.05
READING_POLL = 0.001
DEFAULT_SIMILAR = 5


class ReadableCollector:
    """The Python API's part of :class:`~vllm_enhance.engine.collector.EnhancedRequestOutputCollector`.

    Attributes:
        call: the request, or ``None`` when it went past the plugin.
        arrived: ``time.monotonic()`` of ``add_request``.
        abort_engine: ``AsyncLLM.abort`` of the client that made it.
    """

    call: Call | None = None
    arrived: float = 0.0
    user_id: str = ""
    abort_engine: Callable[..., Coroutine[Any, Any, None]] | None = None
    _reading = False
    _ended_reading = False

    def aiter(self) -> AsyncGenerator[EnhancedOutput, None]:
        """The answer step by step.

        Leaving the loop early, and cancelling the task that reads, aborts the request. A failure of the engine is the
        last output, with its ``error`` set.

        Raises:
            AlreadyClosedError: it has been read, or is being read; an answer is read once.
        """
        if self._reading or self._ended_reading:
            raise AlreadyClosedError("this answer is read once: keep the outputs, or send the request again")
        self._reading = True
        return _read(self)  # type: ignore[arg-type]

    def get_outputs(self) -> AsyncGenerator[EnhancedOutput, None]:
        """The same as :meth:`aiter`."""
        return self.aiter()

    async def cancel(self) -> None:
        """Stop the request; the engine's work too, unless others read it."""
        self._ended_reading = True
        if self.abort_engine is not None:
            await self.abort_engine([self.request_id], internal=True)  # type: ignore[attr-defined]
        self.close()  # type: ignore[attr-defined]


async def _read(collector: EnhancedRequestOutputCollector) -> AsyncGenerator[EnhancedOutput, None]:
    texts: dict[int, str] = {}
    finished = False
    try:
        while not finished:
            try:
                output = collector.get_nowait() or await collector.get()
            except Exception as error:
                finished = True
                yield _output(collector, texts, None, _typed(error))
                return
            finished = bool(output.finished)
            for choice in getattr(output, "outputs", None) or () if hasattr(output, "prompt_logprobs") else ():
                so_far = texts.get(choice.index, "") if collector.aggregate else ""
                texts[choice.index] = so_far + choice.text
            if finished:
                await _wait_for_reading(collector)
            yield _output(collector, texts, output, None)
    finally:
        if finished:
            collector._ended_reading = True
            collector.close()
        else:
            await collector.cancel()


def _output(
    collector: EnhancedRequestOutputCollector, texts: dict[int, str], output: Any, error: EnhanceError | None
) -> EnhancedOutput:
    call, seconds = collector.call, time.monotonic() - collector.arrived

    def metadata() -> dict[str, Any]:
        settings: Any = {} if call is None else call.runtime.settings
        return output_metadata(
            collector.decision,
            None if call is None else call.context.annotations,
            seconds=seconds,
            saved_seconds=_saved(collector),
            max_similar=settings.get("similar-results-limit", DEFAULT_SIMILAR),
        )

    every = tuple(texts[index] for index in sorted(texts))
    return EnhancedOutput(
        collector.user_id,
        texts.get(0, ""),
        error is not None or bool(output.finished),
        every,
        output,
        error,
        metadata,
    )


def _saved(collector: EnhancedRequestOutputCollector) -> float:
    """Engine seconds that this request did not spend."""
    decision = collector.decision
    if decision is None or decision.source is Source.ENGINE:
        return 0.0
    if collector.reader is not None and collector.reader.tape.engine_seconds is not None:
        return collector.reader.tape.engine_seconds
    generation = collector.generation
    return 0.0 if generation is None or generation.record is None else generation.record.engine_seconds


async def _wait_for_reading(collector: EnhancedRequestOutputCollector) -> None:
    """A stored answer is there before the question has been read: give the language hook a moment."""
    call = collector.call
    if call is None or not call.runtime.settings.get("nlp"):
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READING_WAIT):
            while NLP_RESULT not in call.context.annotations:  # noqa: ASYNC110
                await asyncio.sleep(READING_POLL)


def _typed(error: Exception) -> EnhanceError:
    if isinstance(error, EnhanceError):
        return error
    if isinstance(error, EngineDeadError):
        typed: EnhanceError = EngineStoppedError("the engine has died: stop this system and create a new one")
    else:
        typed = GenerationError(f"the engine could not finish this request: {type(error).__name__}: {error}")
    typed.__cause__ = error
    return typed
