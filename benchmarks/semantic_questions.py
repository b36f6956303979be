"""What semantic_peers.py stores and asks: questions of a file, or made on the spot."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quality import Questions, read_questions, read_rows

__all__ = ["Plan", "invented", "made_up", "plan", "read", "reworded"]


@dataclass
class Plan:
    """What is stored, in order, and what is asked; numbers are rows of ``data.texts``."""

    data: Questions
    stored: list[int]
    spare: list[int]
    asked: list[int]


def plan(data: Questions, partners: dict[int, list[int]], sizes: Sequence[int], spare: int, requests: int,
         dice: random.Random) -> Plan:  # fmt: skip
    """Draw from the data, each text once. Of pairs whose first question is stored, the second is asked.

    Raises:
        SystemExit: there is not enough of it.
    """
    pool = list(dict.fromkeys(data.stored or data.asked))
    dice.shuffle(pool)
    entries = max(sizes)
    stored, spares, rest = pool[:entries], pool[entries : entries + spare], pool[entries + spare :]
    taken = {*stored, *spares}
    candidates = [other for number in stored for other in partners.get(number, ())] if data.is_pairs else rest
    asked = [number for number in dict.fromkeys(candidates) if number not in taken]
    dice.shuffle(asked)
    if len(spares) < spare or not asked:
        raise SystemExit(f"more than {entries + spare} different questions are needed, the data has {len(pool)}")
    return Plan(data, stored, spares, asked[:requests])


def read(path: Path) -> tuple[Questions, dict[int, list[int]]]:
    """The questions, and for pairs which second questions each first one has."""
    data, partners = read_questions(path), {}
    if data.is_pairs:
        number = {text: at for at, text in enumerate(data.texts)}
        for row in read_rows(path):
            partners.setdefault(number[row["a"]], []).append(number[row["b"]])
    return data, partners


FORMS = ("How do I {} {} {}?", "How can I {} {} {}?")
VERBS = ("sell", "buy", "build", "repair", "clean", "paint", "rent", "move", "insure", "photograph")
THINGS = ("a boat", "a piano", "a roof", "an engine", "a bicycle", "a clock", "a tent", "a violin", "a bridge",
          "a fence", "a well", "a mirror", "a lamp", "a carpet", "a chimney", "a tractor", "a statue", "a stove",
          "a saddle", "a telescope", "a kayak", "a barrel", "a loom", "a harp", "a camera", "a door", "a pump",
          "a kite", "a sofa", "a fountain")  # fmt: skip
PLACES = ("in Norway", "in Peru", "in Kenya", "in Japan", "at home", "at sea", "in winter", "in a city", "in a village",
          "on an island", "in the mountains", "by a lake", "in a desert", "on a farm", "near an airport", "in a museum",
          "in a school", "abroad", "in Canada", "in Egypt")  # fmt: skip


def made_up() -> Questions:
    """Six thousand things to ask, each in two wordings."""
    found = Questions()
    asked = [(verb, thing, place) for verb in VERBS for thing in THINGS for place in PLACES]
    for label, words in enumerate(asked):
        for form in FORMS:
            found.asked.append(len(found.texts))
            found.texts.append(form.format(*words))
            found.labels.append(label)
    return found


def reworded(text: str) -> str:
    """The same question."""
    return text.rstrip(" ?.!") + ", please?"


def invented(dice: random.Random) -> str:
    """A question about what does not exist."""

    def word() -> str:
        return "".join(dice.choice("bdfgklmnprstvz") + dice.choice("aeiou") for _ in range(dice.randint(2, 4)))

    return f"Why does the {word()} {word()} its {word()} before the {word()}?"
