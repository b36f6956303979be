"""Numbers with units, and dates, in English and Chinese text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from .types import Span

__all__ = ["DateMention", "Quantity", "find_dates", "find_quantities"]

MAX_FOUND: Final = 64  # of each kind, so that a table of numbers cannot make a result unbounded


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written, its value, and its unit in one spelling (empty when there is none)."""

    text: str
    value: float
    unit: str
    span: Span


@dataclass(frozen=True, slots=True)
class DateMention:
    """A date or time word; `relative` ones ("today", 现在, "latest") mean another day each time they are asked."""

    text: str
    relative: bool
    span: Span


_UNITS: Final = {
    spelling: name
    for name, spellings in (
        ("%", "% percent per-cent ％"),
        ("km", "km kilometer kilometers kilometre kilometres 公里 千米"),
        ("m", "meter meters metre metres 米"),
        ("cm", "cm centimeter centimeters centimetre centimetres 厘米"),
        ("mm", "mm millimeter millimeters millimetre millimetres 毫米"),
        ("mile", "mile miles mi 英里"),
        ("foot", "ft foot feet 英尺"),
        ("inch", "inch inches 英寸"),
        ("kg", "kg kilogram kilograms kilo kilos 公斤 千克"),
        ("g", "g gram grams 克"),
        ("mg", "mg milligram milligrams 毫克"),
        ("jin", "斤"),
        ("pound", "lb lbs pound pounds 磅"),
        ("tonne", "t ton tons tonne tonnes 吨"),
        ("l", "l liter liters litre litres 升"),
        ("ml", "ml 毫升"),
        ("s", "s sec secs second seconds 秒 秒钟"),
        ("ms", "ms millisecond milliseconds 毫秒"),
        ("min", "min mins minute minutes 分钟"),
        ("h", "h hr hrs hour hours 小时 个小时"),
        ("day", "day days 天 日"),
        ("week", "week weeks 周 星期 个星期"),
        ("month", "month months 个月 月"),
        ("year", "year years yr yrs 年 岁"),
        ("usd", "$ dollar dollars usd 美元"),
        ("eur", "€ euro euros eur 欧元"),
        ("cny", "¥ yuan rmb cny 元 块 人民币"),
        ("gbp", "£ gbp 英镑"),
        ("jpy", "yen jpy 日元"),
        ("°C", "°c ℃ celsius 摄氏度"),
        ("°F", "°f ℉ fahrenheit 华氏度"),
        ("degree", "° degree degrees 度"),
        ("kb", "kb 千字节"),
        ("mb", "mb"),
        ("gb", "gb"),
        ("tb", "tb"),
        ("hz", "hz"),
        ("mhz", "mhz"),
        ("ghz", "ghz"),
        ("w", "w watt watts 瓦"),
        ("kw", "kw 千瓦"),
        ("v", "v volt volts 伏"),
        ("person", "people persons 人 位 名"),
        ("time", "times 次"),
        ("token", "token tokens"),
        ("piece", "个 只 条 张 本 台 件"),
        ("kmh", "km/h kph 公里每小时"),
        ("mph", "mph"),
        ("calorie", "calorie calories kcal 卡路里 大卡"),
    )
    for spelling in spellings.split()
}
_SCALE: Final = {
    "k": 1e3,
    "thousand": 1e3,
    "million": 1e6,
    "m": 1e6,
    "billion": 1e9,
    "bn": 1e9,
    "trillion": 1e12,
    "千": 1e3,
    "万": 1e4,
    "百万": 1e6,
    "千万": 1e7,
    "亿": 1e8,
    "dozen": 12.0,
    "hundred": 100.0,
}
_SMALL: Final = {
    word: float(first + step * place)
    for first, step, words in (
        (0, 1, "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"),
        (16, 1, "sixteen seventeen eighteen nineteen"),
        (20, 10, "twenty thirty forty fifty sixty seventy eighty ninety"),
    )
    for place, word in enumerate(words.split())
}
_ZH_DIGITS: Final = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_ZH_POWERS: Final = {"十": 10, "百": 100, "千": 1000}

