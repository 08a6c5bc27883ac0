"""`rebuild` and `upgrade`: derive again from the landing tables, and nothing is read from upstream.

The range of a rebuild is cut into slices that fit into memory. Each is a load in the ledger that says "recompute all of
this", settled by the same statements as any load. All slices are written down before the first is settled: whatever a
crash leaves, the next rebuild or cycle finishes. An upgrade does the same with what a new version of the models changes.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from ingest.events import Event, Moment, listen
from ingest.tables import SETTLED
from pipeline.console import human, step
from pipeline.derive.cutting import FILLS, parameters_of, plan_fills, slice_of, span_of, within
from pipeline.derive.owed import derive_owed, pay
from pipeline.derive.prepare import prepare
from pipeline.derive.replaced import heal_replaced_tables
from pipeline.derive.settle import settle
from pipeline.errors import NothingLoaded
from pipeline.timerange import TimeRange, show
from pipeline.warehouse.loads import Load
from pipeline.warehouse.orphans import adopt_orphans
from pipeline.warehouse.run import Run

log = logging.getLogger(__name__)


def rebuild(run: Run, start: datetime | None, end: datetime) -> list[Load]:
    """Derive a half-open range again, from the first landed row on if it has no start; return its slices.

    Fills belong to the range by their block time, markets and events by the time at which they were read.

    Raises:
        NothingLoaded: there is nothing to derive from.
        LockHeld: another run is writing.
        ModelsError: a statement failed; the slices that are left stay in the ledger.
    """
    began = time.monotonic()
    _landed(run)  # before the lock, which would make the database
    with run.lock.held("rebuild"):
        prepare(run)
        adopt_orphans(run)
        earlier = [load for load in run.ledger.unsettled() if load.state != "unchecked"]
        if earlier:
            log.info("rebuild: first %d loads that earlier runs have left", len(earlier))
            _settle(run, earlier)
        slices = run.ledger.add_rebuild(plan(run, start, end))
        _settle(run, slices)
        pay(run, TimeRange(slices[0].from_at if start is None else start, end))
    log.info(
        "rebuild: done, %d slices, %s rows, %.1f s",
        len(slices),
        human(sum(each.loaded_rows for each in slices)),
        time.monotonic() - began,
    )
    return slices


def upgrade(run: Run, *, back: bool = False) -> None:
    """Bring the database to this version and derive again what is owed, however long it takes.

    Args:
        back: also if the database was brought to a later version of the models.

    Raises:
        LockHeld: another run is writing.
        SchemaError: the database is of a later version.
        ModelsError: dbt or a statement failed; the same command goes on.
    """
    with run.lock.held("upgrade"):
        prepare(run, patient=True, back=back)
        adopt_orphans(run)
        heal_replaced_tables(run)
        settle(run.client, run.ledger, run.statements, max_rows=run.settings.settle_max_rows)
        while derive_owed(run):
            pass


def plan(run: Run, start: datetime | None, end: datetime) -> list[Load]:
    """The slices of a rebuild, not in the ledger yet, oldest first: markets and events whole, fills in bounded pieces.

    Raises:
        NothingLoaded: nothing is landed, or nothing before `end` where no start is given.
    """
    first = _landed(run)
    span = TimeRange(first if start is None else start, end)
    if span.start >= span.end:
        raise NothingLoaded(
            f"nothing to rebuild: the first landed row is of {show(first)}, not before --to {show(end)}"
        )
    whole = [slice_of(table, span, _count(run, table, span)) for table in SETTLED if table != FILLS]
    return whole + plan_fills(run, span)


def _settle(run: Run, loads: list[Load]) -> None:
    """Settle these loads, which are all that is unsettled, and show how far it is by their rows."""
    started = done = 0
    with step("rebuild", total=sum(load.loaded_rows for load in loads)) as shown:

        def show_batch(moment: Moment) -> None:
            nonlocal started, done
            if moment.event is not Event.SETTLE_MARKED:
                return
            batch = moment.facts["loads"]
            rows = sum(load.loaded_rows for load in batch)
            started += len(batch)
            what = f"{batch[0].table_name} {span_of(batch[0])}"
            shown.update(f"{what} ({started} of {len(loads)})", done)
            if not shown.visible:
                log.info("rebuild: %d of %d, %s, %s rows", started, len(loads), what, human(rows))
            done += rows

        with listen(show_batch):
            settle(run.client, run.ledger, run.statements, max_rows=run.settings.settle_max_rows)


def _landed(run: Run) -> datetime:
    """Time of the first landed row.

    Raises:
        NothingLoaded: there is none.
    """
    raw = run.settings.raw_database
    if run.client.command(f"exists table {raw}.{FILLS}"):
        firsts = " union all ".join(
            f"select toDateTime64(min({table.time}), 6, 'UTC') as first, count() as landed from {raw}.{table.name}"
            for table in SETTLED.values()
        )
        landed, first = run.client.query(
            f"select sum(landed), minIf(first, landed > 0) from ({firsts})"
        ).result_rows[0]
        if landed:
            return first.replace(tzinfo=UTC)
    raise NothingLoaded("nothing is loaded yet; run `python run_pipeline.py` for a first cycle")


def _count(run: Run, table: str, span: TimeRange) -> int:
    return run.client.query(
        f"select count() from {run.settings.raw_database}.{table} where {within(SETTLED[table].time)}",
        parameters=parameters_of(span),
    ).result_rows[0][0]
