"""How many answers a policy reuses, and how many of them wrongly, on a stream of labelled questions.

    python benchmarks/quality.py --data questions.jsonl.gz --policy bounded --max-error 0.01 --json

Data: JSON lines, gzip or not. `{"text", "label"}` rows, or `{"a", "b", "same": 0 or 1}` pairs: all `a` are stored
first, which counts as no request, and all `b` are asked; labels join the positive pairs (union-find).

Protocol (the one of the vCache paper): questions arrive in random order, one order for each seed. At each the policy
reuses a stored answer, or the true answer, which is the label, is generated and stored. A reuse is right when the
labels agree. Both rates are over all requests. Some files ask the same text again (`exact_repeats`): any cache answers
that, so `without_repeats` has both rates over the other requests, and `--distinct` leaves repeats out altogether.
Verdicts of the judge come from the labels; `--judge-noise P` flips that
share of them, and the policy estimates P from known pairs, as it does on live traffic.

The index, the guards and the policy are the ones that serve. The last line is one JSON object; `--out FILE` also puts
it among the rows of that file, in the place of an earlier run of the same kind. Embeddings are kept under `.cache/`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import json
import os
import random
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
from common import CACHE, embedding_model, embedding_option, machine, say, versions
from vllm_enhance_similarity.encoders import BACKENDS, EmbedderIdentity, SentenceTransformerEncoder
from vllm_enhance_similarity.errors import EmbedderError
from vllm_enhance_similarity.guards.freshness import is_time_bound
from vllm_enhance_similarity.index.partitioned import Candidate, IndexLimits, PartitionedIndex
from vllm_enhance_similarity.matcher import check_candidate
from vllm_enhance_similarity.policies.base import DecisionPolicy, Neighbour, PolicyDecision
from vllm_enhance_similarity.policies.bounded import BoundedParameters, BoundedPolicy
from vllm_enhance_similarity.policies.features import NEIGHBOURS
from vllm_enhance_similarity.policies.threshold import ThresholdParameters, ThresholdPolicy

PARTITION = b"benchmark"
PROBE_EVERY = 10


@dataclass
class Questions:
    """Unique texts with their labels; `stored` are in the index at the start, `asked` form the stream."""

    texts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    different: set[tuple[int, int]] = field(default_factory=set)
    is_pairs: bool = False


@dataclass
class Tally:
    """One seed's outcome."""

    requests: int = 0
    reuses: int = 0
    wrong: int = 0
    wrong_unlabelled: int = 0
    exact_repeats: int = 0
    repeats_reused: int = 0
    repeats_wrong: int = 0
    audits: int = 0
    search_seconds: list[float] = field(default_factory=list)
    decide_seconds: list[float] = field(default_factory=list)
    refit_seconds: list[float] = field(default_factory=list)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """JSON lines, gzip or not; the fields of the first row tell the form, and all rows have it.

    Raises:
        SystemExit: with a sentence that names the file, the line and what is wrong with it.
    """
    rows: list[dict[str, Any]] = []
    form: tuple[str, ...] = ()
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with (gzip.open if zipped else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                form = form or (("a", "b", "same") if isinstance(row, dict) and "a" in row else ("text",))
                _check_row(row, form, f"{path.name}, line {number}")
                rows.append(row)
    except json.JSONDecodeError as error:
        raise SystemExit(f"{path.name}, line {number}: this is no JSON ({error.msg})") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SystemExit(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not rows:
        raise SystemExit(f"{path.name} holds no rows")
    return rows


def _check_row(row: object, form: tuple[str, ...], where: str) -> None:
    wanted = '{"a", "b", "same": 0 or 1} or {"text", "label"}'
    if not isinstance(row, dict) or not row.keys() >= set(form):
        raise SystemExit(f"{where}: a row is {wanted}, all rows alike")
    if not all(isinstance(row[name], str) and row[name].strip() for name in form if name != "same"):
        raise SystemExit(f"{where}: {' and '.join(name for name in form if name != 'same')} must hold text")
    if "same" in form and row["same"] not in (0, 1):
        raise SystemExit(f'{where}: "same" is 0 or 1')


def read_texts(path: Path) -> list[str]:
    """All distinct questions of a file, in order."""
    return list(dict.fromkeys(row[name] for row in read_rows(path) for name in ("text", "a", "b") if name in row))


def read_questions(path: Path) -> Questions:
    """Read both forms; see the module."""
    rows = read_rows(path)
    number = {text: at for at, text in enumerate(read_texts(path))}
    found = Questions(texts=list(number), is_pairs="a" in rows[0])
    if found.is_pairs:
        _read_pairs(found, rows, number)
    else:
        names: dict[str, int] = {}
        found.labels = [0] * len(number)
        for at, row in enumerate(rows, 1):
            if "label" not in row:
                raise SystemExit(f'{path.name}, row {at}: a question without a "label" measures nothing')
            found.labels[number[row["text"]]] = names.setdefault(str(row["label"]), len(names))
            found.asked.append(number[row["text"]])
    return found


def _read_pairs(found: Questions, rows: list[dict[str, Any]], number: dict[str, int]) -> None:
    parent = list(range(len(number)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for row in rows:
        one, other = number[row["a"]], number[row["b"]]
        if row["same"]:
            parent[root(one)] = root(other)
        else:
            found.different.update(((one, other), (other, one)))
    found.labels = [root(node) for node in range(len(number))]
    found.stored = list(dict.fromkeys(number[row["a"]] for row in rows))
    found.asked = [number[row["b"]] for row in rows]


def embed(
    texts: Sequence[str], model: str, cache: Path | None, backend: str = "auto"
) -> tuple[np.ndarray, EmbedderIdentity, float]:
    """Unit vectors of all texts, the model's identity, and seconds for one text alone (median of fifty)."""
    encoder = SentenceTransformerEncoder(model, backend=backend)
    try:
        identity = encoder.load()
    except EmbedderError as error:
        raise SystemExit(str(error).removeprefix("similarity is off: ")) from None
    sample = list(texts[:50])
    alone = statistics.median(_timed(partial(encoder.encode, [text]))[1] for text in sample)
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=12).hexdigest()
    kept = cache / f"{identity.digest[:12]}-{digest}.npy" if cache else None
    if kept is not None and kept.exists():
        return np.load(kept, allow_pickle=False), identity, alone
    vectors = np.empty((len(texts), identity.dimension), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), 64):
        block = order[start : start + 64]
        vectors[block] = encoder.encode([texts[row] for row in block])
        if start % 6400 == 0:
            say(f"embedding {start}/{len(texts)}")
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, vectors, allow_pickle=False)
    return vectors, identity, alone


def make_policy(arguments: argparse.Namespace) -> DecisionPolicy:
    """A named policy, or `module:factory` called with the parsed arguments."""
    if arguments.policy == "threshold":
        return ThresholdPolicy(ThresholdParameters(arguments.threshold))
    if arguments.policy == "bounded":
        return BoundedPolicy(BoundedParameters(max_error=arguments.max_error, audit_share=arguments.audit_share))
    module, _, name = arguments.policy.partition(":")
    try:
        policy: DecisionPolicy = getattr(importlib.import_module(module), name)(arguments)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(f"--policy {arguments.policy}: threshold, bounded or module:factory ({error})") from None
    return policy


class Stream:
    """One seed's run of one policy."""

    def __init__(
        self,
        data: Questions,
        vectors: np.ndarray,
        arguments: argparse.Namespace,
        seed: int,
        known: dict[Any, Neighbour],
    ) -> None:
        self.data, self.vectors, self.arguments = data, vectors, arguments
        self.known = known  # what the guards said of a pair; the same for all seeds
        self.policy = make_policy(arguments)
        self.index = PartitionedIndex(
            vectors.shape[1], limits=IndexLimits(max_entries=10**7, max_bytes=1 << 40, flat_limit=arguments.flat_limit)
        )
        self.present: set[int] = set()
        self.order = list(data.asked)
        random.Random(seed).shuffle(self.order)
        self.draws, self.flips = random.Random(seed + 1000), random.Random(seed + 2000)
        self.tally = Tally()
        self._verdicts = 0

    def run(self) -> Tally:
        """Feed the stream."""
        for row in self.data.stored:
            self._store(row)
        self.index.maintain()
        for row in self.order:
            if self.arguments.distinct and row in self.present:
                continue
            self._ask(row)
        return self.tally

    def _ask(self, row: int) -> None:
        tally, text = self.tally, self.data.texts[row]
        tally.requests += 1
        repeat = row in self.present
        tally.exact_repeats += repeat
        if self.arguments.freshness == "on" and is_time_bound(text):
            return
        candidates, seconds = _timed(lambda: self.index.search(PARTITION, self.vectors[row], NEIGHBOURS, now=0.0))
        tally.search_seconds.append(seconds)
        pairs = len(self.known)
        decision, seconds = _timed(lambda: self._decide(row, candidates))
        if len(self.known) == pairs + len(candidates):  # every pair was new: what live traffic pays
            tally.decide_seconds.append(seconds)
        right = decision.choice is not None and int.from_bytes(decision.choice.group, "big") == self.data.labels[row]
        if decision.action == "reuse" and decision.choice is not None:
            tally.reuses += 1
            tally.wrong += not right
            tally.repeats_reused += repeat
            tally.repeats_wrong += repeat and not right
            pair = (row, int.from_bytes(decision.choice.key, "big"))
            tally.wrong_unlabelled += not right and self.data.is_pairs and pair not in self.data.different
            return
        tally.audits += decision.action == "audit"
        if decision.choice is not None and self.policy.learns:
            self._judge(decision, right)
        self._store(row)
        if self.policy.refit_due():
            tally.refit_seconds.append(_timed(self.policy.refit)[1])
        if tally.requests % 512 == 0:
            self.index.maintain()

    def _decide(self, row: int, candidates: Sequence[Candidate]) -> PolicyDecision:
        text = self.data.texts[row]
        neighbours = [self._checked(row, text, one) for one in candidates]
        if self.arguments.guards == "off":
            neighbours = [Neighbour(one.key, one.group, one.text, one.similarity) for one in neighbours]
        return self.policy.decide(text, neighbours, self.draws.random())

    def _checked(self, row: int, text: str, candidate: Candidate) -> Neighbour:
        pair = (row, candidate.entry.key)
        if pair not in self.known:
            self.known[pair] = check_candidate(text, candidate.entry, candidate.similarity)
        return msgspec.structs.replace(self.known[pair], similarity=candidate.similarity)

    def _judge(self, decision: PolicyDecision, right: bool) -> None:
        noise = self.arguments.judge_noise
        self.policy.observe(decision, right != (self.flips.random() < noise))
        self._verdicts += 1
        if self._verdicts % PROBE_EVERY == 0 and isinstance(self.policy, BoundedPolicy):
            self.policy.probe(True, self.flips.random() >= noise)
            self.policy.probe(False, self.flips.random() < noise)

    def _store(self, row: int) -> None:
        if row in self.present:
            return
        self.present.add(row)
        text = self.data.texts[row]
        self.index.add(
            PARTITION,
            row.to_bytes(8, "big"),
            self.vectors[row],
            text=text,
            tenant=b"",
            now=0.0,
            group=self.data.labels[row].to_bytes(8, "big"),
        )
        self.policy.stored(text)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {f"p{q}": round(1e3 * float(np.percentile(seconds, q)), 4) for q in (50, 99)}


def summary(
    arguments: argparse.Namespace, tallies: list[Tally], embedder: EmbedderIdentity, alone: float
) -> dict[str, Any]:
    """The JSON object."""
    hits = [tally.reuses / tally.requests for tally in tallies]
    errors = [tally.wrong / tally.requests for tally in tallies]
    new = [max(1, tally.requests - tally.exact_repeats) for tally in tallies]
    new_hits = [(t.reuses - t.repeats_reused) / count for t, count in zip(tallies, new, strict=True)]
    new_errors = [(t.wrong - t.repeats_wrong) / count for t, count in zip(tallies, new, strict=True)]
    labelled = [(tally.wrong - tally.wrong_unlabelled) / tally.requests for tally in tallies]
    return {
        "data": Path(arguments.data).name,
        "policy": arguments.policy,
        "max_error": arguments.max_error if arguments.policy == "bounded" else None,
        "threshold": arguments.threshold if arguments.policy == "threshold" else None,
        "judge_noise": arguments.judge_noise,
        "guards": arguments.guards,
        "freshness": arguments.freshness,
        "distinct": arguments.distinct,
        "limit": arguments.limit,
        "embedding_backend": embedder.backend,
        "requests": tallies[0].requests,
        "seeds": len(tallies),
        "hit_rate": round(statistics.fmean(hits), 5),
        "error_rate": round(statistics.fmean(errors), 6),
        "error_rate_labelled": round(statistics.fmean(labelled), 6),
        "hit_rates": [round(value, 5) for value in hits],
        "error_rates": [round(value, 6) for value in errors],
        "exact_repeats": round(statistics.fmean(tally.exact_repeats / tally.requests for tally in tallies), 5),
        "without_repeats": {
            "hit_rate": round(statistics.fmean(new_hits), 5),
            "error_rate": round(statistics.fmean(new_errors), 6),
        },
        "audits": round(statistics.fmean(tally.audits / tally.requests for tally in tallies), 5),
        "latency_ms": {
            "embed_alone": round(1e3 * alone, 3),
            "search": _milliseconds([value for tally in tallies for value in tally.search_seconds]),
            "guards_and_decision": _milliseconds([value for tally in tallies for value in tally.decide_seconds]),
            "refit": _milliseconds([value for tally in tallies for value in tally.refit_seconds]),
        },
        "versions": versions({"numpy": np.__version__, "embedder": embedder.digest}),
    }


KIND = ("data", "policy", "max_error", "threshold", "judge_noise", "guards", "freshness", "distinct", "limit", "seeds")


def keep(row: dict[str, Any], file: Path) -> None:
    """Put one run among the rows of a result file, in the place of an earlier run of the same kind."""
    rows = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else []
    rows = [other for other in rows if any(other.get(name) != row.get(name) for name in KIND)]
    here, made_with = machine(), row["versions"]
    made = {"measured_at": here["measured_at"], "commit": made_with.get("commit", "")}  # rows come at different times
    rows.append({**{name: value for name, value in row.items() if name != "versions"}, **made})
    rows.sort(key=lambda one: [str(one.get(name)) for name in KIND])
    whole = {"benchmark": "quality", "machine": here, "versions": made_with, "rows": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="JSON lines, gzip or not")
    parser.add_argument("--policy", default="bounded", help="threshold, bounded, or module:factory")
    parser.add_argument("--threshold", type=float, default=0.95, help="cosine similarity")
    parser.add_argument("--max-error", type=float, default=0.01, help="tolerated wrong reuses per request")
    parser.add_argument("--audit-share", type=float, default=BoundedParameters().audit_share)
    embedding_option(parser)
    parser.add_argument("--embedding-backend", default="auto", choices=BACKENDS, help="as --enhance-embedding-backend")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--judge-noise", type=float, default=0.0, help="share of verdicts that are flipped")
    parser.add_argument("--guards", choices=("on", "off"), default="on")
    parser.add_argument("--freshness", choices=("on", "off"), default="off", help="refuse time-bound questions too")
    parser.add_argument("--distinct", action="store_true", help="leave out repeats, which the exact cache would answer")
    parser.add_argument("--limit", type=int, default=0, help="at most this many requests")
    parser.add_argument("--flat-limit", type=int, default=IndexLimits().flat_limit)
    parser.add_argument("--cache-dir", default=str(CACHE / "embeddings"), help='kept embeddings; "" keeps none')
    parser.add_argument("--save-state", default="", help="write what the last seed's policy has learned here")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a result file to put this run into")
    found = parser.parse_args(arguments)
    for name, low, high in (
        ("threshold", -1.0, 1.0), ("max_error", 1e-6, 1.0), ("judge_noise", 0.0, 0.5), ("audit_share", 1e-6, 1.0),
        ("seeds", 1, 1000), ("limit", 0, 10**9),
    ):  # fmt: skip
        if not low <= getattr(found, name) <= high:
            parser.error(f"--{name.replace('_', '-')} is from {low:g} to {high:g}")
    return found


def runs(arguments: argparse.Namespace, data: Questions, vectors: np.ndarray) -> Iterator[Tally]:
    known: dict[Any, Neighbour] = {}
    for seed in range(arguments.seeds):
        stream = Stream(data, vectors, arguments, seed, known)
        tally = stream.run()
        if arguments.save_state:
            Path(arguments.save_state).write_bytes(stream.policy.dump())
        if not arguments.json:
            print(
                f"seed {seed}: {tally.requests} requests, hits {tally.reuses / tally.requests:.2%}, "
                f"errors {tally.wrong / tally.requests:.3%}, audits {tally.audits}",
                flush=True,
            )
        yield tally


def main() -> None:
    arguments = parse()
    data = read_questions(Path(arguments.data))
    if arguments.limit:
        data.asked = random.Random(0).sample(data.asked, min(arguments.limit, len(data.asked)))
    cache = Path(arguments.cache_dir).expanduser() if arguments.cache_dir else None
    vectors, embedder, alone = embed(data.texts, embedding_model(arguments), cache, arguments.embedding_backend)
    result = summary(arguments, list(runs(arguments, data, vectors)), embedder, alone)
    if arguments.out:
        keep(result, arguments.out)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
