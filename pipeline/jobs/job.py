"""What a job is, and when it runs next: pure functions of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from croniter import CroniterError, croniter

from ingest.events import Event, span
from pipeline.errors import SettingsError

FIRST_BACKOFF_S = 5.0
LONGEST_BACKOFF_S = 60.0


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        rows: that it loaded, by landing table.
        caught_up: nothing was left to do.
        failure: why it did not end well; empty: it did.
    """

    rows: Counter[str] = field(default_factory=Counter)
    caught_up: bool = True
    failure: str = ""


@dataclass(frozen=True)
class Schedule:
    """When a job runs: at the times of a cron expression (UTC), or a while after its last run.

    Attributes:
        every_s: pause after a run with nothing left to do; the first pause after a failure.
        cron: five fields, and seconds as an optional sixth; empty: the pause counts.
    """

    every_s: float
    cron: str = ""

    def __str__(self) -> str:
        return self.cron or f"every {self.every_s:g} s"

    def first(self, now: datetime) -> datetime:
        """When a job that has not run yet runs."""
        return next_tick(self.cron, now) if self.cron else now

    def next(self, ended: datetime, caught_up: bool, failures: int) -> datetime:
        """When a job runs again.

        A run that left something to do is followed by the next one at once, unless there are times for it. After failures
        the pauses grow. Times that passed meanwhile are skipped.

        Args:
            ended: when the last run ended.
            failures: failed runs in a row, the last one included.
        """
        if self.cron:
            extra = backoff(FIRST_BACKOFF_S, failures - 1) if failures > 1 else 0.0
            return next_tick(self.cron, ended + timedelta(seconds=extra))
        if failures:
            return ended + timedelta(seconds=backoff(self.every_s, failures))
        return ended + timedelta(seconds=self.every_s if caught_up else 0.0)


@dataclass(frozen=True)
class Job:
    """Something that runs by itself, again and again, never beside itself.

    Attributes:
        name: in `status`, `jobs` and `job_runs`.
        run: does the work; what it raises is a failure of this run.
        is_quiet: runs that did nothing are not recorded.
        then: names of jobs that run at once after a run that brought rows.
    """

    name: str
    schedule: Schedule
    run: Callable[[], Outcome]
    is_quiet: bool = False
    then: Sequence[str] = ()


def run_announced(name: str, run: Callable[[], Outcome]) -> Outcome:
    """Run a job once, and announce that and how it went."""
    with span(Event.JOB_RUN, job=name) as facts:
        outcome = run()
        facts |= {
            "rows": outcome.rows.total(),
            "caught_up": outcome.caught_up,
            "failure": outcome.failure,
        }
    return outcome


def backoff(interval_s: float, failures: int) -> float:
    """Pause in seconds after `failures` failures in a row: doubles from the usual interval up to a minute."""
    return min(interval_s * 2 ** min(failures - 1, 10), max(LONGEST_BACKOFF_S, interval_s))


def next_tick(expression: str, now: datetime) -> datetime:
    """The first time after `now` that a cron expression matches.

    Raises:
        SettingsError: the expression makes no sense, or no time will ever match it.
    """
    try:
        return croniter(expression, now.astimezone(UTC)).get_next(datetime)
    except (CroniterError, KeyError, ValueError) as error:
        raise SettingsError(f"{expression!r} is not a cron expression: {error}") from error
