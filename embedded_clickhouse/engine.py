"""The chDB engine as a server needs it: connections, results through a pipe, inserts from a stream.

One process may open one data folder; every connection is a session of its own over the same engine
and releases the GIL while it works. Calls here block: the HTTP front runs them in threads. chDB has
no users and no query ids, so access is the front's business and queries are cancelled by their
text.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from chdb.state.sqlitelike import Connection

from embedded_clickhouse.access import OWNER_ROLE, READER_ROLE, READER_SETTINGS
from embedded_clickhouse.protocol import ClickHouseError, Code, refusal

_CODE = re.compile(r"Code: (\d+)\. DB::")
_REPEATED = re.compile(r"^(Code: \d+\. DB::Exception: )\1")
_INFILE = re.compile(r": \(in file/uri /dev/fd/\d+\)")
_VERSION = re.compile(r"\(version [^()]*(?:\([^()]*\))?\)\s*\Z")
# More than everything small that a statement writes, the files of its parts' marks and its tables' definitions.
MIN_FREE_BYTES = 256 << 20

_SEPARATORS = frozenset("&%?#")  # of chDB's connection strings, which know no escapes

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
        configuration: see `access.write_configuration`.
        max_memory: bytes the engine may use altogether; statements beyond it fail with code 241. By
            default half of the memory of the machine or the container.
        min_free: bytes that have to be free on the disk for anything to be written.

    Raises:
        RuntimeError: the folder is in use by another process or cannot be read, its path is none for chDB, or the engine
            has not taken its configuration.
    """

    def __init__(
        self,
        path: Path,
        configuration: Path,
        max_memory: int | None = None,
        min_free: int = MIN_FREE_BYTES,
    ) -> None:
        self._path = str(path)
        self._min_free = min_free
        # The engine lives as long as any connection does: this one is its anchor. Limits of the
        # whole server count only on the connection that starts it.
        limit = "max_server_memory_usage_to_ram_ratio=0.5"
        if max_memory is not None:
            limit = f"max_server_memory_usage={max_memory}"
        if odd := _SEPARATORS & {*str(path), *str(configuration)}:
            raise RuntimeError(
                f"a path with {' and '.join(sorted(odd))} in it is none for chDB: use another folder"
            )
        self._anchor = Connection(f"{self._path}?config-file={configuration}&{limit}")
        self._check_roles()
        self.version, self.timezone = (
            self._anchor.query("select version(), timezone()", "TSV").bytes().decode().split()
        )

        with contextlib.closing(self.connect()) as fresh:
            rows = run(
                fresh, "SELECT name, value FROM system.settings WHERE changed", "JSONCompactEachRow"
            )
        # What a fresh session has that is not the default of a setting, as SQL.
        self.usual_settings = {
            name: quoted(value) for name, value in map(json.loads, rows.body.splitlines())
        }

    def _check_roles(self) -> None:
        """Refuse to work where the engine has not taken its configuration: nobody would be bound by any role.

        Raises:
            RuntimeError: there are other roles than those two.
        """
        roles = (
            run(self._anchor, "SELECT name FROM system.roles ORDER BY name").body.decode().split()
        )
        if roles != [OWNER_ROLE, READER_ROLE]:
            self.close()
            raise RuntimeError("the engine has not taken the configuration that binds its users")

    def check_room(self) -> None:
        """Refuse to write on a disk that is nearly full.

        The engine checks room for the rows of an insert, and nothing else: it takes no notice when a small file cannot
        be written, and leaves an empty one, that of a table's definition for example, with which it never starts again.

        Raises:
            ClickHouseError: too little is free.
        """
        free = shutil.disk_usage(self._path).free
        if free < self._min_free:
            raise refusal(
                Code.NOT_ENOUGH_SPACE,
                f"{free >> 20} MiB are free where the ClickHouse data are, and {self._min_free >> 20} MiB are needed"
                " to write anything, not enough space",
            )

    def connect(self, *, is_reader: bool = False) -> Connection:
        """A fresh session, about 0.2 ms; that of the read-only user is bound for good."""
        connection = Connection(f"{self._path}?{_SERVER_BEHAVIOUR}")
        if is_reader:
            run(connection, f"SET ROLE {READER_ROLE}")
            apply_settings(connection, READER_SETTINGS | {"readonly": "1"})
        return connection

    def connect_to_parse(self) -> Connection:
        """A session that may only read, and reads texts of any size."""
        return Connection(f"{self._path}?{_SERVER_BEHAVIOUR}&max_query_size=0&readonly=1")

    def kill(self, markers: Collection[str] = ()) -> bool:
        """Ask the running statements whose text has one of the markers to stop, by default all; True if there was one."""
        chosen = f"multiSearchAny(query, {list(markers)})" if markers else "1"
        sql = f"KILL QUERY WHERE {chosen} AND query_id != queryID() ASYNC"
        # On a connection of its own: it may wait for a statement that waits for its reader.
        with contextlib.suppress(RuntimeError), contextlib.closing(self.connect()) as connection:
            return bool(run(connection, sql).body)
        return False

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
        text = text[found.start() :]  # without chDB's "Streaming query failed: " and such
        text = _INFILE.sub("", _REPEATED.sub(r"\1", text))  # an insert reads its data as a file
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


class Classified(NamedTuple):
    """What the engine itself says of a text: READ_ONLY, MUTATING, MUTATING_GLOBAL, CONTROL or UNKNOWN; how many they are."""

    kind: str
    statements: int


def classified(connection: Connection, sql: bytes) -> Classified:
    """Have the engine parse a text, about 0.05 ms; UNKNOWN if it cannot. Nothing is run."""
    # chDB offers this only below its Python class.
    found = connection._conn.classify_query(sql)
    return Classified(found["query_class"].name, found["statement_count"])


def check_single(connection: Connection, sql: bytes, *kinds: str) -> None:
    """Make sure that the engine takes a text that was put together here for one statement of these kinds.

    Raises:
        ClickHouseError: it does not (62).
    """
    kind, statements = classified(connection, sql)
    if kind not in kinds or statements != 1:
        raise refusal(Code.SYNTAX_ERROR, "Syntax error: the statement has no unambiguous end")