_UNIT_WORDS: Final = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=lambda unit: -len(unit)))
_SCALE_WORDS: Final = "thousand|million|billion|trillion|dozen|hundred|bn|百万|千万|千|万|亿|[kK](?![A-Za-z])"
# Bounded repeats: a run of digits of any length is read in pieces and costs its own length.
_NUMBER: Final = re.compile(
    rf"([$€£¥]\s?)?((?<![\w.])[-+]?\d{{1,3}}(?:,\d{{3}}){{1,6}}(?:\.\d{{1,12}})?(?!\d)|[-+]?\d{{1,18}}(?:\.\d{{1,12}})?)"
    rf"(?:\s?({_SCALE_WORDS}))?(?:[\s-]?({_UNIT_WORDS})(?![A-Za-z]))?",
    re.IGNORECASE,
)
_WORD_NUMBER: Final = re.compile(
    rf"\b({'|'.join(sorted(_SMALL, key=len, reverse=True))})(?:-({'|'.join(list(_SMALL)[1:10])}))?"
    rf"(?:\s(hundred|thousand|million|billion|dozen))?(?:[\s-]({_UNIT_WORDS})(?![A-Za-z]))?\b",
    re.IGNORECASE,
)
_ZH_NUMBER: Final = re.compile(
    r"(?<![第])([零〇一二两三四五六七八九十百千]{1,12})(万|亿)?(公里|千米|米|厘米|公斤|千克|斤|克|吨|升|毫升|秒|分钟|个?小时|天|周|"
    r"个?星期|个?月|年|岁|美元|欧元|元|块|度|人|位|名|次|个|只|条|张|本|台|件|瓦)"
)
_MONTHS: Final = (
    "january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|jun|jul|aug|sept?|"
    "oct|nov|dec"
)
_DATE: Final = re.compile(
    rf"\b(?:\d{{4}}-\d{{1,2}}-\d{{1,2}}|\d{{1,2}}/\d{{1,2}}/\d{{2,4}}|\d{{1,2}}(?:st|nd|rd|th)?\s(?:of\s)?(?:{_MONTHS})"
    rf"(?:,?\s\d{{4}})?|(?:{_MONTHS})\.?\s\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s\d{{4}})?(?!\d)|(?:{_MONTHS})\s\d{{4}}|"
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?|(?:19|20)\d{2}s?)\b"
    r"|\d{2,4}年(?:\d{1,2}月)?(?:\d{1,2}[日号])?|\d{1,2}月\d{1,2}[日号]|(?:星期|周)[一二三四五六日天]|(?<!\d)(?:19|20)\d{2}(?!\d|[.,]\d)",
    re.IGNORECASE,
)
_RELATIVE: Final = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|now|right now|nowadays|currently|current|latest|newest|recent|recently|"
    r"this (?:week|month|year|morning|afternoon|evening|weekend|season)|"
    r"(?:next|last) (?:week|month|year|weekend|night|season|"
    r"\w{3,6}day)|these days|at the moment|so far|up to date|just now)\b"
    r"|今天|今日|明天|后天|昨天|前天|现在|目前|当前|如今|最新|最近|近期|刚刚|今年|明年|去年|前年|本周|这周|上周|下周|本月|这个月|上个月|下个月|"
    r"今晚|今早|眼下|截至|实时|这几天",
    re.IGNORECASE,
)


def _chinese_value(digits: str) -> float:
    total, current = 0, 0
    for char in digits:
        if char in _ZH_POWERS:
            total += (current or 1) * _ZH_POWERS[char]
            current = 0
        else:
            current = current * 10 + _ZH_DIGITS[char] if current and not total else _ZH_DIGITS[char]
    return float(total + current)


def _unit(*spellings: str | None) -> str:
    for spelling in spellings:
        if spelling:
            name = _UNITS.get(spelling.strip().lower().lstrip("个")) or _UNITS.get(spelling.strip().lower())
            if name:
                return name
    return ""


def find_quantities(text: str) -> tuple[Quantity, ...]:
    """Numbers of `text` with their units, in order, at most `MAX_FOUND`; digits, English and Chinese words."""
    found: list[Quantity] = []
    for match in _NUMBER.finditer(text):
        if len(found) == MAX_FOUND:
            break
        symbol, digits, scale, unit = match.groups()
        value = float(digits.replace(",", "")) * _SCALE.get((scale or "").lower(), 1.0)
        found.append(Quantity(match.group(), value, _unit(unit, symbol), Span(*match.span())))
    if not text.isascii():
        for match in _ZH_NUMBER.finditer(text):
            value = _chinese_value(match.group(1)) * _SCALE.get(match.group(2) or "", 1.0)
            found.append(Quantity(match.group(), value, _unit(match.group(3)), Span(*match.span())))
            if len(found) >= 2 * MAX_FOUND:
                break
    for match in _WORD_NUMBER.finditer(text):
        value = _SMALL[match.group(1).lower()] + _SMALL.get((match.group(2) or "").lower(), 0.0)
        if match.group(1).lower() == "one" and not (match.group(3) or match.group(4)):
            continue  # "which one"
        scale_word = (match.group(3) or "").lower()
        found.append(
            Quantity(match.group(), value * _SCALE.get(scale_word, 1.0), _unit(match.group(4)), Span(*match.span()))
        )
        if len(found) >= 3 * MAX_FOUND:
            break
    found.sort(key=lambda quantity: quantity.span)
    return tuple(found[:MAX_FOUND])


def find_dates(text: str) -> tuple[DateMention, ...]:
    """Dates and time words of `text`, in order, at most `MAX_FOUND`."""
    kinds: tuple[tuple[Literal[True, False], re.Pattern[str]], ...] = ((False, _DATE), (True, _RELATIVE))
    found = []
    for relative, pattern in kinds:
        for count, match in enumerate(pattern.finditer(text)):
            if count == MAX_FOUND:
                break
            found.append(DateMention(match.group(), relative, Span(*match.span())))
    found.sort(key=lambda date: date.span)
    return tuple(found[:MAX_FOUND])
