"""The embedder: one worker thread in front of an encoder, with micro-batching and a memo.

Callers await `embed` on an event loop, or hand on what `submit` gives; they themselves only hash the text and look into
the memo. Everything else, tokenizing included, runs on the worker. What waits is bounded: a full queue refuses, and
whoever gave up before his turn is not encoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import queue
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from vllm_enhance_similarity.errors import EmbedderClosed, EmbedderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from vllm_enhance_similarity.encoders import EmbedderIdentity, Encoder

__all__ = ["BatchingEmbedder", "Embedder", "EmbedderHealth", "Embedding", "Refusal"]

_BATCH_SECONDS = 0.25  # what a batch may take; a text that comes meanwhile waits for it
_LEAST_BATCH = 4  # one slow call, the first above all, makes no trickle

Refusal = Literal["empty_text", "text_too_long", "embedder_busy", "embedder_deadline", "embedder_unavailable"]


class Embedding(msgspec.Struct, frozen=True):
    """A unit vector of shape (dimension,), or the reason why there is none."""

    vector: NDArray[np.float32] | None
    refusal: Refusal | None = None


class EmbedderHealth(msgspec.Struct, frozen=True):
    """State of the embedder; `detail` is a sentence for the operator when it is not ready."""

    state: Literal["loading", "ready", "failed", "closed"]
    detail: str
    queued: int
    embedded: int
    batches: int
    memo_hits: int
    refused: dict[str, int]


class Embedder(Protocol):
    """Turns texts into unit vectors without blocking the caller's event loop."""

    @property
    def identity(self) -> EmbedderIdentity | None:
        """None until the model is loaded."""

    async def embed(self, text: str, *, timeout: float | None = None) -> Embedding:
        """Embed one text; `timeout` in seconds. Never raises for a text or a fault of the model."""

    def health(self) -> EmbedderHealth:
        """A snapshot, cheap."""

    def close(self) -> None:
        """Stop the worker; what still waits is refused."""


class _Job(msgspec.Struct):
    text: str
    memo_key: bytes
    deadline: float | None
    future: Future[Embedding]


