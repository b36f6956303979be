"""What a text says that an embedding blurs: numbers, negation, entities, order, question type, language, code.

`read_facts` is pure; it reads one text once, and pairs are compared elsewhere.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import lru_cache

import msgspec

from vllm_enhance_similarity.guards import lexicon
from vllm_enhance_similarity.guards.bare import bare
from vllm_enhance_similarity.guards.direction import AskedPart, asked_part, directed, ordered
from vllm_enhance_similarity.guards.languages import foreign_words, read_language, reply_languages
from vllm_enhance_similarity.guards.lexicon_languages import LANGUAGE_NAMES
from vllm_enhance_similarity.guards.numbers import in_digits, in_digits_zh, read_numbers
from vllm_enhance_similarity.guards.questions import QuestionType, question_type, questions_asked
from vllm_enhance_similarity.guards.stems import stem
from vllm_enhance_similarity.guards.symbols import Symbols, read_symbols
from vllm_enhance_similarity.guards.wording import Cased, marks, read_cased, wording

__all__ = ["TextFacts", "read_facts"]

_TOKEN = re.compile(
    r"[\u3400-\u4dbf\u4e00-\u9fff]|[a-zà-öø-ÿ]+(?:'[a-z]+)?|\d+(?:[.,:]\d+)*|[\u3040-\u30ff]+|[\uac00-\ud7af]+|"
    r"[\u0400-\u04ff]+|[\u0600-\u06ff]+|[\u0900-\u097f]+|[%$€£¥]"
)
_CAPITAL = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ][\w'\u2019.+#-]*")
_SENTENCE_START = re.compile(r"(?:^|[.?!:;\"(\[]\s*)$")
_CODE = re.compile(
    r"```|`[^`]+`|[{};]\s*$|\b(?:def|class|import|SELECT|function|var|const|#include)\b.*[(:;{*]|=>|==|\(\)|</?\w+>",
    re.M,
)
_CODE_BLOCK = re.compile(r"```.*?(?:```|$)|`[^`\n]+`", re.S)
# One of these stands in whatever the patterns above and below find; to look for a sign is quicker than to try them.
_CODE_SIGN = re.compile(r"[`{};:(*=<]")
_LINK_SIGN = re.compile(r"@|http|www")
_QUOTE_SIGN = re.compile('["“「《‘]')
_LINK = re.compile(r"https?://\S+|www\.\S+|\b[\w.+-]+@[\w-]+\.[\w.]+\b")
_QUOTED = re.compile(r"\"([^\"]{1,80})\"|“([^”]{1,80})”|「([^」]{1,80})」|《([^》]{1,80})》|‘([^’]{1,80})’")
_CLOCK = re.compile(r"\b([ap])\.\s?m\b\.?")  # p.m. is pm
_UNSURE_UNITS = frozenset(
    ["pound", "stone", "foot", "feet", "yard", "won", "cup", "cups", "mi", "hp", "bit", "bits", "stones", "oz"]
)
_OR_NOT = re.compile(r"\b(?:whether )?or not\b|\bnot only\b|\bwhy not\b|\bno matter\b|\bif not\b|\bno\. ?\d")


class TextFacts(msgspec.Struct, frozen=True):
    """One text, read. Tokens are lower-case words, or single characters in Chinese.

    What can be said of one text is said here, once, so that a pair takes little: a stored question is compared often.

    Attributes:
        bag: the distinct stems.
        content: the tokens that are no function words.
        ordered, directed, asks: see `direction`.
        opposites: of each token that has some, the tokens that would say the opposite.
        languages_named: "French", 英语; `reply_in`: those that the answer should be in.
        wording, marks, cased: see `wording`.
        foreign: the tokens that mark another language than English, see `languages`.
    """

    tokens: tuple[str, ...]
    stems: tuple[str, ...]
    bag: frozenset[str]
    content: tuple[str, ...]
    ordered: tuple[str, ...]
    directed: dict[str, tuple[str, str]]
    asks: AskedPart
    opposites: tuple[tuple[str, frozenset[str]], ...]
    numbers: frozenset[str]
    units: frozenset[tuple[str, str]]
    negations: int
    entities: frozenset[str]
    languages_named: frozenset[str]
    reply_in: frozenset[str]
    foreign: frozenset[str]
    question: QuestionType
    questions: int
    language: str
    code: str
    links: frozenset[str]
    quoted: frozenset[str]
    symbols: Symbols
    wording: tuple[str, ...]
    marks: tuple[str, ...]
    cased: Cased


@lru_cache(maxsize=8192)
def read_facts(text: str) -> TextFacts:
    """Read one text, as `bare` leaves it; a few tens of microseconds, remembered."""
    text = bare(text)
    plain = text if text.isascii() else _plain(text)
    lowered = _CLOCK.sub(r"\1m", plain.lower()) if "." in plain else plain.lower()
    tokens = in_digits(_expand(_TOKEN.findall(lowered)))
    stems = tuple(map(stem, tokens))
    foreign = foreign_words(tokens)
    language = read_language(lowered, tokens, foreign)
    chinese = language == "zh"
    entities = _entities(plain, tokens, chinese)
    return TextFacts(
        tokens=tokens,
        stems=stems,
        bag=frozenset(stems),
        content=tuple([token for token in tokens if token not in lexicon.FUNCTION_WORDS]),
        ordered=ordered(stems),
        directed=directed(stems),
        asks=asked_part(tokens),
        opposites=tuple([(token, found) for token in tokens if (found := _opposites(token))]),
        numbers=read_numbers(tokens, lowered if chinese else ""),
        units=_units(tokens, lowered if chinese else ""),
        negations=_negations_zh(lowered) if chinese else _negations(lowered, tokens),
        entities=entities,
        languages_named=entities & LANGUAGE_NAMES,
        reply_in=reply_languages(lowered, tokens),
        foreign=foreign,
        question=question_type(lowered, tokens, chinese),
        questions=questions_asked(lowered, chinese),
        language=language,
        code=_code(plain) if _CODE_SIGN.search(plain) else "",
        links=frozenset(_LINK.findall(lowered)) if _LINK_SIGN.search(lowered) else frozenset(),
        quoted=_quoted(plain) if _QUOTE_SIGN.search(plain) else frozenset(),
        symbols=read_symbols(plain),
        wording=wording(tuple(_TOKEN.findall(in_digits_zh(lowered))) if chinese else tokens),
        marks=marks(plain),
        cased=read_cased(plain),
    )


def _plain(text: str) -> str:
    """Compatibility form, one kind of apostrophe."""
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'").replace("\u2018", "'")


def _code(plain: str) -> str:
    return " ".join(" ".join(_CODE_BLOCK.findall(plain)).split()) or ("code" if _CODE.search(plain) else "")


def _quoted(plain: str) -> frozenset[str]:
    return frozenset("".join(groups).lower().strip() for groups in _QUOTED.findall(plain))


@lru_cache(maxsize=65536)
def _opposites(token: str) -> frozenset[str]:
    """Of "unhealthy": "healthy", and what the table says. What is left without a prefix has at least four letters."""
    prefixes = lexicon.PREFIXES_OF_OPPOSITES
    if len(token) <= 4 or not token.startswith(prefixes):
        return lexicon.ANTONYMS.get(token, frozenset())
    rests = {token[len(prefix) :] for prefix in prefixes if token.startswith(prefix)}
    return lexicon.ANTONYMS.get(token, frozenset()) | {rest for rest in rests if len(rest) >= 4}


def _expand(tokens: list[str]) -> tuple[str, ...]:
    """Contractions become the words they stand for: don't -> do not, what's -> what is."""
    words: list[str] = []
    for token in tokens:
        if "'" not in token:
            words.extend(_BARE.get(token, (token,)))
            continue
        head, _, tail = token.partition("'")
        if token in _WHOLE:
            words.extend(_WHOLE[token])
        elif tail == "t" and head.endswith("n"):
            words.extend(word for word in (head[:-1], "not") if word)  # a lone "n't" is just a "not"
        else:
            words.append(head)
            if tail in _TAILS:
                words.append(_TAILS[tail])
    return tuple(map(sys.intern, words))  # the same words in all texts: one string each


_WHOLE = {"can't": ("can", "not"), "won't": ("will", "not"), "shan't": ("shall", "not"), "let's": ("let", "us")}
_BARE = {
    "cannot": ("can", "not"), "cant": ("can", "not"), "dont": ("do", "not"), "wont": ("will", "not"),
    "doesnt": ("does", "not"), "didnt": ("did", "not"), "isnt": ("is", "not"), "whats": ("what", "is"),
    "im": ("i", "am"), "hows": ("how", "is"), "wheres": ("where", "is"), "whos": ("who", "is"),
}  # fmt: skip
_TAILS = {"s": "is", "re": "are", "ll": "will", "ve": "have", "d": "would", "m": "am"}


def _units(tokens: tuple[str, ...], chinese: str) -> frozenset[tuple[str, str]]:
    found = set()
    for position, token in enumerate(tokens):
        unit = lexicon.UNITS.get(token)
        if unit is None:
            continue
        after_number = position > 0 and (
            tokens[position - 1][0].isdigit() or tokens[position - 1] in lexicon.NUMBER_WORDS
        )
        # Single letters and a few common words mean a unit only behind a number.
        if after_number or (len(token) > 1 and unit[0] not in ("time", "clock") and token not in _UNSURE_UNITS):
            found.add(unit)
    for alias, unit in lexicon.UNITS_ZH.items() if chinese else ():
        if alias in chinese and (
            len(alias) > 1 or re.search(rf"[\d一二三四五六七八九十百千万两几]\s*{alias}", chinese)
        ):
            found.add(unit)
    return frozenset(found)


def _negations(lowered: str, tokens: tuple[str, ...]) -> int:
    if lexicon.NEGATIONS.isdisjoint(tokens):
        return 0
    ignored = sum(len(re.findall(r"\b(?:not|no)\b", match)) for match in _OR_NOT.findall(lowered))
    return max(0, sum(token in lexicon.NEGATIONS for token in tokens) - ignored)


def _negations_zh(lowered: str) -> int:
    for word in lexicon.NOT_NEGATIONS_ZH:
        lowered = lowered.replace(word, "")
    lowered = re.sub(r"(.)不\1", "", lowered)
    return sum(lowered.count(word) for word in lexicon.NEGATIONS_ZH + lexicon.UNDOING_ZH)


_NO_NAMES = frozenset(("us", "march", "may", "word"))  # in small letters


def _entities(plain: str, tokens: tuple[str, ...], chinese: bool) -> frozenset[str]:
    found = set(lexicon.ENTITIES.intersection(tokens)) - _NO_NAMES
    if chinese:
        found.update(name for name in lexicon.ENTITIES_ZH if name in plain)
        found.update(word.lower() for word in re.findall(r"[A-Za-z][A-Za-z0-9+#.-]*", plain))
        return frozenset(found)
    if plain.islower():
        return frozenset(found)
    words = list(_CAPITAL.finditer(plain))
    capital = [match for match in words if not match.group().islower()]
    if len(words) > 3 and sum([match.group()[0].isupper() for match in capital]) > 0.6 * len(words):  # SHOUTING
        return frozenset(found)
    for match in capital:
        word = match.group().rstrip(".'")
        if word.endswith("'s"):
            word = word[:-2]
        lowered = word.lower()
        if len(word) < 2 or lowered in lexicon.FUNCTION_WORDS or lowered in ("i'm", "i've", "i'd", "i'll"):
            continue
        inner_capital = any(letter.isupper() for letter in word[1:])
        if inner_capital or (
            word[0].isupper() and not _SENTENCE_START.search(plain, max(0, match.start() - 8), match.start())
        ):
            found.add(stem(lowered))
    return frozenset(found)
