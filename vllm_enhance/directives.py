"""What a client may ask of the cache, parsed and nothing else.

Two doors, one meaning: the ``Cache-Control`` request header (RFC 9111, section 5.2.1) and, for clients that
cannot set headers, the request body's ``vllm_xargs: {"enhance": "no-store"}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm_enhance.errors import DirectiveError

__all__ = ["NO_DIRECTIVES", "Directives", "merge", "parse_cache_control", "parse_xarg"]

XARG_WORDS = ("bypass", "no-store", "no-cache", "only-if-cached")


@dataclass(frozen=True, slots=True)
class Directives:
    """What the client asked for.

    Attributes:
        no_store: do not record this answer.
        no_cache: do not answer from the cache.
        only_if_cached: answer from the cache or not at all (HTTP 504).
        max_age: accept stored answers up to this many seconds old; ``None`` is any age.
    """

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age: int | None = None

    @property
    def bypass(self) -> bool:
        """``no-store, no-cache`` together: the request is plain vLLM, also out of joined generations."""
        return self.no_store and self.no_cache

    def accepts_age(self, age: float) -> bool:
        """Whether a stored answer ``age`` seconds old may be used."""
        return self.max_age is None or age <= self.max_age


NO_DIRECTIVES = Directives()


def parse_cache_control(header: str) -> Directives:
    """Parse a ``Cache-Control`` request header.

    Directives this cache has no use for (``no-transform``, ``max-stale``, extensions) are ignored, as RFC 9111
    section 5.2.3 asks.

    Raises:
        DirectiveError: a known directive has an impossible argument, or ``no-cache`` meets ``only-if-cached``.
    """
    flags = {"no-store": False, "no-cache": False, "only-if-cached": False}
    max_age: int | None = None
    for part in header.split(","):
        name, _, argument = part.strip().partition("=")
        name = name.strip().lower()
        if name in flags:
            flags[name] = True
        elif name == "max-age":
            max_age = _delta_seconds(argument.strip().strip('"'))
    return _checked(Directives(flags["no-store"], flags["no-cache"], flags["only-if-cached"], max_age))


def parse_xarg(value: Any) -> Directives:
    """Parse the value of ``vllm_xargs["enhance"]``.

    Args:
        value: one of ``bypass``, ``no-store``, ``no-cache``, ``only-if-cached``, ``max-age=N``, or several of
            them as a list or separated by commas.

    Raises:
        DirectiveError: anything else, with the allowed words in the message.
    """
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _xarg_error(value)
    cleaned = [word.strip().lower() for word in words]
    for word in cleaned:
        if word not in XARG_WORDS and not word.startswith("max-age="):
            raise _xarg_error(word)
    return parse_cache_control(",".join("no-store, no-cache" if word == "bypass" else word for word in cleaned))


def merge(first: Directives, second: Directives) -> Directives:
    """The stricter of the two in every respect."""
    if second is NO_DIRECTIVES:
        return first
    ages = [age for age in (first.max_age, second.max_age) if age is not None]
    return _checked(
        Directives(
            first.no_store or second.no_store,
            first.no_cache or second.no_cache,
            first.only_if_cached or second.only_if_cached,
            min(ages) if ages else None,
        )
    )


def _checked(directives: Directives) -> Directives:
    if directives.no_cache and directives.only_if_cached:
        raise DirectiveError("no-cache and only-if-cached contradict each other: send one of them")
    return directives


def _delta_seconds(argument: str) -> int:
    if not (argument.isascii() and argument.isdigit()):
        raise DirectiveError(f"max-age wants a whole number of seconds, as in max-age=60, not {argument[:32]!r}")
    return min(int(argument[:20]), 2**31)


def _xarg_error(value: Any) -> DirectiveError:
    allowed = ", ".join((*XARG_WORDS, "max-age=N"))
    return DirectiveError(f"vllm_xargs.enhance: {str(value)[:32]!r} is not one of {allowed}")
