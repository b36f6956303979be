"""Asking a running server, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from vllm_enhance.errors import EnhanceError

__all__ = ["Server", "ServerProblem"]

PREFIX = "/v1/enhance/"
SECONDS = 20.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerProblem(EnhanceError):
    """The server cannot be asked, or refuses; the message says what to do.

    Args:
        status: HTTP status, or ``None`` when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """``/v1/enhance`` of one server; a context manager, which closes the connection.

    Args:
        base_url: address of the server, with or without ``/v1``.
        api_key: sent as bearer token; empty sends none.
        transport: for tests.
    """

    def __init__(self, base_url: str, api_key: str = "", *, transport: httpx.BaseTransport | None = None) -> None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ServerProblem(f"{base_url!r} is no address; --base-url wants one like http://127.0.0.1:8000")
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=SECONDS,
            transport=transport,
            trust_env=address.hostname not in LOOPBACK,  # no proxy between a machine and itself
        )
        self._has_key = bool(api_key)

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of ``GET /v1/enhance/{path}``.

        Raises:
            ServerProblem: there is none, or it is an error.
        """
        return self._ask("GET", path, query)

    def delete(self, path: str, **query: Any) -> Any:
        """The JSON answer of ``DELETE``; see :meth:`get`."""
        return self._ask("DELETE", path, query)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer of ``POST``; see :meth:`get`."""
        return self._ask("POST", path, {}, body)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, query: Mapping[str, Any], body: Mapping[str, Any] | None = None) -> Any:
        params = {name: value for name, value in query.items() if value is not None}
        try:
            response = self._client.request(method, self.base_url + PREFIX + path, params=params, json=body)
        except httpx.TimeoutException:
            raise ServerProblem(f"{self.base_url} did not answer within {SECONDS:g} seconds") from None
        except httpx.HTTPError as error:
            raise ServerProblem(
                f"no server answers at {self.base_url} ({type(error).__name__}); is `vllm serve MODEL --enhance` "
                "running there? --base-url or ENHANCE_BASE_URL names another address"
            ) from None
        return self._read(response)

    def _read(self, response: httpx.Response) -> Any:
        status = response.status_code
        if status in (401, 403):
            problem = "refuses this API key" if self._has_key else "wants an API key"
            raise ServerProblem(f"{self.base_url} {problem}; give it with --api-key or VLLM_API_KEY", status)
        try:
            answer = response.json()
        except ValueError:
            raise ServerProblem(
                f"what answers at {self.base_url} is not vLLM with vllm-enhance (status {status})", status
            ) from None
        if response.is_success or "components" in answer:  # health says 503 with a whole report in it
            return answer
        message = _message(answer)
        if status == 404 and message in ("", "Not Found"):
            raise ServerProblem(
                f"the server at {self.base_url} runs without vllm-enhance; start it with --enhance", status
            )
        raise ServerProblem(message or f"the server answered {status}", status)


def _message(answer: Any) -> str:
    """The message of an error in vLLM's shape, or FastAPI's."""
    if not isinstance(answer, Mapping):
        return ""
    error = answer.get("error")
    if isinstance(error, Mapping):
        return str(error.get("message", ""))
    detail = answer.get("detail", error)
    if isinstance(detail, list):  # FastAPI's validation errors
        return "; ".join(f"{each.get('loc', ['?'])[-1]}: {each.get('msg', '')}" for each in detail)
    return str(detail or "")
