"""Events after which stored answers are no longer what the engine would say.

Each row names a method of ``AsyncLLM`` and what it means for the epoch; :func:`watched` makes the overrides. What a
method of vLLM returns or raises is passed on untouched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM

from vllm_enhance.engine.epoch import ASLEEP, PAUSED, UPDATING
from vllm_enhance.types import InvalidationScope

__all__ = ["EVENTS", "HARMLESS_RPCS", "Event", "watched"]

HARMLESS_RPCS = frozenset(
    {
        "compute_weight_checksums",
        "checkpoint_prepare",
        "get_model",
        "get_kv_cache_spec",
        "list_loras",
        "pin_lora",
        "profile",
        "start_profile",
        "stop_profile",
        "check_health",
        "is_sleeping",
    }
)
"""``collective_rpc`` methods that leave the weights alone. Any other may have changed them."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a call of one method means.

    Attributes:
        method: of ``AsyncLLM``; rows that this vLLM lacks are skipped.
        cause: label in metrics.
        forgets: whether the call, with these arguments, may change answers.
        enters, leaves: state flags set before, or cleared after, the call.
        clears: the hooks forget what they keep, too: a new epoch alone would not outlive a restart.
        adapters: after the call the files of adapters are read again.
    """

    method: str
    cause: str
    forgets: Callable[[Any, tuple[Any, ...], dict[str, Any]], bool] = lambda runtime, args, kwargs: True
    enters: int = 0
    leaves: int = 0
    clears: bool = False
    adapters: bool = False

    def left(self, entered: bool, result: Any) -> int:
        """State flags to clear after the call: none while the engine is only half awake (``False``, vLLM 0.32+)."""
        return (0 if result is False else self.leaves) | (0 if entered else self.enters)


def _rpc_may_change_weights(runtime: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    method = args[0] if args else kwargs.get("method")
    return not (isinstance(method, str) and method in HARMLESS_RPCS)


def _discards_weights(runtime: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return int(args[0] if args else kwargs.get("level", 1)) >= 2


def _never(runtime: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return False


def _if_asked(runtime: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(runtime.settings["flush-on-prefix-reset"])


EVENTS: tuple[Event, ...] = (
    Event("collective_rpc", "collective_rpc", _rpc_may_change_weights),
    Event("init_weight_transfer_engine", "weights", _never),
    Event("start_weight_update", "weights", enters=UPDATING),
    Event("start_draft_weight_update", "weights", _never),
    Event("update_weights", "weights"),
    Event("finish_weight_update", "weights", leaves=UPDATING),
    Event("update_weight_version", "weights"),
    Event("sleep", "sleep", _discards_weights, enters=ASLEEP),
    Event("wake_up", "sleep", _never, leaves=ASLEEP),
    Event("pause_generation", "pause", _never, enters=PAUSED),
    Event("resume_generation", "pause", _never, leaves=PAUSED),
    Event("reset_prefix_cache", "prefix_reset", _if_asked, clears=True),
    Event("scale_elastic_ep", "elastic"),
    Event("handle_fault", "fault"),
    Event("checkpoint_restore", "checkpoint"),
    Event("add_lora", "lora", _never, adapters=True),
    Event("remove_lora", "lora", _never, adapters=True),
)
"""The table; ``docs/compatibility.md`` shows it. Adapters' files are part of the key, so a load forgets nothing."""


def watched(cls: type[AsyncLLM]) -> type[AsyncLLM]:
    """Class decorator: override every method of :data:`EVENTS` that this vLLM has."""
    for event in EVENTS:
        original = getattr(AsyncLLM, event.method, None)
        if original is not None and event.method not in vars(cls):
            setattr(cls, event.method, _override(event, original))
    return cls


def _override(event: Event, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        runtime = self.enhance
        if runtime is None:
            return await original(self, *args, **kwargs)
        forgets = runtime.safely(lambda: event.forgets(runtime, args, kwargs), default=True)
        # Before: nothing that is stored from now on may count. After: nothing that was stored meanwhile.
        if forgets:
            runtime.forget(event.cause)
        if event.enters:
            runtime.epoch.enter(event.enters)
        entered, half_awake, result = False, False, None
        try:
            result = await original(self, *args, **kwargs)
            entered = True
            if forgets and event.clears:
                await runtime.dispatcher.gather("invalidate", scope=InvalidationScope("all"))
            if result is None and event.leaves & ASLEEP:
                half_awake = await _still_asleep(self, runtime)
            return result
        finally:
            if forgets:
                runtime.forget(event.cause, count=False)
            if event.adapters:
                runtime.forget_adapters()
            runtime.epoch.leave(event.left(entered, False if half_awake else result))

    return method


async def _still_asleep(client: Any, runtime: Any) -> bool:
    """Before 0.32 ``wake_up`` does not say whether all of the engine is awake."""
    try:
        return bool(await client.is_sleeping())
    except Exception as error:
        runtime.fault("state", error)
        return False
