"""Runs jobs side by side: a thread for each, which waits for its time, runs it, and notes how that went.

A job never runs beside itself, and none waits for another one but at the door through which packages are loaded. What
fails in a way that another try may mend is noted and tried again; anything else ends the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from ingest.errors import IngestError
from pipeline.console import human
from pipeline.errors import ModelsError
from pipeline.jobs.job import Job, Outcome, run_announced
from pipeline.warehouse.client import first_line
from pipeline.warehouse.door import Closing
from pipeline.warehouse.jobs import JobState, Journal, ended, started
from pipeline.warehouse.loads import EPOCH
from pipeline.warehouse.run import Run

# How long a closed laptop may go unnoticed, and how often notes are written.
LONGEST_SLEEP_S = 2.0
WRITE_EVERY_S = 5.0
# A run of this length is noted while it goes on.
LONG_RUN_S = 5.0
JOIN_TIMEOUT_S = 1.0
CLOSE_PATIENCE_S = 5.0
log = logging.getLogger(__name__)


class Runner:
    """Runs jobs until it is left; use as a context manager, on a prepared run under the writer lock.

    Args:
        states: how the jobs were last noted, by name.
    """

    def __init__(self, run: Run, jobs: Sequence[Job], states: dict[str, JobState]) -> None:
        self._run = run
        self._journal = Journal(run.client, run.settings.raw_database, run.lock)
        self._workers = {job.name: _Worker(job, self, states.get(job.name)) for job in jobs}
        self._fatal: BaseException | None = None
        self._changed = threading.Event()
        self.stopping = threading.Event()
        self._cannot_write = False

    def __enter__(self) -> Runner:
        for worker in self._workers.values():
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let packages that are being loaded end, and forget what is being read: it is read again."""
        self.stopping.set()
        for worker in self._workers.values():
            worker.wake()
        is_writing = not self._run.door.close(CLOSE_PATIENCE_S)
        if is_writing:
            log.warning("stopping while a package is being loaded; the next run goes on with it")
        until = time.monotonic() + JOIN_TIMEOUT_S
        for worker in self._workers.values():
            worker.join(max(until - time.monotonic(), 0.0))
        if is_writing or any(worker.is_alive() for worker in self._workers.values()):
            self._run.lock.outlive(is_writing=is_writing)
        self._write()

    def wait(self) -> None:
        """Wait for a failure that ends the process, which is raised; write notes meanwhile."""
        while self._fatal is None:
            for worker in self._workers.values():
                worker.note_long_run(self._journal)
            self._write()
            self._changed.wait(WRITE_EVERY_S)
        raise self._fatal

    def nudge(self, name: str) -> None:
        """Run a job now, or again if it is running, whatever its schedule says; nothing if there is no such job."""
        if name in self._workers:
            self._workers[name].nudge()

    def end(self, error: BaseException) -> None:
        """End the process by an error."""
        self._fatal = self._fatal or error
        self._changed.set()

    def note(self, state: JobState, outcome: Outcome) -> None:
        """Note how a run went."""
        self._journal.note(state, caught_up=outcome.caught_up)

    def is_fatal(self, error: Exception) -> bool:
        """Whether no other try can mend it."""
        if isinstance(error, ClickHouseError):
            is_gone = isinstance(error, OperationalError)
            return is_gone and self._run.server.embedded  # nobody starts it again
        return not isinstance(error, IngestError | ModelsError)

    def words_for(self, error: Exception) -> str:
        """What a failure is called in one line."""
        if isinstance(error, ClickHouseError):
            return f"{self._run.server} failed: {first_line(error)}"
        return str(error)

    def _write(self) -> None:
        try:
            self._journal.write()
        except ClickHouseError as error:
            if not self._cannot_write:
                log.warning("jobs: notes cannot be written for now: %s", first_line(error))
            self._cannot_write = True
        else:
            self._cannot_write = False


