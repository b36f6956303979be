"""The contract between the engine and every hook package, ours and third parties'.

A hook package is any object (usually a module or a class instance) with some of these functions, each marked
``@hookimpl``, registered under the entry-point group ``vllm_enhance`` or named in ``--enhance-hooks``. An
implementation names only the arguments that it uses.

Two specs carry the traffic, :func:`pre_request` and :func:`post_output`; the others are the life cycle. The engine
calls them through :mod:`vllm_enhance.dispatch`, never through pluggy's plain call: one after the other, awaited, each
with a deadline, and a hook that raises, hangs or returns nonsense never harms the request or the other hooks.

**Where an implementation runs.** ``async def``: on the event loop, so it must not block. Plain ``def``: in a worker
thread, so it may block for a while. ``@hookimpl(inline=True)`` on a plain ``def``: directly on the event loop, for
functions that return in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import pluggy

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from vllm_enhance.context import HookContext
    from vllm_enhance.records import GenerationRecord
    from vllm_enhance.settings import Setting
    from vllm_enhance.types import HealthReport, InvalidationScope, Outcome, PreRequestDecision, RequestContext, Standby

__all__ = [
    "PROJECT",
    "declare_settings",
    "feedback",
    "health",
    "hookimpl",
    "invalidate",
    "post_output",
    "pre_request",
    "shutdown",
    "startup",
    "stats",
]

PROJECT = "vllm_enhance"
INLINE_ATTRIBUTE = "_vllm_enhance_inline"

hookspec = pluggy.HookspecMarker(PROJECT)
_pluggy_hookimpl = pluggy.HookimplMarker(PROJECT)

F = TypeVar("F", bound=Callable[..., Any])


@overload
def hookimpl(function: F) -> F: ...


@overload
def hookimpl(
    *,
    inline: bool = ...,
    tryfirst: bool = ...,
    trylast: bool = ...,
    optionalhook: bool = ...,
    specname: str | None = ...,
) -> Callable[[F], F]: ...


def hookimpl(
    function: F | None = None,
    *,
    inline: bool = False,
    tryfirst: bool = False,
    trylast: bool = False,
    optionalhook: bool = False,
    specname: str | None = None,
) -> Any:
    """Mark a function as an implementation of the spec of the same name.

    Args:
        inline: run a plain ``def`` on the event loop itself; promise that it returns in microseconds.
        tryfirst, trylast, optionalhook, specname: as in pluggy.
    """

    def mark(target: F) -> F:
        setattr(target, INLINE_ATTRIBUTE, inline)
        return _pluggy_hookimpl(
            target, tryfirst=tryfirst, trylast=trylast, optionalhook=optionalhook, specname=specname
        )

    return mark if function is None else mark(function)


# --------------------------------------------------------------------------- traffic


@hookspec
def pre_request(request: RequestContext) -> PreRequestDecision | Awaitable[PreRequestDecision]:
    """Called once for each generation request, in the API server process, before the engine sees it.

    Called in order, ``tryfirst`` implementations first. The cache answers last (``trylast``), so that a hook that
    rewrites or refuses is heard before it.

    Args:
        request: the request. ``request.key`` is ``None`` when it may not be cached; hooks are asked all the same.

    Returns:
        ``None`` or ``Continue``: nothing to say. ``Rewrite``: go on with a changed request, which the next hook sees.
        ``Respond`` or ``Reject``: the answer or the refusal; no further hook is asked. ``Lookup``: go on, an answer may
        still come while the engine works.

    An exception, a missed deadline (``--enhance-hook-deadline``) or a result of another type counts as ``None``.
    """


@hookspec
def post_output(request: RequestContext, record: GenerationRecord, outcome: Outcome) -> Awaitable[None] | None:
    """Called after each finished generation, replays included, in the background.

    ``inline`` implementations are called first, at once; the others in a bounded background queue (when it is full,
    the call is dropped and counted). Errors, aborts and cut generations are not shown.

    Args:
        request: the request as :func:`pre_request` left it.
        record: what was answered.
        outcome: where the answer came from, and whether the record may be kept.
    """


# --------------------------------------------------------------------------- life cycle


@hookspec
def declare_settings() -> Sequence[Setting]:  # type: ignore[empty-body]
    """Called while the command line is built: declare settings, which become flags, environment variables and docs.

    Called in every process that builds a parser: import nothing heavy, start nothing.
    """


@hookspec
def startup(context: HookContext) -> Standby | Awaitable[Standby | None] | None:
    """Called once in each API server process before the first request, on the event loop.

    An exception disables this hook package for the life of the process; the server goes on without it and says so.

    Args:
        context: settings, clock, metrics, and what the engine offers to hooks.

    Returns:
        ``Standby()`` when the package has nothing to do in this configuration: :func:`pre_request` and
        :func:`post_output` are then not called, and cost nothing.
    """


@hookspec
def shutdown() -> Awaitable[None] | None:
    """Called once when the server stops. Stop threads, close files; five seconds at most."""


@hookspec
def health() -> HealthReport | Sequence[HealthReport] | Awaitable[HealthReport | Sequence[HealthReport]]:  # type: ignore[empty-body]
    """Called for ``/v1/enhance/health``: the state of this package's components, from a real look at them."""


@hookspec
def stats() -> Mapping[str, Any] | Awaitable[Mapping[str, Any]]:  # type: ignore[empty-body]
    """Called for ``/v1/enhance/stats``: numbers of this package, JSON-able, under names of its own."""


@hookspec
def feedback(key: bytes, verdict: str) -> int | Awaitable[int]:  # type: ignore[empty-body]
    """Learn what somebody said of an answer.

    A wrong answer has already been forgotten through :func:`invalidate` when this is called.

    Args:
        key: exact key (32 bytes) of the request that was answered.
        verdict: ``wrong`` or ``right``.

    Returns:
        how many decisions or entries it changed.
    """


@hookspec
def invalidate(scope: InvalidationScope) -> int | Awaitable[int]:  # type: ignore[empty-body]
    """Forget what ``scope`` names.

    Returns:
        how many entries went, or, with ``scope.dry_run``, would go.
    """
