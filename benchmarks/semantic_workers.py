"""One semantic cache in a process of its own, for semantic_peers.py: GPTCache, or the similarity hook.

    python benchmarks/semantic_workers.py gptcache|enhanced MODEL FOLDER THREADS ENTRIES

Reads commands as JSON lines and answers each with one; times are taken here, around the cache's own calls, so that the
pipe is in none of them. Embeddings made before are used for filling only; everything else embeds with the real model.
GPTCache's side runs in an environment of its own and imports nothing of this repository.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ANSWER_TOKENS = 64
FILL_BLOCK = 500


def answer_of(name: int) -> str:
    """An answer of ordinary length that says whose it is."""
    return f"{name}| " + "and so on, as one would expect. " * 10


class Embedding:
    """Puts embeddings made before in front of an embedding function, and counts the seconds of the real one."""

    def __init__(self, encode: Callable[[Any], Any]) -> None:
        self.encode = encode
        self.known: dict[str, np.ndarray] = {}
        self.seconds = 0.0

    def timed(self, asked: Any) -> Any:
        started = time.perf_counter()
        try:
            return self.encode(asked)
        finally:
            self.seconds += time.perf_counter() - started


class GPTCacheSide:
    """Its quick start for similar questions: SQLite + FAISS, search distance, all at defaults but for the room.

    The room: at its default it evicts beyond 1,000 entries.
    """

    def __init__(self, model: str, folder: Path, entries: int) -> None:
        from gptcache import Cache
        from gptcache.adapter import api
        from gptcache.embedding import SBERT
        from gptcache.manager import manager_factory

        self._api = api
        encoder = SBERT(model)
        self.embedding = Embedding(encoder.to_embeddings)
        self.dimension = encoder.dimension
        self._cache = Cache()
        manager = manager_factory(
            "sqlite,faiss",
            data_dir=str(folder),
            vector_params={"dimension": encoder.dimension},
            eviction_params={"max_size": entries},
        )
        api.init_similar_cache(str(folder), self._cache, embedding=self, data_manager=manager)

    def to_embeddings(self, text: str, **_: Any) -> Any:
        known = self.embedding.known.get(text)
        return self.embedding.timed(text) if known is None else known

    def fill(self, texts: Sequence[str], names: Sequence[int]) -> None:
        self._cache.import_data(questions=list(texts), answers=[answer_of(name) for name in names])
        self._cache.flush()

    def get(self, text: str) -> tuple[str | None, float | None]:
        scores: list[float] = []
        answer = self._api.get(
            text, cache_obj=self._cache, hit_callback=lambda found: scores.extend(score for _, score in found)
        )
        return answer, scores[0] if scores else None

    def put(self, text: str, name: int) -> None:
        self._api.put(text, answer_of(name), cache_obj=self._cache)

    def count(self) -> int:
        return int(self._cache.data_manager.s.count())

    def settle(self) -> None:
        """Nothing goes on in the background."""

    def close(self) -> None:
        """Its own exit handler closes it."""

    @staticmethod
    def versions() -> dict[str, str]:
        from importlib.metadata import version

        return {name: version(name) for name in ("gptcache", "faiss-cpu", "sqlalchemy", "sentence-transformers")}


class EnhancedSide:
    """The similarity hook as the engine calls it: offered a request, looked up, told what was generated.

    Its defaults, but for the deadline, since the other side has none, and the entries' life, longer than a run.
    """

    def __init__(self, model: str, folder: Path, entries: int) -> None:
        from prometheus_client import CollectorRegistry
        from vllm_enhance_similarity.encoders import SentenceTransformerEncoder
        from vllm_enhance_similarity.options import SimilarityOptions
        from vllm_enhance_similarity.plugin import SimilarityHook

        from vllm_enhance.context import HookContext
        from vllm_enhance.metrics import Metrics
        from vllm_enhance.settings import CORE_SETTINGS, Settings, SettingsTable

        original = SentenceTransformerEncoder.encode
        self.embedding = Embedding(lambda asked: original(*asked))

        def encode(encoder: SentenceTransformerEncoder, texts: Sequence[str]) -> Any:
            known = [self.embedding.known.get(text) for text in texts]
            if all(each is not None for each in known):
                return np.stack(known)  # type: ignore[arg-type]
            return self.embedding.timed((encoder, texts))

        SentenceTransformerEncoder.encode = encode  # type: ignore[method-assign]
        self._loop = asyncio.new_event_loop()
        self._options = SimilarityOptions(
            embedding_model=model,
            embedding_backend="torch",  # as the other side's
            similarity_policy="threshold",
            similarity_max_entries=entries,
            similarity_deadline=30.0,
            similarity_ttl=86_400.0,
        )
        self._hook = SimilarityHook(self._options)
        context = HookContext(
            settings=Settings(SettingsTable(CORE_SETTINGS), {}, {}), metrics=Metrics(registry=CollectorRegistry())
        )
        self._loop.run_until_complete(self._start(context))

    async def _start(self, context: Any) -> None:
        await self._hook.startup(context)
        async with asyncio.timeout(300):
            while not self._hook.stats()["enabled"]:
                if self._hook.health()[0].status == "degraded" and "loading" not in self._hook.health()[0].detail:
                    raise RuntimeError(self._hook.health()[0].detail)
                await asyncio.sleep(0.05)

    @property
    def dimension(self) -> int:
        return int(self._hook.stats()["dimension"])

    def fill(self, texts: Sequence[str], names: Sequence[int]) -> None:
        async def fill() -> None:
            for start in range(0, len(texts), 64):
                block = zip(texts[start : start + 64], names[start : start + 64], strict=True)
                await asyncio.gather(*(self._put(text, name) for text, name in block))

        self._loop.run_until_complete(fill())

    def get(self, text: str) -> tuple[str | None, float | None]:
        return self._loop.run_until_complete(self._get(text))

    async def _get(self, text: str) -> tuple[str | None, float | None]:
        lookup = self._hook.pre_request(self._request(text))
        found = await lookup.run() if lookup is not None else None
        return (None, None) if found is None else (found.record.choices[0].text, found.similarity)

    def put(self, text: str, name: int) -> None:
        self._loop.run_until_complete(self._put(text, name))

    async def _put(self, text: str, name: int) -> None:
        from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids
        from vllm_enhance.types import Outcome, Source

        choice = ChoiceRecord(pack_token_ids(range(ANSWER_TOKENS)), answer_of(name), "stop")
        record = GenerationRecord(RECORD_VERSION, (choice,), 20, time.time())
        await self._hook.post_output(self._request(text), record, Outcome(Source.ENGINE, storable=True))

    @staticmethod
    def _request(text: str) -> Any:
        from types import SimpleNamespace

        from vllm_enhance.types import Question, RequestContext

        return RequestContext(
            "r",
            [1],
            SimpleNamespace(n=1, logprobs=None, prompt_logprobs=None),
            model="m",
            key=hashlib.blake2b(text.encode(), digest_size=32).digest(),
            read_question=lambda: Question(text, b"p" * 16),
        )

    def count(self) -> int:
        return int(self._hook.stats()["index"]["entries"])

    def settle(self) -> None:
        """Wait until the index that serves is the one for its size: a graph is built in the background."""

        async def settle() -> None:
            async with asyncio.timeout(120):
                stats = self._hook.stats()["index"]
                while stats["entries"] > self._options.hnsw_flat_limit and not stats["graph_partitions"]:
                    await asyncio.sleep(0.2)
                    stats = self._hook.stats()["index"]

        self._loop.run_until_complete(settle())

    def close(self) -> None:
        self._loop.run_until_complete(self._hook.shutdown())
        self._loop.close()

    @staticmethod
    def versions() -> dict[str, str]:
        from importlib.metadata import version

        return {name: version(name) for name in ("sentence-transformers",)}


SIDES: dict[str, Any] = {"gptcache": GPTCacheSide, "enhanced": EnhancedSide}


def asked(side: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Ask one by one: answer, score, seconds, and how many of them the embedding model took."""
    rows = []
    for text in texts:
        before, started = side.embedding.seconds, time.perf_counter()
        answer, score = side.get(text)
        seconds = time.perf_counter() - started
        name = None if answer is None else int(answer.partition("|")[0])
        rows.append([name, score, seconds, side.embedding.seconds - before])
    return {"rows": rows}


