"""Brings the stores of an earlier version of the models to this one.

What became of each store is decided in `stores.py`. Here it is carried out: columns are added, stores whose rows cannot
stay are filled beside the old ones, and fills whose rule changed are written down as owed. Each step may be cut off: what
is done is noted per store, and the next run compares again and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.console import human
from pipeline.derive.beside import NEXT, fill_beside
from pipeline.derive.cutting import FILLS
from pipeline.derive.dbt import run_dbt
from pipeline.derive.owed import owe_all
from pipeline.derive.stores import Change, Store, change_of, stores_of
from pipeline.derive.tables import column_definition, drop, on_cluster, present_shapes, wanted_shape
from pipeline.errors import UpgradeNeeded
from pipeline.warehouse.run import Run

# Raw rows from which on a run does not fill a store again unasked: a few minutes on two cores, in which nothing is loaded.
LONG_ROWS = 20_000_000
# Raw rows a second from which two cores fill a store again (BENCHMARKS.md: fills to candles, ClickHouse alone).
ROWS_PER_S = 100_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upgrade:
    """What is to be done.

    Attributes:
        stores: every store of this version, each after those that it reads.
        changes: what became of each, by name.
        rows: raw rows behind each, by name.
        most_rows: raw rows that one statement may read.
    """

    stores: Sequence[Store]
    changes: dict[str, Change]
    rows: dict[str, int]
    most_rows: int

    @property
    def beside(self) -> list[Store]:
        """Stores that are filled beside the old ones: no row can stay, or a settle would not touch those that are there."""
        return [store for store in self.stores if self._goes_beside(store)]

    @property
    def in_place(self) -> list[Store]:
        """Stores whose rows stay until they are derived again where they are."""
        changed = (Change.ADDED, Change.RULE)
        return [
            store
            for store in self.stores
            if self.changes[store.name] in changed and store.landing_table == FILLS
        ]

    def _goes_beside(self, store: Store) -> bool:
        change = self.changes[store.name]
        if change is Change.NEW:  # else dbt fills it in one statement
            return self.rows[store.name] > self.most_rows
        if change in (Change.ADDED, Change.RULE):
            return store.landing_table != FILLS
        return change is Change.RESHAPED


def plan_upgrade(run: Run, nodes: Sequence[Any]) -> Upgrade:
    """Compare the stores that are there with those of this version.

    Args:
        nodes: all models, compiled as for a full refresh.
    """
    stores, present, rules = stores_of(nodes), present_shapes(run), _rules(run)
    raw = run.settings.raw_database
    counts = {
        table: run.client.query(f"select count() from {raw}.{table}").result_rows[0][0]
        for table in {store.landing_table for store in stores}
    }
    return Upgrade(
        stores,
        {
            store.name: change_of(
                present.get(store.name), wanted_shape(run, store), rules.get(store.name), store.rule
            )
            for store in stores
        },
        {store.name: counts[store.landing_table] for store in stores},
        run.settings.settle_max_rows,
    )


def refuse_long(upgrade: Upgrade) -> None:
    """Make sure that nothing is filled beside for long.

    Raises:
        UpgradeNeeded: something would be.
    """
    long = [store.name for store in upgrade.beside if upgrade.rows[store.name] > LONG_ROWS]
    if long:
        rows = max(upgrade.rows[name] for name in long)
        raise UpgradeNeeded(
            f"this version fills {', '.join(long)} again from {human(rows)} raw rows, about"
            f" {human(len(long) * rows / ROWS_PER_S / 60)} minutes in which nothing is loaded:"
            " run `python run_pipeline.py upgrade`; until then the tables can be read as they are"
        )


def carry_out(run: Run, upgrade: Upgrade) -> None:
    """Do what has to be done before the views of this version can be built.

    Raises:
        LockHeld: the lock was lost.
        ModelsError: dbt failed; the next run goes on.
    """
    for store in upgrade.stores:
        if upgrade.changes[store.name] is not Change.UNCHANGED:
            log.info("models: %s: %s", store.name, upgrade.changes[store.name])
    for store in upgrade.in_place:
        _add_columns(run, store)
    built: set[str] = set()
    for store in upgrade.beside:
        if views := set(store.views) - built:
            run_dbt(["run", "--select", " ".join(sorted(views))])
            built |= views
        fill_beside(run, store)
        note_rules(run, [store])


def finish(run: Run, upgrade: Upgrade) -> None:
    """Write down what is owed, and by which rules the stores are filled from now on."""
    if upgrade.in_place:
        slices = owe_all(run)
        rows = sum(each.loaded_rows for each in slices)
        names = ", ".join(store.name for store in upgrade.in_place)
        log.info("models: %s fills are to be derived again: %s", human(rows), names)
    note_rules(run, upgrade.stores)
    for name in _left_over(run):
        drop(run, name)


def note_rules(run: Run, stores: Sequence[Store]) -> None:
    """Write down by which rules stores are filled, if the lock is ours."""
    raw = run.settings.raw_database
    held = run.lock.sql_is_held() if run.lock.number else "1"
    rows = ", ".join(f"('{store.name}', '{store.rule}')" for store in stores)
    run.ledger.prove()
    run.client.command(
        f"insert into {raw}.deployed_stores (name, rule, deployed_at)"
        " select *, (select greatest(now64(6, 'UTC'), addMicroseconds(max(deployed_at), 1))"
        f" from {raw}.deployed_stores) from values('name String, rule String', {rows}) where {held}"
    )


def _rules(run: Run) -> dict[str, str]:
    """The rules by which the stores are filled, by name; empty where none were written down yet."""
    raw = run.settings.raw_database
    if not run.client.command(f"exists table {raw}.deployed_stores"):
        return {}
    return dict(run.client.query(f"select name, rule from {raw}.deployed_stores final").result_rows)


def _add_columns(run: Run, store: Store) -> None:
    """Add the columns that a store lacks; the rows that are there have their defaults until they are derived again."""
    present = present_shapes(run)[store.name].columns
    place = "first"
    for column in store.node.columns.values():
        if column.name not in present:
            run.client.command(
                f"alter table {run.settings.clickhouse_database}.`{store.name}` {on_cluster(run)}"
                f" add column if not exists {column_definition(column)} {place}"
            )
        place = f"after `{column.name}`"


def _left_over(run: Run) -> list[str]:
    """New stores that were begun for a version that was never finished."""
    return [name for name in present_shapes(run) if NEXT.format("") in name]
