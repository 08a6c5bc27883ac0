"""The books of backfills in ClickHouse: `backfill_slices`, which slice was requested, done or cancelled.

Anyone may request and cancel; only the holder of the writer lock says that a slice is done, and it says so after the
slice's loads stand in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client

from ingest.queue.slices import Slice, SlicePage
from pipeline.jobs.slicing import at
from pipeline.warehouse.loads import EPOCH
from pipeline.warehouse.lock import WriterLock

COLUMNS = (
    "source",
    "from_at",
    "to_at",
    "versions",
    "state",
    "requested_at",
    "done_at",
    "fills",
    "load_id",
    "problem",
    "updated_at",
)
KEY = "(source, toUnixTimestamp(from_at), toUnixTimestamp(to_at), versions)"
KEYS = "Array(Tuple(String, UInt32, UInt32, String))"
BATCH = 1000


@dataclass(frozen=True)
class Tally:
    """How far the backfills are since a moment.

    Attributes:
        done, cancelled: slices since then.
        fills: fills of those that are done.
        left: slices that are requested still.
        problem: why one of these could not be read; empty: none was tried in vain.
    """

    done: int
    cancelled: int
    fills: int
    left: int
    problem: str

    @property
    def slices(self) -> int:
        """All of them."""
        return self.done + self.cancelled + self.left


class SliceBooks:
    """Reads and writes the slices of one landing database.

    Args:
        lock: the lock under which slices are done and problems noted; ClickHouse checks it in the statement that writes.
    """

    def __init__(self, client: Client, raw_database: str, lock: WriterLock | None = None) -> None:
        self._client = client
        self._raw = raw_database
        self._lock = lock
        self._table = f"{raw_database}.backfill_slices"

    def exist(self) -> bool:
        """Whether the landing database has these books yet."""
        return bool(self._client.command(f"exists table {self._table}"))

    def in_state(self, state: str) -> list[Slice]:
        """Slices that are `requested`, `done` or `cancelled`, in the order in which they are worked."""
        rows = self._client.query(
            f"select {KEY}"
            f" from {self._table} final where state = {{state:String}}"
            " order by requested_at, from_at, source",
            parameters={"state": state},
        ).result_rows
        return [Slice(*key) for (key,) in rows]

    def request(self, slices: Iterable[Slice]) -> datetime:
        """Ask for slices, unless they are asked for already; returns the moment, by the books."""
        now = self._now()
        known = set(self.in_state("requested"))
        rows = [
            [*_columns(part), "requested", now, EPOCH, 0, 0, "", now]
            for part in dict.fromkeys(slices)
            if part not in known
        ]
        if rows:
            self._client.insert("backfill_slices", rows, column_names=COLUMNS, database=self._raw)
        return now

    def finish(self, ended: Iterable[SlicePage], load_id: int) -> None:
        """Say that slices are done, whatever has become of their request.

        Args:
            ended: their last pages.
            load_id: the load that brought the last of them.
        """
        pages = list(ended)
        for first in range(0, len(pages), BATCH):
            batch = pages[first : first + BATCH]
            self._rewrite(
                f"{KEY} in {{keys:{KEYS}}} and state != 'done' and {self._is_held()}",
                {
                    "keys": [_key(page.slice) for page in batch],
                    "fills": [page.fills for page in batch],
                    "load_id": load_id,
                },
                state="'done'",
                done_at="updated",
                fills=f"{{fills:Array(UInt64)}}[indexOf({{keys:{KEYS}}}, {KEY})] as held",
                load_id="if(held = 0, 0, {load_id:UInt64})",
                problem="''",
            )

    def note(self, part: Slice, problem: str) -> None:
        """Say why a slice could not be read; it stays as requested as it was."""
        self._rewrite(
            f"{KEY} in {{keys:{KEYS}}} and state = 'requested' and {self._is_held()}",
            {"keys": [_key(part)], "problem": problem},
            problem="{problem:String}",
        )

    def cancel(self, source: str | None = None) -> int:
        """Take back every request, or every one of a source; returns how many."""
        mine = "state = 'requested' and {source:String} in ('', source)"
        parameters = {"source": source or ""}
        cancelled = self._client.query(
            f"select count() from {self._table} final where {mine}", parameters=parameters
        ).result_rows[0][0]
        self._rewrite(mine, parameters, state="'cancelled'")
        return cancelled

    def tally(self, since: datetime) -> Tally:
        """How far the backfills are since `since`, which `request` has returned."""
        row = self._client.query(
            "select countIf(state = 'done' and fresh), countIf(state = 'cancelled' and fresh),"
            " sumIf(fills, state = 'done' and fresh), countIf(state = 'requested'),"
            " anyIf(problem, state = 'requested' and problem != '')"
            f" from (select *, updated_at > {{since:DateTime64(6, 'UTC')}} as fresh from {self._table} final)",
            parameters={"since": f"{since:%Y-%m-%d %H:%M:%S.%f}"},
        ).result_rows[0]
        return Tally(*row)

    def _rewrite(self, condition: str, parameters: dict[str, Any], **values: str) -> None:
        """Write slices again with other values, if they are as the condition says: in one statement, so that no request
        or cancellation in between is overwritten."""
        columns = ", ".join(values.get(name, name) for name in COLUMNS[:-1])
        self._client.command(
            f"insert into {self._table} ({', '.join(COLUMNS)})"
            " with {updated:DateTime64(6, 'UTC')} as updated"
            f" select {columns}, updated from {self._table} final where {condition}",
            parameters={**parameters, "updated": f"{self._now():%Y-%m-%d %H:%M:%S.%f}"},
        )

    def _is_held(self) -> str:
        return self._lock.sql_is_held() if self._lock and self._lock.number else "1"

    def _now(self) -> datetime:
        """ClickHouse's time, or later than any row: the latest row of a key counts."""
        now_us = self._client.query(
            "select greatest(toUnixTimestamp64Micro(now64(6)), toUnixTimestamp64Micro(max(updated_at)) + 1)"
            f" from {self._table}"
        ).result_rows[0][0]
        return EPOCH + timedelta(microseconds=now_us)


def _key(part: Slice) -> tuple[str, int, int, str]:
    return part.source, part.start, part.end, part.versions


def _columns(part: Slice) -> tuple[str, datetime, datetime, str]:
    return part.source, at(part.start), at(part.end), part.versions
