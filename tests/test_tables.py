"""The declarations of the landing tables against the tables that the migrations make."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ingest.tables import TABLES, Table
from pipeline.warehouse.run import Run

KINDS = {
    pa.string(): {"String", "LowCardinality(String)"},
    pa.uint64(): {"UInt64"},
    pa.uint32(): {"UInt32"},
    pa.uint8(): {"UInt8"},
    pa.timestamp("s", tz="UTC"): {"DateTime('UTC')"},
    pa.timestamp("us", tz="UTC"): {"DateTime64(6, 'UTC')"},
    pa.decimal128(18, 9): {"Decimal(18, 9)"},
}


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_table_is_made_as_it_is_declared(run: Run, table: Table) -> None:
    found = dict(
        run.client.query(
            "select name, type from system.columns where database = {raw:String} and table = {name:String}"
            " and default_kind in ('', 'DEFAULT')",
            parameters={"raw": run.settings.raw_database, "name": table.name},
        ).result_rows
    )
    declared = {
        field.name: {f"Nullable({kind})" for kind in KINDS[field.type]}
        if field.nullable
        else KINDS[field.type]
        for field in table.schema
    }
    assert declared.keys() == found.keys()
    assert [name for name, kinds in declared.items() if found[name] not in kinds] == []
    key, engine = run.client.query(
        "select sorting_key, engine_full from system.tables where database = {raw:String} and name = {name:String}",
        parameters={"raw": run.settings.raw_database, "name": table.name},
    ).result_rows[0]
    assert key == ", ".join(table.key)
    assert engine.startswith("ReplacingMergeTree")
    assert (f", {table.deletes})" in engine) == bool(table.deletes)
    assert {table.time, *table.key} <= declared.keys()
