"""What ``DELETE /v1/enhance/cache`` shall forget, read from its query."""

from __future__ import annotations

import re

from vllm_enhance.server.tenant import TENANT_BYTES
from vllm_enhance.settings import PARSERS
from vllm_enhance.types import InvalidationScope

__all__ = ["ScopeProblem", "read_scope"]

KEY_BYTES = 32
MAX_MODEL_NAME = 512


class ScopeProblem(ValueError):
    """The query cannot be understood.

    Args:
        param: the query parameter at fault.
    """

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def read_scope(kind: str, value: str | None, dry_run: bool, *, own_tenant: bytes = b"") -> InvalidationScope:
    """Check ``scope`` and ``value`` against each other.

    Tenants are named by digest (as ``/v1/enhance/requests/{id}`` shows it) or by ``self``, the caller's own; never by
    token, since servers and proxies log URLs.

    Raises:
        ScopeProblem: says what is allowed.
    """
    if kind not in InvalidationScope.KINDS:
        said = f"{kind[:32]!r} is not one of them" if kind else "say which"
        raise ScopeProblem("scope", f"scope is one of {', '.join(InvalidationScope.KINDS)}: {said}")
    if kind == "all":
        if value is not None:
            raise ScopeProblem("value", "scope=all takes no value")
        return InvalidationScope("all", None, dry_run)
    if not value:
        raise ScopeProblem("value", f"scope={kind} needs a value: {WANTED[kind]}")
    return InvalidationScope(kind, READERS[kind](value, own_tenant), dry_run)


def _hex(value: str, length: int, kind: str) -> str:
    lowered = value.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", lowered):
        raise ScopeProblem("value", f"scope={kind} wants {WANTED[kind]}")
    return lowered


def _tenant(value: str, own_tenant: bytes) -> str:
    if value != "self":
        return _hex(value, TENANT_BYTES, "tenant")
    if not own_tenant:
        raise ScopeProblem("value", "this request carries nothing that --enhance-tenant tells callers apart by")
    return own_tenant.hex()


def _model(value: str, _: bytes) -> str:
    if len(value) > MAX_MODEL_NAME:
        raise ScopeProblem("value", f"scope=model wants {WANTED['model']}")
    return value


def _age(value: str, _: bytes) -> str:
    try:
        return f"{PARSERS['duration'](value):.6f}".rstrip("0").rstrip(".")
    except ValueError:
        raise ScopeProblem("value", f"scope=age wants {WANTED['age']}") from None


WANTED = {
    "key": f"the {2 * KEY_BYTES} hex digits of a key, as /v1/enhance/requests/{{id}} shows it",
    "tenant": f"the {2 * TENANT_BYTES} hex digits of a tenant, as /v1/enhance/requests/{{id}} shows it, or self",
    "model": f"a model name of at most {MAX_MODEL_NAME} characters",
    "age": "the age from which on entries go, in seconds or with a unit, as in 90s, 15m, 2h, 7d",
}

READERS = {
    "key": lambda value, _: _hex(value, KEY_BYTES, "key"),
    "tenant": _tenant,
    "model": _model,
    "age": _age,
}
