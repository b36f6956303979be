"""Numbers in a text, brought to one form: 1,000 = 1000 = one thousand = 一千 = 1000.0."""

from __future__ import annotations

import re
from decimal import Decimal

from vllm_enhance_similarity.guards.lexicon import NUMBER_WORDS, ORDINAL_WORDS, UNITS

__all__ = ["in_digits", "in_digits_zh", "read_numbers"]

_MONEY = frozenset("$€£¥")
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "k": 1000}
_DIGITS_ZH = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_SCALES_ZH = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_NUMBER_ZH = re.compile(r"第?[零〇一二三四五六七八九两十百千万亿]+")
_SCALED_ZH = re.compile(r"(\d+(?:\.\d+)?)([百千万亿])")
# Chinese numerals inside words that count nothing.
_WORDS_ZH = re.compile(
    r"一[些样般直起定切下会旦边致点种]|统一|唯一|万一|第一|之一|同一|一个|千万|三星|十分|四川|百度|百分|五一|双十一|"
    r"星期[一二三四五六]|周[一二三四五六]|万能|一(?=[\u4e00-\u9fff]就)"
)

_COUNTS_ZH = re.compile(rf"(?P<word>{_WORDS_ZH.pattern})|{_NUMBER_ZH.pattern}")


def read_numbers(tokens: tuple[str, ...], chinese: str = "") -> frozenset[str]:
    """The set of numbers in `tokens`, and in the Chinese text if one is given. Ordinals are marked `#`."""
    found: set[str] = set()
    if chinese:  # 20万: digits and a scale are one number
        scaled = {_form(Decimal(digits) * _SCALES_ZH[scale]): digits for digits, scale in _SCALED_ZH.findall(chinese)}
        found.update(scaled)
        chinese = _SCALED_ZH.sub("", chinese)
        tokens = tuple(token for token in tokens if token not in scaled.values())
    position = 0
    while position < len(tokens):
        token = tokens[position]
        value, used = _word_number(tokens, position) if token in NUMBER_WORDS else (0.0, 0)
        if used:
            found.add(_form(value))
            position += used
            continue
        if token[0].isdigit():
            before = tokens[position - 1] if position else ""
            found.add(_digits(token, before, tokens[position + 1] if position + 1 < len(tokens) else ""))
        elif token in ORDINAL_WORDS and token not in ("first", "second"):
            found.add(f"#{ORDINAL_WORDS[token]}")
        position += 1
    if chinese:
        found.update(_form(_chinese(word.lstrip("第"))) for word in _NUMBER_ZH.findall(_WORDS_ZH.sub("", chinese)))
    return frozenset(found)


def in_digits(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Write numbers of several words as one token of digits: "two hundred" is "200", "twenty one" is "21"."""
    if NUMBER_WORDS.keys().isdisjoint(tokens):
        return tokens
    found, position = list[str](), 0
    while position < len(tokens):
        value, used = _word_number(tokens, position) if tokens[position] in NUMBER_WORDS else (0.0, 0)
        words = tokens[position : position + used]
        tens = used == 2 and NUMBER_WORDS[words[0]] >= 20 and 0 < NUMBER_WORDS.get(words[1], 0) < 10
        if tens or not _SCALES.keys().isdisjoint(words):
            found.append(_form(value))
        else:
            used = max(used, 1)
            found.extend(tokens[position : position + used])
        position += used
    return tuple(found)


def in_digits_zh(text: str) -> str:
    """The same for Chinese: 十五公里 is 15公里."""
    return _COUNTS_ZH.sub(lambda match: match[0] if match["word"] else _form(_chinese(match[0].lstrip("第"))), text)


def _word_number(tokens: tuple[str, ...], start: int) -> tuple[float, int]:
    """Value and length of a number written in words at `start`; length 0 if there is none.

    A lone "one" is a pronoun more often than a number, so it counts only inside a longer number.
    """
    total = current = 0
    position = start
    while position < len(tokens):
        token = tokens[position]
        if token in NUMBER_WORDS:
            current += NUMBER_WORDS[token]
        elif token in _SCALES and position > start and token not in ("k",):
            if _SCALES[token] == 100:
                current = (current or 1) * 100
            else:
                total += (current or 1) * _SCALES[token]
                current = 0
        else:
            break
        position += 1
    length = position - start
    if length == 1 and tokens[start] == "one":
        return 0, 0
    return total + current, length


def _digits(token: str, before: str, following: str) -> str:
    if ":" in token:
        return token
    plain = token.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", token) else token.replace(",", ".")
    if plain.count(".") > 1:
        return plain  # a version or a date: compared as written
    if following in ("st", "nd", "rd", "th"):
        return f"#{plain}"
    if "." in plain and plain.endswith("0") and before not in _MONEY and following not in UNITS:
        return plain  # 3.10 may be a version, and 3.1 another
    return _form(Decimal(plain) * (_SCALES.get(following, 1)))


def _form(value: float | Decimal) -> str:
    """Exact, however long; without zeros at the end."""
    written = f"{Decimal(value):f}"
    return (written.rstrip("0").rstrip(".") if "." in written else written).lstrip("+") or "0"


def _chinese(word: str) -> float:
    if not any(char in _SCALES_ZH for char in word):  # 二〇二四: digit by digit
        return float("".join(str(_DIGITS_ZH[char]) for char in word) or 0)
    total = section = digit = 0
    for char in word:
        if char in _DIGITS_ZH:
            digit = _DIGITS_ZH[char]
        elif _SCALES_ZH[char] < 10**4:
            section += (digit or 1) * _SCALES_ZH[char]
            digit = 0
        else:
            total = (total + section + digit or 1) * _SCALES_ZH[char]
            section = digit = 0
    return total + section + digit
