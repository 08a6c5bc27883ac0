"""The chDB engine as a server needs it: connections, results through a pipe, inserts from a stream.

One process may open one data folder; every connection is a session of its own over the same engine
and releases the GIL while it works. Calls here block: the HTTP front runs them in threads. chDB has
no users and no query ids, so access is the front's business and queries are cancelled by their
text.
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chdb.state.sqlitelike import Connection

from embedded_clickhouse.protocol import ClickHouseError

_CODE = re.compile(r"Code: (\d+)\. DB::")
_VERSION = re.compile(r"\(version [^()]*(?:\([^()]*\))?\)\s*\Z")

# What a server has and clickhouse-local, from which chDB descends, has not.
_SERVER_BEHAVIOUR = "implicit_select=0"


@dataclass(frozen=True)
class Outcome:
    """What a finished statement reports; `body` is empty where the result went through a pipe."""

    body: bytes = b""
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0
    elapsed: float = 0.0  # seconds


class Engine:
    """The engine over one data folder, open as long as the object is.

    Args:
        path: chDB's folder, made if missing.
        max_memory: bytes the engine may use altogether; statements beyond it fail with code 241.

    Raises:
        RuntimeError: the folder is in use by another process or cannot be read.
    """

    def __init__(self, path: Path, max_memory: int) -> None:
        self._path = str(path)
        # The engine lives as long as any connection does: this one is its anchor. Limits of the
        # whole server count only on the connection that starts it.
        self._anchor = Connection(f"{self._path}?max_server_memory_usage={max_memory}")
        self._anchor_lock = threading.Lock()
        self.version, self.timezone = (
            self._anchor.query("select version(), timezone()", "TSV").bytes().decode().split()
        )

    def connect(self) -> Connection:
        """A fresh session, about 0.2 ms."""
        return Connection(f"{self._path}?{_SERVER_BEHAVIOUR}")

    def kill(self, condition: str) -> None:
        """Ask the running statements that match `condition` (over system.processes) to stop."""
        with self._anchor_lock, contextlib.suppress(RuntimeError):
            run(self._anchor, f"KILL QUERY WHERE ({condition}) AND query_id != queryID() ASYNC")

    def close(self) -> None:
        """Close the engine; every session has to be closed before."""
        self._anchor.close()

    def error(self, exception: Exception) -> ClickHouseError:
        """The ClickHouse error in a chDB exception, worded and ended as a server words it."""
        if isinstance(exception, ClickHouseError):
            return exception
        text = str(exception).strip()
        found = _CODE.search(text)
        if found is None:
            return ClickHouseError(1001, f"Code: 1001. DB::Exception: {text} (STD_EXCEPTION)")
        text = text[
            found.start() :
        ]  # chDB puts "Streaming insert finish failed: " and the like first
        if not _VERSION.search(text):
            text = f"{text} (version {self.version})"
        return ClickHouseError(int(found[1]), text)


def quoted(value: str) -> str:
    """A ClickHouse string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def run(
    connection: Connection,
    sql: str | bytes,
    output_format: str = "TabSeparated",
    parameters: Mapping[str, str] | None = None,
) -> Outcome:
    """Execute one statement and keep its result in memory.

    Raises:
        RuntimeError: what the engine says; see Engine.error.
    """
    result = connection.query(sql, output_format, params=dict(parameters or {}))
    return Outcome(
        body=result.bytes() or b"",
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
        result_rows=result.rows_read(),
        result_bytes=result.bytes_read(),
        elapsed=result.elapsed(),
    )


def apply_settings(connection: Connection, settings: Mapping[str, str]) -> None:
    """SET what a request asks for, for the session of this connection."""
    if settings:
        assignments = ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())
        run(connection, f"SET {assignments}")


def settings_now(connection: Connection, names: list[str]) -> dict[str, str]:
    """The values that `names` have in the session; unknown settings are left out."""
    wanted = ", ".join(quoted(name) for name in names)
    rows = run(
        connection,
        f"SELECT name, value FROM system.settings WHERE name IN ({wanted})",
        "JSONCompactEachRow",
    )
    return dict(json.loads(line) for line in rows.body.splitlines())


def is_read_only(connection: Connection, sql: bytes) -> bool | None:
    """Whether a statement only reads; None if it does not parse. The statement is not run."""
    name = connection._conn.classify_query(sql)["query_class"].name
    return None if name == "UNKNOWN" else name == "READ_ONLY"


def write_result(
    connection: Connection,
    query: bytes,
    output_format: str,
    tail: bytes,
    parameters: Mapping[str, str],
    pipe: int,
) -> Outcome:
    """Execute a SELECT and write its result to the write end of a pipe, then close that end.

    The engine formats and writes block by block and waits while the pipe is full, so memory stays
    bounded in any format. (chDB's own streaming makes every block a document of its own.) It fails
    with a broken pipe once the read end is closed.
    """
    try:
        clauses = f"{pipe_clause(pipe)} FORMAT {output_format} ".encode()
        return run(connection, b"%b\n%b%b" % (query, clauses, tail), parameters=parameters)
    finally:
        os.close(pipe)


def pipe_clause(pipe: int) -> str:
    """The clause that sends a result into a pipe; unique to a running query, so it names it too."""
    return f"INTO OUTFILE '/dev/fd/{pipe}' TRUNCATE"


class Insert:
    """An INSERT that is fed piece by piece, in bounded memory for row-based formats."""

    def __init__(self, connection: Connection, statement: bytes, input_format: str) -> None:
        self._inserter = connection.send_insert(statement, input_format)

    def append(self, data: bytes) -> None:
        self._inserter.append(data)

    def finish(self) -> Outcome:
        """Commit; the result counts rows of cascading views too, as ClickHouse's summary does."""
        result = self._inserter.finish()
        return Outcome(
            written_rows=result.rows_written,
            written_bytes=result.bytes_written,
            elapsed=result.elapsed,
        )

    def cancel(self) -> None:
        """Abandon what is not committed yet. Blocks already written stay, as in ClickHouse."""
        with contextlib.suppress(RuntimeError):
            self._inserter.cancel()
