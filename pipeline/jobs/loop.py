"""When cycles run: once, in a loop with a pause, or at the times of a cron expression.

What fails is reported and tried again; only `once` ends with it. A source that is down has pauses of its own, in which
the others go on. The writer lock is held for as long as this process runs, so that two loops do not take turns by accident.
Pauses between cycles go to the slices that `backfill` has requested; a cycle waits for one package of them at most. A
backup that `backup` has requested is written first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from clickhouse_connect.driver.exceptions import ClickHouseError
from croniter import CroniterError, croniter

from ingest.errors import IngestError
from pipeline.console import step
from pipeline.derive.prepare import prepare
from pipeline.errors import ClickHouseUnavailable, ModelsError, SettingsError
from pipeline.jobs.backup import serve_requests
from pipeline.jobs.cycle import run_cycle
from pipeline.jobs.patience import Patience, backoff
from pipeline.jobs.worker import SHORTEST_S, BackfillWorker
from pipeline.settings import Settings
from pipeline.warehouse.client import first_line
from pipeline.warehouse.lock import WriterLock
from pipeline.warehouse.run import Run, open_run

# How long a request of `backfill`, or a closed laptop, may go unnoticed in a pause.
LONGEST_SLEEP_S = 2.0
AFTER_FAILURE_S = 30.0
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def run_once(settings: Settings) -> None:
    """Run one cycle.

    Raises:
        LoadFailed: a source failed; the others were loaded and settled.
        LockHeld: another run is writing.
        ClickHouseUnavailable: ClickHouse failed or went away.
    """
    with _naming_clickhouse(), open_run(settings) as run, run.lock.held("run") as lock:
        prepare(run)
        run_cycle(run, lock, Patience(settings.poll_interval_s)).raise_failures()


def run_loop(settings: Settings) -> None:
    """Run cycles until a signal comes; pause only when every source that answers is caught up.

    Raises:
        LockHeld: another run is writing.
        ClickHouseUnavailable: it failed before the first cycle, or it is the embedded one and went away.
    """
    with _naming_clickhouse(), open_run(settings) as run, run.lock.held("loop") as lock:
        prepare(run)
        patience, failures = Patience(settings.poll_interval_s), 0
        with BackfillWorker(run, for_ever=True) as worker:
            while True:
                caught_up, failures = _try_cycle(run, lock, patience, failures)
                pause_s = settings.poll_interval_s if caught_up else 0.0
                if failures:
                    pause_s = backoff(settings.poll_interval_s, failures)
                until = datetime.now(UTC) + timedelta(seconds=pause_s)
                _pause(run, lock, worker, until, lambda: serve_requests(run))


def run_cron(settings: Settings, expression: str) -> None:
    """Run a cycle at each time of a cron expression (UTC, seconds as an optional sixth field) until a signal comes.

    A time that passes while a cycle runs is skipped; so is a source that is down, until its pause is over.

    Raises:
        SettingsError: the expression makes no sense.
        LockHeld: another run is writing.
        ClickHouseUnavailable: it failed before the first cycle, or it is the embedded one and went away.
    """
    until_next_tick(expression, datetime.now(UTC))
    with _naming_clickhouse(), open_run(settings) as run, run.lock.held("cron") as lock:
        prepare(run)
        patience = Patience(settings.poll_interval_s)
        tick = datetime.now(UTC)
        pause = until_next_tick(expression, tick)
        log.info("cron: %s, first cycle in %.0f s", expression, pause)
        with BackfillWorker(run, for_ever=True) as worker:
            while True:
                tick += timedelta(seconds=pause)
                _pause(run, lock, worker, tick, lambda: serve_requests(run))
                _try_cycle(run, lock, patience, 0)
                # A clock that was put back a little must not give the same time twice.
                tick = max(tick, datetime.now(UTC))
                pause = until_next_tick(expression, tick)


def until_next_tick(expression: str, now: datetime) -> float:
    """Seconds from `now` to the next time of a cron expression.

    Raises:
        SettingsError: the expression makes no sense, or no time will ever match it.
    """
    try:
        return (croniter(expression, now).get_next(datetime) - now).total_seconds()
    except (CroniterError, KeyError, ValueError) as error:
        raise SettingsError(f"{expression!r} is not a cron expression: {error}") from error


def _pause(
    run: Run,
    lock: WriterLock,
    worker: BackfillWorker,
    until: datetime,
    between: Callable[[], None],
) -> None:
    """Land packages of a backfill until a moment, one at least if there is one, and sleep while there is none.

    Before each package and each sleep it does `between`, while nothing is being loaded.
    Sleeps in short turns, because the clock that sleep goes by stands still while a laptop is closed. A clock that is put
    back meanwhile makes no pause longer.
    """
    longest = time.monotonic() + _seconds_until(until)

    def left_s() -> float:
        return min(_seconds_until(until), longest - time.monotonic())

    while True:
        _try(run, between)
        landed = _try(run, lambda: _land(worker, lock, left_s()))
        left = left_s()
        if left <= 0:
            return
        if landed is None:
            time.sleep(min(left, AFTER_FAILURE_S))
        elif left < SHORTEST_S:
            time.sleep(left)
        elif not landed:
            worker.wait(time.monotonic() + min(left, LONGEST_SLEEP_S))


def _land(worker: BackfillWorker, lock: WriterLock, left_s: float) -> bool:
    with step("backfill") as shown:
        return worker.work(lock, time.monotonic() + left_s, shown)


def _seconds_until(moment: datetime) -> float:
    return (moment - datetime.now(UTC)).total_seconds()


def _try_cycle(run: Run, lock: WriterLock, patience: Patience, failures: int) -> tuple[bool, int]:
    """Run a cycle and return whether all is caught up, and the number of cycles in a row that could not be finished."""
    report = _try(run, lambda: run_cycle(run, lock, patience))
    return (True, failures + 1) if report is None else (report.caught_up, 0)


def _try(run: Run, action: Callable[[], Result]) -> Result | None:
    """The result of an action; None if it failed in a way that another try may mend, which the log then says."""
    try:
        return action()
    except (ModelsError, IngestError) as error:
        log.error("%s", error)
    except ClickHouseError as error:
        if run.server.embedded:  # nobody starts it again
            raise
        log.error("%s failed: %s", run.server, first_line(error))
    return None


@contextmanager
def _naming_clickhouse() -> Iterator[None]:
    try:
        yield
    except ClickHouseError as error:
        raise ClickHouseUnavailable(
            f"ClickHouse failed: {first_line(error)}; run again when that is fixed, nothing was lost"
        ) from error
