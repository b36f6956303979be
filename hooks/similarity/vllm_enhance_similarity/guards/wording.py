"""Whether two questions use the same words, but for what changes no answer.

An embedding hardly moves when "and" becomes "or", "if" becomes "unless", a "not" changes places or "in detail" is
added; and no list of such words is ever complete. So it is the other way round here: known are the few differences that
are harmless (courtesies, articles, "how do I" for "how can I", a slip of the keyboard); all others count.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.alignment import middle
from vllm_enhance_similarity.guards.stems import american, stem

__all__ = ["Cased", "marks", "read_cased", "same_words", "wording"]

_WAYS_TO_ASK_HOW = tuple(
    tuple(phrase.split())
    for phrase in ("how do i", "how can i", "how could i", "how would i", "how do you", "how can you", "how do we",
                   "how can we", "how does one", "how can one", "how to")
)  # fmt: skip
_SAME = {"are": "is", "am": "is", "were": "was", "has": "have", "could": "can", "would": "will", "whom": "who"}
_NOTHING = frozenset(("the", "a", "an", "do", "does", "actually", "basically", "um", "uh"))
_AMOUNTS = frozenset(("few", "little", "lot", "bit", "couple"))  # "a few" is not "few"
_LISTS = frozenset(("and", "or", "vs", "versus", "和", "与", "或", "跟", "及"))
_TIED = frozenset(("not", "no", "but", "only", "then", "and", "or"))
_NO_ADVERBS = frozenset(("only", "family", "supply", "apply", "reply", "early", "daily", "likely", "nearly", "hardly"))
_VERBS = frozenset(("is", "was", "have", "can", "will", "should", "must", "may", "might", "did"))
_ASK_NO_THING = frozenset(("when", "where", "why", "how"))
_ASK_FOR_A_THING = frozenset(("what", "which", "who"))
_QUANTIFIERS = frozenset(
    ("all", "every", "each", "both", "everyone", "everybody", "everything", "many", "most", "some", "any", "always",
     "only", "often", "also", "much", "few")
)  # fmt: skip
_PHRASES = frozenset(("in", "on", "at", "for", "with", "from", "to", "by", "of", "using", "during", "within"))


def wording(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """The words by which a question is told from another: stems, in order, without what changes no answer."""
    words, at = [], 0
    while at < len(tokens):
        word = tokens[at]
        if word == "how":
            at += next((len(one) for one in _WAYS_TO_ASK_HOW if tokens[at : at + len(one)] == one), 1)
            words.append(word)
            continue
        at += 1
        if word in _NOTHING and (at == len(tokens) or tokens[at] not in _AMOUNTS):
            continue
        words.append(_form(word, words[-1] if words else ""))
    return tuple(words)


def _form(word: str, before: str) -> str:
    """One form for those that mean the same here; an adverb is kept, to be known as one."""
    if word == "am" and before != "i":
        return word  # in the morning
    if word[0].isdigit():
        return word.replace(",", "")
    number = lexicon.NUMBER_WORDS.get(word)
    if number is not None:
        return f"{number:g}"
    return _SAME.get(word) or (word if word.endswith("ly") else stem(american(word)))


def same_words(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether two wordings are one: equal, two in a list exchanged, a phrase or an adverb moved, a slip in a word."""
    if mine == theirs:
        return True
    if len(mine) != len(theirs) or len(mine) > 200:
        return False
    block, other = middle(mine, theirs)
    if len(block) == 1:
        return _slip(block[0], other[0])
    if sorted(block) != sorted(other):
        return False
    if len(block) == 3 and block[1] == other[1] and block[1] in _LISTS:
        return True
    cut = next((cut for cut in range(1, len(block)) if block[cut:] + block[:cut] == other), 0)
    if not cut:
        return False
    parts = block[:cut], block[cut:]
    at = next(at for at, word in enumerate(mine) if word != theirs[at])
    return any(map(_moves, parts)) or _inverted(mine[:at], parts, at + len(block) == len(mine))


