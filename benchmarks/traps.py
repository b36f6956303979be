"""Questions that look the same and are not, and edits that change nothing.

    python benchmarks/traps.py --data questions.jsonl.gz --per-kind 250 --json

From any question file (the forms of quality.py, or `{"text"}` alone) real questions are edited once: a number, a unit,
a negation, an opposite, a name, a direction, a question word, a language, a sign; and, harmlessly, politeness, case,
punctuation, a contraction, a typing error, a number in words. The unedited question is stored, the edited one is asked.

`contrast` and `reworded` are pairs that were written (contrasts.txt): a word, a sign or an order that changes the
answer in some nine hundred ways, and rewordings that do not. `different_...` and `same_...` are those of everyday.txt,
whose writer had not seen the guards.

`wrong_reuse`: share of traps of a kind that were answered with the stored answer. `refused`: share of harmless edits
that the guards kept from reuse; `not_reused` counts those whose embedding was too far, too. The word tables here are
not those of the guards. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, embedding_model, embedding_option, finish
from quality import embed, read_texts
from trap_tables import ANTONYM_PAIRS, CHINESE, NAMES, PARALLEL, PARALLEL_SHORT, UNIT_PAIRS
from vllm_enhance_similarity.guards.compare import compare_texts
from vllm_enhance_similarity.policies.base import DecisionPolicy, Neighbour
from vllm_enhance_similarity.policies.bounded import BoundedParameters, BoundedPolicy
from vllm_enhance_similarity.policies.threshold import ThresholdParameters, ThresholdPolicy

Pair = tuple[str, str]
Edit = Callable[[str, random.Random], Pair | None]
HERE = Path(__file__).resolve().parent

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def number(text: str, dice: random.Random) -> Pair | None:
    """Another number; a question without one gets one first."""
    found = re.search(r"\b\d+\b", text)
    if found:
        other = str(int(found.group()) + dice.choice((1, 2, 3, 10)))
        return text, text[: found.start()] + other + text[found.end() :]
    one, other = dice.sample(range(2, 60), 2)
    stem = text.rstrip(" ?.!")
    return f"{stem} in {one} days?", f"{stem} in {other} days?"


def unit(text: str, dice: random.Random) -> Pair | None:
    one, other = dice.choice(UNIT_PAIRS)
    amount, stem = dice.randint(2, 90), text.rstrip(" ?.!")
    return f"{stem} for {amount} {one}?", f"{stem} for {amount} {other}?"


def negation(text: str, dice: random.Random) -> Pair | None:
    found = re.search(
        r"\b(can|could|should|would|will|do|does|did|is|are|was|were|has|have)\b"
        r"( (?:i|you|we|they|he|she|it|people)\b)?",
        text,
        re.IGNORECASE,
    )
    if not found or re.search(r"\b(not|never|no)\b|n't", text, re.IGNORECASE):
        return None
    return text, f"{text[: found.end()]} not{text[found.end() :]}"


def antonym(text: str, dice: random.Random) -> Pair | None:
    for one, other in dice.sample(ANTONYM_PAIRS, len(ANTONYM_PAIRS)):
        for word, opposite in ((one, other), (other, one)):
            found = re.search(rf"\b{word}\b", text, re.IGNORECASE)
            if found:
                return text, text[: found.start()] + opposite + text[found.end() :]
    return None


def entity(text: str, dice: random.Random) -> Pair | None:
    """Another name in the place of a capitalised word inside the question."""
    found = list(re.finditer(r"(?<=[a-z] )[A-Z][a-z]{2,}\b", text))
    if not found:
        return None
    match = dice.choice(found)
    other = dice.choice([name for name in NAMES if name.lower() not in text.lower()])
    return text, text[: match.start()] + other + text[match.end() :]


def direction(text: str, dice: random.Random) -> Pair | None:
    """Exchange what stands on both sides of a directed word."""
    found = re.search(r"\b(\w{3,}) (to|into|from|than|before|after|over|versus) (\w{3,})\b", text)
    if found and found.group(1).lower() not in _NO_NOUN and found.group(3).lower() not in _NO_NOUN:
        one, word, other = found.groups()
        return text, f"{text[: found.start()]}{other} {word} {one}{text[found.end() :]}"
    one, other = dice.sample(NAMES, 2)
    stem = text.rstrip(" ?.!")
    return f"{stem} from {one} to {other}?", f"{stem} from {other} to {one}?"


_NO_NOUN = frozenset(
    [
        "how",
        "what",
        "want",
        "need",
        "able",
        "have",
        "has",
        "had",
        "going",
        "way",
        "ways",
        "best",
        "like",
        "used",
        "get",
        "got",
        "the",
        "this",
        "that",
        "one",
        "you",
        "are",
        "was",
        "not",
        "and",
        "possible",
        "good",
        "make",
        "learn",
        "due",
        "come",
        "related",
        "more",
        "less",
        "better",
        "worse",
        "rather",
        "other",
        "need",
        "needs",
        "time",
        "wants",
    ]
)


def question_word(text: str, dice: random.Random) -> Pair | None:
    found = re.match(r"(What|Who|When|Where|Why|How)\b(?! (?:many|much|long|old|far|come))", text, re.IGNORECASE)
    if not found:
        return None
    others = [word for word in ("Who", "When", "Where", "Why", "How") if word.lower() != found.group().lower()]
    return text, dice.choice(others) + text[found.end() :]


def language(text: str, dice: random.Random) -> Pair | None:
    """The same question in another language, or the same with another language asked for, or with one."""
    form = dice.randrange(3)
    if form == 0:
        one, other = dice.sample(dice.choice(PARALLEL), 2)
        return one, other
    one, other = dice.sample(("French", "German", "Spanish", "Chinese", "Hindi"), 2)
    asks = dice.choice((f"{text} Answer in {other}.", f"{text} In {other}, please.", f"Explain in {other}: {text}"))
    return (f"{text} Answer in {one}.", f"{text} Answer in {other}.") if form == 1 else (text, asks)


def language_short(text: str, dice: random.Random) -> Pair | None:
    """Key words in two languages, nothing else."""
    one, other = dice.sample(dice.choice(PARALLEL_SHORT), 2)
    return one, other


def chinese(kind: str) -> Edit:
    """Hand-made Chinese pairs of a kind."""

    def pick(text: str, dice: random.Random) -> Pair | None:
        one, other = dice.choice(CHINESE[kind])
        return (one, other) if dice.random() < 0.5 else (other, one)

    return pick


def politeness(text: str, dice: random.Random) -> Pair | None:
    return text, dice.choice((f"Please tell me: {text}", f"Hi, {text[0].lower()}{text[1:]}", f"{text} Thanks!"))


def case(text: str, dice: random.Random) -> Pair | None:
    return (text, text.lower()) if text != text.lower() else (text, text[0].upper() + text[1:])


def punctuation(text: str, dice: random.Random) -> Pair | None:
    stem = text.rstrip(" ?.!")
    return text, dice.choice((stem, f"{stem}??", f"{stem} ?", f"{stem}."))


def contraction(text: str, dice: random.Random) -> Pair | None:
    for long, short in (
        ("What is", "What's"), ("do not", "don't"), ("How is", "How's"), ("I am", "I'm"), ("cannot", "can't"),
        ("is not", "isn't"), ("Who is", "Who's"), ("it is", "it's"), ("I have", "I've"),
    ):  # fmt: skip
        for one, other in ((long, short), (short, long)):
            if re.search(rf"\b{one}\b", text):
                return text, re.sub(rf"\b{one}\b", other, text, count=1)
    return None


def typo(text: str, dice: random.Random) -> Pair | None:
    words = list(re.finditer(r"\b[a-z]{6,}\b", text))
    if not words:
        return None
    word = dice.choice(words)
    at = word.start() + dice.randint(1, len(word.group()) - 3)
    if text[at] == text[at + 1]:
        return None
    return text, text[:at] + text[at + 1] + text[at] + text[at + 2 :]


_SIGNS = "+*/^<>=|#"


def symbol(text: str, dice: random.Random) -> Pair | None:
    """Another sign in a formula or a name; a question without one gets a formula."""
    found = re.search(r"(?<=[\dxyz)]) ?([+*/^<>=]) ?(?=[\dxyz(])|(?<=\b[A-Za-z])([+#])(?=\W)", text)
    if found:
        at = found.start(1) if found.group(1) else found.start(2)
        other = dice.choice([sign for sign in _SIGNS if sign != text[at]])
        return text, text[:at] + other + text[at + 1 :]
    one, other = dice.sample("+-*/^", 2)
    left, right, stem = dice.randint(2, 90), dice.randint(2, 9), text.rstrip(" ?.!")
    return f"{stem} if x is {left} {one} {right}?", f"{stem} if x is {left} {other} {right}?"


def number_as_word(text: str, dice: random.Random) -> Pair | None:
    found = re.search(r"(?<![\d.,:])\b([2-9]|10)\b(?![.,:]?\d)", text)
    return (text, text[: found.start()] + _WORDS[int(found.group())] + text[found.end() :]) if found else None


def written() -> dict[str, list[Pair]]:
    """The sections of contrasts.txt and everyday.txt. All of each: what people thought of is no sample."""
    found: dict[str, list[Pair]] = {}
    for file in ("contrasts.txt", "everyday.txt"):
        for line in (HERE / file).read_text("utf-8").splitlines():
            if line.startswith("["):
                section = found.setdefault(line.strip("[]"), [])
            elif not line.startswith("#"):
                one, _, other = line.partition("|")
                section.append((one, other))
    return found


TRAPS: dict[str, Edit] = {
    "number": number, "unit": unit, "negation": negation, "antonym": antonym, "entity": entity,
    "direction": direction, "question_word": question_word, "language": language,
    "language_short": language_short, "symbol": symbol,
    **{f"zh_{kind}": chinese(kind) for kind in CHINESE if not kind.startswith("harmless")},
}  # fmt: skip
HARMLESS: dict[str, Edit] = {
    "politeness": politeness, "case": case, "punctuation": punctuation, "contraction": contraction, "typo": typo,
    "number_as_word": number_as_word, "zh_harmless": chinese("harmless"),
}  # fmt: skip


def differs(kind: str) -> bool:
    """Whether the answers of a kind's pairs do."""
    return kind in TRAPS or kind in ("contrast", "zh_contrast") or kind.startswith("different_")


