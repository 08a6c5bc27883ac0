"""A dlt destination over clickhouse-connect alone, so that one HTTP port is enough.

dlt's own ClickHouse destination runs SQL over the native protocol and prefixes table names; this
one promises `<database>.<table>` exactly, loads Parquet files by column name into tables that
`schema/` has made, and never creates or alters one of those (only dlt's `_dlt_*` tables). A column
that a landing table lacks is an error. A dropped connection is transient: dlt tries the file again,
and the landing tables make a repeated insert harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, AnyStr, ClassVar

import clickhouse_connect
import pyarrow.parquet as pq
from clickhouse_connect.dbapi.cursor import Cursor
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, Error
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
from dlt.destinations.exceptions import (
    DatabaseTerminalException,
    DatabaseTransientException,
    DatabaseUndefinedRelation,
)
from dlt.destinations.impl.clickhouse.clickhouse import ClickHouseClient
from dlt.destinations.impl.clickhouse.configuration import (
    ClickHouseClientConfiguration,
    ClickHouseCredentials,
)
from dlt.destinations.impl.clickhouse.factory import clickhouse
from dlt.destinations.sql_client import (
    DBApiCursorImpl,
    SqlClientBase,
    raise_database_error,
    raise_open_connection_error,
)
from dlt.destinations.typing import DBTransaction

from ingest.events import Event, span
from ingest.query_settings import PINNED
from ingest.whole_answers import pool_manager

# ClickHouse's ErrorCodes.cpp. What is listed here fails the same way every time; anything else,
# a connection that broke included, is worth another try.
_UNDEFINED = {60: "UNKNOWN_TABLE", 81: "UNKNOWN_DATABASE"}
_TERMINAL = {
    6: "CANNOT_PARSE_TEXT",
    16: "NO_SUCH_COLUMN_IN_TABLE",
    20: "NUMBER_OF_COLUMNS_DOESNT_MATCH",
    26: "CANNOT_PARSE_QUOTED_STRING",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    36: "BAD_ARGUMENTS",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    43: "ILLEGAL_TYPE_OF_ARGUMENT",
    44: "ILLEGAL_COLUMN",
    47: "UNKNOWN_IDENTIFIER",
    48: "NOT_IMPLEMENTED",
    50: "UNKNOWN_TYPE",
    53: "TYPE_MISMATCH",
    57: "TABLE_ALREADY_EXISTS",
    62: "SYNTAX_ERROR",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    82: "DATABASE_ALREADY_EXISTS",
    115: "UNKNOWN_SETTING",
    117: "INCORRECT_DATA",
    192: "UNKNOWN_USER",
    193: "WRONG_PASSWORD",
    194: "REQUIRED_PASSWORD",
    497: "ACCESS_DENIED",
    516: "AUTHENTICATION_FAILED",
    636: "CANNOT_EXTRACT_TABLE_STRUCTURE",
}

# A statement returns when its rows are in the table, not when they are in a server-side buffer, and
# sees what other replicas have (no effect on a single server).
_SETTINGS = PINNED | {
    "async_insert": 0,
    "wait_end_of_query": 1,
    "select_sequential_consistency": 1,
}
_INSERT_SETTINGS = _SETTINGS | {"input_format_null_as_default": 0}


@dataclass(frozen=True)
class Fence:
    """What proves to ClickHouse that a run may write.

    Attributes:
        prove: called right before each file is inserted; raises if the run may not write any more.
        sql: a condition that says the same inside ClickHouse.
        comment: the `log_comment` of every statement.
    """

    prove: Callable[[], None]
    sql: str
    comment: str


NO_FENCE = Fence(lambda: None, "1", "")


class ClickHouseHttpSqlClient(SqlClientBase[Client], DBTransaction):
    """SQL and file inserts over one clickhouse-connect client; the dlt dataset is the database."""

    dbapi: ClassVar[Any] = clickhouse_connect.dbapi

    def __init__(
        self,
        dataset_name: str,
        staging_dataset_name: str,
        credentials: ClickHouseCredentials,
        capabilities: DestinationCapabilitiesContext,
    ) -> None:
        super().__init__(credentials.database, dataset_name, staging_dataset_name, capabilities)
        self.credentials = credentials
        self.fence = NO_FENCE
        self._client: Client | None = None

    @raise_open_connection_error
    def open_connection(self) -> Client:
        """Connect; no session, because load jobs share the client between threads."""
        self._client = clickhouse_connect.get_client(
            host=self.credentials.host,
            port=self.credentials.http_port,
            username=self.credentials.username,
            password=self.credentials.password or "",
            secure=bool(self.credentials.secure),
            pool_mgr=pool_manager(
                self.credentials.host, self.credentials.http_port, bool(self.credentials.secure)
            ),
            connect_timeout=self.credentials.connect_timeout,
            send_receive_timeout=self.credentials.send_receive_timeout,
            autogenerate_session_id=False,
            client_name="polymarket-elt",
            settings={"log_comment": self.fence.comment},
        )
        return self._client

    def close_connection(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def native_connection(self) -> Client:
        return self._client

    @contextmanager
    def begin_transaction(self) -> Iterator[DBTransaction]:
        yield self  # ClickHouse commits every statement on its own

    def commit_transaction(self) -> None:
        pass

    def rollback_transaction(self) -> None:
        pass

    def execute_sql(self, sql: AnyStr, *args: Any, **kwargs: Any) -> Sequence[Sequence[Any]] | None:
        with self.execute_query(sql, *args, **kwargs) as cursor:
            return cursor.fetchall() if cursor.description else None

    @contextmanager
    @raise_database_error
    def execute_query(self, query: AnyStr, *args: Any, **kwargs: Any) -> Iterator[DBApiCursorImpl]:
        """Run one statement; `%s` and `%(name)s` in it are bound to the arguments."""
        parameters = kwargs or tuple(_bindable(value) for value in args) or None
        cursor = Cursor(self._client)
        cursor.execute(query, parameters, settings=_SETTINGS, pyformat_encoded=bool(parameters))
        yield DBApiCursorImpl(cursor)

    @raise_database_error
    def insert_file(self, path: str, table_name: str) -> None:
        """Insert a Parquet file, column by column name.

        The columns are named, because ClickHouse skips those of a file that a table does not have.

        Raises:
            DestinationTerminalException: this run may not write any more.
        """
        self.prove()
        with Path(path).open("rb") as file, span(Event.FILE_INSERTED, table=table_name):
            self._client.raw_insert(
                self.make_qualified_table_name(table_name),
                column_names=pq.read_schema(path).names,
                insert_block=file,
                fmt="Parquet",
                settings=_INSERT_SETTINGS,
            )

    def prove(self) -> None:
        """Make sure that this run may still write.

        Raises:
            DestinationTerminalException: it may not; what the fence raised is its cause.
        """
        try:
            self.fence.prove()
        except ClickHouseError:
            raise
        except Exception as error:
            raise DestinationTerminalException(str(error)) from error

    def create_dataset(self) -> None:
        """Called when the database is not there; it belongs to the migrations.

        Raises:
            DestinationTerminalException: always.
        """
        raise DestinationTerminalException(
            f"database {self.dataset_name} does not exist: run the migrations first"
        )

    def drop_dataset(self) -> None:
        raise DestinationTerminalException(
            f"dlt must not drop {self.dataset_name}: it holds the only copy of the raw records;"
            " drop the database by hand if that is what you want"
        )

    @staticmethod
    def _make_database_exception(ex: Exception) -> Exception:
        if not isinstance(ex, ClickHouseError):
            return ex
        code = ex.code if isinstance(ex, Error) else None
        if code in _UNDEFINED:
            return DatabaseUndefinedRelation(ex)
        return (
            DatabaseTerminalException(ex) if code in _TERMINAL else DatabaseTransientException(ex)
        )


def _bindable(value: Any) -> Any:
    """Times as text: the driver would drop the microseconds that dlt orders its versions by."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


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
