"""The ledger of loads in ClickHouse: which of them every derived table already reflects.

A load is written down as `loading` before its first row is inserted, as `loaded` when all are, as `settling` while the
models are recomputed for it and as `settled` afterwards. Whatever a crash leaves short of `settled` is done again.
The watermark is this ledger, never the newest row of a table.

Only the holder of the writer lock changes the ledger, and ClickHouse checks that in the very statement that writes: a
run that lost its lock writes nothing. A load that another run closed than the one that opened it is an orphan: its rows
may come late, and may be of blocks that have left the chain since. So orphans are measured in every cycle, and settled
once their blocks were read again (`unchecked` until then).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from clickhouse_connect.driver.client import Client

from ingest.events import Event, happened, span
from ingest.tables import SETTLED
from pipeline.warehouse.load_rows import COLUMNS, STRUCTURE, as_sql, from_row
from pipeline.warehouse.loads import Load, Unchecked
from pipeline.warehouse.measuring import Measure

if TYPE_CHECKING:
    from pipeline.warehouse.lock import WriterLock

# Orphans that every cycle measures, the latest first; the start of a run measures all of them.
ORPHANS_PER_CYCLE = 50
ROWS_PER_STATEMENT = 1000
Completing = Callable[[Sequence[Load]], None]


class Ledger:
    """Reads and writes the ledger of one landing database.

    Args:
        lock: the lock under which this run writes; without one, or while it is not held, nothing is proved.
    """

    def __init__(self, client: Client, raw_database: str, lock: WriterLock | None = None):
        self._client = client
        self._raw = raw_database
        self._measure = Measure(client, raw_database)
        self._lock = lock
        self._opened: dict[tuple[int, str], Load] = {}
        # Sources take ids side by side: an id is written down before the next one is chosen.
        self._choosing = threading.RLock()
        self._has_measured_all = False

    def open(self, load_id: int, tables: Iterable[str]) -> None:
        """Write down a load before its first row is inserted; opening it again is harmless."""
        loads = [
            Load(load_id, table, opened_under=self._fence) for table in tables if table in SETTLED
        ]
        self._write(loads)
        self._opened |= {load.key: load for load in loads}
        happened(Event.LOAD_OPENED, load_id=load_id)

    def close_loading(self, load_ids: Iterable[int], *, is_whole: bool = True) -> list[Load]:
        """Mark loads that this ledger opened as loaded, with the rows they really have, and return them.

        Args:
            load_ids: which of them.
            is_whole: every insert of them has been answered. Else rows may still be under way, and they stay orphans
                until they are opened again.
        """
        closed_under, wanted = self._fence if is_whole else 0, set(load_ids)
        opened = [load for load in self._opened.values() if load.load_id in wanted]
        loaded = [
            self._measure.measured(replace(load, state="loaded", closed_under=closed_under))
            for load in opened
        ]
        self._write(loaded)
        for load in opened:
            del self._opened[load.key]
        happened(Event.LOAD_CLOSED, load_ids=sorted(wanted))
        return loaded

    def adopt_orphans(self, complete: Completing | None = None) -> list[Load]:
        """Close what earlier runs, or earlier cycles of this one, were loading or settling; return what was loading.

        Only under the lock, while this run loads nothing. Afterwards no statement of an earlier run finds a load to settle,
        or is still running.

        Args:
            complete: adds the rows that loads lack, before they are measured and may be settled.

        Raises:
            LockHeld: the lock was lost, or a statement of an earlier run does not end.
        """
        self.prove()
        left = self.unsettled()
        self._opened = {}
        self.back_to_loaded([load for load in left if load.state == "settling"])
        if self._fence:
            self._lock.stop_earlier()
        loading = [load for load in left if load.state == "loading"]
        if complete:
            complete(loading)
        adopted = [
            self._measure.closed_orphan(
                replace(load, closed_under=self._other_than(load.opened_under))
            )
            for load in loading
        ]
        self._write(adopted)
        return adopted

    def _other_than(self, opened_under: int) -> int:
        """The number to close under a load that was opened under another, or by an earlier cycle of this run."""
        return 0 if opened_under == self._fence else self._fence

    def find_late(self, complete: Completing | None = None) -> list[Load]:
        """Measure orphans again and return those whose rows are not what they were: all at first, then the latest.

        They are unsettled from then on: `unchecked` if they have rows of the chain, else `loaded`.

        Args:
            complete: adds the rows that such loads lack, before they may be settled.
        """
        limit = f" limit {ORPHANS_PER_CYCLE}" if self._has_measured_all else ""
        orphans = self._select(
            "opened_under != closed_under and state in ('loaded', 'settled', 'unchecked')"
            f" order by load_id desc{limit}"
        )
        measured = [(load, self._measure.closed_orphan(load)) for load in orphans]
        changed = [now for before, now in measured if now.content != before.content]
        if complete and changed:
            complete(changed)
            changed = [self._measure.closed_orphan(load) for load in changed]
        # Rows that later loads have replaced need no more than to be counted.
        counted = [
            replace(now, state=before.state)
            for before, now in measured
            if now.content == before.content and now.loaded_rows > before.loaded_rows
        ]
        self._write(changed + counted)
        self._has_measured_all = True
        return changed

    def unchecked(self) -> list[Unchecked]:
        """Loads whose blocks have to be read again, with the blocks."""
        return [self._measure.with_blocks(load) for load in self.unchecked_loads()]

    def unchecked_loads(self) -> list[Load]:
        """Loads whose blocks have to be read again, as they were measured last."""
        return self._select("state = 'unchecked'")

    def checked(self, done: Iterable[Unchecked]) -> None:
        """Say that the blocks of loads were read again, so that they may be settled."""
        self._write([replace(each.load, state="loaded") for each in done])

    def unsettled(self) -> list[Load]:
        """Loads that are not settled, oldest first."""
        return self._select("state != 'settled' order by load_id")

    def settled_since(self, table: str, settle_id: int) -> list[Load]:
        """Loads of a landing table that were settled after this settle, oldest first."""
        return self._select(
            f"table_name = '{table}' and state = 'settled' and settle_id > {settle_id} order by load_id"
        )

    def add_rebuild(self, slices: list[Load]) -> list[Load]:
        """Write down the slices of a rebuild, under the next free load ids, and return them.

        From then on they are unsettled loads like any other: the next settle does them.
        """
        with self._choosing:
            first_id = self.next_id()
            loads = [
                replace(each, load_id=first_id + number, state="loaded", is_rebuild=True)
                for number, each in enumerate(slices)
            ]
            self._write(loads)
        return loads

    def start_settling(self, loads: list[Load]) -> list[Load]:
        """Mark loads as being settled under one new settle id, later than every load and settle before it."""
        with self._choosing:
            settle_id = self.next_id()
            settling = [replace(load, state="settling", settle_id=settle_id) for load in loads]
            self._write(settling)
        happened(Event.SETTLE_MARKED, loads=settling)
        return settling

    def finish_settling(self, loads: list[Load]) -> None:
        """Mark loads as settled."""
        if loads:
            with span(Event.SETTLE_RECORDED, loads=loads):
                self._write([replace(load, state="settled") for load in loads])

    def back_to_loaded(self, loads: list[Load]) -> None:
        """Take loads out of `settling`, so that a batch holds exactly what is being settled now."""
        self._write([replace(load, state="loaded") for load in loads])

    def prove(self) -> None:
        """Make sure that the lock is still ours, where there is one.

        Raises:
            LockHeld: it was lost.
        """
        if self._lock and self._lock.number:
            self._lock.check()

    def next_id(self) -> int:
        """An id later than that of every load and settle: microseconds since 1970 by ClickHouse's clock, or more."""
        return self._client.query(
            "select greatest(toUnixTimestamp64Micro(now64(6)), toInt64(max(taken)) + 1) from ("
            f" select max(greatest(load_id, settle_id)) as taken from {self._raw}.loads"
            f" union all select max(load_id) from {self._raw}.load_packages)"
        ).result_rows[0][0]

    def take_id(self, package_id: str, pipeline: str) -> int:
        """The load id of the rows of a new dlt package; it is written down, so that nobody takes it again.

        Args:
            package_id: dlt's load id.

        Raises:
            LockHeld: the lock was lost.
        """
        with self._choosing:
            load_id = self.next_id()
            summary = self._client.command(
                f"insert into {self._raw}.load_packages (load_id, package_id, pipeline, fence)"
                " select {load_id:UInt64}, {package_id:String}, {pipeline:String}, {fence:UInt64}"
                f" where {self._is_held()}",
                parameters={
                    "load_id": load_id,
                    "package_id": package_id,
                    "pipeline": pipeline,
                    "fence": self._fence,
                },
            )
            if not summary.written_rows:
                self.prove()
        return load_id

    # -- reading and writing ---

    @property
    def _fence(self) -> int:
        return self._lock.number if self._lock else 0

    def _is_held(self) -> str:
        return self._lock.sql_is_held() if self._fence else "1"

    def _select(self, condition: str) -> list[Load]:
        rows = self._client.query(
            f"select {', '.join(COLUMNS)} from {self._raw}.loads final where {condition}"
        ).result_rows
        return [from_row(row) for row in rows]

    def _write(self, loads: Sequence[Load]) -> None:
        """Write rows, if the lock is ours; ClickHouse asks that itself, in the statement that writes.

        The latest row of a load counts. Its time is that of ClickHouse's clock or later than every row before it, and
        is chosen before the statement: one that arrives twice, or late, changes nothing that was written since.

        Raises:
            LockHeld: the lock was lost; nothing was written.
        """
        for first in range(0, len(loads), ROWS_PER_STATEMENT):
            some = loads[first : first + ROWS_PER_STATEMENT]
            with span(Event.LEDGER_WRITTEN, rows=len(some)):
                self._write_some(some)

    def _write_some(self, loads: Sequence[Load]) -> None:
        updated_at = self._client.query(
            "select greatest(toUnixTimestamp64Micro(now64(6)), toUnixTimestamp64Micro(max(updated_at)) + 1)"
            f" from {self._raw}.loads"
        ).result_rows[0][0]
        summary = self._client.command(
            f"""
            insert into {self._raw}.loads ({", ".join(COLUMNS)}, fence, updated_at)
            select
                * replace (
                    fromUnixTimestamp64Micro(from_at, 'UTC') as from_at,
                    fromUnixTimestamp64Micro(to_at, 'UTC') as to_at
                ),
                {self._fence},
                fromUnixTimestamp64Micro(toInt64({updated_at}), 'UTC')
            from values('{STRUCTURE}', {", ".join(map(as_sql, loads))})
            where {self._is_held()}
            """
        )
        if not summary.written_rows:
            self.prove()
