"""Patience: a source that is down has pauses of its own, and every other is tried each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs.patience import LONGEST_PAUSE_S, Patience, backoff


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pause_of(patience: Patience, clock: Clock, source: str) -> float:
    """Let time pass second by second until the source may be tried, and return how long that took."""
    started = clock.now
    while not patience.may_try(source):
        clock.now += 1
    return clock.now - started


def test_backoff_doubles_up_to_a_minute() -> None:
    assert [backoff(10, failures) for failures in range(1, 8)] == [10, 20, 40, 60, 60, 60, 60]
    assert backoff(10, 10_000) == 60
    assert backoff(900, 3) == 900  # never more often than in good times


def test_pauses_grow_while_a_source_is_down_and_start_over_when_it_is_back() -> None:
    clock = Clock()
    patience = Patience(10, clock)
    pauses = []
    for _ in range(5):
        patience.failed("gamma", wasted_s=0.1)
        pauses.append(pause_of(patience, clock, "gamma"))
    assert pauses == [10, 20, 40, 60, 60]
    patience.succeeded("gamma")
    patience.failed("gamma", wasted_s=0.1)
    assert pause_of(patience, clock, "gamma") == 10


def test_others_are_tried_meanwhile() -> None:
    patience = Patience(10, Clock())
    patience.failed("gamma", wasted_s=0)
    assert not patience.may_try("gamma")
    assert patience.may_try("polygon")


def test_a_source_goes_down_once_and_comes_back_once() -> None:
    patience = Patience(10, Clock())
    assert not patience.succeeded("gamma")
    assert patience.failed("gamma", wasted_s=0)
    assert not patience.failed("gamma", wasted_s=0)
    assert patience.succeeded("gamma")
    assert not patience.succeeded("gamma")


def test_tries_that_waste_time_are_rare() -> None:
    """An upstream that takes the connection and never answers."""
    clock = Clock()
    patience = Patience(10, clock)
    patience.failed("gamma", wasted_s=60)
    assert pause_of(patience, clock, "gamma") == 180
    patience.failed("gamma", wasted_s=600)
    assert pause_of(patience, clock, "gamma") == LONGEST_PAUSE_S


@given(
    interval_s=st.floats(0.1, 1000),
    wasted=st.lists(st.floats(0, 1000), min_size=1, max_size=30),
)
def test_every_pause_ends(interval_s: float, wasted: list[float]) -> None:
    clock = Clock()
    patience = Patience(interval_s, clock)
    for wasted_s in wasted:
        patience.failed("gamma", wasted_s)
    assert not patience.may_try("gamma")
    clock.now += max(LONGEST_PAUSE_S, interval_s)
    assert patience.may_try("gamma")
