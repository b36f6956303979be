"""What "it", "they", "its" stand for in a follow-up question, where that is safe to say.

Safe means: the question before offers a noun phrase in subject or object position that agrees in number and kind, and
the pronoun is not an expletive ("is it safe to …", "when it is hot") or about an event ("how long does it take?").
When subject and object both agree nothing is put back: a wrong guess would ask another question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from . import lexicon_en as en
from .tables import word_set
from .tokens import Token

__all__ = ["Antecedent", "anaphora", "antecedents", "restore"]

_MAX_PHRASE: Final = 12
_SINGULAR: Final = frozenset(("it", "its", "this", "that"))
_PLURAL: Final = frozenset(("they", "them", "their"))
_PERSON: Final = frozenset(("he", "she", "him", "his", "her"))
_POSSESSIVE: Final = frozenset(("its", "their", "his", "her"))
_PRONOUNS: Final = _SINGULAR | _PLURAL | _PERSON | {"one", "ones"}
_EVENT_VERBS: Final = word_set("prevent fix stop avoid solve help happen cause")
_EVENT_PARTICIPLES: Final = word_set("prevented fixed stopped avoided solved helped cured treated happen")
_WEATHER: Final = word_set(
    "hot cold warm dark late early raining snowing rain rains snow snows sunny cloudy windy freezing noon midnight"
)
_IRREGULAR_PLURALS: Final = word_set("people children men women mice feet teeth police geese")
_CLAUSE_WORDS: Final = word_set("if because although though while when unless whether that which who")
_NOUN_GERUNDS: Final = word_set(
    "learning engineering processing computing marketing banking testing programming printing "
    "parking accounting "
    "housing funding trading mining balancing caching streaming"
)
_GENERIC: Final = word_set("people someone everyone companies others things")


class Antecedent(NamedTuple):
    """A noun phrase that a pronoun may stand for."""

    text: str
    plural: bool
    person: bool


def _phrase_end(tokens: Sequence[Token], at: int, stop: int) -> int:
    """One past the noun phrase that starts at `at`; `at` itself when there is none."""
    start = at
    while at < stop and at - start < _MAX_PHRASE:
        token, low = tokens[at], tokens[at].low
        previous = tokens[at - 1] if at > start else None
        if low in _CLAUSE_WORDS:
            break
        proper = at > start and token.text[:1].isupper()
        if token.tag == "DET":
            if previous is not None and previous.low != "of":
                break
        elif token.tag in ("N", "NUM") or proper or low in _NOUN_GERUNDS or (low == "of" and previous is not None):
            pass
        elif token.tag in ("V", "VZ", "VG", "VD"):
            after_determiner = previous is not None and previous.tag == "DET"
            if not (after_determiner or (previous is None and token.tag != "VD")):
                break
        else:
            break
        at += 1
    if at < stop and tokens[at].low in ("that", "which", "who", "whose"):
        return start  # the relative clause belongs to the phrase, and is too long to put back
    while at > start and tokens[at - 1].low in ("of", *en.DETERMINERS):
        at -= 1
    return at


def _is_plural(tokens: Sequence[Token], start: int, end: int) -> bool:
    head = end - 1
    for at in range(start, end):
        if tokens[at].low == "and":
            return True
        if tokens[at].tag == "PREP" and at > start:
            head = at - 1
            break
    word = tokens[head]
    if word.low in _IRREGULAR_PLURALS:
        return True
    if word.text[:1].isupper() or len(word.low) < 4:
        return False
    return word.low.endswith("s") and not word.low.endswith(("ss", "us", "is", "ics"))


def _candidate(text: str, tokens: Sequence[Token], start: int, end: int, *, who: bool = False) -> list[Antecedent]:
    if end <= start or end - start > _MAX_PHRASE or tokens[start].tag in ("PRON", "OBJ"):
        return []
    if tokens[start].tag == "VG" and tokens[start].low not in _NOUN_GERUNDS and end - start > 1:
        return []
    if all(tokens[at].tag in ("NUM", "DET") for at in range(start, end)):
        return []
    if tokens[start].low in _GENERIC or (tokens[end - 1].tag in ("DET", "PREP") and tokens[end - 1].text.islower()):
        return []
    head = next((tokens[at - 1] for at in range(start + 1, end) if tokens[at].tag == "PREP"), tokens[end - 1])
    phrase = text[tokens[start].start : tokens[end - 1].end]
    return [Antecedent(phrase, _is_plural(tokens, start, end), who or head.low in en.PERSON_NOUNS)]


def _after_be(text: str, tokens: Sequence[Token], at: int, stop: int, question: str) -> list[Antecedent]:
    """Subject of "what/who/where is …" (all the rest), or of "why is …", "is …" (without its predicate)."""
    if at >= stop:
        return []
    if question in ("what", "who", "where", "how far"):
        if stop - at > 1 and tokens[stop - 1].tag == "VD":  # "where is X located"
            stop -= 1
        plain = all(
            tokens[k].tag not in ("WH", "AUX", "PUNCT", "TO") and tokens[k].low not in ("like", "that")
            for k in range(at, stop)
        )
        return _candidate(text, tokens, at, stop, who=question == "who") if plain else []
    if at + 1 < stop and tokens[at].text[:1].isupper() and tokens[at].tag != "DET":
        end = at
        while end < stop and tokens[end].text[:1].isupper():
            end += 1
        if tokens[end - 1].low.endswith("'s"):
            return []
        return _candidate(text, tokens, at, end)
    end = _phrase_end(tokens, at, stop)
    predicate_inside = end == stop or tokens[end].tag in ("PREP", "CC", "TO")
    if predicate_inside and end - at >= 2:
        end -= 1
    return _candidate(text, tokens, at, end)


def _verb_index(tokens: Sequence[Token], at: int, stop: int) -> int:
    for index in range(at, stop):
        if tokens[index].tag in ("V", "VZ", "VD", "VG") or tokens[index].low in ("have", "be"):
            return index
    return stop


def _after_helper(text: str, tokens: Sequence[Token], at: int, stop: int) -> list[Antecedent]:
    """Subject and object of "do/can/will SUBJECT VERB OBJECT"."""
    if at >= stop:
        return []
    pronoun = tokens[at].tag in ("PRON", "OBJ")
    end = at + 1 if pronoun else _phrase_end(tokens, at, stop)
    subject = [] if pronoun else _candidate(text, tokens, at, end)
    verb = _verb_index(tokens, end, stop)
    while verb + 2 < stop and tokens[verb + 1].tag == "TO":  # "need to renew a passport"
        verb += 2
    start = verb + 1
    if start < stop and tokens[start].tag in ("OBJ", "PREP") and tokens[start].low != "of" and not subject:
        start += 1  # "tell me X", "look after a cat"
    return subject + _candidate(text, tokens, start, _phrase_end(tokens, start, stop))


def antecedents(text: str, tokens: Sequence[Token], start: int, stop: int) -> list[Antecedent]:
    """Noun phrases that the question in tokens `[start, stop)` offers to a later pronoun."""
    while start < stop and (tokens[start].tag in ("ADV", "PUNCT", "CC") or tokens[start].low == "please"):
        start += 1
    while stop > start and tokens[stop - 1].tag == "PUNCT":
        stop -= 1
    if start >= stop:
        return []
    first = tokens[start]
    embedded = next((k for k in range(start + 1, stop) if tokens[k].tag == "WH" and tokens[k - 1].tag != "PREP"), -1)
    if embedded > 0 and first.tag != "WH":  # "tell me what a mortgage is", "explain how a blockchain works"
        end = next((k for k in range(embedded + 1, stop) if tokens[k].tag == "AUX"), -1)
        if end < 0 or any(tokens[k].tag in ("PREP", "CC", "PUNCT") for k in range(embedded + 1, end)):
            end = _phrase_end(tokens, embedded + 1, stop)
        return _candidate(text, tokens, embedded + 1, end)
    if first.tag == "WH":
        return _after_question_word(text, tokens, start, stop)
    if first.tag == "AUX":
        if first.low in en.BE_FORMS:
            return _after_be(text, tokens, start + 1, stop, "")
        return _after_helper(text, tokens, start + 1, stop)
    if first.tag == "V":
        at = start + 1
        while at < stop and tokens[at].tag in ("OBJ", "PREP"):
            at += 1
        return _candidate(text, tokens, at, _phrase_end(tokens, at, stop))
    return []


def _rival(tokens: Sequence[Token], start: int, end: int) -> list[Antecedent]:
    """The noun of "what majors": it can be what a pronoun means, but cannot be put in its place."""
    if end <= start or tokens[end - 1].tag not in ("N", "VZ", "V"):
        return []
    return [Antecedent("", _is_plural(tokens, start, end), person=False)]


def _after_question_word(text: str, tokens: Sequence[Token], start: int, stop: int) -> list[Antecedent]:
    word = tokens[start].low
    if word.endswith("'s"):
        return _after_be(text, tokens, start + 1, stop, word[:-2])
    at = start + 1
    if at < stop and tokens[at].tag in ("VD", "VZ", "V") and word in ("who", "what"):  # "who invented the telephone"
        return _candidate(text, tokens, at + 1, _phrase_end(tokens, at + 1, stop))
    while at < stop and tokens[at].tag not in ("AUX", "V", "VZ", "VD"):
        at += 1
    if at >= stop:
        return []
    rival = _rival(tokens, start + 1, at) if word in ("what", "which", "whose") else []
    if tokens[at].low in en.BE_FORMS:
        question = "how far" if word == "how" and at > start + 1 else word if at == start + 1 else ""
        return rival + _after_be(text, tokens, at + 1, stop, question)
    if tokens[at].tag == "AUX":
        return rival + _after_helper(text, tokens, at + 1, stop)
    return rival + _candidate(text, tokens, at + 1, _phrase_end(tokens, at + 1, stop))


# --- Pronouns ----------------------------------------------------------------------------------------------------


def anaphora(tokens: Sequence[Token], start: int, stop: int, main_stop: int, *, event: bool) -> list[int]:
    """Indices of the pronouns in `[start, stop)` that refer back.

    `main_stop` ends the main clause: behind it a nearer noun phrase may be meant. `event` says that the question
    before was about a course of events, to which "prevent it" then refers.
    """
    found = []
    nearer = False
    for at in range(start, stop):
        token = tokens[at]
        if token.tag == "DET" and token.low not in _PRONOUNS and token.low not in en.WH_WORDS:
            nearer = nearer or at >= main_stop or at + 1 < main_stop
        meant = token.low in _PRONOUNS and (at < main_stop or not nearer)
        if meant and _refers(tokens, start, at, stop, event=event):
            found.append(at)
    return found


def _refers(tokens: Sequence[Token], start: int, at: int, stop: int, *, event: bool) -> bool:
    low = tokens[at].low
    before = tokens[at - 1] if at > start else None
    after = tokens[at + 1] if at + 1 < stop else None
    ends = after is None or after.tag in ("PUNCT", "PREP", "CC")
    if low in ("one", "ones"):
        return ends and before is not None and before.tag in ("V", "VD", "VG", "AUX")
    if low in ("this", "that"):
        placed = before is not None and before.tag in ("AUX", "V") and before.low != "do"
        return placed and (after is None or after.tag in ("AUX", "PUNCT"))
    if low == "it":
        if before is not None and (
            (before.low == "do" and (after is None or ends or after.tag == "ADV")) or before.low == "about"
        ):
            return False
        near = (token.low for token in tokens[at + 1 : min(stop, at + 4)])
        if event and ((before is not None and before.low in _EVENT_VERBS) or not _EVENT_PARTICIPLES.isdisjoint(near)):
            return False
        if after is None and any(tokens[k].low in ("time", "day", "date", "year") for k in range(start, at)):
            return False  # "what time is it"
        return not _expletive(tokens, at, stop, before, after)
    return low not in _POSSESSIVE or low == "her" or after is not None


def _expletive(tokens: Sequence[Token], at: int, stop: int, before: Token | None, after: Token | None) -> bool:
    if after is None:
        return False
    if after.low in ("take", "takes", "cost", "seem", "seems", "mean", "rain", "snow"):
        return True
    rest = range(at + 1, min(stop, at + 6))
    if any(tokens[k].low in _WEATHER for k in range(at + 1, min(stop, at + 4))):
        return True
    if (before is not None and before.low in en.BE_FORMS) or after.low in en.BE_FORMS:
        described = after if before is not None and before.low in en.BE_FORMS else None
        if described is not None and described.tag in ("VD", "VG", "PREP", "DET"):
            return False
        return any(tokens[k].low in ("to", "that", "if", "when") and k > at + 1 for k in rest)
    return False


def _agrees(pronoun: str, antecedent: Antecedent) -> bool:
    if pronoun in _PERSON:
        return (antecedent.person or antecedent.text[:1].isupper()) and not antecedent.plural
    if pronoun in _PLURAL:
        return antecedent.plural
    if pronoun == "one":
        return antecedent.text.lower().startswith(("a ", "an ")) and not antecedent.plural
    if pronoun == "ones":
        return False
    return not antecedent.plural and not antecedent.person


def restore(
    text: str, tokens: Sequence[Token], places: Sequence[int], stop: int, offered: Sequence[Antecedent]
) -> list[tuple[int, int, str]]:
    """Edits `(start, end, replacement)` for the pronouns at token indices `places`; an unmatched pronoun has none."""
    edits: list[tuple[int, int, str]] = []
    for at in places:
        token = tokens[at]
        agreeing = [one for one in offered if _agrees(token.low, one)]
        if len({one.text for one in agreeing}) != 1 or not agreeing[0].text:
            continue  # nothing meant, or more than one thing could be
        match = agreeing[0]
        possessive = token.low in _POSSESSIVE and not (
            token.low == "her" and (at + 1 >= stop or tokens[at + 1].tag != "N")
        )
        if not possessive:
            edits.append((token.start, token.end, match.text))
            continue
        owned_end = _phrase_end(tokens, at + 1, stop)
        long = " of " in match.text or match.text.count(" ") > 3
        if long and owned_end > at + 1:
            owned = text[tokens[at + 1].start : tokens[owned_end - 1].end]
            edits.append((token.start, tokens[owned_end - 1].end, f"the {owned} of {match.text}"))
        else:
            edits.append(
                (token.start, token.end, match.text + ("'" if match.plural and match.text.endswith("s") else "'s"))
            )
    return edits
