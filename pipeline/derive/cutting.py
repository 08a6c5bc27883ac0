"""Cuts time into slices that can be derived again in one statement each: of one day, and of a bounded number of rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ingest.tables import ORDER_FILLED
from pipeline.timerange import TimeRange
from pipeline.warehouse.loads import Load
from pipeline.warehouse.run import Run

FILLS = ORDER_FILLED.name


def plan_fills(run: Run, span: TimeRange) -> list[Load]:
    """The slices that derive the fills of a range again, oldest first."""
    return cut(span, rows_by_hour(run, span), run.settings.settle_max_rows)


def rows_by_hour(run: Run, span: TimeRange) -> list[tuple[datetime, int]]:
    """Hours of a range that hold raw fills, in order, each with their number."""
    column = ORDER_FILLED.time
    rows = run.client.query(
        f"select toStartOfHour({column}) as hour, count() from {run.settings.raw_database}.{FILLS}"
        f" where {within(column)} group by hour order by hour",
        parameters=parameters_of(span),
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
            slices.append(slice_of(FILLS, TimeRange(start, hour), rows))
            start, rows = hour, 0
        rows, day = rows + count, hour.date()
    return [*slices, slice_of(FILLS, TimeRange(start, span.end), rows)]


def span_of(load: Load) -> TimeRange:
    """The half-open range of a slice, whose ledger row names its first and last moment."""
    return TimeRange.including(load.from_at, load.to_at)


def slice_of(table: str, span: TimeRange, rows: int) -> Load:
    """A slice that is not in the ledger yet."""
    return Load(0, table, from_at=span.start, to_at=span.last, loaded_rows=rows)


def within(column: str) -> str:
    """A condition on a time column, with the parameters of `parameters_of`."""
    start, end = (f"toDateTime64({{{name}:String}}, 6, 'UTC')" for name in ("start", "end"))
    return f"{column} >= {start} and {column} < {end}"


def parameters_of(span: TimeRange) -> dict[str, str]:
    """A range as parameters of a query."""
    return {
        "start": f"{span.start:%Y-%m-%d %H:%M:%S.%f}",
        "end": f"{span.end:%Y-%m-%d %H:%M:%S.%f}",
    }
