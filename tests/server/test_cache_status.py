from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_support import HIT, JOINED, MISS, SIMILAR

from vllm_enhance.reasons import BYPASS_REASONS, REASONS
from vllm_enhance.scope import Decision
from vllm_enhance.server.cache_status import cache_status, refusal_status, response_headers, serialize_item
from vllm_enhance.types import Source

FORMS = [
    ([HIT], "vllm-enhance; hit; ttl=3540; detail=exact"),
    ([Decision(Source.STORE, ttl=5)], "vllm-enhance; hit; ttl=5; detail=exact"),
    ([Decision(Source.MEMORY)], "vllm-enhance; hit; detail=exact"),
    ([SIMILAR], "vllm-enhance; hit; detail=similar"),
    ([Decision(Source.HOOK)], "vllm-enhance; hit; detail=hook"),
    ([Decision(Source.HOOK, detail="faq")], "vllm-enhance; hit; detail=faq"),
    ([MISS], "vllm-enhance; fwd=miss; stored"),
    ([Decision(Source.ENGINE)], "vllm-enhance; fwd=miss"),
    ([JOINED], "vllm-enhance; fwd=miss; collapsed"),
    ([Decision(Source.ENGINE, reason="sampled")], "vllm-enhance; fwd=bypass; detail=sampled"),
    ([Decision(Source.ENGINE, reason="no_cache", stored=True)], "vllm-enhance; fwd=request; stored"),
    ([Decision(Source.ENGINE, reason="odd")], "vllm-enhance; fwd=miss; detail=odd"),
    # several generations of one response
    ([HIT, HIT], "vllm-enhance; hit; ttl=3540; detail=exact"),
    ([HIT, Decision(Source.STORE, ttl=12)], "vllm-enhance; hit; ttl=12; detail=exact"),
    ([HIT, SIMILAR], "vllm-enhance; hit; ttl=3540; detail=several"),
    ([HIT, MISS], "vllm-enhance; fwd=miss; detail=partial"),
    ([JOINED, HIT], "vllm-enhance; fwd=miss; detail=partial"),
    ([MISS, MISS], "vllm-enhance; fwd=miss; stored"),
    ([MISS, JOINED], "vllm-enhance; fwd=miss"),
    ([JOINED, JOINED], "vllm-enhance; fwd=miss; collapsed"),
    ([MISS, Decision(Source.ENGINE, reason="probe")], "vllm-enhance; fwd=miss; detail=several"),
    (
        [Decision(Source.ENGINE, reason="probe"), Decision(Source.ENGINE, reason="sampled")],
        "vllm-enhance; fwd=bypass; detail=several",
    ),
]


@pytest.mark.parametrize(("decisions", "header"), FORMS)
def test_every_form(decisions: list[Decision], header: str) -> None:
    assert cache_status(decisions) == header


def test_an_error_was_not_stored() -> None:
    assert cache_status([MISS], failed=True) == "vllm-enhance; fwd=miss"


def test_a_refusal_is_neither_hit_nor_forwarded() -> None:
    assert refusal_status(504) == "vllm-enhance; detail=only-if-cached"
    assert refusal_status(429) == "vllm-enhance; detail=rejected"


def test_age_is_that_of_the_oldest_answer_and_only_for_hits() -> None:
    assert dict(response_headers([HIT, Decision(Source.MEMORY, age=7200.9)]))[b"age"] == b"7200"
    assert b"age" not in dict(response_headers([HIT, MISS]))
    assert dict(response_headers([Decision(Source.MEMORY, age=-3.0)]))[b"age"] == b"0"  # clocks of two hosts


def test_similarity_is_the_lowest_of_the_similar_hits() -> None:
    headers = dict(response_headers([SIMILAR, Decision(Source.SIMILAR, similarity=0.9), HIT]))
    assert headers[b"x-enhance-similarity"] == b"0.9000"
    assert b"x-enhance-similarity" not in dict(response_headers([HIT]))


def test_no_decision_no_header() -> None:
    assert response_headers([]) == []


def test_every_bypass_reason_is_a_bypass() -> None:
    for reason in BYPASS_REASONS:
        assert cache_status([Decision(Source.ENGINE, reason=reason)]) == f"vllm-enhance; fwd=bypass; detail={reason}"


def test_reasons_are_tokens_with_a_sentence() -> None:
    for label, sentence in REASONS.items():
        assert serialize_item(label) == label
        assert sentence.endswith(".")
        assert "\n" not in sentence


# --------------------------------------------------------------------------- RFC 8941, read back by its grammar

TOKEN = r"[A-Za-z*][A-Za-z0-9:/!#$%&'*+\-.^_`|~]*"
STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
INTEGER = r"-?[0-9]{1,15}"
PARAMETER = rf"; *([a-z*][a-z0-9_\-.*]*)(?:=({STRING}|{INTEGER}|{TOKEN}|\?[01]))?"


def read_back(header: str) -> dict[str, bool | int | str]:
    """A strict reading of one list member: a token and its parameters."""
    match = re.match(TOKEN, header)
    assert match is not None
    rest, found = header[match.end() :], {}
    while rest:
        parameter = re.match(PARAMETER, rest)
        assert parameter is not None, rest
        name, value = parameter.groups()
        assert name not in found
        found[name] = _bare(value)
        rest = rest[parameter.end() :]
    return found


def _bare(text: str | None) -> bool | int | str:
    if text is None or text == "?1":
        return True
    if text.startswith('"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return int(text) if re.fullmatch(INTEGER, text) else text


numbers = st.floats(min_value=-1e18, max_value=1e18, allow_nan=False)
decisions = st.builds(
    Decision,
    source=st.sampled_from(Source),
    reason=st.none() | st.sampled_from(sorted(REASONS)) | st.text(),
    stored=st.booleans(),
    age=numbers,
    ttl=st.none() | numbers,
    similarity=st.none() | st.floats(-1, 1),
    detail=st.none() | st.text(),
)


@given(st.lists(decisions, min_size=1, max_size=6), st.booleans())
def test_any_decisions_make_a_valid_field(some: list[Decision], failed: bool) -> None:
    found = read_back(cache_status(some, failed=failed))
    assert ("hit" in found) != ("fwd" in found)  # RFC 9211, section 2: at most one of them
    assert ("hit" in found) == all(decision.hit for decision in some)
    assert found.get("fwd", "miss") in ("miss", "bypass", "request")
    assert not ("stored" in found and (failed or "hit" in found))
    for name, value in response_headers(some, failed=failed):
        assert re.fullmatch(rb"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value), name


@given(st.text(max_size=128))
def test_details_survive_but_for_what_strings_cannot_hold(text: str) -> None:
    expected = "".join(char if " " <= char <= "~" else "?" for char in text)
    assert _bare(serialize_item(text)) == expected
