"""Loads as the ledger knows them, and which of them are settled together: no I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_us() -> int:
    """Microseconds since 1970 (UTC) by this machine's clock."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Load:
    """One load of one landing table.

    Attributes:
        load_id: the id that its rows carry; microseconds since 1970 or later, see `Ledger.next_id`.
        table_name: landing table.
        state: loading, loaded, unchecked, settling or settled.
        is_rebuild: everything between `from_at` and `to_at` is recomputed.
        loaded_rows: rows of the load in the landing table.
        from_at, to_at: time range of those rows, both inclusive.
        settle_id: last settle that took it up; 0: none.
        opened_under, closed_under: numbers of the writer lock under which it was opened and measured as whole.
        content: sum of hashes of the rows that counted when it was measured; 0 unless it is an orphan.
    """

    load_id: int
    table_name: str
    state: str = "loading"
    is_rebuild: bool = False
    loaded_rows: int = 0
    from_at: datetime = EPOCH
    to_at: datetime = EPOCH
    settle_id: int = 0
    opened_under: int = 0
    closed_under: int = 0
    content: int = 0

    @property
    def span(self) -> timedelta:
        """Length of the time range."""
        return self.to_at - self.from_at

    @property
    def is_orphan(self) -> bool:
        """Whether its rows may come late: the run that inserted them did not see the end of it."""
        return self.opened_under != self.closed_under

    @property
    def key(self) -> tuple[int, str]:
        """What names it."""
        return self.load_id, self.table_name


@dataclass(frozen=True)
class Unchecked:
    """A load whose chain blocks have to be read again before it is settled.

    Attributes:
        load: as it was measured.
        blocks: first and last block to read again, both inclusive; None: none of its rows needs it.
        newest_at: time of the newest of its rows that count.
    """

    load: Load
    blocks: tuple[int, int] | None
    newest_at: datetime


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
