"""How well and how fast the NLP hook reads questions: prints one JSON object.

    python benchmarks/nlp.py [--split dev|held|all] [--data DIR] [--repeat N] [--misses] [--out FILE]

Connectives are matched by surface and sense, clauses and sub-questions by their text with case, outer punctuation and
list numbers ignored. Precision, recall and F1 are micro-averages over the split. Latency is `analyze` of the questions
of the set, one at a time in one thread, after warm-up; `words_30` are the ones of 25 to 35 words (or characters of
Chinese text), filled up by joining neighbours.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "hooks" / "nlp"))

from vllm_enhance_nlp.analysis import NLPResult, analyze  # noqa: E402
from vllm_enhance_nlp.words import backends, warm  # noqa: E402

DATA = Path(__file__).resolve().parent / "data"
GOALS = {"connectives": 0.95, "sub_questions": 0.90}

_NUMBERING = re.compile(r"^\(?\d{1,2}[.)]\s*")
_OUTER = " \t\r\n,.;:?!，。；：？！、\"'"


def normal(text: str) -> str:
    """`text` as it is compared: no list number, no outer punctuation, folded case, single spaces."""
    return " ".join(_NUMBERING.sub("", text).strip(_OUTER).casefold().split())


def load(folder: Path, language: str, split: str) -> list[dict[str, Any]]:
    """Labelled questions of one language and split (`all` for both)."""
    with (folder / f"nlp_{language}.jsonl").open(encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines if line.strip()]
    return [item for item in items if split in ("all", item["split"])]


TASKS: Mapping[str, tuple[Callable[[dict[str, Any]], Iterable[Any]], Callable[[str, NLPResult], Iterable[Any]]]] = {
    "connectives": (
        lambda item: ((one["text"], one["sense"]) for one in item["connectives"]),
        lambda text, result: ((one.text, one.sense) for one in result.connectives),
    ),
    "clauses": (
        lambda item: map(normal, item["clauses"]),
        lambda text, result: (normal(one.span.of(text)) for one in result.clauses),
    ),
    "sub_questions": (
        lambda item: map(normal, item["sub_questions"]),
        lambda text, result: (normal(one.text) for one in result.sub_questions),
    ),
}
"""Gold and found units of each task."""


def score(task: str, items: Sequence[dict[str, Any]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Precision, recall and F1 of one task, and the questions it got wrong."""
    gold_of, found_of = TASKS[task]
    right = extra = missing = 0
    wrong = []
    for item in items:
        gold, found = Counter(gold_of(item)), Counter(found_of(item["text"], analyze(item["text"])))
        both = (gold & found).total()
        right, extra, missing = right + both, extra + found.total() - both, missing + gold.total() - both
        if gold != found:
            wrong.append({"id": item["id"], "missing": [*(gold - found)], "extra": [*(found - gold)]})
    precision = right / (right + extra) if right + extra else 1.0
    recall = right / (right + missing) if right + missing else 1.0
    f1 = 2 * right / (2 * right + extra + missing) if right + extra + missing else 1.0
    figures = {"precision": precision, "recall": recall, "f1": f1}
    return {**{name: round(value, 4) for name, value in figures.items()}, "gold": right + missing}, wrong


def thirty_words(items: Sequence[dict[str, Any]]) -> list[str]:
    """Texts of 25 to 35 words, made from neighbouring questions."""
    texts, current = [], ""
    for item in items:
        current = f"{current} {item['text']}".strip()
        size = len(re.findall(r"[\u4e00-\u9fff]|[A-Za-z0-9]+", current))
        if size >= 25:
            if size <= 35:
                texts.append(current)
            current = ""
    return texts


def latency(texts: Sequence[str], repeat: int) -> dict[str, float]:
    """Milliseconds of one `analyze` call: median, 99th percentile, and how many were timed."""
    spent = []
    for _ in range(repeat):
        for text in texts:
            began = time.perf_counter()
            analyze(text)
            spent.append((time.perf_counter() - began) * 1000)
    spent.sort()
    return {
        "p50_ms": round(statistics.median(spent), 4),
        "p99_ms": round(spent[min(len(spent) - 1, int(len(spent) * 0.99))], 4),
        "calls": len(spent),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = re.findall(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("nltk", "jieba")},
        "backends": backends(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with nlp_en.jsonl and nlp_zh.jsonl")
    parser.add_argument("--split", choices=("dev", "held", "all"), action="append", help="may be given twice")
    parser.add_argument("--repeat", type=int, default=20, help="passes over the questions for the latency")
    parser.add_argument("--misses", action="store_true", help="list the questions that were read wrongly")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result here too, as indented JSON")
    arguments = parser.parse_args()
    warm()
    report: dict[str, Any] = {"benchmark": "nlp", "tasks": {}, "latency": {}, "goals": GOALS}
    for language in ("en", "zh"):
        for split in arguments.split or ("dev", "held"):
            items = load(arguments.data, language, split)
            for task in TASKS:
                figures, wrong = score(task, items)
                place = report["tasks"].setdefault(task, {}).setdefault(language, {})
                place[split] = {**figures, **({"wrong": wrong} if arguments.misses else {})}
        everything = load(arguments.data, language, "all")
        report["latency"][language] = {
            "questions": latency([item["text"] for item in everything], arguments.repeat),
            "words_30": latency(thirty_words(everything), arguments.repeat),
        }
    report["machine"] = machine()
    if arguments.out:
        arguments.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(json.dumps(report, ensure_ascii=False, indent=1 if arguments.misses else None))


if __name__ == "__main__":
    main()
