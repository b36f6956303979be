"""What clients may ask of the cache."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_enhance.directives import NO_DIRECTIVES, Directives, merge, parse_cache_control, parse_xarg
from vllm_enhance.errors import DirectiveError


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Directives()),
        ("no-store", Directives(no_store=True)),
        ("No-Cache", Directives(no_cache=True)),
        (" no-store ,no-cache ", Directives(no_store=True, no_cache=True)),
        ("only-if-cached", Directives(only_if_cached=True)),
        ("max-age=60", Directives(max_age=60)),
        ('max-age="60"', Directives(max_age=60)),
        ("max-age=0", Directives(max_age=0)),
        ("no-transform, max-stale=5, community=UCI", Directives()),
        (",,,", Directives()),
        ("max-age=99999999999999999999", Directives(max_age=2**31)),
    ],
)
def test_cache_control(header: str, expected: Directives) -> None:
    assert parse_cache_control(header) == expected


@pytest.mark.parametrize("header", ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=x", "max-age=١"])
def test_an_impossible_max_age_says_what_is_allowed(header: str) -> None:
    with pytest.raises(DirectiveError, match="max-age wants a whole number of seconds"):
        parse_cache_control(header)


def test_a_contradiction_is_refused() -> None:
    with pytest.raises(DirectiveError, match="contradict"):
        parse_cache_control("no-cache, only-if-cached")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bypass", Directives(no_store=True, no_cache=True)),
        ("no-store", Directives(no_store=True)),
        ("no-store,max-age=5", Directives(no_store=True, max_age=5)),
        (["no-cache", "no-store"], Directives(no_store=True, no_cache=True)),
        (" Only-If-Cached ", Directives(only_if_cached=True)),
    ],
)
def test_xarg(value: object, expected: Directives) -> None:
    assert parse_xarg(value) == expected


@pytest.mark.parametrize("value", ["", "off", True, 1, None, {"a": 1}, ["no-store", 1], "bypass;no-store"])
def test_an_unknown_xarg_lists_the_allowed_words(value: object) -> None:
    with pytest.raises(DirectiveError, match="bypass, no-store, no-cache, only-if-cached, max-age=N"):
        parse_xarg(value)


def test_bypass_is_both() -> None:
    assert Directives(no_store=True, no_cache=True).bypass
    assert not Directives(no_store=True).bypass
    assert not NO_DIRECTIVES.bypass


@given(st.text(max_size=60))
def test_any_header_gives_directives_or_a_directive_error(header: str) -> None:
    with contextlib.suppress(DirectiveError):
        assert isinstance(parse_cache_control(header), Directives)


directives = st.builds(
    Directives,
    no_store=st.booleans(),
    no_cache=st.booleans(),
    only_if_cached=st.just(False),
    max_age=st.none() | st.integers(0, 100),
)


@given(directives, directives, st.floats(0, 200))
def test_the_merge_is_the_stricter_of_both(first: Directives, second: Directives, age: float) -> None:
    both = merge(first, second)
    assert both == merge(second, first)
    assert both.accepts_age(age) == (first.accepts_age(age) and second.accepts_age(age))
    assert (both.no_store, both.no_cache) == (
        first.no_store or second.no_store,
        first.no_cache or second.no_cache,
    )
    assert merge(both, first) == both


def test_a_contradiction_between_header_and_body_is_refused() -> None:
    with pytest.raises(DirectiveError, match="contradict"):
        merge(Directives(no_cache=True), Directives(only_if_cached=True))
