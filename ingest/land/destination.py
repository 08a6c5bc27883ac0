"""A dlt destination over clickhouse-connect alone, so that one HTTP port is enough.

dlt's own ClickHouse destination runs SQL over the native protocol and prefixes table names; this
one promises `<database>.<table>` exactly, loads Parquet files by column name into tables that
`schema/` has made, and never creates or alters one of those (only dlt's `_dlt_*` tables). A column
that a landing table lacks is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import (
    HasFollowupJobs,
    LoadJob,
    RunnableLoadJob,
    StateInfo,
    StorageSchemaInfo,
)
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.common.schema import Schema
from dlt.destinations.impl.clickhouse.clickhouse import ClickHouseClient
from dlt.destinations.impl.clickhouse.configuration import (
    ClickHouseClientConfiguration,
    ClickHouseCredentials,
)
from dlt.destinations.impl.clickhouse.factory import clickhouse

from ingest.events import Event, span
from ingest.land.sql_client import NO_FENCE, ClickHouseHttpSqlClient, Fence


class ParquetLoadJob(RunnableLoadJob, HasFollowupJobs):
    """One file, one insert."""

    def run(self) -> None:
        self._job_client.sql_client.insert_file(self._file_path, self.load_table_name)


class ClickHouseHttpClient(ClickHouseClient):
    """dlt's ClickHouse job client with our SQL client and a closed schema."""

    def __init__(
        self,
        schema: Schema,
        config: ClickHouseClientConfiguration,
        capabilities: DestinationCapabilitiesContext,
    ) -> None:
        super().__init__(schema, config, capabilities)
        self.sql_client = ClickHouseHttpSqlClient(
            self.sql_client.dataset_name,
            self.sql_client.staging_dataset_name,
            config.credentials,
            capabilities,
        )

    def complete_load(self, load_id: str) -> None:
        """Make a package's cursor count, if this run may still write; ClickHouse asks that in the statement itself.

        Raises:
            DestinationTerminalException: it may not; the cursor does not count.
        """
        name = self.sql_client.make_qualified_table_name(self.schema.loads_table_name)
        with span(Event.PACKAGE_COMPLETED, load_id=load_id):
            self.sql_client.execute_sql(
                f"insert into {name} ({self.loads_table_schema_columns}) select %s, %s, %s, %s, %s"
                f" where {self.sql_client.fence.sql}",
                load_id,
                self.schema.name,
                0,
                datetime.now(UTC),
                self.schema.version_hash,
            )
            self.sql_client.prove()

    def get_stored_state(self, pipeline_name: str) -> StateInfo | None:
        """The state of the greatest version; dlt would take that of the greatest load id, which is a machine's clock.

        Versions only grow: a run begins with the state that it finds here, and only the holder of the lock adds to it.
        """
        state, loads = (
            self.sql_client.make_qualified_table_name(name)
            for name in (self.schema.state_table_name, self.schema.loads_table_name)
        )
        query = (
            f"select {self.state_table_columns} from {state} as s"
            f" where pipeline_name = %s and _dlt_load_id in (select load_id from {loads} where status = 0)"
            " order by version desc, _dlt_load_id desc limit 1"
        )
        with self.sql_client.execute_query(query, pipeline_name) as cursor:
            row = cursor.fetchone()
        if not row:
            return None
        return StateInfo(
            version=row[0],
            engine_version=row[1],
            pipeline_name=row[2],
            state=row[3],
            created_at=row[4],
            _dlt_load_id=row[5],
        )

    def get_stored_schema(self, schema_name: str | None = None) -> StorageSchemaInfo | None:
        """The schema of the greatest version; dlt would take the one that was inserted last, by a machine's clock."""
        versions = self.sql_client.make_qualified_table_name(self.schema.version_table_name)
        query = (
            f"select {self.version_table_schema_columns} from {versions}"
            " where schema_name = %s or %s = '' order by version desc, inserted_at desc limit 1"
        )
        return self._row_to_schema_info(query, schema_name or "", schema_name or "")

    def create_load_job(
        self, table: Any, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        return ParquetLoadJob(file_path)

    def _get_table_update_sql(
        self, table_name: str, new_columns: Sequence[Any], generate_alter: bool
    ) -> list[str]:
        """SQL for a table of dlt's own that is missing or old; nothing else may be missing.

        Raises:
            DestinationTerminalException: a landing table, or one of its columns, is missing.
        """
        if table_name in self.schema.dlt_table_names():
            return super()._get_table_update_sql(table_name, new_columns, generate_alter)
        table = f"{self.sql_client.dataset_name}.{table_name}"
        if not generate_alter:
            raise DestinationTerminalException(
                f"landing table {table} does not exist: run the migrations first"
            )
        names = ", ".join(column["name"] for column in new_columns)
        raise DestinationTerminalException(
            f"landing table {table} has no column {names}: add a migration to schema/ first"
        )

    def _from_db_type(self, ch_t: str, precision: int | None, scale: int | None) -> Any:
        """Column type in dlt's terms; one it has no word for is text: nothing is ever altered."""
        return super()._from_db_type(ch_t, precision, scale) or {"data_type": "text"}


class ClickHouseHttp(clickhouse):
    """The destination; build one with `clickhouse_destination`."""

    fence = NO_FENCE

    def client(self, schema: Schema, initial_config: Any = None) -> ClickHouseHttpClient:
        """A job client that writes behind this destination's fence."""
        client = super().client(schema, initial_config)
        client.sql_client.fence = self.fence
        return client

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        caps = super()._raw_capabilities()
        caps.preferred_loader_file_format = "parquet"
        caps.supported_loader_file_formats = ["parquet"]
        caps.preferred_staging_file_format = None
        caps.supported_staging_file_formats = []
        # The stock client splits SQL at every semicolon, those in strings included.
        caps.supports_multiple_statements = False
        return caps

    @property
    def client_class(self) -> type[ClickHouseHttpClient]:
        return ClickHouseHttpClient


ClickHouseHttp.register()


def clickhouse_destination(
    host: str,
    port: int,
    user: str,
    password: str,
    secure: bool,
    database: str,
    fence: Fence = NO_FENCE,
) -> ClickHouseHttp:
    """A dlt destination for the ClickHouse HTTP interface at `host:port`.

    Args:
        secure: TLS.
        database: the landing database. Give the pipeline the same name as `dataset_name`; tables
            are then `<database>.<table>`.
        fence: what proves that this run may write.
    """
    credentials = ClickHouseCredentials()
    credentials.host = host
    credentials.port = credentials.http_port = port
    credentials.username = user
    credentials.password = password
    credentials.secure = 1 if secure else 0
    credentials.database = database
    destination = ClickHouseHttp(credentials=credentials, destination_name="clickhouse")
    destination.fence = fence
    return destination
