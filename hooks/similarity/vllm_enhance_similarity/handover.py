"""From one thread to the next without a stop on the event loop between them."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

__all__ = ["then"]

A = TypeVar("A")
B = TypeVar("B")


def then(first: Future[A], executor: Executor, function: Callable[[A], B]) -> Future[B]:
    """Run `function` on `executor` with what `first` gives, as soon as it is there.

    Whoever cancels the result before `function` has begun cancels `first` too. What either raises, and the refusal of
    an executor that was shut down, is the result's exception.
    """
    second: Future[B] = Future()

    def run(value: A) -> None:
        if not second.set_running_or_notify_cancel():
            return
        try:
            second.set_result(function(value))
        except BaseException as fault:  # as an executor does: it belongs to whoever awaits it
            second.set_exception(fault)

    def hand_over(done: Future[A]) -> None:
        try:
            executor.submit(run, done.result())
        except BaseException as fault:
            if second.set_running_or_notify_cancel():
                second.set_exception(fault)

    def give_up(done: Future[B]) -> None:
        if done.cancelled():
            first.cancel()

    second.add_done_callback(give_up)
    first.add_done_callback(hand_over)
    return second
