"""The breaker, by table and by the clock."""

from __future__ import annotations

from cache_support import Clock
from vllm_enhance_cache.breaker import FAILURES, LONGEST_PAUSE, Breaker, BreakerState


def breaker_of(clock: Clock, chance: float = 0.0) -> tuple[Breaker, list[tuple[BreakerState, str]]]:
    told: list[tuple[BreakerState, str]] = []
    return Breaker(clock, lambda: chance, lambda state, reason, _: told.append((state, reason))), told


def open_it(breaker: Breaker) -> None:
    for _ in range(FAILURES):
        breaker.failed("timeout")


def test_it_opens_after_half_of_ten_failed(clock: Clock) -> None:
    breaker, told = breaker_of(clock)
    for _ in range(20):
        breaker.failed("timeout")
        breaker.succeeded()
        breaker.succeeded()
    assert breaker.closed, "a third of the calls failing is no outage"
    for _ in range(4):
        breaker.failed("timeout")
    assert not breaker.closed
    assert told == [(BreakerState.OPEN, "timeout")]


def test_one_probe_per_pause_and_one_line_per_change(clock: Clock) -> None:
    breaker, told = breaker_of(clock)
    open_it(breaker)
    assert not breaker.admits()
    clock.tick(0.5)
    assert breaker.admits()
    assert not breaker.admits(), "the probe is under way"
    breaker.failed("timeout")
    clock.tick(0.5)
    assert not breaker.admits(), "the second pause is longer"
    clock.tick(0.5)
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.closed
    assert told == [(BreakerState.OPEN, "timeout"), (BreakerState.CLOSED, "timeout")]


def test_pauses_grow_to_a_limit_and_are_jittered(clock: Clock) -> None:
    for chance, share in ((0.0, 1.0), (0.999, 0.5)):
        breaker, _ = breaker_of(clock, chance)
        open_it(breaker)
        for _ in range(8):
            clock.tick(LONGEST_PAUSE)
            assert breaker.admits()
            breaker.failed("timeout")
        clock.tick(LONGEST_PAUSE * share * 0.98)
        assert not breaker.admits()
        clock.tick(LONGEST_PAUSE * share * 0.04)
        assert breaker.admits()


def test_late_news_changes_nothing(clock: Clock) -> None:
    breaker, told = breaker_of(clock)
    open_it(breaker)
    breaker.succeeded()
    breaker.failed("late")
    assert not breaker.closed
    assert len(told) == 1


def test_a_probe_that_never_reports_is_replaced(clock: Clock) -> None:
    breaker, _ = breaker_of(clock)
    open_it(breaker)
    clock.tick(1)
    assert breaker.admits()
    clock.tick(LONGEST_PAUSE)
    assert breaker.admits()


def test_old_failures_are_forgotten_on_recovery(clock: Clock) -> None:
    breaker, _ = breaker_of(clock)
    open_it(breaker)
    clock.tick(1)
    assert breaker.admits()
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed("timeout")
    assert breaker.closed
