"""Who asks, as a digest: callers with different digests never see each other's answers.

The digest is one-way and carries a domain tag, so what lands in keys, logs and ``explain`` is never a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from vllm_enhance.settings import PARSERS

__all__ = ["TENANT_BYTES", "TenantRule", "parse_tenant_rule", "tenant_digest"]

TENANT_BYTES = 16
_DOMAIN = b"vllm-enhance/1"

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class TenantRule:
    """What separates callers.

    Attributes:
        kind: ``api-key``, ``header`` or ``none``.
        header: lower-case header name, for ``header``.
    """

    kind: str = "api-key"
    header: bytes = b""

    def digest(self, headers: Headers) -> bytes:
        """The tenant (16 bytes) of a request with these ASGI headers; empty when there is nothing to tell it by."""
        if self.kind == "none":
            return b""
        if self.kind == "header":
            # Repeated: a client that adds its own line to the gateway's lands in a partition of its own.
            value = b", ".join(value for name, value in headers if name == self.header)
            return tenant_digest(b"header:" + self.header, value)
        authorization = api_key = b""
        for name, value in headers:
            if name == b"authorization" and not authorization:
                authorization = value
            elif name == b"x-api-key" and not api_key:
                api_key = value
        return tenant_digest(b"api-key", credential(authorization) or api_key)


def credential(authorization: bytes) -> bytes:
    """The bearer token, read as vLLM reads it; another scheme's credentials stand as they are."""
    scheme, _, token = authorization.partition(b" ")
    return token if scheme.lower() == b"bearer" else authorization


def tenant_digest(kind: bytes, value: bytes) -> bytes:
    """BLAKE2b (16 bytes) of a credential; empty for an empty one.

    Args:
        kind: ``b"api-key"`` or ``b"header:name"``, so that two rules never share a digest.
        value: the credential or the header's value.
    """
    if not value:
        return b""
    return blake2b(kind + b"\0" + value, digest_size=TENANT_BYTES, person=_DOMAIN).digest()


def parse_tenant_rule(text: str) -> TenantRule:
    """Read the value of the setting ``tenant``.

    Raises:
        ValueError: not ``api-key``, ``none`` or ``header:NAME``; a resolved setting never is.
    """
    checked: str = PARSERS["tenant"](text)
    kind, _, name = checked.partition(":")
    return TenantRule(kind, name.lower().encode("ascii"))
