"""Fills a new store beside the old one, part by part, and puts it in its place when it is whole.

Readers see the old store until then. Parts that are filled are written down, so that an upgrade that was cut off goes on
where it was. What was settled into the old store meanwhile, by a run of an earlier version, is settled again:
`replaced.py` sees that the table is another.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import datetime

from pipeline.console import step
from pipeline.derive.comparison import TIMES, only
from pipeline.derive.cutting import FILLS, cut, rows_by_hour
from pipeline.derive.stores import Store
from pipeline.derive.tables import definition, drop, identity, on_cluster
from pipeline.timerange import EARLIEST, LATEST, TimeRange, show
from pipeline.warehouse.run import Run

NEXT = "{}__next"
log = logging.getLogger(__name__)


def fill_beside(run: Run, store: Store) -> None:
    """Fill a store from what it reads, and put it in the place of the one that is there, if any.

    Raises:
        LockHeld: the lock was lost.
    """
    target = _target(run, store)
    if _whole(target) in _filled(run, store.name):  # put in place by a run that was cut off then
        drop(run, target)
        return
    columns = ", ".join(f"`{name}`" for name in store.node.columns)
    database = run.settings.clickhouse_database
    filled, parts = _filled(run, target), list(_parts(run, store))
    with step(f"models: filling {store.name} again", total=len(parts)) as shown:
        for number, (part, limits) in enumerate(parts, start=1):
            if part not in filled:
                run.ledger.prove()
                run.client.command(
                    f"insert into {database}.`{target}` ({columns})\n"
                    f"select {columns} from (\n{store.select}\n)\n{limits}"
                )
                _note(run, target, part)
            shown.update(f"{number} of {len(parts)}", number)
            if not shown.visible:
                log.info("models: filling %s again, %d of %d", store.name, number, len(parts))
    run.ledger.prove()
    _put_in_place(run, store, target)


def _put_in_place(run: Run, store: Store, target: str) -> None:
    database = run.settings.clickhouse_database
    _note(run, target, _whole(target))  # the table keeps its identity under its new name
    new, old = f"{database}.`{target}`", f"{database}.`{store.name}`"
    if identity(run, store.name):
        run.client.command(f"exchange tables {new} and {old} {on_cluster(run)}")
        drop(run, target)
    else:
        run.client.command(f"rename table {new} to {old} {on_cluster(run)}")


def _whole(target: str) -> str:
    """The part that says of a table that it is filled, by the rule and definition that a new table's name stands for."""
    return f"whole, as {target}"


def _target(run: Run, store: Store) -> str:
    """The new table: the one that an earlier run has begun, if it is by this rule and definition, else an empty one."""
    base = NEXT.format(store.name)
    statement = definition(run, store, base)
    digest = hashlib.sha256(f"{statement}{store.rule}".encode()).hexdigest()[:12]
    target = f"{base}_{digest}"
    for name in _begun(run, base):
        if name != target:
            drop(run, name)
    run.client.command(definition(run, store, target))
    return target


def _begun(run: Run, base: str) -> list[str]:
    """New tables of a store that were begun and are not in place."""
    rows = run.client.query(
        "select name from system.tables where database = {database:String} and startsWith(name, {base:String})",
        parameters={"database": run.settings.clickhouse_database, "base": base},
    ).result_rows
    return [name for (name,) in rows]


def _parts(run: Run, store: Store) -> Iterator[tuple[str, str]]:
    """Name of each part, and the clause that limits to it what the select reads."""
    if store.landing_table != FILLS:
        yield from _parts_by_id(run, store.landing_table)
        return
    if not set(TIMES) & set(store.node.columns):
        yield "all", ""
        return
    hours = rows_by_hour(run, TimeRange(EARLIEST, LATEST))
    for start, end in _bounds(store, hours, run.settings.settle_max_rows):
        part = TimeRange(start, end)
        yield f"{show(start)} to {show(end)}", only(run, part)


def _bounds(
    store: Store, hours: list[tuple[datetime, int]], max_rows: int
) -> Iterator[tuple[datetime, datetime]]:
    """Ranges that hold whole buckets of a store and all of its rows, oldest first."""
    slices = cut(TimeRange(EARLIEST, LATEST), hours, max_rows)
    starts = [each.from_at for each in slices]
    if "_1d_" in store.name:
        starts = sorted({start.replace(hour=0, minute=0, second=0) for start in starts})
    yield from zip(starts, [*starts[1:], LATEST], strict=True)


def _parts_by_id(run: Run, table: str) -> Iterator[tuple[str, str]]:
    """Shares of the ids of a landing table, each of about as many rows as are settled at once."""
    raw = run.settings.raw_database
    rows = run.client.query(f"select count() from {raw}.{table}").result_rows[0][0]
    shares = max(1, -(-rows // run.settings.settle_max_rows))
    key = f"{table.removesuffix('s')}_id"
    for share in range(shares):
        condition = f"cityHash64({key}) % {shares} = {share}"
        yield (
            f"ids {share + 1} of {shares}",
            f"settings additional_table_filters = {{'{raw}.{table}': '{condition}'}}",
        )


def _filled(run: Run, target: str) -> set[str]:
    known = identity(run, target)
    if not known:
        return set()
    rows = run.client.query(
        f"select part from {run.settings.raw_database}.filled_parts final where target = {{target:UUID}}",
        parameters={"target": known},
    ).result_rows
    return {part for (part,) in rows}


def _note(run: Run, target: str, part: str) -> None:
    run.client.command(
        f"insert into {run.settings.raw_database}.filled_parts (target, part)"
        " select {target:UUID}, {part:String}"
        f" where {run.lock.sql_is_held() if run.lock.number else '1'}",
        parameters={"target": identity(run, target), "part": part},
    )
