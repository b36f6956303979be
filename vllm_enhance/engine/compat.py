"""Does this vLLM have the seams that the plugin needs? Asked by feature, not by version number.

Each probe is one row; the self-test then plays a tape back and compares it with what went in. When one fails, the
server runs plain vLLM and says so once, or refuses to start with ``--enhance-strict on``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["PROBES", "TESTED", "Probe", "failed_probes"]

TESTED = "0.30 to 0.33"


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to the installed vLLM.

    Attributes:
        name: shown to the operator.
        holds: answers it; an exception counts as no.
        why: what breaks without it.
    """

    name: str
    holds: Callable[[], bool]
    why: str


def _async_llm() -> Any:
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM


def _names(function: Any) -> set[str]:
    return set(inspect.unwrap(function).__code__.co_names)


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _class_makes_itself() -> bool:
    own = vars(_async_llm()).get("__new__")
    return own is None or getattr(own, "__module__", "").startswith("vllm_enhance")


def _add_request_arguments() -> bool:
    return {"request_id", "prompt", "params", "lora_request"} <= _parameters(_async_llm().add_request)


def _collector_is_looked_up() -> bool:
    return "RequestOutputCollector" in _names(_async_llm().add_request)


def _generate_uses_collector() -> bool:
    return {"add_request", "get_nowait", "get", "close", "abort"} <= _names(_async_llm().generate)


def _collector_shape() -> bool:
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.output_processor import RequestOutputCollector

    import vllm_enhance.engine.collector as ours

    base = next(c for c in RequestOutputCollector.__mro__ if c is not ours.EnhancedRequestOutputCollector)
    attributes = set(base.__init__.__code__.co_names)
    return (
        {"output", "aggregate", "request_id", "ready"} <= attributes
        and all(callable(getattr(base, name, None)) for name in ("put", "get", "get_nowait", "close"))
        and hasattr(RequestOutputKind, "FINAL_ONLY")
    )


def _request_state() -> bool:
    from vllm.v1.engine.output_processor import RequestState

    wanted = {
        "tokenizer", "request", "prompt", "parent_req", "request_index", "queue", "log_stats", "stream_interval",
    }  # fmt: skip
    return wanted <= _parameters(RequestState.from_new_request) and {
        "new_token_ids", "finish_reason", "stop_reason",
    } <= _parameters(RequestState.make_request_output)  # fmt: skip


def _output_fields() -> bool:
    from vllm.outputs import CompletionOutput, RequestOutput

    return {"text", "token_ids", "logprobs", "finish_reason", "stop_reason", "cumulative_logprob"} <= _parameters(
        CompletionOutput
    ) and {"prompt_token_ids", "num_cached_tokens", "finished", "outputs"} <= _parameters(RequestOutput)


def _sampling_fields() -> bool:
    from vllm.sampling_params import SamplingParams

    return {"temperature", "seed", "output_kind", "extra_args", "n"} <= set(SamplingParams.__struct_fields__)


def _http_error() -> bool:
    from vllm.exceptions import GracefulHTTPError

    return {"message", "http_status"} <= _parameters(GracefulHTTPError)


def _endpoint_plugins() -> bool:
    import vllm.plugins
    from vllm.plugins.endpoint_plugins import interface

    return hasattr(vllm.plugins, "load_endpoint_plugins") and "load_endpoint_plugins" in _names(
        interface.attach_endpoint_plugins
    )


def _replay() -> bool:
    from vllm_enhance.engine.selftest import replay_is_faithful

    return replay_is_faithful()


PROBES: tuple[Probe, ...] = (
    Probe("AsyncLLM has no constructor of its own", _class_makes_itself, "the engine client cannot be swapped"),
    Probe("AsyncLLM.add_request takes the known arguments", _add_request_arguments, "requests cannot be read"),
    Probe("AsyncLLM.add_request makes its collector by name", _collector_is_looked_up, "answers cannot be recorded"),
    Probe("AsyncLLM.generate reads from the collector", _generate_uses_collector, "answers cannot be replayed"),
    Probe("RequestOutputCollector has the known shape", _collector_shape, "answers cannot be recorded"),
    Probe("RequestState can be built alone", _request_state, "answers cannot be replayed"),
    Probe("outputs have the known fields", _output_fields, "answers cannot be replayed"),
    Probe("SamplingParams has the known fields", _sampling_fields, "requests cannot be told apart"),
    Probe("errors can carry an HTTP status", _http_error, "requests cannot be refused"),
    Probe("endpoint plugins are looked up by name", _endpoint_plugins, "headers and routes are missing"),
    Probe("a tape plays back as it was recorded", _replay, "answers cannot be replayed"),
)


def failed_probes(probes: tuple[Probe, ...] = PROBES) -> list[str]:
    """Names of the probes that this vLLM does not pass, each with what breaks."""
    failed = []
    for probe in probes:
        try:
            holds, detail = probe.holds(), ""
        except Exception as error:
            holds, detail = False, f" ({type(error).__name__}: {error})"
        if not holds:
            failed.append(f"{probe.name}{detail}: {probe.why}")
    return failed
