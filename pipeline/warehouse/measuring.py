"""Measures loads by the rows that their landing tables have now: how many, of which time, of which blocks.

Rows of an orphan may come late, so its content is measured too: a sum of hashes that says whether it is what it was.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

from clickhouse_connect.driver.client import Client

from ingest.sources.parquet import NAME as PARQUET
from ingest.tables import TABLES
from pipeline.warehouse.loads import EPOCH, Load, Unchecked

# Blocks that deep below another block of the same load had been confirmed when they were read: the polygon reader
# rests on the same bound (`reorg_depth`).
REORG_DEPTH = 256


class Measure:
    """Measures loads of one landing database."""

    def __init__(self, client: Client, raw_database: str) -> None:
        self._client, self._raw = client, raw_database

    def measured(self, load: Load) -> Load:
        """The load with the rows that its landing table has."""
        column = TABLES[load.table_name].time
        count, first, last = self._client.query(
            f"select count(), min({column}), max({column}) from {self._raw}.{load.table_name}"
            f" where load_id = {load.load_id}"
        ).result_rows[0]
        measured = replace(
            load,
            loaded_rows=count,
            from_at=first.replace(tzinfo=UTC),
            to_at=last.replace(tzinfo=UTC),
        )
        return replace(measured, content=self._content(measured) if load.is_orphan else 0)

    def closed_orphan(self, load: Load) -> Load:
        """The load as it is now: unchecked if rows of the chain count, else loaded."""
        measured = self.measured(load)
        state = "unchecked" if self.with_blocks(measured).blocks else "loaded"
        return replace(measured, state=state)

    def _content(self, load: Load) -> int:
        """Sum of hashes of the rows of a load that count, whatever is merged or inserted twice."""
        return self._client.query(
            f"select sum(cityHash64({TABLES[load.table_name].content})) from {self._counting(load)}"
        ).result_rows[0][0]

    def with_blocks(self, load: Load) -> Unchecked:
        """The blocks of a load that may have left the chain since they were read.

        Archives never change, and neither do blocks so deep below another block of the same load.
        """
        if not TABLES[load.table_name].has_blocks or not load.loaded_rows:
            return Unchecked(load, None, EPOCH)
        first, last, newest_at = self._client.query(
            "select minIf(block_number, block_number + {depth:UInt64} > newest), max(block_number), max(timestamp)"
            f" from (select *, max(block_number) over () as newest from {self._counting(load)})"
            " where block_number > 0 and source != {archive:String}",
            parameters={"depth": REORG_DEPTH, "archive": PARQUET},
        ).result_rows[0]
        return Unchecked(load, (first, last) if last else None, newest_at.replace(tzinfo=UTC))

    def _counting(self, load: Load) -> str:
        """The rows of a load that no later load has replaced."""
        column = TABLES[load.table_name].time
        bounds = [
            f"toDateTime64('{at:%Y-%m-%d %H:%M:%S.%f}', 6, 'UTC')"
            for at in (load.from_at, load.to_at)
        ]
        return (
            f"(select * from {self._raw}.{load.table_name} final"
            f" where {column} between {bounds[0]} and {bounds[1]} and load_id = {load.load_id})"
        )
