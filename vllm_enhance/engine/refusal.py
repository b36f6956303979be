"""Refusing a request so that the client sees the status it was refused with, streams included."""

from __future__ import annotations

from http import HTTPStatus

from vllm.exceptions import GracefulHTTPError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import FinishReason

from vllm_enhance.engine.collector import EnhancedRequestOutputCollector
from vllm_enhance.errors import RequestRejected
from vllm_enhance.scope import current_scope

__all__ = ["refuse"]


def refuse(request_id: str, params: SamplingParams, rejection: RequestRejected) -> EnhancedRequestOutputCollector:
    """Refuse a request with the status that the client shall see.

    vLLM logs a traceback for an exception inside a stream. Where the middleware will put the refusal in the place of
    the whole response anyway, the stream just ends.

    Raises:
        GracefulHTTPError: everywhere else; vLLM turns it into a response.
    """
    scope = current_scope.get()
    if scope is not None:
        scope.reject(rejection)
    if scope is None or scope.released or params.output_kind == RequestOutputKind.FINAL_ONLY:
        raise GracefulHTTPError(rejection.message, _known_status(rejection.status))
    collector = EnhancedRequestOutputCollector(params.output_kind, request_id)
    ended = CompletionOutput(0, "", [], None, None, finish_reason=str(FinishReason.ABORT))
    collector.put(RequestOutput(request_id, None, [], None, [ended], finished=True))
    return collector


def _known_status(status: int) -> HTTPStatus:
    """vLLM wants a registered status; the middleware sends the exact one."""
    try:
        return HTTPStatus(status)
    except ValueError:
        return HTTPStatus.BAD_REQUEST if status < 500 else HTTPStatus.INTERNAL_SERVER_ERROR
