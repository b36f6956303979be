"""How long `vllm-enhance tune` takes on a large log with embeddings made before.

    python benchmarks/tune.py --log requests.jsonl --embeddings vectors.npy --workers 2

`--log` is JSON lines as in docs/tuning.md, `--embeddings` has one row for each request. Without them, `--requests`
made-up questions of some thousand topics, with random vectors: the same work, without sense. The result: requests, wall
and CPU seconds, peak memory of the largest process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import finish, machine, options

WORDINGS = (
    "how do I {} my {}",
    "how can I {} my {}",
    "what is the best way to {} a {}",
    "can you help me to {} the {}",
    "I want to {} my {}",
)
VERBS = ("open", "close", "change", "find", "repair", "sell", "return", "cancel", "renew", "track")
DIMENSION, NOISE = 384, 0.25


def make_stream(folder: Path, requests: int, labelled: bool) -> tuple[Path, Path]:
    """A log whose questions are some wordings of verbs and numbered things, and a vector for each."""
    dice = np.random.default_rng(1)
    things = max(50, requests // 60)
    topics = dice.standard_normal((things * len(VERBS), DIMENSION)).astype(np.float32)
    vectors = np.empty((requests, DIMENSION), dtype=np.float32)
    log, file = folder / "log.jsonl", folder / "vectors.npy"
    with open(log, "w", encoding="utf-8") as lines:
        for number in range(requests):
            verb, thing = int(dice.integers(len(VERBS))), int(dice.zipf(1.3)) % things
            wording = WORDINGS[int(dice.integers(len(WORDINGS)))]
            topic = thing * len(VERBS) + verb
            vectors[number] = topics[topic] + NOISE * dice.standard_normal(DIMENSION)
            row = {"text": wording.format(VERBS[verb], f"thing{thing} {'please ' * int(dice.integers(3))}".strip())}
            lines.write(json.dumps(row | ({"label": str(topic)} if labelled else {})) + "\n")
    np.save(file, vectors)
    return log, file


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--embeddings", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument(
        "--labelled", action="store_true", help="made-up questions carry labels, so bounds are replayed"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments, before = parser.parse_args(), machine()
    arguments.requests = min(arguments.requests, 1000) if arguments.quick else arguments.requests
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log, vectors = arguments.log, arguments.embeddings
        if log is None:
            log, vectors = make_stream(folder, arguments.requests, arguments.labelled)
        command = [str(Path(sys.executable).parent / "vllm-enhance"), "tune", str(log), "--embeddings", str(vectors)]
        command += ["--out", str(folder / "tune.html"), "--labels", str(folder / "labels.jsonl"), "--json"]
        started = time.monotonic()
        done = subprocess.run([*command, "--workers", str(arguments.workers)], stdout=subprocess.PIPE, check=True)
        wall = time.monotonic() - started
    used, told = resource.getrusage(resource.RUSAGE_CHILDREN), json.loads(done.stdout)
    result = {
        "requests": told["requests"],
        "texts": told["texts"],
        "settings": len(told["settings"]),
        "workers": arguments.workers,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mebibytes": used.ru_maxrss // 1024,
    }
    finish("tune", result, out=arguments.out, before=before)


if __name__ == "__main__":
    main()
