"""Notices that a table into which loads are settled was replaced by another, and settles again what went into the old one.

`dbt run --full-refresh` fills a new table and puts it in the place of the old one when it is full. What was settled in the
meantime went into the old one. The new table says itself up to where it reflects the ledger: a full refresh writes, as
the version of its rows, the last id before anything that was not settled when it began (see `refresh_id` in
macros/settle.sql).
"""

from __future__ import annotations

import logging
from datetime import UTC
from uuid import UUID

from ingest.tables import SETTLED
from pipeline.derive.cutting import FILLS, plan_fills
from pipeline.timerange import TimeRange
from pipeline.warehouse.loads import Load
from pipeline.warehouse.run import Run

log = logging.getLogger(__name__)


def heal_replaced_tables(run: Run) -> list[str]:
    """Mark for settling what tables that were replaced may lack, and return their names; only under the lock.

    Raises:
        LockHeld: the lock was lost.
    """
    known, present = _known(run), _present(run)
    replaced = [name for name, uuid in present.items() if known.get(name, uuid) != uuid]
    for table in sorted({_landing_table(run, name) for name in replaced}):
        names = [name for name in replaced if _landing_table(run, name) == table]
        loads = _mark(run, table, [_settled_up_to(run, name) for name in names])
        _rebuild_unsettled(run, table)
        log.warning(
            "models: %s was replaced; %d loads are settled again", ", ".join(names), len(loads)
        )
    _note(run, {name: uuid for name, uuid in present.items() if known.get(name) != uuid})
    return replaced


def tables_in_place(run: Run) -> list[str]:
    """Tables into which loads are settled that were not replaced since a run last looked; none where nobody looked yet."""
    if not run.client.command(f"exists table {run.settings.raw_database}.settled_tables"):
        return []
    return [
        name
        for (name,) in run.client.query(
            f"select name from {run.settings.raw_database}.settled_tables final"
            " where (name, uuid) in (select name, uuid from system.tables where database = {database:String})"
            " order by name",
            parameters={"database": run.settings.clickhouse_database},
        ).result_rows
    ]


def note_restored(run: Run, names: list[str]) -> None:
    """Say that these tables hold what they held before under another identity; only under the lock."""
    rows = run.client.query(
        "select name, uuid from system.tables where database = {database:String} and name in {names:Array(String)}",
        parameters={"database": run.settings.clickhouse_database, "names": names},
    ).result_rows
    _note(run, dict(rows))


def _mark(run: Run, table: str, settled_up_to: list[int | None]) -> list[Load]:
    """Make loads of a landing table unsettled: those after the earliest id, or all rows as one where one is not known."""
    known = [each for each in settled_up_to if each is not None]
    if len(known) == len(settled_up_to):
        loads = run.ledger.settled_since(table, min(known))
        run.ledger.back_to_loaded(loads)
        return loads
    column = SETTLED[table].time
    rows, first, last = run.client.query(
        f"select count(), min({column}), max({column}) from {run.settings.raw_database}.{table}"
    ).result_rows[0]
    whole = Load(
        0,
        table,
        loaded_rows=rows,
        from_at=first.replace(tzinfo=UTC),
        to_at=last.replace(tzinfo=UTC),
    )
    return run.ledger.add_rebuild([whole])


def _rebuild_unsettled(run: Run, table: str) -> None:
    """Have everything derived again in the time of the loads that are unsettled.

    A new table holds no withdrawn rows, and by those the tables made from it learn what they have to withdraw.
    """
    times = [
        each
        for load in run.ledger.unsettled()
        if load.table_name == table and load.loaded_rows and not load.is_rebuild
        for each in (load.from_at, load.to_at)
    ]
    if table == FILLS and times:
        run.ledger.add_rebuild(plan_fills(run, TimeRange.including(min(times), max(times))))


def _landing_table(run: Run, model: str) -> str:
    return next(each.landing_table for each in run.statements if each.model == model)


def _known(run: Run) -> dict[str, UUID]:
    rows = run.client.query(
        f"select name, uuid from {run.settings.raw_database}.settled_tables final"
    ).result_rows
    return dict(rows)


def _present(run: Run) -> dict[str, UUID]:
    rows = run.client.query(
        "select name, uuid from system.tables where database = {database:String} and name in {names:Array(String)}",
        parameters={
            "database": run.settings.clickhouse_database,
            "names": [statement.model for statement in run.statements],
        },
    ).result_rows
    return dict(rows)


def _settled_up_to(run: Run, model: str) -> int | None:
    """The last id up to which a new table reflects every load; None where its rows do not say, as those of markets."""
    database = run.settings.clickhouse_database
    if not run.client.query(
        "select count() from system.columns where database = {database:String} and table = {model:String}"
        " and name = 'version'",
        parameters={"database": database, "model": model},
    ).result_rows[0][0]:
        return None
    return run.client.query(f"select min(version) from {database}.{model}").result_rows[0][0]


def _note(run: Run, tables: dict[str, UUID]) -> None:
    if not tables:
        return
    raw = run.settings.raw_database
    now = run.client.query(
        "select greatest(toUnixTimestamp64Micro(now64(6)), toUnixTimestamp64Micro(max(noted_at)) + 1)"
        f" from {raw}.settled_tables"
    ).result_rows[0][0]
    for name, uuid in tables.items():
        run.client.command(
            f"insert into {raw}.settled_tables (name, uuid, noted_at)"
            " select {name:String}, {uuid:UUID}, fromUnixTimestamp64Micro({now:Int64}, 'UTC')"
            f" where {run.lock.sql_is_held()}",
            parameters={"name": name, "uuid": str(uuid), "now": now},
        )
