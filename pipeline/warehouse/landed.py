"""What sources find in ClickHouse while they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver.client import Client


class ClickHouseLanded:
    """See `ingest.sources.desk.Landed`."""

    def __init__(self, client: Client, raw_database: str, models: str) -> None:
        self._client, self._databases = client, {"{raw}": raw_database, "{models}": models}

    def rows(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        """Rows of a query."""
        return self._client.query(self._named(sql), parameters=dict(parameters or {})).result_rows

    def arrow(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The same as an Arrow table, with texts as strings."""
        return self._client.query_arrow(
            self._named(sql),
            parameters=dict(parameters or {}),
            settings={"output_format_arrow_string_as_string": 1},
        )

    def _named(self, sql: str) -> str:
        for placeholder, database in self._databases.items():
            sql = sql.replace(placeholder, database)
        return sql
