"""The tables of stores in ClickHouse: how they look, and how this version of the models would make them.

The definition is the one that dbt writes for an incremental model (`tests/test_upgrade.py` compares the two), so that a new
store can be made beside the old one, empty.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.derive.stores import Shape, Store
from pipeline.warehouse.run import Run

# The empty table that is made to see what ClickHouse calls the types and keys of a store.
SAMPLE = "{}__sample"
# What dbt-clickhouse adds to every table that it makes.
TABLE_SETTINGS = {"replicated_deduplication_window": "0"}


def definition(run: Run, store: Store, name: str) -> str:
    """The statement that makes the table of a store under another name, empty."""
    config = store.node.config
    columns = [column_definition(each) for each in store.node.columns.values()]
    indexes = [f"index {it['name']} {it['definition']}" for it in config.get("indexes") or []]
    partition = _listed(config.get("partition_by"))
    settings = {**(config.get("settings") or {}), **TABLE_SETTINGS}
    pairs = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
    body = ",\n    ".join(columns + indexes)
    return (
        f"create table if not exists {run.settings.clickhouse_database}.{name} {on_cluster(run)}\n"
        f"(\n    {body}\n)\nengine = {config['engine']}\n"
        + (f"partition by ({partition})\n" if partition else "")
        + f"order by ({_listed(config.get('order_by')) or 'tuple()'})\n"
        + (f"ttl {config['ttl']}\n" if config.get("ttl") else "")
        + f"settings {pairs}"
    )


def column_definition(column: Any) -> str:
    """Name, type and codec of a column of a model."""
    codec = column.to_dict().get("codec")
    return f"`{column.name}` {column.data_type}" + (f" codec({codec})" if codec else "")


def on_cluster(run: Run) -> str:
    """The clause of statements that change definitions, where there is a cluster."""
    cluster = run.settings.clickhouse_cluster
    return f"on cluster '{cluster}'" if cluster else ""


def wanted_shape(run: Run, store: Store) -> Shape:
    """The shape that this version of the models gives a store, in ClickHouse's own words."""
    name = SAMPLE.format(store.name)
    drop(run, name)
    run.client.command(definition(run, store, name))
    shape = present_shapes(run)[name]
    drop(run, name)
    return shape


def present_shapes(run: Run) -> dict[str, Shape]:
    """The shapes of the tables that are there, by name."""
    parameters = {"database": run.settings.clickhouse_database}
    columns: dict[str, dict[str, str]] = {}
    for table, name, kind in run.client.query(
        "select table, name, type from system.columns where database = {database:String} order by table, position",
        parameters=parameters,
    ).result_rows:
        columns.setdefault(table, {})[name] = kind
    rows = run.client.query(
        "select name, engine_full, sorting_key, primary_key, partition_key from system.tables"
        " where database = {database:String} and engine like '%MergeTree'",
        parameters=parameters,
    ).result_rows
    return {
        name: Shape(columns[name], _engine(engine), tuple(map(_bare, keys)))
        for name, engine, *keys in rows
    }


def identity(run: Run, name: str) -> str:
    """The UUID of a table; empty if there is none."""
    found = run.client.query(
        "select uuid from system.tables where database = {database:String} and name = {name:String}",
        parameters={"database": run.settings.clickhouse_database, "name": name},
    ).result_rows
    return str(found[0][0]) if found else ""


def drop(run: Run, name: str) -> None:
    """Drop a table or view if it is there."""
    database = run.settings.clickhouse_database
    run.client.command(f"drop table if exists {database}.`{name}` {on_cluster(run)} sync")


def _listed(keys: Any) -> str:
    return keys if isinstance(keys, str) else ", ".join(keys or ())


def _engine(engine_full: str) -> str:
    """The engine and its arguments, without where a replicated one keeps its state."""
    engine = re.split(r" (?:PARTITION BY|PRIMARY KEY|ORDER BY|TTL|SETTINGS)\b", engine_full)[0]
    return re.sub(r"'[^']*',? ?", "", engine)


def _bare(key: str) -> str:
    """A key without the brackets around all of it."""
    return key[1:-1] if re.fullmatch(r"\([^()]*(?:\([^()]*\)[^()]*)*\)", key) else key
