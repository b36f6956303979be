"""``Cache-Status`` (RFC 9211), ``Age`` (RFC 9111, section 5.1) and ``X-Enhance-Similarity``, from decisions.

Pure functions: no clock, no I/O. Values are structured fields (RFC 8941): a member with parameters, whose values are
booleans, integers, tokens, or strings when they are no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from vllm_enhance.reasons import BYPASS_REASONS, MISS_REASONS
from vllm_enhance.scope import Decision
from vllm_enhance.types import Source

__all__ = ["CACHE_NAME", "cache_status", "refusal_status", "response_headers", "serialize_item"]

CACHE_NAME = "vllm-enhance"
MAX_DETAIL = 128
MAX_INTEGER = 999_999_999_999_999  # RFC 8941, section 3.3.1

_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9:/!#$%&'*+\-.^_`|~]*")
_NOT_IN_STRINGS = re.compile(r"[^\x20-\x7e]")
_HIT_DETAILS = {Source.MEMORY: "exact", Source.STORE: "exact", Source.SIMILAR: "similar", Source.HOOK: "hook"}

Parameter = tuple[str, "bool | int | str"]


def serialize_item(value: bool | int | str) -> str:
    """One bare item: a token if the text is one, else a quoted string, with ``?`` for what strings cannot hold."""
    if isinstance(value, bool):
        return "?1" if value else "?0"
    if isinstance(value, int):
        return str(max(-MAX_INTEGER, min(MAX_INTEGER, value)))
    text = value[:MAX_DETAIL]
    if _TOKEN.fullmatch(text):
        return text
    return '"' + _NOT_IN_STRINGS.sub("?", text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _member(parameters: Iterable[Parameter]) -> str:
    parts = [CACHE_NAME]
    for name, value in parameters:
        parts.append(name if value is True else f"{name}={serialize_item(value)}")
    return "; ".join(parts)


def cache_status(decisions: Sequence[Decision], *, failed: bool = False) -> str:
    """The ``Cache-Status`` member for all generations of one response.

    All hits make a hit, with the ``ttl`` that runs out first. Hits beside generations make
    ``fwd=miss; detail=partial``. ``stored`` and ``collapsed`` are told only when they hold for all.

    Args:
        decisions: at least one.
        failed: the response is an error, which is never stored.
    """
    hits = [decision for decision in decisions if decision.hit]
    if len(hits) == len(decisions):
        return _member(_hit(hits))
    if hits:
        return _member([("fwd", "miss"), ("detail", "partial")])
    return _all_forwarded(tuple(decisions), failed)


@lru_cache(maxsize=256)
def _all_forwarded(decisions: tuple[Decision, ...], failed: bool) -> str:
    """Nearly all misses are alike, and each says so."""
    return _member(_forwarded(decisions, failed))


def _hit(hits: Sequence[Decision]) -> list[Parameter]:
    parameters: list[Parameter] = [("hit", True)]
    ttls = [hit.ttl for hit in hits if hit.ttl is not None]
    if ttls:
        parameters.append(("ttl", int(min(ttls))))
    return [*parameters, *_detail({hit.detail or _HIT_DETAILS[hit.source] for hit in hits})]


def _forwarded(decisions: Sequence[Decision], failed: bool) -> list[Parameter]:
    reasons = {decision.reason for decision in decisions}
    if reasons <= BYPASS_REASONS.keys():
        return [("fwd", "bypass"), *_detail(reasons)]
    # RFC 9211, section 2.2: "request" says that the client's own directives forbade a stored answer.
    parameters: list[Parameter] = [("fwd", "request" if reasons <= MISS_REASONS.keys() else "miss")]
    if all(decision.source is Source.JOINED for decision in decisions):
        parameters.append(("collapsed", True))
    elif all(decision.stored for decision in decisions) and not failed:
        parameters.append(("stored", True))
    return [*parameters, *_detail({decision.detail or decision.reason for decision in decisions} - MISS_REASONS.keys())]


def _detail(details: set[str | None]) -> list[Parameter]:
    if not details or details == {None}:
        return []
    return [("detail", str(details.pop()) if len(details) == 1 else "several")]


def refusal_status(status: int) -> str:
    """``Cache-Status`` of a response that we made ourselves: neither ``hit`` nor ``fwd``."""
    return _member([("detail", "only-if-cached" if status == 504 else "rejected")])


def response_headers(decisions: Sequence[Decision], *, failed: bool = False) -> list[tuple[bytes, bytes]]:
    """ASGI headers for a response; none when nothing was decided.

    ``Age`` is that of the oldest answer and appears only when every generation was a hit; ``X-Enhance-Similarity`` is
    the lowest cosine similarity among similar hits.
    """
    if not decisions:
        return []
    headers = [(b"cache-status", cache_status(decisions, failed=failed).encode("ascii"))]
    if all(decision.hit for decision in decisions):
        age = max(0, min(MAX_INTEGER, int(max(decision.age for decision in decisions))))
        headers.append((b"age", str(age).encode("ascii")))
    similarities = [decision.similarity for decision in decisions if decision.hit and decision.similarity is not None]
    if similarities:
        headers.append((b"x-enhance-similarity", f"{min(similarities):.4f}".encode("ascii")))
    return headers
