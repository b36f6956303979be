from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_enhance.errors import SettingError
from vllm_enhance.server.tenant import TENANT_BYTES, TenantRule, parse_tenant_rule
from vllm_enhance.settings import SettingsTable, resolve

API_KEY = TenantRule()
HEADER = parse_tenant_rule("header:X-Org")


def test_the_bearer_token_tells_callers_apart() -> None:
    alice = API_KEY.digest([(b"authorization", b"Bearer alice")])
    assert len(alice) == TENANT_BYTES
    assert alice == API_KEY.digest([(b"host", b"x"), (b"authorization", b"bearer alice")])
    assert alice != API_KEY.digest([(b"authorization", b"Bearer bob")])
    assert b"alice" not in alice


def test_anthropic_clients_send_x_api_key() -> None:
    assert API_KEY.digest([(b"x-api-key", b"alice")]) == API_KEY.digest([(b"authorization", b"Bearer alice")])
    # vLLM checks Authorization alone, so that is who the caller has proved to be.
    both = [(b"x-api-key", b"bob"), (b"authorization", b"Bearer alice")]
    assert API_KEY.digest(both) == API_KEY.digest([(b"authorization", b"Bearer alice")])


def test_other_schemes_separate_too() -> None:
    basic = API_KEY.digest([(b"authorization", b"Basic YTpi")])
    assert basic
    assert basic != API_KEY.digest([(b"authorization", b"Basic Yzpk")])


@pytest.mark.parametrize("headers", [[], [(b"authorization", b"")], [(b"authorization", b"Bearer ")]])
def test_nobody_in_particular(headers: list[tuple[bytes, bytes]]) -> None:
    assert API_KEY.digest(headers) == b""


def test_header_rule() -> None:
    assert HEADER.digest([]) == b""
    org = HEADER.digest([(b"x-org", b"1")])
    assert len(org) == TENANT_BYTES
    assert org != HEADER.digest([(b"x-org", b"2")])
    assert org != API_KEY.digest([(b"authorization", b"Bearer 1")])
    assert HEADER.digest([(b"authorization", b"Bearer 1")]) == b""


def test_a_second_header_line_does_not_impersonate() -> None:
    forged = HEADER.digest([(b"x-org", b"victim"), (b"x-org", b"mallory")])
    assert forged not in (HEADER.digest([(b"x-org", b"victim")]), HEADER.digest([(b"x-org", b"mallory")]))


def test_none_makes_all_callers_one() -> None:
    assert parse_tenant_rule("none").digest([(b"authorization", b"Bearer alice")]) == b""


@pytest.mark.parametrize(
    "text", ["", "apikey", "header", "header:", "header:X Y", "header:X\n", "header:é", "HEADER:x"]
)
def test_a_bad_rule_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="header:NAME"):
        parse_tenant_rule(text)
    for flags, environ in (({"enhance_tenant": text}, {}), ({}, {"ENHANCE_TENANT": text})):
        source = "--enhance-tenant" if flags else "ENHANCE_TENANT"
        with pytest.raises(SettingError, match=f"^{source}: .*header:NAME"):
            resolve(SettingsTable(), flags, environ)


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"x-org", b"a"]), st.binary())))
def test_any_headers_give_a_digest_or_nothing(headers: list[tuple[bytes, bytes]]) -> None:
    for rule in (API_KEY, HEADER):
        assert len(rule.digest(headers)) in (0, TENANT_BYTES)


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_different_values_are_different_tenants(one: bytes, other: bytes) -> None:
    same = HEADER.digest([(b"x-org", one)]) == HEADER.digest([(b"x-org", other)])
    assert same == (one == other)
