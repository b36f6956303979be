"""English connectives: match the tables of `lexicon_en`, then decide from what stands on either side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

from . import lexicon_en as en
from .grammar_en import WINDOW, clause_starts, gerund_starts, has_verb_before, verb_phrase_starts
from .pairs_en import Match, join_pairs
from .tables import word_set
from .tokens import Token
from .types import Connective, Role, Sense

__all__ = ["english_connectives"]


class _Site(NamedTuple):
    """A table entry found at tokens `[at, end)` of the sentence `[first, stop)`."""

    tokens: Sequence[Token]
    first: int
    at: int
    end: int
    stop: int

    @property
    def initial(self) -> bool:
        return self.at == self.first or self.tokens[self.at - 1].tag == "PUNCT"

    def before(self) -> Token | None:
        return self.tokens[self.at - 1] if self.at > self.first else None

    def after(self) -> Token | None:
        return self.tokens[self.end] if self.end < self.stop else None


_Entry = tuple[tuple[str, ...], Sense, Role]


def _index() -> dict[str, list[_Entry]]:
    """All phrases by first word, longest first."""
    table: dict[str, list[_Entry]] = {}
    roles: tuple[tuple[Role, dict[tuple[str, ...], str]], ...] = (
        ("coordinator", en.COORDINATORS),
        ("subordinator", en.SUBORDINATORS),
        ("phrase", en.PHRASAL),
        ("adverb", en.ADVERBIALS),
    )
    for role, phrases in roles:
        for words, sense in phrases.items():
            table.setdefault(words[0], []).append((words, cast(Sense, sense), role))
    for entries in table.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return table


_TABLE: Final = _index()
_NOT_CONTRAST_BEFORE: Final = word_set("nothing anything all none everything anyone everyone")
_PERFECT: Final = word_set("has have had hasn't haven't hadn't")
_DEGREE: Final = word_set("many much far long few little hard easy often good bad big small expensive popular")
_GROWTH: Final = word_set("grow grows increase increases rise rises get gets fall falls age ages approach")


def _clause_after(site: _Site, *, bare: bool = True) -> bool:
    return clause_starts(site.tokens, site.end, site.stop, bare=bare)


def _coordinates(site: _Site) -> bool:
    """Whether "and"/"or" at this place joins clauses or verb phrases, rather than nouns or bare verbs."""
    tokens, first, stop = site.tokens, site.first, site.stop
    following = site.after()
    if following is None:
        return False
    if site.at == first:  # "And what is …?"
        return _clause_after(site)
    if following.tag == "PUNCT":  # "and, if so, …"
        return following.low == "," and clause_starts(tokens, site.end + 1, stop, bare=True)
    indirect = following.tag == "WH" and site.end + 1 < stop and tokens[site.end + 1].tag in ("TO", "AUX")
    if following.low in en.SUBORDINATORS_FIRST and not indirect:  # "and after changing a record, …", "and if so"
        begin = site.end + 1
        opens = clause_starts(tokens, begin, stop, bare=True) or gerund_starts(tokens, begin, stop)
        return (opens or following.low == "if") and has_verb_before(tokens, first, site.at)
    if tokens[site.at - 1].tag == "WH" or tokens[site.at - 1].tag == following.tag == "AUX":
        return False  # "How and why …", "would and will"
    if _between(site):
        return False
    if following.tag == "WH" and (site.initial or tokens[first].tag in ("WH", "AUX", "V")):
        return _clause_after(site, bare=False)
    if verb_phrase_starts(tokens, first, site.at, site.end, stop):
        return True
    return has_verb_before(tokens, first, site.at) and _clause_after(site, bare=False)


def _between(site: _Site) -> bool:
    """Whether the coordinator closes "between … and …" or "both … and …" with no verb inside."""
    for at in range(site.at - 1, max(site.first, site.at - 8) - 1, -1):
        token = site.tokens[at]
        if token.low in ("between", "both"):
            return True
        if token.tag in ("AUX", "PUNCT", "CC", "WH", "VD"):
            return False
    return False


def _but(site: _Site) -> bool:
    before, following = site.before(), site.after()
    if following is None or (before is not None and before.low in _NOT_CONTRAST_BEFORE):
        return False
    return (
        _clause_after(site)
        or verb_phrase_starts(site.tokens, site.first, site.at, site.end, site.stop)
        or following.low in ("not", "also")
    )


def _so(site: _Site) -> bool:
    following = site.after()
    if following is None or following.low in _DEGREE or following.tag == "ADV":
        return False
    if any(token.low == "that" for token in site.tokens[site.end + 1 : min(site.stop, site.end + 4)]):
        return False  # "so heavy that"
    before = site.before()
    if not site.initial and before is not None and before.tag in ("AUX", "V", "VZ", "VD", "WH"):
        return False
    return following.low in en.SUBORDINATORS_FIRST or _clause_after(site)


def _if(site: _Site) -> bool:
    before, following = site.before(), site.after()
    if following is None:
        return False
    if before is None or before.tag in ("PUNCT", "CC"):
        return True
    if before.tag in ("OBJ", "PRON") and site.at - 2 >= site.first:  # "tell me if", "ask them if"
        return site.tokens[site.at - 2].low not in en.EMBEDDING_WORDS
    return before.low not in en.EMBEDDING_WORDS and before.tag != "WH"


def _when(site: _Site) -> bool:
    before, following = site.before(), site.after()
    if following is None or following.tag in ("PUNCT", "TO"):
        return False
    if before is None or before.tag in ("PUNCT", "CC"):
        if following.tag == "AUX" or (before is not None and before.tag == "CC"):
            return False
        return _clause_or_gerund(site) or _question_after_comma(site)
    if before.low in en.EMBEDDING_WORDS or before.tag in ("WH", "AUX"):
        return False
    if before.tag in ("OBJ", "PRON") and site.at - 2 >= site.first:
        return site.tokens[site.at - 2].low not in en.EMBEDDING_WORDS
    return True


def _question_after_comma(site: _Site) -> bool:
    tokens = site.tokens
    for at in range(site.end, min(site.stop - 1, site.end + WINDOW)):
        if tokens[at].low == ",":
            return tokens[at + 1].tag in ("WH", "AUX", "PRON")
    return False


def _while(site: _Site) -> bool:
    before = site.before()
    return site.after() is not None and (before is None or before.low not in ("a", "the", "worth"))


def _as(site: _Site) -> bool:
    following = site.after()
    if following is None or following.tag == "PREP":
        return False
    if site.initial:
        return _clause_after(site)
    return following.low in ("i", "he", "she", "we", "they") and _clause_after(site)


def _clause_or_gerund(site: _Site) -> bool:
    return _clause_after(site) or gerund_starts(site.tokens, site.end, site.stop)


def _has_complement(site: _Site) -> bool:
    following = site.after()
    return following is not None and following.tag != "PUNCT"


def _initial_clause(site: _Site) -> bool:
    return site.initial and _clause_or_gerund(site)


def _adverb(site: _Site) -> bool:
    before, following = site.before(), site.after()
    if before is None or before.low in (";", "and", "but", ":"):
        return following is not None
    return before.tag == "PUNCT" and (following is None or following.tag == "PUNCT" or _clause_after(site))


def _between_commas(site: _Site) -> bool:
    following = site.after()
    return _adverb(site) and (following is None or following.tag == "PUNCT")


_RULES: Final[dict[str, Callable[[_Site], bool]]] = {
    "but": _but,
    "yet": _initial_clause,
    "so": _so,
    "if": _if,
    "when": _when,
    "while": _while,
    "as": _as,
    "as long as": lambda site: (after := site.after()) is not None and after.tag != "NUM",
    "as soon as": lambda site: (after := site.after()) is not None and after.low != "possible",
    "in case": lambda site: (after := site.after()) is not None and after.low != "of",
    "so that": lambda site: _clause_after(site),
    "assuming": _initial_clause,
    "suppose": _initial_clause,
    "supposing": _initial_clause,
    "unlike": lambda site: site.initial and _has_complement(site),
    "besides": _between_commas,
    "still": _between_commas,
    "instead": _between_commas,
    "however": _between_commas,
    "if not": _between_commas,
    "also": lambda site: site.at == site.first and _has_complement(site),
    "previously": lambda site: site.at == site.first and _has_complement(site),
    **dict.fromkeys(
        (
            "before",
            "after",
            "until",
            "till",
            "since",
            "once",
            "ever since",
            "even after",
            "every time",
            "each time",
            "the moment",
            "right after",
            "right before",
            "shortly after",
            "shortly before",
            "soon after",
            "even when",
            "by the time",
            "just when",
            "much as",
        ),
        _clause_or_gerund,
    ),
}
_BY_ROLE: Final[dict[Role, Callable[[_Site], bool]]] = {
    "coordinator": _coordinates,
    "subordinator": _has_complement,
    "phrase": _has_complement,
    "adverb": _adverb,
}


def _near(site: _Site, words: frozenset[str]) -> bool:
    low, high = max(site.first, site.at - WINDOW), min(site.stop, site.end + WINDOW)
    return any(site.tokens[k].low in words for k in range(low, high))


def _since_sense(site: _Site) -> Sense:
    """Time when the main clause is perfect or asks how long, else cause."""
    tokens = site.tokens
    if site.initial:  # the main clause comes after the comma
        at, limit = site.end, min(site.stop, site.end + WINDOW)
        while at < limit and tokens[at].low != ",":
            at += 1
        main = tokens[at:limit]
    else:
        main = tokens[max(site.first, site.at - WINDOW) : site.at]
    lows = [token.low for token in main]
    perfect = any(word in _PERFECT or word.endswith("'ve") for word in lows)
    return "time" if perfect or "long" in lows or gerund_starts(tokens, site.end, site.stop) else "cause"


def _while_sense(site: _Site) -> Sense:
    """Time with a progressive, a gerund or a bare adjective; contrast between two finite states."""
    tokens, limit = site.tokens, min(site.stop, site.end + WINDOW)
    if gerund_starts(tokens, site.end, site.stop) or not _clause_after(site):
        return "time"
    for at in range(site.end, limit):
        if tokens[at].low == ",":
            break
        if tokens[at].low.endswith("ing") and tokens[at - 1].low in en.BE_FORMS | {"i'm", "you're", "we're", "they're"}:
            return "time"
    return "contrast" if site.initial else "time"


_SENSES: Final[dict[str, Callable[[_Site], Sense]]] = {
    "since": _since_sense,
    "while": _while_sense,
    "as": lambda site: "time" if not site.initial or _near(site, _GROWTH) else "cause",
}


def _match_sentence(tokens: Sequence[Token], first: int, stop: int) -> list[Match]:
    """Connectives among tokens `[first, stop)` of one sentence, in order, pairs not yet joined."""
    found: list[Match] = []
    at = first
    while at < stop:
        entries = _TABLE.get(tokens[at].low)
        match = _match_at(tokens, first, at, stop, entries) if entries else None
        if match is None:
            at += 1
        else:
            found.append(match)
            at = match.end
    return found


def _match_at(tokens: Sequence[Token], first: int, at: int, stop: int, entries: list[_Entry]) -> Match | None:
    for words, sense, role in entries:
        end = at + len(words)
        if end > stop or any(tokens[at + k].low != words[k] for k in range(1, len(words))):
            continue
        site, text = _Site(tokens, first, at, end, stop), " ".join(words)
        if not _RULES.get(text, _BY_ROLE[role])(site):
            continue
        clausal = role in ("coordinator", "subordinator") or gerund_starts(tokens, end, stop)
        return Match(at, end, text, _SENSES[text](site) if text in _SENSES else sense, role, clausal)
    return None


def english_connectives(tokens: Sequence[Token], sentences: Sequence[tuple[int, int]]) -> list[Connective]:
    """Connectives of all sentences, given as token ranges, in order of their first part."""
    found: list[Connective] = []
    for first, stop in sentences:
        found.extend(join_pairs(tokens, first, stop, _match_sentence(tokens, first, stop)))
    return found
