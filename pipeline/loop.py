"""When cycles run: once, in a loop with a pause, or at the times of a cron expression.

A cycle that fails is reported and tried again; only `once` ends with it. The writer lock is held for as long as this
process runs, so that two loops do not take turns by accident.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from croniter import CroniterBadCronError, croniter

from pipeline.cycle import run_cycle
from pipeline.errors import LoadFailed, ModelsError, SettingsError
from pipeline.lock import WriterLock
from pipeline.run import Run, open_run
from pipeline.settings import Settings

LONGEST_BACKOFF_S = 300.0
log = logging.getLogger(__name__)


def run_once(settings: Settings) -> None:
    """Run one cycle.

    Raises:
        LoadFailed: a source failed; the others were loaded and settled.
        LockHeld: another run is writing.
    """
    with open_run(settings) as run, run.lock.held("run") as lock:
        run.prepare()
        run_cycle(run, lock)


def run_loop(settings: Settings) -> None:
    """Run cycles until a signal comes; pause only when every source is caught up.

    Raises:
        LockHeld: another run is writing.
    """

    def pause(caught_up: bool, failures: int) -> float:
        if failures:
            return backoff(settings.poll_interval_s, failures)
        return settings.poll_interval_s if caught_up else 0.0

    _run_forever(settings, "loop", pause)


def run_cron(settings: Settings, expression: str) -> None:
    """Run a cycle at each time of a cron expression (UTC, seconds as an optional sixth field) until a signal comes.

    A time that passes while a cycle runs is skipped.

    Raises:
        SettingsError: the expression makes no sense.
        LockHeld: another run is writing.
    """
    until_next_tick(expression, datetime.now(UTC))
    log.info(
        "cron: %s, first cycle in %.0f s",
        expression,
        until_next_tick(expression, datetime.now(UTC)),
    )
    time.sleep(until_next_tick(expression, datetime.now(UTC)))
    _run_forever(
        settings, "cron", lambda caught_up, failures: until_next_tick(expression, datetime.now(UTC))
    )


def until_next_tick(expression: str, now: datetime) -> float:
    """Seconds from `now` to the next time of a cron expression.

    Raises:
        SettingsError: the expression makes no sense.
    """
    try:
        return (croniter(expression, now).get_next(datetime) - now).total_seconds()
    except (CroniterBadCronError, KeyError, ValueError) as error:
        raise SettingsError(f'"{expression}" is not a cron expression: {error}') from error


def backoff(interval_s: float, failures: int) -> float:
    """Pause after `failures` failed cycles in a row: doubles from the poll interval up to five minutes."""
    return min(interval_s * 2 ** min(failures - 1, 10), max(LONGEST_BACKOFF_S, interval_s))


def _run_forever(settings: Settings, name: str, pause: Callable[[bool, int], float]) -> None:
    with open_run(settings) as run, run.lock.held(name) as lock:
        run.prepare()
        failures = 0
        while True:
            caught_up, failures = _try_cycle(run, lock, failures)
            time.sleep(pause(caught_up, failures))


def _try_cycle(run: Run, lock: WriterLock, failures: int) -> tuple[bool, int]:
    """Run a cycle and return whether all is caught up, and the number of failed cycles in a row."""
    try:
        return run_cycle(run, lock).caught_up, 0
    except (LoadFailed, ModelsError) as error:
        log.error("%s", error)
        return True, failures + 1