class _Worker(threading.Thread):
    """The thread of one job."""

    def __init__(self, job: Job, runner: Runner, before: JobState | None) -> None:
        super().__init__(name=f"job-{job.name}", daemon=True)
        self._job, self._runner = job, runner
        self._state = JobState(
            job.name,
            schedule=str(job.schedule),
            failures=before.failures if before else 0,
            failing_since=before.failing_since if before else JobState.failing_since,
            problem=before.problem if before else "",
            done_at=before.done_at if before else JobState.done_at,
        )
        self._woken, self._nudged = threading.Condition(), False
        self._noting = threading.Lock()
        self._running_since: float | None = None
        self._is_noted = False  # as running

    def run(self) -> None:
        """Run the job at its times until the runner stops."""
        next_at = self._job.schedule.first(datetime.now(UTC))
        try:
            while self._wait_until(next_at):
                next_at = self._run_once()
        except Closing:
            return
        except BaseException as error:  # a thread must not die in silence
            self._runner.end(error)

    def wake(self) -> None:
        """Look again whether the runner stops."""
        with self._woken:
            self._woken.notify_all()

    def nudge(self) -> None:
        """See `Runner.nudge`."""
        with self._woken:
            self._nudged = True
            self._woken.notify_all()

    def note_long_run(self, journal: Journal) -> None:
        """Note that the job is running, once a run takes long."""
        with self._noting:
            since = self._running_since
            if since is None or self._is_noted or time.monotonic() - since < LONG_RUN_S:
                return
            self._is_noted = True
            journal.note(self._state)

    def _wait_until(self, moment: datetime) -> bool:
        """Wait for a moment or a nudge; False if the runner stops.

        Waits in short turns, because the clock that waiting goes by stands still while a laptop is closed. A clock that is
        put back meanwhile makes no wait longer.
        """
        longest = time.monotonic() + max((moment - datetime.now(UTC)).total_seconds(), 0.0)
        with self._woken:
            while not self._runner.stopping.is_set():
                left_s = min(
                    (moment - datetime.now(UTC)).total_seconds(), longest - time.monotonic()
                )
                # What fails is left alone for its pause, however often it is nudged.
                if left_s <= 0 or (self._nudged and not self._state.failures):
                    self._nudged = False
                    return True
                self._woken.wait(min(left_s, LONGEST_SLEEP_S))
        return False

    def _run_once(self) -> datetime:
        """Run the job and return when it runs next."""
        job, before = self._job, self._state
        with self._noting:
            self._state = started(before, datetime.now(UTC))
            self._running_since, self._is_noted = time.monotonic(), False
        outcome = run_announced(job.name, self._outcome)
        with self._noting:
            self._running_since = None
        now = datetime.now(UTC)
        at = max(now, self._state.started_at)  # the clock may have been put back meanwhile
        failures = before.failures + 1 if outcome.failure else 0
        next_at = job.schedule.next(now, outcome.caught_up, failures)
        self._state = ended(
            self._state,
            at,
            rows=outcome.rows.total(),
            problem=outcome.failure,
            # What is noted only now and then would name a time that has long passed.
            next_at=EPOCH if job.is_quiet else next_at,
        )
        self._say(before, outcome, (at - self._state.started_at).total_seconds())
        is_news = outcome.failure or outcome.rows or before.failures or self._is_noted
        if is_news or not job.is_quiet:
            self._runner.note(self._state, outcome)
        if outcome.rows:
            for name in job.then:
                self._runner.nudge(name)
        return next_at

    def _outcome(self) -> Outcome:
        try:
            return self._job.run()
        except (Closing, KeyboardInterrupt):
            raise
        except Exception as error:
            if self._runner.is_fatal(error):
                raise
            return Outcome(failure=self._runner.words_for(error))

    def _say(self, before: JobState, outcome: Outcome, seconds: float) -> None:
        """Log what is news: the first run, rows, a failure that is another than the last one, and that it is over."""
        if outcome.failure and outcome.failure != before.problem:
            log.error("%s", outcome.failure)
        if before.failures and not outcome.failure:
            log.info("%s: back again", self._job.name)
        is_first = not before.outcome and not self._job.is_quiet
        if outcome.rows or (is_first and not outcome.failure):
            log.info("%s: %s in %.1f s", self._job.name, counted(outcome) or "nothing new", seconds)


def counted(outcome: Outcome) -> str:
    """The rows of a run, for people."""
    return ", ".join(f"{human(count)} {table}" for table, count in outcome.rows.items() if count)
