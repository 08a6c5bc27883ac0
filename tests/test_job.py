"""When jobs run: at their times, again at once, and after pauses that grow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SettingsError
from pipeline.jobs.job import Schedule, backoff

NOON = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def test_backoff_doubles_up_to_a_minute() -> None:
    assert [backoff(10, failures) for failures in range(1, 8)] == [10, 20, 40, 60, 60, 60, 60]
    assert backoff(10, 10_000) == 60
    assert backoff(900, 3) == 900  # never more often than in good times


def test_what_is_left_is_read_at_once_and_what_is_not_after_the_pause() -> None:
    schedule = Schedule(10)
    assert schedule.first(NOON) == NOON
    assert schedule.next(NOON, caught_up=False, failures=0) == NOON
    assert schedule.next(NOON, caught_up=True, failures=0) == NOON + timedelta(seconds=10)


def test_pauses_grow_while_a_job_fails() -> None:
    pauses = [Schedule(10).next(NOON, True, failures) - NOON for failures in range(1, 6)]
    assert [pause.total_seconds() for pause in pauses] == [10, 20, 40, 60, 60]


def test_times_that_passed_are_skipped() -> None:
    half_minutes = Schedule(10, "* * * * * */30")
    assert half_minutes.first(NOON) == NOON + timedelta(seconds=30)
    late = NOON + timedelta(seconds=95)
    assert half_minutes.next(late, caught_up=False, failures=0) == NOON + timedelta(seconds=120)


def test_a_job_with_times_that_fails_again_and_again_leaves_some_out() -> None:
    schedule = Schedule(10, "* * * * * */2")
    waits = [schedule.next(NOON, True, failures) - NOON for failures in (1, 2, 3, 9)]
    assert [wait.total_seconds() for wait in waits] == [2, 6, 12, 62]


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "* * * * * */15", "0 3 * * 0"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 50),
)
def test_the_next_time_is_always_later(cron: str, ended: datetime, failures: int) -> None:
    assert Schedule(10, cron).next(ended, True, failures) > ended


@pytest.mark.parametrize("expression", ["", "tomorrow", "* * * *", "61 * * * *", "0 0 31 2 *"])
def test_an_expression_that_never_matches_is_refused(expression: str) -> None:
    from pipeline.jobs.job import next_tick

    with pytest.raises(SettingsError, match="is not a cron expression"):
        next_tick(expression, NOON)