def pairs_of(texts: Sequence[str], edit: Edit, count: int, dice: random.Random) -> list[Pair]:
    """Up to `count` distinct edited pairs."""
    found: dict[Pair, None] = {}
    for text in dice.sample(texts, len(texts)):
        pair = edit(text, dice)
        if pair is not None and pair[0] != pair[1]:
            found[pair] = None
        if len(found) == count:
            break
    return list(found)


_UNLIKE = Neighbour(b"u", b"u", "When does the museum open?", 0.1)  # an index holds other questions, too


def reused(policy: DecisionPolicy, asked: str, stored: str, similarity: float) -> bool:
    findings = compare_texts(asked, stored)
    neighbour = Neighbour(
        b"k", b"g", stored, similarity,
        tuple(one.guard for one in findings if one.strength == "veto"),
        tuple(one.guard for one in findings if one.strength == "hint"),
    )  # fmt: skip
    return policy.decide(asked, [neighbour, _UNLIKE], 0.999).action == "reuse"


def make_policy(arguments: argparse.Namespace) -> DecisionPolicy:
    if arguments.policy == "threshold":
        return ThresholdPolicy(ThresholdParameters(arguments.threshold))
    policy = BoundedPolicy(BoundedParameters(max_error=arguments.max_error))
    if arguments.state and not policy.load(Path(arguments.state).read_bytes()):
        raise SystemExit("the state does not fit")
    return policy


