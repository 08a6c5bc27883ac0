"""`rebuild`: derives everything of a time range again from the landing tables, and nothing is read from upstream.

The range is cut into slices that fit into memory, and each slice is a load in the ledger that says "recompute all of
this", settled by the same statements as any load. All slices are written down before the first is settled: whatever a
crash leaves, the next rebuild or cycle finishes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from ingest.tables import ORDER_FILLED, SETTLED
from pipeline.console import human, step
from pipeline.derive.prepare import prepare
from pipeline.derive.settle import settle
from pipeline.errors import NothingLoaded
from pipeline.timerange import TimeRange, show
from pipeline.warehouse.ledger import Load
from pipeline.warehouse.lock import WriterLock
from pipeline.warehouse.orphans import adopt_orphans
from pipeline.warehouse.run import Run

FILLS = ORDER_FILLED.name
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
    with run.lock.held("rebuild") as lock:
        prepare(run)
        adopt_orphans(run)
        earlier = [load for load in run.ledger.unsettled() if load.state != "unchecked"]
        if earlier:
            log.info("rebuild: first %d loads that earlier runs have left", len(earlier))
            _settle(run, lock, earlier)
        slices = run.ledger.add_rebuild(plan(run, start, end))
        _settle(run, lock, slices)
    log.info(
        "rebuild: done, %d slices, %s rows, %.1f s",
        len(slices),
        human(sum(each.loaded_rows for each in slices)),
        time.monotonic() - began,
    )
    return slices


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
    whole = [_slice(table, span, _count(run, table, span)) for table in SETTLED if table != FILLS]
    return whole + plan_fills(run, span)


def plan_fills(run: Run, span: TimeRange) -> list[Load]:
    """The slices that derive the fills of a range again, oldest first."""
    return cut(span, rows_by_hour(run, span), run.settings.settle_max_rows)


def rows_by_hour(run: Run, span: TimeRange) -> list[tuple[datetime, int]]:
    """Hours of a range that hold raw fills, in order, each with their number."""
    column = ORDER_FILLED.time
    rows = run.client.query(
        f"select toStartOfHour({column}) as hour, count() from {run.settings.raw_database}.{FILLS}"
        f" where {_within(column)} group by hour order by hour",
        parameters=_parameters(span),
    ).result_rows
    return [(hour.replace(tzinfo=UTC), count) for hour, count in rows]


def cut(span: TimeRange, hours: Iterable[tuple[datetime, int]], max_rows: int) -> list[Load]:
    """Cut a range of fills into slices that follow each other without a gap.

    A slice holds fills of one day and at most `max_rows` of them, but never less than an hour. Time without any fill
    belongs to the slice before it.

    Args:
        hours: hours that hold fills, in order, each with their number.
    """
    slices: list[Load] = []
    start, rows, day = span.start, 0, None
    for hour, count in hours:
        if rows and (hour.date() != day or rows + count > max_rows):
            slices.append(_slice(FILLS, TimeRange(start, hour), rows))
            start, rows = hour, 0
        rows, day = rows + count, hour.date()
    return [*slices, _slice(FILLS, TimeRange(start, span.end), rows)]


def span_of(load: Load) -> TimeRange:
    """The half-open range of a slice, whose ledger row names its first and last moment."""
    return TimeRange.including(load.from_at, load.to_at)


def _slice(table: str, span: TimeRange, rows: int) -> Load:
    return Load(0, table, from_at=span.start, to_at=span.last, loaded_rows=rows)


def _settle(run: Run, lock: WriterLock, loads: list[Load]) -> None:
    """Settle these loads, which are all that is unsettled, and show how far it is by their rows."""
    started = done = 0
    with step("rebuild", total=sum(load.loaded_rows for load in loads)) as shown:

        def on_batch(batch: list[Load]) -> None:
            nonlocal started, done
            lock.check()
            rows = sum(load.loaded_rows for load in batch)
            started += len(batch)
            what = f"{batch[0].table_name} {span_of(batch[0])}"
            shown.update(f"{what} ({started} of {len(loads)})", done)
            if not shown.visible:
                log.info("rebuild: %d of %d, %s, %s rows", started, len(loads), what, human(rows))
            done += rows

        settle(
            run.client,
            run.ledger,
            run.statements,
            max_rows=run.settings.settle_max_rows,
            on_batch=on_batch,
        )


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
        f"select count() from {run.settings.raw_database}.{table} where {_within(SETTLED[table].time)}",
        parameters=_parameters(span),
    ).result_rows[0][0]


def _within(column: str) -> str:
    start, end = (f"toDateTime64({{{name}:String}}, 6, 'UTC')" for name in ("start", "end"))
    return f"{column} >= {start} and {column} < {end}"


def _parameters(span: TimeRange) -> dict[str, str]:
    return {
        "start": f"{span.start:%Y-%m-%d %H:%M:%S.%f}",
        "end": f"{span.end:%Y-%m-%d %H:%M:%S.%f}",
    }
