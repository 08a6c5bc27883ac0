"""The books of Parquet archives in ClickHouse: `parquet_slices`, which parts of which files were read.

Only the holder of the writer lock writes them; ClickHouse checks that in the statement that writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from pipeline.warehouse.lock import WriterLock

TABLE = "parquet_slices"
DONE, FAILED = "done", "failed"
SliceKey = tuple[str, int, str]  # name of the file, footer, part


@dataclass(frozen=True)
class Tally:
    """What became of the rows of a slice.

    Attributes:
        rows: that were read.
        fills: that stand in the landing table; fewer than were read where copies are merged already.
        dead: kept as dead letters.
        others: logs of other events.
        load_id: of the fills.
    """

    rows: int = 0
    fills: int = 0
    dead: int = 0
    others: int = 0
    load_id: int = 0


class ArchiveBooks:
    """Reads and writes the slices of one landing database."""

    def __init__(self, client: Client, raw_database: str, lock: WriterLock) -> None:
        self._client, self._table, self._lock = client, f"{raw_database}.{TABLE}", lock

    def exist(self) -> bool:
        """Whether the landing database has these books yet."""
        return bool(self._client.command(f"exists table {self._table}"))

    def done(self) -> set[SliceKey]:
        """Slices that were read."""
        rows = self._client.query(
            f"select file, footer, part from {self._table} final where state = '{DONE}'"
        ).result_rows
        return {(file, footer, part) for file, footer, part in rows}

    def write(
        self, key: SliceKey, state: str, layout: str, tally: Tally, problem: str = ""
    ) -> None:
        """Say what became of a slice, if the lock is ours.

        Raises:
            LockHeld: it was lost.
        """
        summary = self._client.command(
            f"insert into {self._table} (file, footer, part, state, layout, rows, fills, dead_letters, other_events,"
            " load_id, problem, updated_at)"
            " select {file:String}, {footer:UInt64}, {part:String}, {state:String}, {layout:String}, {rows:UInt64},"
            " {fills:UInt64}, {dead:UInt64}, {others:UInt64}, {load_id:UInt64}, {problem:String},"
            f" (select greatest(now64(6, 'UTC'), addMicroseconds(max(updated_at), 1)) from {self._table})"
            f" where {self._lock.sql_is_held()}",
            parameters={
                "file": key[0],
                "footer": key[1],
                "part": key[2],
                "state": state,
                "layout": layout,
                "problem": problem,
                **vars(tally),
            },
        )
        if not summary.written_rows:
            self._lock.check()
