"""What similarity does to the time to the first token: nothing to a miss, nearly all of it to a hit.

    python benchmarks/hedge.py --out benchmarks/results/hedge.json

Plain vLLM, and vLLM with similarity on, hedged as it is by default: the engine starts at once, and a similar answer
that is found before the first token wins. The bounded policy learns from a scripted judge, which knows what each
question is about. One caller, streams, greedy answers; the two servers take turns request by request.

    learn    questions are stored, then asked in other words: generated and judged, until the policy reuses
    misses   questions that nobody has asked, of both servers: the ratio within each pair of requests counts
    hits     stored questions in words that were not used before; the time to the first token of those that were hits,
             against the server's own figure of what the embedding took

The system prompt is long and vLLM's prefix cache is off, so that the first token takes the time of a prefill, as it
does with a model of real size. ``--gap`` is the rest between requests. On a CPU the embedding model and the language
model share the cores, and what a miss loses to that is no waiting. Two ways to see what is left: ``--reserve 1`` keeps
both engines off one core, as vLLM advises for serving on CPUs (``VLLM_CPU_NUM_OF_RESERVED_CPU``); ``--layers 1`` leaves
the embedding model one layer, so that it hardly computes, and its hits mean nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "hedge_hooks"))

from common import (
    AT_MOST,
    CACHE,
    embedding_model,
    embedding_option,
    finish,
    goal,
    machine,
    median,
    options,
    python_path,
    quantile,
    say,
)
from contenders import metric, model_directory
from load import Answer, Connection, Target, chat, connect, get, post, text_of
from pairs import interval
from scripted_judge import LABELS_VARIABLE, digest
from semantic_questions import invented, reworded

from vllm_enhance.testing.server import ServerProcess

FILLER = "You answer questions of all kinds, at length and with care. "
EMBED = "vllm_enhance_similarity_embed_seconds"
PREFIX = "--no-enable-prefix-caching"
TOKENS, FLOORS = 16, 50


def similarity(model: str, lookup: str) -> list[str]:
    """Flags of the server with similarity on."""
    return [
        "--enhance", "--enhance-hooks", "cache,nlp,similarity=scripted_judge:ScriptedSimilarity",
        "--enhance-embedding-model", model, "--enhance-similarity-max-error", "0.05", "--enhance-lookup", lookup,
    ]  # fmt: skip


def trimmed(model: str, layers: int, folder: Path) -> str:
    """A copy of a sentence-transformers model (BERT) with its first layers only."""
    from sentence_transformers import SentenceTransformer

    whole = SentenceTransformer(model, device="cpu", local_files_only=True)
    transformer: Any = whole[0]
    encoder = transformer.auto_model.encoder
    encoder.layer = encoder.layer[:layers]
    transformer.auto_model.config.num_hidden_layers = layers
    whole.save(str(folder))
    return str(folder)


class Script:
    """What the judge knows: the file of labels, and who adds to it."""

    def __init__(self, file: Path) -> None:
        self._file, self._labels = file, dict[str, int]()

    def knows(self, text: str, label: int) -> None:
        self._labels[digest(text)] = label

    def write(self) -> None:
        """At once, so that the judge never reads half a file."""
        half = self._file.with_suffix(".half")
        half.write_text(json.dumps(self._labels))
        half.replace(self._file)


class Asker:
    """One caller of one server."""

    def __init__(self, target: Target, system: str, gap: float) -> None:
        self._target, self._system, self._gap = target, system, gap
        self._connection: Connection | None = None

    async def __call__(self, question: str) -> Answer:
        """Ask, stream, and rest.

        Raises:
            RuntimeError: the server did not answer; nothing measured after it would mean anything.
        """
        if self._connection is None or not self._connection.alive:
            self._connection = await connect(self._target, keep_body=True)
        answer = await self._connection.ask(chat(question, stream=True, max_tokens=TOKENS, system=self._system))
        if not answer.ok:
            raise RuntimeError(f"{self._target.url}: {answer.status} {answer.failure} {answer.body[:200]!r}")
        await asyncio.sleep(self._gap)
        return answer

    async def rendering(self, question: str) -> float:
        """Seconds of ``POST /tokenize``: HTTP, and rendering and tokenizing what a request with that question holds."""
        messages = [{"role": "system", "content": self._system}, {"role": "user", "content": question}]
        assert self._connection is not None
        answer = await self._connection.ask(post("/tokenize", {"model": "tiny", "messages": messages}))
        await asyncio.sleep(self._gap)
        return answer.seconds


async def learned(target: Target, arguments: Any, script: Script, system: str, dice: random.Random) -> list[str]:
    """Store questions, ask some in other words, and wait until all was judged; those that were not asked again."""
    stored = [invented(dice) for _ in range(arguments.stored)]
    for label, question in enumerate(stored):
        script.knows(question, label)
        script.knows(again(question), label)
    script.write()
    asker = Asker(target, system, 0.0)
    await asker("Wake up")  # the first request starts the hooks
    await _settled(target, 0)
    for label, question in enumerate(stored):
        script.knows(text_of((await asker(question)).body, True), label)
    script.write()
    await _settled(target, len(stored))
    for question in stored[: arguments.taught]:
        await asker(again(question))
    await _settled(target, len(stored))
    return stored[arguments.taught :]


def again(question: str) -> str:
    """The words in which the policy is taught; those of the hits are others."""
    return f"Tell me, please: {question}"


async def _settled(target: Target, entries: int) -> None:
    """What was generated is stored and judged in the background."""
    before: Any = None
    while True:
        stats = (await _stats(target))["hooks"]["similarity"]
        now = (stats["index"]["entries"], stats["verdicts"]) if stats["enabled"] else None
        if now is not None and now == before and now[0] >= entries:
            return
        before = now
        await asyncio.sleep(0.5)


async def _stats(target: Target) -> dict[str, Any]:
    connection = await connect(target, keep_body=True)
    try:
        found: dict[str, Any] = json.loads((await connection.ask(get("/v1/enhance/stats"))).body)
    finally:
        connection.close()
    return found


async def misses(plain: Asker, similar: Asker, questions: Sequence[str]) -> dict[str, Any]:
    """Questions that nobody asked before, of both in turns."""
    pairs, sources = [], dict[str, int]()
    for number, question in enumerate(questions):
        order = (plain, similar) if number % 2 else (similar, plain)
        asked = {asker: await asker(question) for asker in order}
        ours, theirs = asked[similar], asked[plain]
        sources[ours.source] = sources.get(ours.source, 0) + 1
        if ours.source == "miss":
            pairs.append((theirs.first_token, ours.first_token))
    ratios = [ours / theirs for theirs, ours in pairs]
    return {
        "pairs": len(pairs),
        "sources": sources,
        "plain": _milliseconds([theirs for theirs, _ in pairs]),
        "similar": _milliseconds([ours for _, ours in pairs]),
        "ratio": median(ratios),
        "interval": interval(ratios),
    }


async def hits(target: Target, asker: Asker, questions: Sequence[str]) -> dict[str, Any]:
    """Stored questions in new words, and what reading and rendering the same requests takes by itself."""
    before = await asyncio.to_thread(_embedding, target)
    answers = [await asker(question) for question in questions]
    taken, count = (now - then for then, now in zip(before, await asyncio.to_thread(_embedding, target), strict=True))
    found = [answer.first_token for answer in answers if answer.source == "hit"]
    embedding = 1000 * taken / count if count else float("nan")
    mean = 1000 * sum(found) / len(found) if found else float("nan")  # as the embedding's, of which no more is known
    rendering = 1000 * median([await asker.rendering(question) for question in questions[:FLOORS]])
    return {
        "asked": len(answers),
        "hits": len(found),
        "first_token": _milliseconds(found),
        "embedding_mean_ms": embedding,
        "rendering_p50_ms": rendering,
        "beyond_embedding_ms": mean - embedding,
        "beyond_both_ms": mean - embedding - rendering,
    }


def _embedding(target: Target) -> tuple[float, float]:
    return metric(target, f"{EMBED}_sum"), metric(target, f"{EMBED}_count")


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}_ms": 1000 * quantile(seconds, share / 100) for share in (50, 90, 99)}


async def measured(plain: Target, similar: Target, arguments: Any, script: Script) -> dict[str, Any]:
    dice = random.Random(arguments.seed)
    system = FILLER * arguments.system_sentences
    untold = await learned(similar, arguments, script, system, dice)
    say(f"learned from {(await _stats(similar))['hooks']['similarity']['verdicts']}")
    new = [invented(dice) for _ in range(arguments.misses)]
    for number, question in enumerate(new):
        script.knows(question, arguments.stored + number)  # like no other, and the judge says so
    script.write()
    askers = Asker(plain, system, arguments.gap), Asker(similar, system, arguments.gap)
    for asker in askers:
        await asker("Wake up")
    missed = await misses(*askers, new)
    say(f"misses: {missed['plain']['p50_ms']:.1f} ms plain, ratio {missed['ratio']:.3f} {missed['interval']}")
    hit = await hits(similar, askers[1], [reworded(question) for question in untold])
    say(f"hits: {hit['hits']} of {hit['asked']}, {hit['beyond_embedding_ms']:.2f} ms beyond the embedding, of which")
    say(f"  {hit['rendering_p50_ms']:.2f} ms for any request with that prompt")
    return {
        "lookup": arguments.lookup,
        "reserved_cores": arguments.reserve,
        "misses": missed,
        "hits": hit,
        "policy": (await _stats(similar))["hooks"]["similarity"]["policy"],
        "goals": [
            goal("first token of a miss / plain vLLM's", AT_MOST, 1.02, missed["ratio"]),
            goal("first token of a similar hit beyond the embedding, ms", AT_MOST, 2.0, hit["beyond_embedding_ms"]),
        ],
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--model", help="directory or name; a tiny model made on the spot by default")
    embedding_option(parser)
    parser.add_argument("--stored", type=int, default=300, help="questions that are stored")
    parser.add_argument(
        "--taught", type=int, default=150, help="of these, how many teach the policy; the others are the hits"
    )
    parser.add_argument("--misses", type=int, default=150)
    parser.add_argument("--lookup", default="hedge", choices=("hedge", "blocking"), help="as --enhance-lookup")
    parser.add_argument("--layers", type=int, help="of the embedding model; all by default")
    parser.add_argument(
        "--reserve", type=int, default=0, metavar="CORES", help="cores that neither engine computes on (see above)"
    )
    parser.add_argument("--gap", type=float, default=0.15, help="seconds of rest between requests")
    parser.add_argument("--system-sentences", type=int, default=20, help="of the system prompt")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.stored, arguments.taught, arguments.misses, arguments.gap = 40, 20, 6, 0.0
    model = model_directory(arguments.model, CACHE)
    before = machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        labels = folder / "labels.json"
        environment = {
            LABELS_VARIABLE: str(labels),
            "PYTHONPATH": python_path("hedge_hooks"),
            "HF_HUB_OFFLINE": "1",
        }
        if arguments.reserve:
            environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] = str(arguments.reserve)
        embedder = embedding_model(arguments)
        if arguments.layers:
            embedder = trimmed(embedder, arguments.layers, folder / "embedder")
        flags = {"plain": [PREFIX], "similar": [PREFIX, *similarity(embedder, arguments.lookup)]}
        targets = {}
        for name, each in flags.items():
            log = folder / f"{name}.log"
            server = stack.enter_context(ServerProcess(model, each, log=log, env=environment, timeout=600))
            targets[name] = Target("127.0.0.1", server.port, server.pid)
        say("serving")
        result = asyncio.run(measured(targets["plain"], targets["similar"], arguments, Script(labels)))
    finish("hedge", result, out=arguments.out, before=before)


if __name__ == "__main__":
    main()
