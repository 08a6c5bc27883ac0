"""The ledger of loads in ClickHouse: which of them every derived table already reflects.

A load is written down as `loading` before its first row is inserted, as `loaded` when all are, as `settling` while the
models are recomputed for it and as `settled` afterwards. Whatever a crash leaves short of `settled` is done again.
The watermark is this ledger, never the newest row of a table.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from clickhouse_connect.driver.client import Client

# Landing table -> the column that says when its rows happened.
TIME_COLUMNS = {"order_filled": "timestamp", "markets": "fetched_at", "events": "fetched_at"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = (
    "load_id",
    "table_name",
    "state",
    "is_rebuild",
    "loaded_rows",
    "from_at",
    "to_at",
    "settle_id",
)


def now_us() -> int:
    """Microseconds since 1970 (UTC)."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Load:
    """One load of one landing table.

    Attributes:
        load_id: dlt's load id in microseconds since 1970.
        table_name: landing table.
        state: loading, loaded, settling or settled.
        is_rebuild: everything between `from_at` and `to_at` is recomputed.
        loaded_rows: rows of the load in the landing table.
        from_at, to_at: time range of those rows, both inclusive.
        settle_id: last settle that took it up; 0: none.
    """

    load_id: int
    table_name: str
    state: str = "loading"
    is_rebuild: bool = False
    loaded_rows: int = 0
    from_at: datetime = EPOCH
    to_at: datetime = EPOCH
    settle_id: int = 0

    @property
    def span(self) -> timedelta:
        """Length of the time range."""
        return self.to_at - self.from_at


class Ledger:
    """Reads and writes the ledger of one landing database."""

    def __init__(self, client: Client, raw_database: str):
        self._client = client
        self._raw = raw_database
        self._opened: list[Load] = []

    def open(self, load_id: int, tables: Iterable[str]) -> None:
        """Write down a load before its first row is inserted; opening it again is harmless."""
        loads = [Load(load_id, table) for table in tables if table in TIME_COLUMNS]
        self._write(loads)
        self._opened += loads

    def close_loading(self) -> list[Load]:
        """Mark every load that is being loaded as loaded, with the rows it really has, and return them.

        Only call this when nothing is being inserted: after a load, or at the start of a run under the lock.
        """
        loading = [load for load in self.unsettled() if load.state == "loading"]
        # A run that slept past its lock may find its loads settled by its successor, with the rows there were then.
        keys = {(load.load_id, load.table_name) for load in loading}
        loading += [load for load in self._opened if (load.load_id, load.table_name) not in keys]
        loaded = [self._measure(load) for load in loading]
        self._write(loaded)
        self._opened = []
        return loaded

    def unsettled(self) -> list[Load]:
        """Loads that are not settled, oldest first."""
        rows = self._client.query(
            f"select {', '.join(COLUMNS)} from {self._raw}.loads final where state != 'settled' order by load_id"
        ).result_rows
        return [
            Load(
                *row[:3],
                bool(row[3]),
                row[4],
                row[5].replace(tzinfo=UTC),
                row[6].replace(tzinfo=UTC),
                row[7],
            )
            for row in rows
        ]

    def add_rebuild(self, slices: list[Load]) -> list[Load]:
        """Write down the slices of a rebuild, in one insert and under the next free load ids, and return them.

        From then on they are unsettled loads like any other: whoever settles next does them.
        """
        first_id = self.next_id()
        loads = [
            replace(each, load_id=first_id + number, state="loaded", is_rebuild=True)
            for number, each in enumerate(slices)
        ]
        self._write(loads)
        return loads

    def start_settling(self, loads: list[Load]) -> list[Load]:
        """Mark loads as being settled under one new settle id, later than every load and settle before it."""
        settle_id = self.next_id()
        settling = [replace(load, state="settling", settle_id=settle_id) for load in loads]
        self._write(settling)
        return settling

    def finish_settling(self, loads: list[Load]) -> None:
        """Mark loads as settled."""
        self._write([replace(load, state="settled") for load in loads])

    def back_to_loaded(self, loads: list[Load]) -> None:
        """Take loads out of `settling`, so that a batch holds exactly what is being settled now."""
        self._write([replace(load, state="loaded") for load in loads])

    def next_id(self) -> int:
        """An id later than that of every load and settle, whatever the clock says; microseconds since 1970."""
        newest = self._client.query(
            f"select max(greatest(load_id, settle_id)) from {self._raw}.loads"
        ).result_rows[0][0]
        return max(now_us(), newest + 1)

    def _measure(self, load: Load) -> Load:
        column = TIME_COLUMNS[load.table_name]
        count, first, last = self._client.query(
            f"select count(), min({column}), max({column}) from {self._raw}.{load.table_name} where load_id = {load.load_id}"
        ).result_rows[0]
        return replace(
            load,
            state="loaded",
            loaded_rows=count,
            from_at=first.replace(tzinfo=UTC),
            to_at=last.replace(tzinfo=UTC),
        )

    def _write(self, loads: list[Load]) -> None:
        if not loads:
            return
        # The newest row of a load counts, so it must be the last one written even if clocks disagree or went back.
        newest = self._client.query(
            f"select toUnixTimestamp64Micro(max(updated_at)) from {self._raw}.loads"
        ).result_rows[0][0]
        updated_at = EPOCH + timedelta(microseconds=max(now_us(), newest + 1))
        rows = [[*(getattr(load, name) for name in COLUMNS), updated_at] for load in loads]
        self._client.insert(
            "loads", rows, column_names=[*COLUMNS, "updated_at"], database=self._raw
        )


def next_batch(loads: list[Load], max_rows: int) -> list[Load]:
    """Choose the loads to settle together: of one table, near each other in time, at most `max_rows` rows.

    A settle reads everything between the earliest and the latest row of its loads, so a load of yesterday and one of
    last year are settled apart; rebuilds go alone. The first load is always taken, however large.
    """
    if not loads:
        return []
    first, *rest = loads
    if first.is_rebuild:
        return [first]
    batch, rows = [first], first.loaded_rows
    low, high = first.from_at, first.to_at
    for load in rest:
        if load.table_name != first.table_name or load.is_rebuild:
            continue
        new_low, new_high = min(low, load.from_at), max(high, load.to_at)
        gap = (new_high - new_low) - (high - low) - load.span
        if rows + load.loaded_rows > max_rows or gap > timedelta(hours=1):
            continue
        batch.append(load)
        rows, low, high = rows + load.loaded_rows, new_low, new_high
    return batch
