"""Statements whose result or data goes through a pipe: a SELECT that writes, an INSERT that reads.

Memory stays bounded in either. Calls here block: the HTTP front runs them in threads.
"""

import os
import threading
import time
from collections.abc import Mapping

from chdb.state.sqlitelike import Connection

from embedded_clickhouse.engine import Engine, Outcome, check_single, run
from embedded_clickhouse.protocol import Code, refusal
from embedded_clickhouse.sqltext import settings_clause

# Classes of an INSERT, by its settings and its target.
_WRITING = ("MUTATING", "MUTATING_GLOBAL", "CONTROL")


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

    Raises:
        ClickHouseError: it would not be one statement (62), or its result went elsewhere (49).
        RuntimeError: it fails.
    """
    try:
        outfile = f"INTO OUTFILE '/dev/fd/{pipe}' TRUNCATE FORMAT {output_format} ".encode()
        sql = b"%b\n%b%b\n/* %b */" % (query, outfile, tail, marker.encode())
        check_single(connection, sql, "CONTROL")  # what INTO OUTFILE makes of a SELECT
        outcome = run(connection, sql, parameters=parameters)
        if outcome.body:
            raise refusal(Code.LOGICAL_ERROR, "The result of the query was lost")
        return outcome
    finally:
        os.close(pipe)


class Insert:
    """An INSERT that is fed piece by piece, in bounded memory for row-based formats.

    The engine reads the data from a pipe, as a file. chDB's own streaming insert is not used: it swallows what goes
    wrong while rows are written (a full disk, a constraint, a view that throws, the memory limit), and reports the rows
    as written.

    Args:
        engine: kills the statement if it is abandoned.
        connection: the session; nothing else may run in it until the insert has ended.
        statement: its text up to FORMAT or VALUES.
        marker: a word by which it is killed.
        parameters: of the query, for its target.

    Raises:
        ClickHouseError: it would not be one statement (62).
    """

    def __init__(
        self,
        engine: Engine,
        connection: Connection,
        statement: bytes,
        input_format: str,
        marker: str,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self._engine, self._marker = engine, marker
        self._outcome = Outcome()
        self._error: RuntimeError | None = None
        read_end, self._write_end = os.pipe()
        head, settings = settings_clause(statement)
        source = f" FROM INFILE '/dev/fd/{read_end}' ".encode()
        marked = f" FORMAT {input_format} /* {self._marker} */".encode()
        sql = head + source + settings + marked
        try:
            check_single(connection, sql, *_WRITING)
        except RuntimeError:
            os.close(read_end)
            self._close()
            raise
        self._thread = threading.Thread(
            target=self._run, args=(connection, sql, read_end, parameters)
        )
        self._thread.start()

    def _run(
        self,
        connection: Connection,
        sql: bytes,
        read_end: int,
        parameters: Mapping[str, str] | None,
    ) -> None:
        try:
            self._outcome = run(connection, sql, parameters=parameters)
        except RuntimeError as error:
            self._error = error
        finally:
            os.close(read_end)  # a writer gets a broken pipe from now on

    def append(self, data: bytes) -> None:
        """Hand on a piece of the data; waits until the engine has room for it.

        Raises:
            RuntimeError: the insert has failed.
        """
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._write_end, rest) :]
        except BrokenPipeError:  # the engine has ended: failed, or read as much as it wanted
            self._thread.join()
            if self._error is not None:
                raise self._error from None

    def finish(self) -> Outcome:
        """Commit; the result counts rows of cascading views too, as ClickHouse's summary does.

        Raises:
            RuntimeError: the insert has failed.
        """
        self._close()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._outcome

    def cancel(self) -> None:
        """Abandon what is not committed yet. Blocks already written stay, as in ClickHouse."""
        # The end of the pipe would be taken for the end of the data, so the kill has to come first.
        while self._thread.is_alive() and not self._engine.kill([self._marker]):
            time.sleep(0.005)
        self._close()
        self._thread.join()

    def _close(self) -> None:
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1
