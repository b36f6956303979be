"""Joined generations: identical requests in flight share one.

A :class:`Generation` is one request that the engine works on, or that a lookup may still answer, with everybody who
reads it. It lives in the table from before the engine knows it until its record has been stored, so that there is no
moment at which a twin could start a second one.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from vllm_enhance.engine.tape import Tape, answers
from vllm_enhance.records import GenerationRecord
from vllm_enhance.types import RequestContext, Respond

if TYPE_CHECKING:
    from vllm_enhance.engine.collector import EnhancedRequestOutputCollector

__all__ = ["Generation", "InflightTable"]


class Generation:
    """One generation and its readers.

    Attributes:
        context: the leader's request.
        kind: how the engine reports it, which is how the leader wants it.
        tape: what it has produced.
        readers: collectors of the leader and of those who joined; the engine request lives while there is one.
        engine_id: vLLM's internal id, once the engine has it.
        answer: set when a lookup answered before the first token.
        found: set when a lookup answered before the engine was asked.
    """

    def __init__(self, context: RequestContext, kind: RequestOutputKind, n: int) -> None:
        self.context = context
        self.kind = kind
        self.tape = Tape(n)
        self.readers: set[EnhancedRequestOutputCollector] = set()
        self._joined = False
        self._leader: weakref.ref[EnhancedRequestOutputCollector] | None = None
        self.engine_id: str | None = None
        self.answer: Respond | None = None
        self.found: Respond | None = None
        self.failure: Exception | None = None
        self.record: GenerationRecord | None = None
        self.started_at = time.monotonic()
        self.first_token_at: float | None = None
        self.on_first_token: Callable[[Generation], None] | None = None
        self.on_finished: Callable[[Generation], None] | None = None
        self._taken: bool | None = None
        self._admitted: asyncio.Future[bool] | None = None

    # ------------------------------------------------------------------ the leader

    @property
    def led(self) -> bool:
        """Whether it has, or had, a leader."""
        return self._leader is not None

    @property
    def leader(self) -> EnhancedRequestOutputCollector | None:
        """Whose request the engine works on, while anybody holds that collector."""
        return None if self._leader is None else self._leader()

    def lead(self, collector: EnhancedRequestOutputCollector, engine_id: str) -> None:
        """``collector`` reads what the engine makes. Once: a generation has one leader."""
        self._leader, self.engine_id = weakref.ref(collector), engine_id
        self.readers.add(collector)

    def join(self, collector: EnhancedRequestOutputCollector) -> None:
        """``collector`` reads it too."""
        self._joined = True
        self.readers.add(collector)

    # ------------------------------------------------------------------ admission

    async def admitted(self) -> bool:
        """Wait until the engine has taken the request, or a lookup answered it. ``False``: it was refused."""
        if self._taken is not None:
            return self._taken
        if self._admitted is None:
            self._admitted = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._admitted)

    def settle(self, admitted: bool) -> None:
        """Tell those who wait in :meth:`admitted`."""
        if self._taken is None:
            self._taken = admitted
        if self._admitted is not None and not self._admitted.done():
            self._admitted.set_result(self._taken)

    # ------------------------------------------------------------------ outputs

    def feed(self, output: RequestOutput | Exception) -> None:
        """Take one output of the engine, or the exception that ended it."""
        if self.answer is not None:
            return  # the rest of an engine request that a lookup has overtaken
        if isinstance(output, Exception):
            self.fail(output)
            return
        self.tape.ingest(output, self.kind)
        if self.first_token_at is None and self.tape.started:
            self.first_token_at = time.monotonic()
            told, self.on_first_token = self.on_first_token, None
            if told is not None:
                told(self)
        if self._joined:  # a leader alone is woken by what vLLM puts into its collector
            self._wake()
        if self.tape.finished and self.on_finished is not None:
            self.on_finished(self)

    def resolve(self, answer: Respond, record: GenerationRecord) -> bool:
        """A lookup answered: play its record to everybody. ``False`` when the engine was faster."""
        fits = answers(record, self.context.params)
        if not fits or self.tape.started or self.failure is not None or not self.readers:
            return False
        self.tape.load(record)
        self.answer, self.on_first_token = answer, None
        for reader in self.readers:
            reader.switch_to_replay()
        return True

    def fail(self, error: Exception) -> None:
        """The engine failed: everybody who joined hears it once; the leader hears it from vLLM itself."""
        self.failure, self.on_first_token = error, None
        for reader in list(self.readers):
            if reader is not self.leader:
                reader.raise_to_caller(error)
        if self.on_finished is not None:
            self.on_finished(self)

    def _wake(self) -> None:
        finished = self.tape.finished
        for reader in self.readers:
            if finished or not reader.final_only:
                reader.ready.set()


class InflightTable:
    """Generations that others may join, and who reads which."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Generation] = {}
        # Weak: a caller who drops its collector unread must not be remembered for ever.
        self._readers: dict[str, weakref.ref[EnhancedRequestOutputCollector]] = {}
        self._by_external: dict[str, set[str]] = {}
        self.num_joined = 0

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def num_readers(self) -> int:
        """Callers that read an answer now, from the engine or from a tape."""
        return len(self._readers)

    def readers(self) -> list[EnhancedRequestOutputCollector]:
        """Those who read an answer now."""
        return [reader for name in list(self._readers) if (reader := self._reader(name)) is not None]

    def _reader(self, name: str) -> EnhancedRequestOutputCollector | None:
        reference = self._readers.get(name)
        return None if reference is None else reference()

    def get(self, key: bytes) -> Generation | None:
        """The running generation of this key."""
        return self._by_key.get(key)

    def open(self, key: bytes, generation: Generation) -> None:
        """Let others join from now on."""
        self._by_key.setdefault(key, generation)

    def close(self, generation: Generation) -> None:
        """Nobody joins any more; those who read go on reading."""
        key = generation.context.key
        if key is not None and self._by_key.get(key) is generation:
            del self._by_key[key]

    def close_all(self) -> None:
        """Nobody joins what runs now."""
        self._by_key.clear()

    def enter(self, reader: EnhancedRequestOutputCollector, external_id: str) -> None:
        """Remember a reader under its internal and external id."""
        reader.external_id = external_id
        self._readers[reader.request_id] = weakref.ref(reader)
        self.num_joined += reader.joined
        self._by_external.setdefault(external_id, set()).add(reader.request_id)

    def leave(self, reader: EnhancedRequestOutputCollector) -> str | None:
        """A reader goes.

        Returns:
            the engine's id of the generation, when it was the last reader and the engine is still at work.
        """
        if self._readers.pop(reader.request_id, None) is None:
            return None
        self.num_joined -= reader.joined
        names = self._by_external.get(reader.external_id, set())
        names.discard(reader.request_id)
        if not names:
            self._by_external.pop(reader.external_id, None)
        generation = reader.generation
        if generation is None:
            return None
        generation.readers.discard(reader)
        if generation.readers or generation.tape.finished or generation.failure is not None:
            return None
        self.close(generation)
        return generation.engine_id

    def abort(self, ids: Iterable[str], internal: bool) -> tuple[list[str], list[str]]:
        """Work out what an abort of ``ids`` means.

        Returns:
            engine ids to abort for real, and the ids that are not ours and go to vLLM as they are.
        """
        real: list[str] = []
        foreign: list[str] = []
        for name in ids:
            names = [name] if internal else list(self._by_external.get(name, ()))
            readers = [reader for each in names if (reader := self._reader(each)) is not None]
            if not readers:
                foreign.append(name)
            for reader in readers:
                engine_id = self.leave(reader)
                if engine_id is not None:
                    real.append(engine_id)
                if not internal and (engine_id is None or reader.joined):  # else vLLM tells its caller itself
                    reader.abort_to_caller()
        return real, foreign
