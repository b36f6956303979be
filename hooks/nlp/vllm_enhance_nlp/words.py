"""Words and keywords: NLTK's tokenizer and Snowball stems for English, jieba for Chinese, when they are installed.

Both are optional and imported on first use. Without NLTK English words come from `tokens`, without jieba Chinese words
are runs of characters; every function says the same kind of thing either way, only less finely.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from . import lexicon_en as en
from . import lexicon_zh as zh
from .entities import MASK
from .language import Language
from .tokens import Token

__all__ = ["backends", "keywords", "segment", "warm", "word_boundaries", "words"]

MAX_KEYWORDS: Final = 64
_CHUNK: Final = 2000  # characters that jieba cuts at a time: its graph is built for the whole of what it gets
_HAN_RUN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+|[A-Za-z0-9][\w.+#-]*|\S")
_segmenter_lock = threading.Lock()


@lru_cache(maxsize=1)
def _nltk_words() -> Any:
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError:
        return None
    return NLTKWordTokenizer()


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    try:
        from nltk.stem.snowball import SnowballStemmer
    except ImportError:
        return None
    return SnowballStemmer("english")


@lru_cache(maxsize=1)
def _load_segmenter() -> Any:
    """A jieba tokenizer that neither reads nor writes jieba's cache file.

    `jieba.Tokenizer.initialize` unmarshals a file of a fixed name in the shared temporary directory, which any local
    user could have put there; reading the dictionary itself costs under a second, once, off the request path.
    """
    try:
        with warnings.catch_warnings():  # old escapes and pkg_resources in jieba 0.42
            warnings.simplefilter("ignore")
            import jieba
    except ImportError:
        return None
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def _segmenter() -> Any:
    with _segmenter_lock:  # loaded once, also when two threads are first at the same time
        return _load_segmenter()


def warm() -> None:
    """Import and load what `words` and `keywords` use, so that the first request does not; blocks for 1-2 s."""
    from .sentences import split_sentences

    split_sentences("Warm up. Twice.", "en")
    words("Warm up.", "en")
    _stem("warming")
    segment("热身一下")


def backends() -> dict[str, bool]:
    """Which optional packages serve, loading them if need be."""
    return {"nltk": _nltk_words() is not None, "jieba": _segmenter() is not None}


def segment(text: str) -> list[str]:
    """Chinese `text` cut into words that join to `text` again; runs of characters without jieba."""
    segmenter = _segmenter()
    if segmenter is None:
        return re.findall(rf"{_HAN_RUN.pattern}|\s+", text)
    pieces: list[str] = []
    for start in range(0, len(text), _CHUNK):
        pieces.extend(segmenter.cut(text[start : start + _CHUNK], HMM=False))
    return pieces


def word_boundaries(pieces: Sequence[str]) -> frozenset[int] | None:
    """Offsets where a piece of `segment` starts or ends; None without jieba, when pieces are no words."""
    if _segmenter() is None:
        return None
    offsets, at = [0], 0
    for piece in pieces:
        at += len(piece)
        offsets.append(at)
    return frozenset(offsets)


def words(text: str, language: Language) -> list[str]:
    """Words and marks of `text` in order, white space dropped."""
    if language == "zh":
        return [piece for piece in segment(text) if not piece.isspace()]
    tokenizer = _nltk_words()
    if tokenizer is None:
        from .tokens import tokenize

        return [token.text for token in tokenize(text)]
    return list(tokenizer.tokenize(text))


@lru_cache(maxsize=16384)
def _stem(word: str) -> str:
    stemmer = _stemmer()
    return word if stemmer is None or len(word) > 40 else str(stemmer.stem(word))


def _content(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.tag != "PUNCT" and token.low not in en.STOP_WORDS and not token.low.startswith(MASK):
            yield _stem(token.low)


def keywords(language: Language, tokens: Sequence[Token], pieces: Sequence[str]) -> tuple[str, ...]:
    """Content words without repeats, in order: English stems from `tokens`, Chinese words from `pieces`."""
    if language == "zh":
        found: Iterator[str] = (
            piece
            for piece in pieces
            if piece not in zh.STOP_WORDS and any(char.isalnum() for char in piece) and not piece.startswith(MASK)
        )
    else:
        found = _content(tokens)
    unique = dict.fromkeys(found)
    return tuple(word for word, _ in zip(unique, range(MAX_KEYWORDS), strict=False))
