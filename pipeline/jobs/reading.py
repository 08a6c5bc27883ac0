"""One run of one source: read what is new, land it, settle it."""

from __future__ import annotations

import time
from collections import Counter

from ingest.errors import IngestError
from ingest.events import Event, span
from ingest.progress import Progress
from ingest.sources.base import Source
from pipeline.console import human
from pipeline.derive.settler import Settler
from pipeline.jobs.freshness import note_read
from pipeline.jobs.job import Outcome
from pipeline.jobs.load import lander
from pipeline.warehouse.orphans import Recheck
from pipeline.warehouse.run import Run


def read_source(run: Run, source: Source, settler: Settler) -> Outcome:
    """Read a source within its budget; a failure of the upstream or of loading stands in the outcome.

    What it loaded is settled in any case; what cannot be settled is the settler's to name.

    Raises:
        LockHeld: the lock was lost meanwhile.
        ClickHouseError: ClickHouse failed.
    """
    progress, rows = Progress(run.settings.cycle_budget_s), Counter[str]()
    outcome = Outcome(rows)
    run.ledger.prove()
    recheck = Recheck.of(run) if source.reads_blocks_again else Recheck((), ())
    with span(Event.SOURCE_READ, source=source.name):
        try:
            streams = source.read(run.desk, progress, recheck.ranges)
            packages = lander(run, source.pipeline).land(source.name, streams, progress, rows)
        except IngestError as error:
            outcome.failure = str(error)
        else:
            outcome.caught_up = all(progress.caught_up.values())
            read_to = max(progress.watermark.values(), default=0)
            recheck.done(run, read_to)
            note_read(
                run.client,
                run.settings.raw_database,
                source.name,
                read_to if source.lag_of_newest or source.ends else 0,
                outcome.caught_up,
                run.lock.sql_is_held(),
            )
            loads = [package.load_id for package in packages]
            outcome.failure = _too_many_dead_letters(run, source.name, loads)
    if source.is_settled and (rows or recheck.unchecked):
        settle(run, settler)
    return outcome


def settle(run: Run, settler: Settler) -> int:
    """Settle what can be, as soon as nothing else is being loaded; returns the rows.

    Raises:
        LockHeld: the lock was lost.
        Closing: the process is about to end.
    """
    with run.door.one_at_a_time():
        return settler.settle()


def _too_many_dead_letters(run: Run, name: str, loads: list[int]) -> str:
    """What to say if these loads of a source brought more than DEAD_LETTERS_MAX records that are no rows; else nothing."""
    if not loads:
        return ""
    reasons = run.client.query(
        f"select reason, count() from {run.settings.raw_database}.dead_letter_sightings final"
        " where load_id in {loads:Array(UInt64)} group by reason order by 2 desc",
        parameters={"loads": loads},
    ).result_rows
    total = sum(count for _, count in reasons)
    if total <= run.settings.dead_letters_max:
        return ""
    counts = ", ".join(f"{reason} {human(count)}" for reason, count in reasons)
    return (
        f"{name}: {human(total)} records of this cycle could not be used ({counts}), more than DEAD_LETTERS_MAX;"
        " the rest is loaded, they are in dead_letters, and `replay` lands them once that is fixed"
    )


def make_settler(run: Run) -> Settler:
    """The settler of a prepared run."""
    return Settler(
        run.client,
        run.ledger,
        run.statements,
        max_rows=run.settings.settle_max_rows,
        clock=time.monotonic,
    )
