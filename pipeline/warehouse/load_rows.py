"""Loads as rows of the ledger's table: its columns, and a load to and from them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.warehouse.loads import EPOCH, Load

COLUMNS = (
    "load_id",
    "table_name",
    "state",
    "is_rebuild",
    "loaded_rows",
    "from_at",
    "to_at",
    "settle_id",
    "opened_under",
    "closed_under",
    "content",
)
# The same as ClickHouse reads them: times as microseconds.
STRUCTURE = (
    "load_id UInt64, table_name String, state String, is_rebuild UInt8, loaded_rows UInt64,"
    " from_at Int64, to_at Int64, settle_id UInt64, opened_under UInt64, closed_under UInt64, content UInt64"
)


def from_row(row: Sequence[Any]) -> Load:
    """The load of a row of `COLUMNS`."""
    return Load(
        *row[:3],
        bool(row[3]),
        row[4],
        row[5].replace(tzinfo=UTC),
        row[6].replace(tzinfo=UTC),
        *row[7:],
    )


def as_sql(load: Load) -> str:
    """A load as a tuple of `STRUCTURE`."""
    values = (
        load.load_id,
        f"'{load.table_name}'",
        f"'{load.state}'",
        int(load.is_rebuild),
        load.loaded_rows,
        _microseconds(load.from_at),
        _microseconds(load.to_at),
        load.settle_id,
        load.opened_under,
        load.closed_under,
        load.content,
    )
    return f"({', '.join(map(str, values))})"


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)
