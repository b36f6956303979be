"""Language of a text: English, Chinese, or neither, from its letters and commonest words."""

from __future__ import annotations

import re
from typing import Final, Literal

from .tables import word_set

__all__ = ["Language", "detect_language"]

Language = Literal["en", "zh", "other"]

_SAMPLE: Final = 2000  # characters looked at: language does not change the answer after that, and cost must not grow
_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")
_KANA_OR_HANGUL: Final = re.compile(r"[\u3041-\u30ff\uac00-\ud7af\u1100-\u11ff]")
_LATIN_WORD: Final = re.compile(r"[A-Za-z\u00c0-\u024f][A-Za-z\u00c0-\u024f'’]*")
_OTHER_LETTER: Final = re.compile(r"[^\W\d_]")

_ENGLISH: Final = word_set(
    "the of and to is are was were do does did how what why when where which who can could should "
    "would i you it my "
    "your in on at for with from not have has be an if there this that please explain tell me or between"
)
# Function words of the other languages written in Latin letters that users of English models ask in most often;
# words that are English as well ("on", "me", "a", "die", "was") are left out.
_FOREIGN: Final = (
    word_set(
        "der das und ist nicht ich wie warum wo wer ein eine einen mit für auf zu im den dem sind "
        "kann wird "
        "le la les des une est et où pourquoi comment quel quelle dans pour avec je tu vous nous "
        "qui que quoi "
        "el los las es y cómo qué por para una del cuál dónde con se su "
        "il lo gli che come perché dove sono di della nel o os um uma não é são como qual onde em "
        "het een van waarom hoe wat ik je niet zijn och att det är som på hur vad för "
        "jak co jest nie się czy dlaczego w na z bir ve bu için nasıl nedir ne"
    )
    - _ENGLISH
)


def detect_language(text: str) -> Language:
    """`"zh"` when Chinese characters outweigh Latin words, `"en"` for English (or bare ASCII names), else `"other"`.

    Japanese and Korean are `"other"`, and so is a text with no letters at all.
    """
    sample = text[:_SAMPLE]
    if sample.isascii():
        han = kana = 0
    else:
        han = len(_HAN.findall(sample))
        kana = len(_KANA_OR_HANGUL.findall(sample))
    latin = [word.lower() for word in _LATIN_WORD.findall(sample)]
    if kana and kana * 10 >= han + kana:
        return "other"
    if han and han >= len(latin):
        return "zh"
    if not latin:
        return "other"
    letters = len(_OTHER_LETTER.findall(sample)) if not sample.isascii() else 0
    if letters > 2 * sum(map(len, latin)):
        return "other"
    english = sum(word in _ENGLISH for word in latin)
    foreign = sum(word in _FOREIGN for word in latin)
    if english == foreign == 0:
        return "en" if all(word.isascii() for word in latin) else "other"
    return "en" if english >= foreign else "other"
