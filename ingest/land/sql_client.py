"""SQL and file inserts for dlt, over one clickhouse-connect client.

A dropped connection is transient: dlt tries the file again, and the landing tables make a repeated insert harmless.
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
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.destinations.exceptions import (
    DatabaseTerminalException,
    DatabaseTransientException,
    DatabaseUndefinedRelation,
)
from dlt.destinations.impl.clickhouse.configuration import (
    ClickHouseCredentials,
)
from dlt.destinations.sql_client import (
    DBApiCursorImpl,
    SqlClientBase,
    raise_database_error,
    raise_open_connection_error,
)
from dlt.destinations.typing import DBTransaction

from ingest.events import Event, span
from ingest.query_settings import PINNED, UNMERGED
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
_INSERT_SETTINGS = _SETTINGS | UNMERGED | {"input_format_null_as_default": 0}


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