def _inverted(before: tuple[str, ...], parts: tuple[tuple[str, ...], tuple[str, ...]], to_end: bool) -> bool:
    """ "where the bus stop is" for "where is the bus stop", "why does it not work" for "why doesn't it work".

    What follows the verb may be asked for ("what can dogs eat", "what dogs can eat"), except by where, when, why or
    how, or if nothing follows. Where "not" stands matters to "all of them".
    """
    asks = before[0] if before else ""
    alone = {part[0] for part in parts if len(part) == 1}
    asks_no_thing = asks in _ASK_NO_THING
    behind_verb = bool(before) and before[-1] in _VERBS
    if "not" in alone and ((asks_no_thing and (behind_verb or len(before) == 1)) or (asks == "what" and behind_verb)):
        return _QUANTIFIERS.isdisjoint(parts[0] + parts[1])
    return not _VERBS.isdisjoint(alone) and (asks_no_thing or (to_end and asks in _ASK_FOR_A_THING))


def _moves(part: tuple[str, ...]) -> bool:
    """A phrase with its preposition and its thing ("in Rome"), or an adverb. What "not" stands before depends on it."""
    if len(part) == 1:  # an adverb
        return part[0].endswith("ly") and len(part[0]) > 4 and part[0] not in _NO_ADVERBS
    return part[0] in _PHRASES and part[-1] not in _PHRASES and _TIED.isdisjoint(part)


def _slip(one: str, other: str) -> bool:
    """Two letters in the wrong order, or one too many, too few or wrong inside a longer word; not "employer"."""
    if min(len(one), len(other)) < 4 or one[0] != other[0] or abs(len(one) - len(other)) > 1:
        return False
    at = 0
    while at < min(len(one), len(other)) and one[at] == other[at]:
        at += 1
    a, b = one[at:], other[at:]
    if a[:2] == b[:2][::-1] and a[2:] == b[2:]:
        return True
    inside = min(len(one), len(other)) > 4 and one[-1] == other[-1]
    return inside and (a[1:] == b[1:] or a[1:] == b or a == b[1:])


_RUN = re.compile(r"(?:[^\w\s]|_)+")
_ORDINARY = frozenset(".,;:?!\"'()-、。，；：？！“”‘’《》「」（）…")
_WRITTEN_ALIKE = {ord("×"): "*", ord("÷"): "/"}
_EMOTICON = re.compile(r"[:;]['-]?[()DPp/|]+$")


def marks(plain: str) -> tuple[str, ...]:
    """Runs of signs that are no punctuation of a sentence, sorted: ".." in "cd ..", "**" in "**args"."""
    found = []
    plain = plain.translate(_WRITTEN_ALIKE)
    for match in _RUN.finditer(plain):
        run, (start, end) = match.group(), match.span()
        ends_word = start > 0 and plain[start - 1].isalnum()
        ends_sentence = end == len(plain) or plain[end].isspace()
        if ends_sentence and (ends_word or end == len(plain)) and all(sign in _ORDINARY or sign == "~" for sign in run):
            continue
        if len(run) == 1 and run in _ORDINARY and run not in ".!:-":
            continue
        if run in ("-", "/", ".", ":") and ends_word and not ends_sentence:
            continue  # joins two words
        if (run == "-" and start == 0) or _EMOTICON.match(run) or not run.isascii():
            continue
        found.append(run)
    return tuple(sorted(found))


_FLAG = re.compile(r"[-%\\][A-Za-z]\b|(?<![\w'.])[B-HJ-Zb-hj-z](?![\w'])")
_CAPITALS = re.compile(r"\b(?:IT|US|WHO|AIDS)\b")
_UNIT = re.compile(r"\b(?:mW|MW|[KMGTkmgt][bB](?:ps)?)\b")


class Cased(NamedTuple):
    """What is another thing in capitals: lone letters, flags (-v, -V), IT and it; units (Mb, MB) if both have some."""

    exact: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def contradict(self, other: Cased) -> bool:
        return self.exact != other.exact or bool(self.units and other.units and self.units != other.units)


_UNCASED = Cased()


def read_cased(plain: str) -> Cased:
    """Read what hangs on capitals. A text all in capitals, or a unit all in small letters, says nothing by them."""
    exact = _FLAG.findall(plain) if not plain.isupper() else []
    if not exact and plain.islower():
        return _UNCASED
    capitals = _CAPITALS.findall(plain) if not plain.isupper() else []
    units = [unit for unit in _UNIT.findall(plain) if not unit.islower()]
    return Cased(tuple(sorted(exact + capitals)), tuple(sorted(units)))
