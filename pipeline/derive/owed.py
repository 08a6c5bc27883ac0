"""What is still to be derived again after a change of rules, and deriving it part by part beside the cycles.

Fills are recomputed where they are: a slice becomes a rebuild in the ledger, settled by the statements of any load, and a
row of `owed_slices` says until then that readers see what an earlier version derived. Slices go from the newest to the
oldest. A kill at any moment leaves at most one of them to be done twice, which is harmless.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, timedelta

from ingest.tables import ORDER_FILLED
from pipeline.console import human, step
from pipeline.derive.cutting import FILLS, plan_fills, slice_of, span_of
from pipeline.derive.settle import settle
from pipeline.timerange import TimeRange
from pipeline.warehouse.ledger import ROWS_PER_STATEMENT
from pipeline.warehouse.loads import Load
from pipeline.warehouse.run import Run

# How long a cycle goes on with it: of the order of the pause between cycles, so that what is live stays live.
BUDGET_S = 10.0
log = logging.getLogger(__name__)


def owe_all(run: Run) -> list[Load]:
    """Write down that every fill is to be derived again, in slices, and return them."""
    raw = run.settings.raw_database
    rows, first, last = run.client.query(
        f"select count(), min({ORDER_FILLED.time}), max({ORDER_FILLED.time}) from {raw}.{FILLS}"
    ).result_rows[0]
    _write(run, [(each, 0) for each in owed(run)])
    if not rows:
        return []
    end = last.replace(tzinfo=UTC) + timedelta(seconds=1)
    slices = plan_fills(run, TimeRange(first.replace(tzinfo=UTC), end))
    _write(run, [(each, each.loaded_rows) for each in slices])
    return slices


def owed(run: Run) -> list[Load]:
    """Slices that are still to be derived again, the newest first; none where nobody has written any down yet."""
    raw = run.settings.raw_database
    if not run.client.command(f"exists table {raw}.owed_slices"):
        return []
    rows = run.client.query(
        f"select table_name, from_at, to_at, owed_rows from {raw}.owed_slices final"
        " where owed_rows > 0 order by from_at desc"
    ).result_rows
    return [
        slice_of(
            table, TimeRange.including(first.replace(tzinfo=UTC), last.replace(tzinfo=UTC)), count
        )
        for table, first, last, count in rows
    ]


def derive_owed(run: Run, budget_s: float = BUDGET_S) -> bool:
    """Derive slices again until the time is up, one at least if there is one; return whether any is left.

    Only under the lock, while nothing else is unsettled.

    Raises:
        LockHeld: the lock was lost.
        ModelsError: a statement failed; its slice stays in the ledger, and the next run does it again.
    """
    began, left = time.monotonic(), owed(run)
    if not left:
        return False
    total = sum(each.loaded_rows for each in left)
    with step("models: deriving again", total=total) as shown:
        done = 0
        for number, each in enumerate(left, start=1):
            shown.update(f"{span_of(each)} ({number} of {len(left)})", done)
            if not _is_under_way(run, each):
                run.ledger.add_rebuild([each])
            settle(
                run.client,
                run.ledger,
                run.statements,
                max_rows=run.settings.settle_max_rows,
            )
            _write(run, [(each, 0)])
            done += each.loaded_rows
            if time.monotonic() - began > budget_s:
                break
    log.info("models: %s of %s fills derived again", human(done), human(total))
    return done < total


def _is_under_way(run: Run, part: Load) -> bool:
    """Whether the ledger has a rebuild of a slice already, which an earlier try has left."""
    return any(
        load.is_rebuild
        and (load.table_name, load.from_at, load.to_at)
        == (part.table_name, part.from_at, part.to_at)
        for load in run.ledger.unsettled()
    )


def pay(run: Run, span: TimeRange) -> None:
    """Note that a range was derived again, by `rebuild`."""
    inside = [each for each in owed(run) if span.start <= each.from_at and each.to_at <= span.last]
    _write(run, [(each, 0) for each in inside])


def _write(run: Run, slices: Sequence[tuple[Load, int]]) -> None:
    """Write what slices owe, if the lock is ours."""
    for first in range(0, len(slices), ROWS_PER_STATEMENT):
        run.ledger.prove()
        _write_some(run, slices[first : first + ROWS_PER_STATEMENT])


def _write_some(run: Run, slices: Sequence[tuple[Load, int]]) -> None:
    raw = run.settings.raw_database
    held = run.lock.sql_is_held() if run.lock.number else "1"
    rows = ", ".join(
        f"('{each.table_name}', '{each.from_at:%Y-%m-%d %H:%M:%S.%f}', '{each.to_at:%Y-%m-%d %H:%M:%S.%f}', {rows})"
        for each, rows in slices
    )
    run.client.command(
        f"insert into {raw}.owed_slices (table_name, from_at, to_at, owed_rows, updated_at)"
        " select *, (select greatest(now64(6, 'UTC'), addMicroseconds(max(updated_at), 1))"
        f" from {raw}.owed_slices) from values("
        "'table_name String, from_at DateTime64(6, \\'UTC\\'), to_at DateTime64(6, \\'UTC\\'), owed_rows UInt64',"
        f" {rows}) where {held}"
    )
