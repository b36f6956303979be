"""Everything of similarity that lives between start-up and shutdown: embedder, index, policy, judge, their threads.

Matching runs on one thread (so policies need no locks of their own for it), slow work (fits, rebuilds, snapshots) on
another. The event loop only awaits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from vllm_enhance_similarity.corrections import Corrections
from vllm_enhance_similarity.embedder import BatchingEmbedder
from vllm_enhance_similarity.encoders import SentenceTransformerEncoder
from vllm_enhance_similarity.handover import then
from vllm_enhance_similarity.index.hnsw import HnswParameters
from vllm_enhance_similarity.index.partitioned import IndexLimits
from vllm_enhance_similarity.index.snapshot import restore_index, save_index
from vllm_enhance_similarity.judges import AnswerSimilarityJudge, EqualTextJudge, ServedModelJudge
from vllm_enhance_similarity.matcher import Matcher, MatchResult
from vllm_enhance_similarity.policies.base import PolicyDecision
from vllm_enhance_similarity.policies.bounded import BoundedParameters, BoundedPolicy
from vllm_enhance_similarity.policies.threshold import ThresholdParameters, ThresholdPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from vllm_enhance_similarity.embedder import Embedding
    from vllm_enhance_similarity.index.partitioned import IndexStats
    from vllm_enhance_similarity.judges import Judge
    from vllm_enhance_similarity.options import SimilarityOptions
    from vllm_enhance_similarity.policies.base import DecisionPolicy

__all__ = ["Consideration", "SimilarityService", "choose_judge", "choose_policy"]

logger = logging.getLogger("vllm_enhance.similarity")

T = TypeVar("T")

_PROBE_EVERY = 10
_POLICY_FILE = "policy.msgpack"
_CORRECTIONS_FILE = "corrections.msgpack"


class Consideration(msgspec.Struct, frozen=True):
    """One question as considered: its embedding, and what was decided. `vector` is None when it was refused."""

    text: str
    partition: bytes
    result: MatchResult
    vector: NDArray[np.float32] | None = None
    embed_seconds: float = 0.0


class Look(NamedTuple):
    """Numbers of one moment."""

    sizes: IndexStats
    policy: Mapping[str, Any]


class SimilarityService:
    """Made at start-up; `start` loads the model in the background, and until then every question is a miss."""

    def __init__(
        self,
        options: SimilarityOptions,
        *,
        generate_idle: Callable[[str, int], Awaitable[str | None]] | None,
        clock: Callable[[], float],
        process: int = 0,
        judge: Judge | None = None,
    ) -> None:
        self.options = options
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - audits need no secrecy
        self._process = process
        self.embedder = BatchingEmbedder(
            SentenceTransformerEncoder(
                options.embedding_model, backend=options.embedding_backend, device=options.embedding_device
            )
        )
        self.judge: Judge | None = choose_judge(options, self.embedder, generate_idle, judge)
        self.policy: DecisionPolicy = choose_policy(options, self.judge)
        self.corrections = Corrections()
        self.matcher: Matcher | None = None
        self.learning_is_shared = False
        """Whether what the policy has learned is kept in a store; then no other process' file is read."""
        self.restore_reason = "not_started"
        self.verdicts = {"same": 0, "different": 0, "none": 0}
        self._judged = self._judge_faults = 0
        self._match_thread = ThreadPoolExecutor(1, "enhance-similarity")
        self._slow_thread = ThreadPoolExecutor(1, "enhance-similarity-slow")
        self._slow: asyncio.Future[Any] | None = None
        self._peer_times: dict[Path, float] = {}

    # ------------------------------------------------------------------ life cycle

    def start(self) -> None:
        """Begin to load the model; returns at once."""
        self.embedder.start()

    def open(self, timeout: float | None = None) -> int:
        """Blocking: wait for the model, restore index and policy. Returns restored entries; raises EmbedderError."""
        identity = self.embedder.wait_ready(timeout)
        limits = IndexLimits(
            self.options.similarity_max_entries, self.options.similarity_max_bytes, self.options.hnsw_flat_limit
        )
        parameters = HnswParameters(self.options.hnsw_m, self.options.hnsw_ef_construction, self.options.hnsw_ef_search)
        directory = self._directory or Path(os.devnull)
        restored = restore_index(directory, identity, now=self._clock(), limits=limits, parameters=parameters)
        self.restore_reason = restored.reason if self._directory else "no_directory"
        self._load_policy()
        reranker = None
        if self.options.reranker_model:
            from vllm_enhance_similarity.reranker import CrossEncoderReranker

            reranker = CrossEncoderReranker(self.options.reranker_model, device=self.options.embedding_device)
        self.matcher = Matcher(
            restored.index,
            self.policy,
            reranker=reranker,
            min_rerank=self.options.reranker_min,
            corrections=self.corrections,
        )
        return restored.entries

    def close(self) -> None:
        """Blocking: stop threads, write the last snapshot."""
        self._match_thread.shutdown(wait=True, cancel_futures=True)
        self._slow_thread.shutdown(wait=True, cancel_futures=True)
        self.save()
        self.embedder.close()

    # ------------------------------------------------------------------ questions

    async def consider(self, text: str, partition: bytes) -> Consideration:
        """Embed, search, check, decide. Never raises for a question."""
        started, deadline = time.monotonic(), self.options.similarity_deadline

        def decide(embedded: Embedding) -> Consideration:
            """On the matching thread, straight from the embedder's."""
            seconds, vector = time.monotonic() - started, embedded.vector
            if vector is None or self.matcher is None:
                return _refused(text, partition, embedded, seconds)
            now, draw = self._clock(), self._random.random()
            return Consideration(
                text, partition, self.matcher.match(partition, text, vector, now=now, draw=draw), vector, seconds
            )

        considered = then(self.embedder.submit(text, timeout=deadline), self._match_thread, decide)
        try:
            async with asyncio.timeout(deadline):
                return await asyncio.wrap_future(considered)
        except TimeoutError:
            return _refused(text, partition, self.embedder.refuse("embedder_deadline"), time.monotonic() - started)

    async def learn(
        self,
        considered: Consideration,
        answer: str,
        stored_answer: Callable[[bytes], str | None],
        store: Callable[[bytes], None] | None,
    ) -> bool | None:
        """After a generation: judge it against what would have been reused, teach the policy, then store.

        Args:
            answer: the generated text, "" when there is none.
            stored_answer: payload -> its answer text.
            store: called on the matching thread with the group of the new entry; None stores nothing.

        Returns:
            the judge's verdict: do both answers say the same? None without one.
        """
        if considered.vector is None or self.matcher is None:
            return None
        entry, decision = considered.result.entry, considered.result.decision
        verdict: bool | None = None
        if entry is not None and answer and self.judge is not None and (self.policy.learns or self._measuring):
            other = stored_answer(entry.payload)
            verdict = await self._verdict(considered.text, answer, other) if other else None
        group = entry.group if entry is not None and verdict else b""

        def finish() -> None:
            if verdict is not None:
                self.policy.observe(decision, verdict)
            if store is not None:
                store(group)

        await self.run(finish)
        return verdict

    @property
    def _measuring(self) -> bool:
        """Shadow mode exists to measure the error, whatever the policy makes of the verdicts."""
        return self.options.similarity_mode == "shadow"

    async def _verdict(self, question: str, answer: str, other: str) -> bool | None:
        judge = self.judge
        if judge is None:
            return None
        verdict = await self._ask(judge, question, answer, other)
        self.verdicts["none" if verdict is None else "same" if verdict else "different"] += 1
        self._judged += 1
        if judge.errs and self._judged % _PROBE_EVERY == 0 and isinstance(self.policy, BoundedPolicy):
            await self._probe(judge, question, answer)
        return verdict

    async def _ask(self, judge: Judge, question: str, answer: str, other: str) -> bool | None:
        """A judge that fails gives no verdict; the answer is stored all the same."""
        try:
            return await judge.same(question, answer, other)
        except Exception as fault:
            self._judge_faults += 1
            if self._judge_faults.bit_count() == 1:  # the first, second, fourth, eighth ...
                logger.warning(
                    "similarity: judge %s failed %d times: %s", judge.name, self._judge_faults, type(fault).__name__
                )
            return None

    async def _probe(self, judge: Judge, question: str, answer: str) -> None:
        """Ask about pairs whose truth is known: the answer in another layout, and no answer at all."""
        policy = self.policy
        if not isinstance(policy, BoundedPolicy):
            return
        known_same = await self._ask(judge, question, answer, f"Answer: {answer}")
        if known_same is not None:
            policy.probe(True, known_same)
        no_answer = f"I can not say anything about this. {secrets.token_hex(4)}"
        known_different = await self._ask(judge, question, answer, no_answer)
        if known_different is not None:
            policy.probe(False, known_different)

    # ------------------------------------------------------------------ background

    async def run(self, function: Callable[[], T]) -> T:
        """Run something quick on the matching thread, in its turn: policies know no other."""
        return await asyncio.get_running_loop().run_in_executor(self._match_thread, function)

    async def run_slow(self, function: Callable[[], T]) -> T:
        """Run something slow on the thread for that."""
        return await asyncio.get_running_loop().run_in_executor(self._slow_thread, function)

    async def tend(self) -> Look | None:
        """Called about once a second: expiry, one piece of slow work; off the event loop, for the index has a lock."""
        if self.matcher is None:
            return None
        if self._slow is None or self._slow.done():
            self._slow = asyncio.get_running_loop().run_in_executor(self._slow_thread, self._slow_work)
        return await self.run(self._expire)

    def _expire(self) -> Look | None:
        if self.matcher is None:
            return None
        now = self._clock()
        self.matcher.index.expire(now)
        self.corrections.expire(now)
        return Look(self.matcher.index.stats(), self.policy.report())

    def _slow_work(self) -> None:
        try:
            if self.policy.refit_due():
                self.policy.refit()
            if self.matcher is not None:
                self.matcher.index.maintain()
        except Exception:  # the next tick tries again; similarity goes on with what it has
            logger.exception("similarity: background work failed")

    async def save_in_background(self) -> None:
        """Write a snapshot and read the peers' policies, on the slow thread."""
        await self.run_slow(self._save_and_absorb)

    def _save_and_absorb(self) -> None:
        self.save()
        self._absorb_peers()

    def save(self) -> None:
        """Blocking: write index and policy, if a directory is set. A failure is logged, not raised."""
        directory, identity = self._directory, self.embedder.identity
        if directory is None or self.matcher is None or identity is None:
            return
        try:
            save_index(self.matcher.index, directory, identity, now=self._clock())
            _replace(directory / _POLICY_FILE, self.policy.dump())
            _replace(directory / _CORRECTIONS_FILE, self.corrections.dump())
        except OSError as fault:
            logger.warning("similarity: the snapshot could not be written (%s)", type(fault).__name__)

    @property
    def _directory(self) -> Path | None:
        if not self.options.similarity_dir:
            return None
        return Path(self.options.similarity_dir) / f"process-{self._process}"

    def _load_policy(self) -> None:
        if self._directory is None:
            return
        loads = ((_POLICY_FILE, self.policy.load), (_CORRECTIONS_FILE, self.corrections.load))
        for name, load in loads:
            try:
                state = (self._directory / name).read_bytes()
            except OSError:
                continue
            if not load(state):
                logger.warning("similarity: the saved %s does not fit this version and starts anew", name.split(".")[0])

    def _absorb_peers(self) -> None:
        if self._directory is None or self.learning_is_shared or not isinstance(self.policy, BoundedPolicy):
            return
        for path in sorted(self._directory.parent.glob(f"process-*/{_POLICY_FILE}"))[:64]:
            try:
                modified = path.stat().st_mtime
                if path.parent != self._directory and self._peer_times.get(path) != modified:
                    self.policy.absorb(path.parent.name, path.read_bytes())
                    self._peer_times[path] = modified
            except OSError:
                continue


