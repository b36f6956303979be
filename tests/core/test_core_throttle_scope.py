"""Throttled log lines, request scopes, annotations, errors."""

from __future__ import annotations

import asyncio
import threading

import pytest

import vllm_enhance.errors as errors
from vllm_enhance.errors import EnhanceError, RequestRejected
from vllm_enhance.scope import Decision, RequestScope, current_scope
from vllm_enhance.throttle import Throttle
from vllm_enhance.types import AnnotationKey, Annotations, Question, RequestContext, Source


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_line_per_interval_and_a_count_of_those_held_back() -> None:
    clock = Clock()
    throttle = Throttle(60.0, clock)
    assert throttle.allow("a") == 0
    assert [throttle.allow("a") for _ in range(3)] == [None] * 3
    assert throttle.allow("b") == 0
    clock.now = 60.0
    assert throttle.allow("a") == 3
    clock.now = 120.0
    assert throttle.allow("a") == 0


def test_the_throttle_is_bounded() -> None:
    throttle = Throttle(60.0, Clock(), limit=4)
    for number in range(100):
        assert throttle.allow(str(number)) == 0
    assert len(throttle._seen) == 4


def test_decisions_are_capped_and_announced() -> None:
    told: list[int] = []
    scope = RequestScope()
    scope.on_decision = lambda: told.append(len(scope.decisions))
    for _ in range(RequestScope.MAX_DECISIONS + 10):
        scope.decide(Decision(Source.ENGINE))
    assert len(scope.decisions) == RequestScope.MAX_DECISIONS
    assert told[0] == 1
    scope.closed = True
    scope.reject(RequestRejected(429, "slow down"))
    assert len(told) == RequestScope.MAX_DECISIONS + 10
    assert scope.rejection is not None


@pytest.mark.parametrize("source", list(Source))
def test_what_counts_as_a_hit(source: Source) -> None:
    assert Decision(source).hit == (source not in (Source.JOINED, Source.ENGINE))


async def test_what_tasks_tell_the_scope_flows_back() -> None:
    scope = RequestScope()
    token = current_scope.set(scope)
    try:

        async def child() -> None:
            inherited = current_scope.get()
            assert inherited is scope
            inherited.decide(Decision(Source.MEMORY))

        await asyncio.create_task(child())
    finally:
        current_scope.reset(token)
    assert [decision.source for decision in scope.decisions] == [Source.MEMORY]
    assert current_scope.get() is None


def test_annotations_are_told_apart_by_identity() -> None:
    mine: AnnotationKey[int] = AnnotationKey("count")
    theirs: AnnotationKey[int] = AnnotationKey("count")
    annotations = Annotations()
    annotations.set(mine, 1)
    assert annotations.get(mine) == 1
    assert annotations.get(theirs) is None
    assert annotations.get(theirs, 7) == 7
    assert mine in annotations
    assert theirs not in annotations
    assert annotations.as_dict() == {"count": 1}


def test_notes_are_bounded() -> None:
    request = RequestContext("r", [1], None)
    for number in range(100):
        request.note("someone", str(number))
    assert len(request.notes) == RequestContext.MAX_NOTES


def test_text_and_question_default_to_nothing() -> None:
    request = RequestContext("r", [1], None)
    assert (request.prompt_text, request.question) == ("", None)


@pytest.mark.parametrize(
    ("tokens", "body", "has_text", "stays"),
    [
        (1, 0, True, True),
        (RequestContext.SHORT_TOKENS, RequestContext.SHORT_BYTES, True, True),
        (RequestContext.SHORT_TOKENS + 1, 0, True, False),
        (1, RequestContext.SHORT_BYTES + 1, True, False),
        (1, 0, False, False),  # it must be put together from tokens first
    ],
)
async def test_a_long_question_is_read_off_the_event_loop(tokens: int, body: int, has_text: bool, stays: bool) -> None:
    read_on: list[threading.Thread] = []
    question = Question("Why?", b"p" * 16)

    def read() -> Question:
        read_on.append(threading.current_thread())
        return question

    scope = RequestScope(body=[b"x" * (body // 2), b"x" * (body - body // 2)])
    request = RequestContext("r", [1] * tokens, None, scope=scope, has_text=has_text, read_question=read)
    assert await request.load_question() is question
    assert (read_on[0] is threading.current_thread()) is stays


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), EnhanceError)
        assert name in (errors.__doc__ or "")