def put(side: Any, texts: Sequence[str], names: Sequence[int]) -> dict[str, Any]:
    """Store one by one questions that were not looked up before."""
    rows = []
    for text, name in zip(texts, names, strict=True):
        before, started = side.embedding.seconds, time.perf_counter()
        side.put(text, name)
        rows.append([None, None, time.perf_counter() - started, side.embedding.seconds - before])
    return {"rows": rows}


def filled(side: Any, texts: Sequence[str], names: Sequence[int], vectors: str) -> dict[str, Any]:
    """Store many, with embeddings made before, and wait until the index has settled."""
    rows = np.load(vectors, allow_pickle=False)
    seconds = 0.0
    for start in range(0, len(texts), FILL_BLOCK):
        block = slice(start, start + FILL_BLOCK)
        side.embedding.known = dict(zip(texts[block], rows[block], strict=True))
        started = time.perf_counter()
        side.fill(texts[block], names[block])
        seconds += time.perf_counter() - started
    side.embedding.known = {}
    started = time.perf_counter()
    side.settle()
    return {"seconds": seconds, "settle_seconds": time.perf_counter() - started}


def served(side: Any, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    yield {"dimension": side.dimension, "versions": side.versions()}
    for line in lines:
        command = json.loads(line)
        work = command.pop("do")
        if work == "ask":
            yield asked(side, **command)
        elif work == "put":
            yield put(side, **command)
        elif work == "fill":
            yield filled(side, **command)
        else:
            yield {"entries": side.count()}


def main() -> None:
    name, model, folder, threads, entries = sys.argv[1:]
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    os.chdir(folder)
    import torch

    torch.set_num_threads(int(threads))
    side = SIDES[name](model, Path(folder), int(entries))
    try:
        for answer in served(side, iter(sys.stdin.readline, "")):
            print(json.dumps(answer, default=float), file=pipe, flush=True)
    finally:
        side.close()


if __name__ == "__main__":
    main()