def _refused(text: str, partition: bytes, embedded: Embedding, seconds: float) -> Consideration:
    """A miss, for the embedder's reason."""
    decision = PolicyDecision("miss", embedded.refusal or "embedder_unavailable")
    return Consideration(text, partition, MatchResult(decision), None, seconds)


def choose_judge(
    options: SimilarityOptions,
    embedder: BatchingEmbedder,
    generate_idle: Callable[[str, int], Awaitable[str | None]] | None,
    own: Judge | None = None,
) -> Judge | None:
    """The judge that the options ask for; None if there is none to be had. `own` is the one that `auto` prefers."""
    kind = options.similarity_judge
    if kind == "auto" and own is not None:
        return own
    if kind == "auto":
        kind = "model" if generate_idle is not None else "none"
    if kind == "model" and generate_idle is not None:
        return ServedModelJudge(generate_idle)
    if kind == "equal":
        return EqualTextJudge()
    return AnswerSimilarityJudge(embedder) if kind == "embedding" else None


def choose_policy(options: SimilarityOptions, judge: Judge | None) -> DecisionPolicy:
    """The policy that the options ask for. Bounded without a judge would never learn, so it stays strict then."""
    kind = options.similarity_policy
    if kind == "auto":
        kind = "threshold" if judge is None else "bounded"
    if kind == "threshold":
        return ThresholdPolicy(ThresholdParameters(options.similarity_threshold))
    return BoundedPolicy(
        BoundedParameters(max_error=options.similarity_max_error, audit_share=options.similarity_audit_share)
    )


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
