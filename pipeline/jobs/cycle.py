"""One cycle: load what is new from each source, and settle it.

Sources are independent: one that fails stands in the report, and the others are loaded and settled as ever; while it
stays down it has pauses of its own (`patience.py`). Each has a work budget, so a long catch-up never holds up the rest
for longer; a cycle says whether anything is left to catch up on.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dlt.extract import DltSource

from ingest.errors import IngestError
from ingest.land.runner import LoadPackage, open_pipeline
from ingest.land.runner import run as run_source
from ingest.progress import Progress
from pipeline.console import Step, human, step
from pipeline.derive.replaced import heal_replaced_tables
from pipeline.derive.settle import settle
from pipeline.errors import LoadFailed
from pipeline.jobs.freshness import note_read
from pipeline.jobs.patience import Patience
from pipeline.jobs.sources import destination, make_source
from pipeline.warehouse.lock import WriterLock
from pipeline.warehouse.orphans import Recheck, adopt_orphans
from pipeline.warehouse.run import Run

log = logging.getLogger(__name__)


@dataclass
class CycleReport:
    """What a cycle did.

    Attributes:
        rows: rows loaded, by landing table.
        caught_up: every source that answers has read all there is.
        seconds: how long it took.
        failures: one line by source that failed.
    """

    rows: Counter[str] = field(default_factory=Counter)
    caught_up: bool = True
    seconds: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    def raise_failures(self) -> None:
        """Do nothing if every source was read.

        Raises:
            LoadFailed: a source failed; everything else of the cycle is done.
        """
        if self.failures:
            raise LoadFailed("; ".join(self.failures.values()))


def run_cycle(run: Run, lock: WriterLock, patience: Patience) -> CycleReport:
    """Run one cycle under the writer lock, on a prepared run, over the sources that `patience` lets it try.

    A source that fails stands in the report, and is logged when it goes down and when it is back.

    Raises:
        ModelsError: settling failed; the loads stay unsettled and the next cycle takes them up.
        LockHeld: the lock was lost meanwhile.
    """
    started = time.monotonic()
    report = CycleReport()
    finish_earlier(run)
    for name in filter(patience.may_try, run.settings.active_sources):
        lock.check()
        before = time.monotonic()
        rows = _load(run, name, report)
        _note(name, report, patience, 0.0 if rows else time.monotonic() - before)
        lock.check()
        _settle(run)
        report.rows.update(rows)
        seconds = time.monotonic() - before
        if rows or name not in report.failures:
            log.info("%s: %s in %.1f s", name, _counts(rows) or "no new rows", seconds)
    report.seconds = time.monotonic() - started
    return report


def finish_earlier(run: Run) -> None:
    """Settle what earlier runs have left, half loaded too; only under the lock, before anything is loaded.

    Raises:
        ModelsError: settling failed.
    """
    adopt_orphans(run)
    heal_replaced_tables(run)
    _settle(run)


def _note(name: str, report: CycleReport, patience: Patience, wasted_s: float) -> None:
    """Tell `patience` how a source did, and the log when it went down or came back."""
    if name in report.failures:
        if patience.failed(name, wasted_s):
            log.error("%s", report.failures[name])
    elif patience.succeeded(name):
        log.info("%s: back again", name)


def _counts(rows: Counter[str]) -> str:
    return ", ".join(f"{human(count)} {table}" for table, count in rows.items() if count)


def _load(run: Run, name: str, report: CycleReport) -> Counter[str]:
    """Load one source and return the rows it brought by landing table; a failure goes into the report."""
    progress = Progress(run.settings.cycle_budget_s)
    rows: Counter[str] = Counter()
    with step(f"{name}: reading") as shown:
        recheck = Recheck.of(run) if name == "polygon" else Recheck((), ())
        try:
            source = make_source(name, run, progress, recheck.ranges)
            packages = load_source(run, f"polymarket_{name}", source, progress, rows, shown)
        except IngestError as error:
            report.failures[name] = str(error)
        else:
            caught_up = all(progress.caught_up.values())
            report.caught_up &= caught_up
            read_to = max(progress.watermark.values(), default=0)
            recheck.done(run, read_to)
            raw = run.settings.raw_database
            note_read(run.client, raw, name, read_to, caught_up, run.lock.sql_is_held())
            if complaint := _too_many_dead_letters(run, name, [each.load_id for each in packages]):
                report.failures[name] = complaint
    return rows


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
        " the rest is loaded, they are in dead_letters, and `replay` takes them up once that is fixed"
    )


def load_source(
    run: Run,
    pipeline_name: str,
    source: DltSource,
    progress: Progress,
    rows: Counter[str],
    shown: Step,
) -> list[LoadPackage]:
    """Load what a dlt source has to give, with every package in the ledger; return the packages.

    Args:
        rows: gets the rows that were loaded by landing table, also where the source fails in the end.

    Raises:
        IngestError: see `ingest.land.runner.run`.
        LockHeld: the lock was lost meanwhile.
    """
    ledger = run.ledger

    def before_load(package: LoadPackage) -> None:
        ledger.open(package.load_id, package.rows)
        shown.update(f"loading {human(sum(package.rows.values()))} rows")

    pipeline = open_pipeline(
        pipeline_name,
        destination(run),
        database=run.settings.raw_database,
        pipelines_dir=run.pipelines_dir,
    )
    try:
        packages = run_source(
            pipeline,
            source,
            progress,
            before_load=before_load,
            after_load=lambda package: rows.update(package.rows),
            take_id=lambda package_id: ledger.take_id(package_id, pipeline_name),
        )
    except IngestError:
        ledger.prove()
        ledger.close_loading(is_whole=False)
        raise
    ledger.close_loading()
    return packages


def _settle(run: Run) -> None:
    with step("settling") as shown:

        def on_batch(batch: list[Any]) -> None:
            shown.update(
                f"{human(sum(load.loaded_rows for load in batch))} rows of {batch[0].table_name}"
            )

        settle(
            run.client,
            run.ledger,
            run.statements,
            max_rows=run.settings.settle_max_rows,
            on_batch=on_batch,
        )
