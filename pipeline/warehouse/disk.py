"""What tables take on the disk, as ClickHouse counts its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client


@dataclass(frozen=True)
class TableSize:
    """What a table takes on the disk of the ClickHouse node that is asked, in one copy.

    Attributes:
        rows: stored, with older versions of rows until ClickHouse merges them away.
        bytes: compressed, indexes and marks included.
        bytes_per_fill: divided by the fills that are known; None: there are none.
    """

    database: str
    table: str
    rows: int
    bytes: int
    bytes_per_fill: float | None


def table_sizes(client: Client, databases: Sequence[str], fills: int) -> list[TableSize]:
    """Every table of some databases that has rows, the largest first.

    Args:
        fills: one per key, by which bytes are divided.
    """
    found = client.query(
        "select database, table, sum(rows), sum(bytes_on_disk) as size from system.parts"
        " where active and database in {databases:Array(String)}"
        " group by database, table having sum(rows) > 0 order by size desc, database, table",
        parameters={"databases": list(databases)},
    ).result_rows
    return [
        TableSize(database, table, rows, size, round(size / fills, 2) if fills else None)
        for database, table, rows, size in found
    ]
