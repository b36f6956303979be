"""Engine arguments: vLLM's own ``AsyncEngineArgs``, made from what a caller wrote."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
from collections.abc import Mapping
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor import Executor

from vllm_enhance.errors import InvalidConfigError

__all__ = ["as_engine_args", "client_arguments", "copied"]

FIELDS = {field.name: field for field in dataclasses.fields(AsyncEngineArgs)}
CLIENT_PARAMETERS = frozenset(inspect.signature(AsyncLLM.__init__).parameters) - {"self"}


def as_engine_args(value: Any) -> AsyncEngineArgs:
    """An ``AsyncEngineArgs``: the one given, or one made of a mapping of its fields.

    Raises:
        InvalidConfigError: a field that vLLM does not have, or a value that it refuses.
    """
    if isinstance(value, AsyncEngineArgs):
        return value
    if isinstance(value, EngineArgs):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"engine_args: AsyncEngineArgs or a mapping is wanted, not {type(value).__name__}")
    unknown = sorted(set(value) - set(FIELDS))
    if unknown:
        raise InvalidConfigError(f"engine_args: vLLM has no engine argument {', '.join(unknown)}")
    try:
        if "model" in value:
            return AsyncEngineArgs(**value)
        # With HF_HUB_OFFLINE set, vLLM looks for the model at once, and its default is hardly ever there.
        made = AsyncEngineArgs(model=os.curdir, **value)
        made.model = str(FIELDS["model"].default)
        return made
    except Exception as error:
        raise InvalidConfigError(f"engine_args: {error}") from error


def copied(engine_args: AsyncEngineArgs, model: str | None) -> AsyncEngineArgs:
    """A copy; with ``model`` in it when no other than vLLM's default was set."""
    default = str(FIELDS["model"].default)
    result = copy.copy(engine_args)
    if model and result.model == default:
        result.model = model
    return result


def client_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``AsyncLLM(...)`` from engine arguments and such of the client's own.

    Args:
        values: fields of ``AsyncEngineArgs`` (or ``engine_args``, a whole one), and parameters of ``AsyncLLM``.

    Raises:
        InvalidConfigError: see :func:`as_engine_args`; or vLLM cannot make a configuration of them.
    """
    own = {name: value for name, value in values.items() if name in CLIENT_PARAMETERS and name not in FIELDS}
    rest = {name: value for name, value in values.items() if name not in own and name != "engine_args"}
    if "engine_args" in values and rest:
        raise InvalidConfigError(f"engine_args is given, so {', '.join(sorted(rest))} must be set in it")
    engine_args = as_engine_args(values.get("engine_args", rest))
    try:
        engine_args = dataclasses.replace(engine_args)  # checks again what was assigned since it was made
        usage = own.pop("usage_context", UsageContext.ENGINE_CONTEXT)
        config = engine_args.create_engine_config(usage)
    except Exception as error:
        raise InvalidConfigError(f"vLLM refuses these engine arguments: {error}") from error
    return {
        "vllm_config": config,
        "executor_class": Executor.get_class(config),
        "log_requests": engine_args.enable_log_requests,
        "log_stats": not engine_args.disable_log_stats,
        "usage_context": usage,
        **own,
    }