class BatchingEmbedder:
    """Micro-batching embedder over a blocking encoder.

    The worker takes what is queued, at most `max_batch` texts, encodes it in one call and goes back: under load the
    batches grow by themselves, and a lone request waits for nobody. It knows its pace: a batch is no larger than can be
    encoded in time, and who could not be served in time any more is left out. So with more texts than it can encode it
    still serves as many as it can, where first come, first served would serve all of them too late.

    Args:
        encoder: loaded and used on the worker thread only.
        max_batch: texts in one encoder call.
        max_queue: texts that may wait; beyond that `embedder_busy`.
        memo_entries: embeddings kept, least recently used out first (4 * dimension bytes each).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        max_batch: int = 32,
        max_queue: int = 256,
        memo_entries: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encoder = encoder
        self._max_batch = max_batch
        self._queue: queue.Queue[_Job | None] = queue.Queue(maxsize=max_queue)
        self._memo: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._memo_entries = memo_entries
        self._clock = clock
        self._lock = threading.Lock()
        self._identity: EmbedderIdentity | None = None
        self._state: Literal["loading", "ready", "failed", "closed"] = "loading"
        self._detail = "the embedding model is loading"
        self._embedded = self._batches = self._memo_hits = 0
        self._refused: dict[str, int] = {}
        self._pace = 0.0  # seconds a text, a moving average
        self._thread: threading.Thread | None = None
        self._loaded = threading.Event()

    def start(self) -> None:
        """Start the worker, which loads the model. Returns at once; idempotent."""
        if self._thread is None and self._state != "closed":
            self._thread = threading.Thread(target=self._work, name="enhance-embedder", daemon=True)
            self._thread.start()

    def wait_ready(self, timeout: float | None = None) -> EmbedderIdentity:
        """Block until the model is loaded. Raises EmbedderError if it is not to be had. Not for an event loop."""
        self._loaded.wait(timeout)
        if self._identity is None or self._state != "ready":
            raise EmbedderError(self._detail)
        return self._identity

    @property
    def identity(self) -> EmbedderIdentity | None:
        return self._identity

    async def embed(self, text: str, *, timeout: float | None = None) -> Embedding:
        """Embed one text. Refuses with a reason; raises EmbedderClosed only after `close`."""
        future = self.submit(text, timeout=timeout)
        if future.done():
            return future.result()
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            return self.refuse("embedder_deadline")

    def submit(self, text: str, *, timeout: float | None = None) -> Future[Embedding]:
        """As `embed`, for those who go on in another thread; it ends on the worker's thread, or has ended already.

        A text whose result is cancelled, or whose turn comes after `timeout` seconds, is not encoded. To give up after
        that time is up to the caller: nothing ends the result then.
        """
        future: Future[Embedding] = Future()
        embedding = self._at_once(text, future, timeout)
        if embedding is not None:
            future.set_result(embedding)
        return future

    def _at_once(self, text: str, future: Future[Embedding], timeout: float | None) -> Embedding | None:
        """Answer from the memo, or refuse; None if it has been queued."""
        if not text.strip():
            return self.refuse("empty_text")
        memo_key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        kept = self._recall(memo_key)
        if kept is not None:
            return Embedding(kept)
        if self._state == "closed":
            raise EmbedderClosed
        if self._state == "failed" or self._thread is None:
            return self.refuse("embedder_unavailable")
        deadline = None if timeout is None else self._clock() + timeout
        try:
            self._queue.put_nowait(_Job(text, memo_key, deadline, future))
        except queue.Full:
            return self.refuse("embedder_busy")
        if self._ended():  # just now, and whoever emptied the queue may have missed this one
            self._refuse_all()
        return None

    async def embed_many(self, texts: Sequence[str], *, timeout: float | None = None) -> list[Embedding]:
        """Embed several texts; the worker batches them."""
        return list(await asyncio.gather(*(self.embed(text, timeout=timeout) for text in texts)))

    def health(self) -> EmbedderHealth:
        """A snapshot, cheap."""
        with self._lock:
            return EmbedderHealth(
                self._state,
                self._detail,
                self._queue.qsize(),
                self._embedded,
                self._batches,
                self._memo_hits,
                dict(self._refused),
            )

    def close(self) -> None:
        """Stop the worker after its current batch; refuse what waits. Idempotent."""
        if self._state == "closed":
            return
        self._state, self._detail = "closed", "the embedder is closed"
        self._loaded.set()
        self._refuse_all()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)  # wakes a worker that waits; one that does not looks at the state
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def refuse(self, reason: Refusal) -> Embedding:
        """No embedding, for a reason that is counted."""
        with self._lock:
            self._refused[reason] = self._refused.get(reason, 0) + 1
        return Embedding(None, reason)

    def _recall(self, memo_key: bytes) -> NDArray[np.float32] | None:
        with self._lock:
            kept = self._memo.get(memo_key)
            if kept is not None:
                self._memo.move_to_end(memo_key)
                self._memo_hits += 1
            return kept

    # Worker thread

    def _work(self) -> None:
        try:
            identity = self._encoder.load()
        except EmbedderError as fault:
            self._fail(str(fault))
            return
        except Exception as fault:  # an encoder of others may raise anything; the server must not notice
            self._fail(f"similarity is off: the embedding model failed to load ({type(fault).__name__})")
            return
        if self._state == "closed":
            return
        self._identity, self._state, self._detail = identity, "ready", ""
        self._loaded.set()
        while self._state == "ready":
            batch = self._next_batch()
            if batch:
                self._encode(batch)

    def _fail(self, detail: str) -> None:
        if self._state != "closed":
            self._state, self._detail = "failed", detail
        self._loaded.set()
        self._refuse_all()

    def _next_batch(self) -> list[_Job]:
        waiting = [self._queue.get()]
        within = int(_BATCH_SECONDS / self._pace) if self._pace else self._max_batch
        most = min(self._max_batch, max(_LEAST_BATCH, within), 1 + self._queue.qsize())
        # Whoever gave up or will be late is left out: encoding for nobody would keep everybody late.
        done_at = self._clock() + self._pace * most
        jobs: list[_Job] = []
        while waiting:
            job = waiting.pop()
            if job is not None and not job.future.done() and (job.deadline is None or job.deadline > done_at):
                jobs.append(job)
            if len(jobs) < most:
                with contextlib.suppress(queue.Empty):
                    waiting.append(self._queue.get_nowait())
        if not jobs:
            self._pace /= 2.0  # what was slow once may be quick again, and only a try tells
        return jobs

    def _encode(self, jobs: list[_Job]) -> None:
        try:
            fitting = [job for job in jobs if self._encoder.fits(job.text)]
            fitting_ids = {id(job) for job in fitting}
            for job in jobs:
                if id(job) not in fitting_ids:
                    self._answer(job, self.refuse("text_too_long"))
            if not fitting:
                return
            started = self._clock()
            vectors = self._encoder.encode([job.text for job in fitting])
            self._paced((self._clock() - started) / len(fitting))
        except Exception:  # one bad batch must not end the worker
            for job in jobs:
                self._answer(job, self.refuse("embedder_unavailable"))
            return
        with self._lock:
            self._embedded += len(fitting)
            self._batches += 1
            for job, vector in zip(fitting, vectors, strict=True):
                vector.flags.writeable = False
                self._memo[job.memo_key] = vector.copy()
            while len(self._memo) > self._memo_entries:
                self._memo.popitem(last=False)
        for job, vector in zip(fitting, vectors, strict=True):
            self._answer(job, Embedding(vector))

    def _paced(self, seconds: float) -> None:
        self._pace = seconds if not self._pace else self._pace + 0.3 * (seconds - self._pace)

    def _ended(self) -> bool:
        return self._state in ("failed", "closed")

    def _refuse_all(self) -> None:
        for job in self._drain():
            self._answer(job, self.refuse("embedder_unavailable"))

    def _drain(self) -> list[_Job]:
        jobs: list[_Job] = []
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs
            if job is not None:
                jobs.append(job)

    @staticmethod
    def _answer(job: _Job, embedding: Embedding) -> None:
        if not job.future.done() and job.future.set_running_or_notify_cancel():
            job.future.set_result(embedding)
