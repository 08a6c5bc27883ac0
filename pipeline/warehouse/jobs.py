"""The journal of jobs in ClickHouse: what ran when, how it ended, and when it runs next.

Notes are collected and written together, every few seconds, by one thread. A kill loses those of the last seconds and
nothing else: what a run loaded stands in the ledger.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from pipeline.warehouse.loads import EPOCH
from pipeline.warehouse.lock import WriterLock

RUNNING, WAITING = "running", "waiting"
DONE, FAILED = "done", "failed"
STATE_COLUMNS = (
    "job", "state", "schedule", "started_at", "ended_at", "outcome", "rows", "failures", "failing_since", "problem",
    "done_at", "next_at",
)  # fmt: skip
RUN_COLUMNS = (
    "job", "started_at", "ended_at", "outcome", "rows", "caught_up", "failures", "problem", "next_at", "schedule",
)  # fmt: skip


@dataclass(frozen=True)
class JobState:
    """A job as it was last noted; times are UTC, 1970 where there is none. See the table `jobs`."""

    job: str
    state: str = WAITING
    schedule: str = ""
    started_at: datetime = EPOCH
    ended_at: datetime = EPOCH
    outcome: str = ""
    rows: int = 0
    failures: int = 0
    failing_since: datetime = EPOCH
    problem: str = ""
    done_at: datetime = EPOCH
    next_at: datetime = EPOCH
    fence: int = 0  # number of the writer lock under which it was noted


def started(before: JobState, at: datetime) -> JobState:
    """A job whose run begins."""
    return replace(before, state=RUNNING, started_at=at)


def ended(
    before: JobState, at: datetime, *, rows: int, problem: str, next_at: datetime
) -> JobState:
    """A job whose run has ended."""
    failures = before.failures + 1 if problem else 0
    return replace(
        before,
        state=WAITING,
        ended_at=at,
        outcome=FAILED if problem else DONE,
        rows=rows,
        failures=failures,
        failing_since=EPOCH
        if not problem
        else before.failing_since
        if before.failures
        else before.started_at,
        problem=problem,
        done_at=before.done_at if problem else at,
        next_at=next_at,
    )


class Journal:
    """Notes about the jobs of one landing database; threads may share it.

    Args:
        lock: the lock under which this run writes.
    """

    def __init__(self, client: Client, raw_database: str, lock: WriterLock) -> None:
        self._client, self._raw, self._lock = client, raw_database, lock
        self._mutex = threading.Lock()
        self._states: dict[str, JobState] = {}  # not written yet
        self._runs: list[tuple] = []
        self._noted = 0

    def note(self, state: JobState, *, caught_up: bool = True) -> None:
        """Note a job, and its run if that has ended."""
        with self._mutex:
            self._states[state.job] = state
            if state.state == WAITING and state.outcome:
                self._runs.append(
                    (
                        state.job, state.started_at, state.ended_at, state.outcome, state.rows, int(caught_up),
                        state.failures, state.problem, state.next_at, state.schedule,
                    )
                )  # fmt: skip

    def write(self) -> None:
        """Write the notes down; what fails to be written is written the next time.

        Raises:
            ClickHouseError: ClickHouse failed.
        """
        with self._mutex:
            states, runs = dict(self._states), list(self._runs)
            self._noted += 1
            noted = (self._lock.number << 32) + self._noted
        if runs:
            self._insert(
                "job_runs", RUN_COLUMNS, [[*run, self._lock.number] for run in runs], ["fence"]
            )
            with self._mutex:
                del self._runs[: len(runs)]
        if states:
            rows = [
                [*(getattr(state, name) for name in STATE_COLUMNS), self._lock.number, noted]
                for state in states.values()
            ]
            self._insert("job_states", STATE_COLUMNS, rows, ["fence", "noted"])
            with self._mutex:
                for job, state in states.items():
                    if self._states.get(job) is state:
                        del self._states[job]

    def _insert(self, table: str, columns: tuple[str, ...], rows: list, more: list[str]) -> None:
        self._client.insert(table, rows, column_names=[*columns, *more], database=self._raw)


def read_jobs(client: Client, raw_database: str) -> Mapping[str, JobState]:
    """Every job as it was last noted; none where the database was made before there were any."""
    if not client.command(f"exists table {raw_database}.jobs"):
        return {}
    rows = client.query(
        f"select {', '.join(STATE_COLUMNS)}, fence from {raw_database}.jobs order by job"
    ).result_rows
    return {row[0]: JobState(*(_utc(value) for value in row)) for row in rows}


def _utc(value):
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
