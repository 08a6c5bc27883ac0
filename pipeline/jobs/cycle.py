"""One cycle: every source read once, side by side, and all of it settled.

Sources are independent: one that fails stands in the report, and the others are loaded and settled as ever. Each has a
work budget; a cycle says whether anything is left to catch up on. Sources that are asked about tokens come after those
that find some.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from ingest.sources.base import Source
from pipeline.derive.owed import derive_owed
from pipeline.derive.replaced import heal_replaced_tables
from pipeline.derive.settle import settle
from pipeline.derive.settler import Settler
from pipeline.errors import LoadFailed, ModelsError
from pipeline.jobs.job import Outcome, run_announced
from pipeline.jobs.reading import make_settler, read_source
from pipeline.jobs.runner import CLOSE_PATIENCE_S, counted
from pipeline.warehouse.client import first_line
from pipeline.warehouse.jobs import JobState, Journal, ended, read_jobs, started
from pipeline.warehouse.orphans import adopt_orphans
from pipeline.warehouse.run import Run

log = logging.getLogger(__name__)


@dataclass
class CycleReport:
    """What a cycle did.

    Attributes:
        rows: rows loaded, by landing table.
        caught_up: every source that answers has read all there is, and nothing is to be derived again.
        seconds: how long it took.
        failures: one line by source that failed, and by `settling`.
    """

    rows: Counter[str] = field(default_factory=Counter)
    caught_up: bool = True
    seconds: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    def raise_failures(self) -> None:
        """Do nothing if every source was read and everything settled.

        Raises:
            ModelsError: nothing failed but settling.
            LoadFailed: a source failed; everything else of the cycle is done.
        """
        if self.failures.keys() == {"settling"}:
            raise ModelsError(self.failures["settling"])
        if self.failures:
            raise LoadFailed("; ".join(self.failures.values()))


def run_cycle(run: Run, sources: Sequence[Source] | None = None) -> CycleReport:
    """Run one cycle under the writer lock, on a prepared run.

    Args:
        sources: which are read; None: those of the settings.

    Raises:
        LockHeld: the lock was lost meanwhile.
        ClickHouseError: ClickHouse failed.
    """
    began, report, settler = time.monotonic(), CycleReport(), make_settler(run)
    prepare_books(run)
    active = run.settings.active_sources if sources is None else sources
    journal = Journal(run.client, run.settings.raw_database, run.lock)
    states = read_jobs(run.client, run.settings.raw_database)
    for wave in waves(active):
        for source, outcome in zip(
            wave, _read_all(run, wave, settler, journal, states), strict=True
        ):
            report.rows.update(outcome.rows)
            report.caught_up &= outcome.caught_up or bool(outcome.failure)
            if outcome.failure:
                report.failures[source.name] = outcome.failure
    settler.settle()
    if settler.problems:
        report.failures["settling"] = "; ".join(settler.problems)
    else:
        report.caught_up &= not derive_owed(run)
    journal.write()
    report.seconds = time.monotonic() - began
    return report


def prepare_books(run: Run) -> None:
    """Close what earlier runs left half loaded; only under the lock and the door, while nothing is loaded.

    Raises:
        LockHeld: the lock was lost.
    """
    adopt_orphans(run)
    heal_replaced_tables(run)


def finish_earlier(run: Run) -> None:
    """Settle what earlier runs have left, half loaded too; only under the lock, before anything is loaded.

    Raises:
        ModelsError: settling failed.
    """
    prepare_books(run)
    settle_all(run)


def settle_all(run: Run) -> None:
    """Settle everything; only under the lock.

    Raises:
        ModelsError: settling failed.
        LockHeld: the lock was lost.
    """
    settle(run.client, run.ledger, run.statements, max_rows=run.settings.settle_max_rows)


def waves(sources: Sequence[Source]) -> list[list[Source]]:
    """Sources that may be read side by side, in order: those that look up tokens after those that find them."""
    first = [source for source in sources if not source.looks_up_tokens]
    second = [source for source in sources if source.looks_up_tokens]
    return [wave for wave in (first, second) if wave]


def _read_all(
    run: Run,
    sources: Sequence[Source],
    settler: Settler,
    journal: Journal,
    states: dict[str, JobState],
) -> list[Outcome]:
    """Read sources in a thread each.

    Raises:
        BaseException: the first thing that no outcome stands for, once all have ended.
    """
    outcomes: list[Outcome] = [Outcome() for _ in sources]
    errors: list[BaseException] = []

    def read(at: int, source: Source) -> None:
        state = started(states.get(source.name, JobState(source.name)), datetime.now(UTC))
        try:
            outcomes[at] = run_announced(source.name, lambda: _tried(run, source, settler))
        except BaseException as error:
            errors.append(error)
        else:
            _note(journal, state, outcomes[at])

    threads = [
        threading.Thread(target=read, args=(at, source), name=f"read-{source.name}", daemon=True)
        for at, source in enumerate(sources)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # a signal: what is being loaded may end, nothing new begins
        run.lock.outlive(is_writing=not run.door.close(CLOSE_PATIENCE_S))
        raise
    if errors:
        raise errors[0]
    return outcomes


def _tried(run: Run, source: Source, settler: Settler) -> Outcome:
    """What reading a source has come to; a statement that ClickHouse refused is a failure of that source alone.

    Raises:
        OperationalError: ClickHouse does not answer, so nothing else will go well either.
    """
    try:
        return read_source(run, source, settler)
    except OperationalError:
        raise
    except ClickHouseError as error:
        return Outcome(failure=f"{source.name}: {run.server} failed: {first_line(error)}")


def _note(journal: Journal, state: JobState, outcome: Outcome) -> None:
    """Note in the journal and in the log how a source was read."""
    now = datetime.now(UTC)
    rows, failure = outcome.rows.total(), outcome.failure
    state = ended(state, now, rows=rows, problem=failure, next_at=JobState.next_at)
    journal.note(state, caught_up=outcome.caught_up)
    if failure:
        log.error("%s", failure)
    if rows or not failure:
        seconds = (now - state.started_at).total_seconds()
        log.info("%s: %s in %.1f s", state.job, counted(outcome) or "nothing new", seconds)
