"""What is stored, for `status`: rows and age of the promised tables, and what all tables take on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.warehouse.disk import TableSize, table_sizes
from pipeline.warehouse.run import Run

# Promised table -> the column that says how new it is.
TABLES = {
    "markets": "fetched_at",
    "events": "fetched_at",
    "outcome_tokens": None,
    "order_fills": "filled_at",
    "trades": "filled_at",
    "ohlcv_1m": "bucket_at",
    "ohlcv_1h": "bucket_at",
    "ohlcv_1d": "bucket_at",
    "market_prices": "observed_at",
}
# Of it there is one row per fill.
FILLS = "order_fills"


@dataclass(frozen=True)
class TableStatus:
    """Size and age of one promised table."""

    name: str
    rows: int
    newest_at: str | None
    age_s: float | None


def read_tables(run: Run, now: datetime) -> list[TableStatus]:
    """The promised tables that are there: a database of an earlier version may lack some."""
    models = run.settings.clickhouse_database
    return [
        _table(run, name, column, now)
        for name, column in TABLES.items()
        if exists(run, models, name)
    ]


def read_sizes(run: Run, tables: list[TableStatus]) -> list[TableSize]:
    """What tables take on the disk, those of the landing database too."""
    settings = run.settings
    fills = next((each.rows for each in tables if each.name == FILLS), 0)
    return table_sizes(run.client, (settings.raw_database, settings.clickhouse_database), fills)


def exists(run: Run, database: str, table: str) -> bool:
    """Whether there is a table or view."""
    return bool(run.client.command(f"exists table {database}.{table}"))


def iso(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return moment.replace(tzinfo=UTC).isoformat(timespec="seconds")


def _table(run: Run, name: str, column: str | None, now: datetime) -> TableStatus:
    newest = f"max({column})" if column else "null"
    rows, at = run.client.query(
        f"select count(), {newest} from {run.settings.clickhouse_database}.{name}"
    ).result_rows[0]
    if not rows or at is None:
        return TableStatus(name, rows, None, None)
    age = (now - at.replace(tzinfo=UTC)).total_seconds()
    return TableStatus(name, rows, iso(at), round(age, 1))