def evaluate(kind: str, pairs: list[Pair], similarities: list[float], arguments: argparse.Namespace) -> dict[str, Any]:
    policy = make_policy(arguments)
    taken = [reused(policy, other, one, value) for (one, other), value in zip(pairs, similarities, strict=True)]
    vetoed = [any(one.strength == "veto" for one in compare_texts(other, first)) for first, other in pairs]
    near = [value >= arguments.threshold for value in similarities]
    report: dict[str, Any] = {"pairs": len(pairs), "median_similarity": round(float(np.median(similarities)), 3)}
    if differs(kind):
        report["wrong_reuse"] = round(sum(taken) / len(pairs), 4)
        report["threshold_alone"] = round(sum(near) / len(pairs), 4)
        report["vetoed"] = round(sum(vetoed) / len(pairs), 4)
    else:
        by_guard = [is_near and not is_taken for is_near, is_taken in zip(near, taken, strict=True)]
        refused = [veto or guard for veto, guard in zip(vetoed, by_guard, strict=True)]
        report["refused"] = round(sum(refused) / len(pairs), 4)
        report["not_reused"] = round(1 - sum(taken) / len(pairs), 4)
    return report


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--per-kind", type=int, default=250)
    parser.add_argument("--policy", choices=("threshold", "bounded"), default="threshold")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--max-error", type=float, default=0.01)
    parser.add_argument("--state", default="", help="what a bounded policy has learned (quality.py --save-state)")
    embedding_option(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="print this many pairs of each kind that went wrong")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result here too, as indented JSON")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    texts = [text for text in read_texts(Path(arguments.data)) if 12 <= len(text) <= 200]
    made = {
        kind: pairs_of(texts, edit, arguments.per_kind, random.Random(arguments.seed))
        for kind, edit in (TRAPS | HARMLESS).items()
    }
    made |= written()
    unique = list(dict.fromkeys(text for pairs in made.values() for pair in pairs for text in pair))
    vectors, embedder, _ = embed(unique, embedding_model(arguments), CACHE / "embeddings")
    row = {text: at for at, text in enumerate(unique)}
    results: dict[str, Any] = {}
    for kind, pairs in made.items():
        if not pairs:
            continue
        similarities = [float(vectors[row[one]] @ vectors[row[other]]) for one, other in pairs]
        results[kind] = evaluate(kind, pairs, similarities, arguments)
        if not arguments.json:
            print(kind, results[kind], flush=True)
        policy = make_policy(arguments)
        wrong = [
            pair for pair, value in zip(pairs, similarities, strict=True)
            if differs(kind) == reused(policy, pair[1], pair[0], value)
        ]  # fmt: skip
        for pair in wrong[: arguments.show]:
            print("   ", *pair, [one.guard for one in compare_texts(pair[1], pair[0])], sep=" | ")
    result = {"policy": arguments.policy, "learned": bool(arguments.state), "kinds": results}
    finish("traps", result, out=arguments.out, extra_versions={"embedder": embedder.digest})


if __name__ == "__main__":
    main()
