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

from embedded_clickhouse.protocol import ClickHouseError, Code

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
        max_memory: bytes the engine may use altogether; statements beyond it fail with code 241. By
            default half of the memory of the machine or the container.

    Raises:
        RuntimeError: the folder is in use by another process or cannot be read.
    """

    def __init__(self, path: Path, max_memory: int | None) -> None:
        self._path = str(path)
        # The engine lives as long as any connection does: this one is its anchor. Limits of the
        # whole server count only on the connection that starts it.
        limit = "max_server_memory_usage_to_ram_ratio=0.5"
        if max_memory is not None:
            limit = f"max_server_memory_usage={max_memory}"
        self._anchor = Connection(f"{self._path}?{limit}")
        self._anchor_lock = threading.Lock()
        self.version, self.timezone = (
            self._anchor.query("select version(), timezone()", "TSV").bytes().decode().split()
        )

    def connect(self) -> Connection:
        """A fresh session, about 0.2 ms."""
        return Connection(f"{self._path}?{_SERVER_BEHAVIOUR}")

    def kill(self, marker: str = "") -> None:
        """Ask the running statements whose text has the marker to stop; by default all of them."""
        mine = "query_id != queryID()"
        with self._anchor_lock, contextlib.suppress(RuntimeError):
            run(self._anchor, f"KILL QUERY WHERE position(query, '{marker}') > 0 AND {mine} ASYNC")

    def close(self) -> None:
        """Close the engine; every session has to be closed before."""
        self._anchor.close()

    def error(self, exception: RuntimeError) -> ClickHouseError:
        """The ClickHouse error in an exception, worded and ended as a server words and ends it."""
        text = str(exception).strip()
        found = _CODE.search(text)
        if found is None:
            text = f"Code: {Code.STD_EXCEPTION}. DB::Exception: {text}. (STD_EXCEPTION)"
            found = _CODE.search(text)
        text = text[found.start() :]  # without chDB's "Streaming insert finish failed: " and such
        if not _VERSION.search(text):
            text = f"{text} (version {self.version})"
        return ClickHouseError(int(found[1]), text)


def quoted(value: str) -> str:
    """A ClickHouse string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(name: str) -> str:
    """A quoted ClickHouse identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


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
    try:
        result = connection.query(sql, output_format, params=dict(parameters or {}))
    except UnicodeDecodeError as error:  # chDB's message quotes a statement that is not UTF-8
        raise RuntimeError(error.object.decode("utf-8", "backslashreplace")) from None
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
    """The values that settings have in the session, about 2 ms; unknown ones are left out."""
    wanted = ", ".join(quoted(name) for name in names)
    rows = run(
        connection,
        f"SELECT name, value FROM system.settings WHERE name IN ({wanted})",
        "JSONCompactEachRow",
    )
    return dict(json.loads(line) for line in rows.body.splitlines())


def is_read_only(connection: Connection, sql: bytes) -> bool | None:
    """Whether a statement only reads; None if it does not parse. The statement is not run."""
    # chDB offers this only below its Python class.
    name = connection._conn.classify_query(sql)["query_class"].name
    return None if name == "UNKNOWN" else name == "READ_ONLY"


def write_result(
    connection: Connection,
    query: bytes,
    output_format: str,
    tail: bytes,
    parameters: Mapping[str, str],
    pipe: int,
    marker: str,
) -> Outcome:
    """Execute a SELECT and write its result to the write end of a pipe, then close that end.

    The engine formats and writes block by block and waits while the pipe is full, so memory stays
    bounded in any format. (chDB's own streaming makes every block a document of its own.) It fails
    with a broken pipe once the read end is closed.
    """
    try:
        outfile = f"INTO OUTFILE '/dev/fd/{pipe}' TRUNCATE FORMAT {output_format} ".encode()
        sql = b"%b\n%b%b\n/* %b */" % (query, outfile, tail, marker.encode())
        return run(connection, sql, parameters=parameters)
    finally:
        os.close(pipe)


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
