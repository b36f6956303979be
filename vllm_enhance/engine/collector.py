"""The collector that vLLM's ``generate`` reads from, with a tape behind it.

A subclass of vLLM's ``RequestOutputCollector`` (``vllm/v1/engine/output_processor.py``). While the engine works it is
the original plus a tap; for a hit or a joined request it plays a tape instead. ``put`` runs in the one task that
serves all requests, where an exception would take the server down, so nothing of ours may leave it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from weakref import ReferenceType

from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.output_processor import RequestOutputCollector

from vllm_enhance.engine.inflight import Generation
from vllm_enhance.engine.reading import ReadableCollector
from vllm_enhance.engine.replay import Reader
from vllm_enhance.scope import Decision

__all__ = ["EnhancedRequestOutputCollector", "leading"]

FAULT = "fault"

leading: ContextVar[ReferenceType[Generation] | None] = ContextVar("vllm_enhance_leading", default=None)
"""The generation whose engine request is being added by this task; read when vLLM makes the collector.

A weak reference, because tasks that vLLM starts meanwhile (its output handler) inherit the variable for good.
"""


class EnhancedRequestOutputCollector(ReadableCollector, RequestOutputCollector):
    """Behaves as vLLM's own until it leads a generation or is given a tape to play.

    Attributes:
        generation: what it leads or has joined.
        final_only: whether the caller wants nothing before the end.
        joined: whether it reads another request's generation.
        reader: its place on a tape, when it plays one.
        decision: how the request was answered, once known.
        on_fault: told about exceptions of ours.
    """

    on_fault: Callable[[str, Exception], None] | None = None

    def __init__(self, output_kind: RequestOutputKind, request_id: str) -> None:
        super().__init__(output_kind, request_id)
        self.kind = output_kind
        self.final_only = output_kind == RequestOutputKind.FINAL_ONLY
        self.external_id = request_id
        self.reader: Reader | None = None
        self.decision: Decision | None = None
        self.make_reader: Callable[[], Reader] | None = None
        self.on_close: Callable[[EnhancedRequestOutputCollector], None] | None = None
        self.after_close: list[Callable[[EnhancedRequestOutputCollector], None]] = []
        self.user_id = request_id
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.joined = False
        self._aborted = False
        self._played = False
        reference = leading.get()
        generation = None if reference is None else reference()
        # Other tasks may have inherited the variable; a generation has one leader.
        self.generation = generation if generation is not None and not generation.led else None
        if self.generation is not None:
            self.generation.lead(self, request_id)

    # ------------------------------------------------------------------ the engine's side

    def put(self, output: RequestOutput | PoolingRequestOutput | Exception) -> None:
        generation = self.generation
        if generation is None or isinstance(output, PoolingRequestOutput):
            super().put(output)
            return
        unheard = generation.answer is not None or self._aborted
        try:
            if generation.tape.unusable != FAULT:  # one bad generation is one fault, however many tokens it has
                generation.feed(output)
        except Exception as error:
            self._fault("record", error)
            self._strand(generation, error)
        if unheard or (self.final_only and isinstance(output, RequestOutput) and not output.finished):
            return  # a joined caller reads along token by token; this one waits for the end
        super().put(output)

    def _strand(self, generation: Generation, error: Exception) -> None:
        """Recording broke: the leader is served by vLLM as ever, those who joined cannot be."""
        generation.tape.unusable = FAULT
        for reader in list(generation.readers):
            if reader is not self:
                reader.raise_to_caller(error)

    # ------------------------------------------------------------------ the caller's side

    async def get(self) -> RequestOutput | PoolingRequestOutput:
        # One coroutine and few calls, however a token comes: this runs for every token of every stream.
        while (output := None if self.output is None else super().get_nowait()) is None:
            if self.reader is not None and self._played:
                await asyncio.sleep(0)  # a long replay lets others run between chunks
            self.ready.clear()
            output = None if self.reader is None else self.reader.read()
            if output is not None:
                self._played = True
                break
            if self.output is None:
                await self.ready.wait()
        if output.finished:
            self._end()
        return output

    def get_nowait(self) -> RequestOutput | PoolingRequestOutput | None:
        # Only what is there already: a replay that gave all its chunks here would starve the event loop.
        output = None if self.output is None else super().get_nowait()
        if output is not None and output.finished:
            self._end()
        return output

    def close(self) -> None:
        super().close()
        self._end()

    def __del__(self) -> None:
        super().__del__()
        loop = self._loop
        if (self.on_close is not None or self.after_close) and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._end)  # dropped unread: keep the books on the loop

    def _end(self) -> None:
        """Closed, or its last output was taken: a caller who reads by hand need not close."""
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close(self)
        after_close, self.after_close = self.after_close, []
        for call in after_close:
            call(self)

    # ------------------------------------------------------------------ ours

    def play(self, reader: Reader) -> None:
        """Play a tape; the first output is made at once, so that a record that cannot be replayed shows here."""
        first = reader.read()
        self.reader = reader
        if first is not None:
            self._played = True
            self.output = first
            self.ready.set()

    def switch_to_replay(self) -> None:
        """The tape has become a stored record while the caller waits."""
        if self.reader is None and self.make_reader is not None:
            self.reader = self.make_reader()
        self.ready.set()

    def raise_to_caller(self, error: Exception) -> None:
        """End the caller's wait with an exception."""
        self.output = error
        self.ready.set()

    def abort_to_caller(self) -> None:
        """End the caller's wait as vLLM does for an aborted request.

        A leader goes on feeding the tape, for those who joined.
        """
        reader = self.reader or (self.make_reader() if self.make_reader is not None else None)
        if reader is None or reader.done:
            return
        self.reader, self._aborted = None, True
        super().put(reader.aborted())  # after what the caller has not read yet

    def _fault(self, where: str, error: Exception) -> None:
        if self.on_fault is not None:
            self.on_fault(where, error)
