"""From one thread to the next: results, faults, cancellation, an executor that is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest
from vllm_enhance_similarity.handover import then


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "second") as made:
        yield made


def test_goes_on_in_the_other_thread(executor: ThreadPoolExecutor) -> None:
    first: Future[int] = Future()
    second = then(first, executor, lambda value: (value + 1, threading.current_thread().name))
    assert not second.done()
    first.set_result(1)
    assert second.result(5) == (2, "second_0")


def test_takes_what_is_there_already(executor: ThreadPoolExecutor) -> None:
    first: Future[int] = Future()
    first.set_result(1)
    assert then(first, executor, str).result(5) == "1"


def test_faults_of_both_arrive(executor: ThreadPoolExecutor) -> None:
    first: Future[int] = Future()
    second = then(first, executor, str)
    first.set_exception(ValueError("first"))
    with pytest.raises(ValueError, match="first"):
        second.result(5)
    ready: Future[int] = Future()
    ready.set_result(0)
    with pytest.raises(ZeroDivisionError):
        then(ready, executor, lambda value: 1 // value).result(5)


def test_giving_up_reaches_the_first(executor: ThreadPoolExecutor) -> None:
    first: Future[int] = Future()
    ran: list[int] = []
    second = then(first, executor, ran.append)
    assert second.cancel()
    assert first.cancelled()
    assert not first.set_running_or_notify_cancel()  # as the embedder's worker asks
    executor.submit(lambda: None).result(5)
    assert not ran


def test_giving_up_while_it_waits_for_the_second_thread(executor: ThreadPoolExecutor) -> None:
    gate, ran = threading.Event(), list[int]()
    executor.submit(gate.wait, 5)
    first: Future[int] = Future()
    first.set_result(1)
    second = then(first, executor, ran.append)
    assert second.cancel()
    gate.set()
    executor.submit(lambda: None).result(5)
    assert not ran
    with pytest.raises(CancelledError):
        second.result(0)


def test_an_executor_that_was_shut_down_is_a_fault_not_a_silence(executor: ThreadPoolExecutor) -> None:
    executor.shutdown()
    first: Future[int] = Future()
    second = then(first, executor, str)
    first.set_result(1)
    with pytest.raises(RuntimeError):
        second.result(5)
