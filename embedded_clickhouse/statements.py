"""The three ways a statement runs: INSERT fed from the body, SELECT through a pipe, or at one go.

Each turns a statement on a lent connection into a reply. Memory per statement stays bounded in the
first two, and the last is for what has a small result. A client that goes away takes its SELECT
with it and leaves an INSERT uncommitted; a statement that changes something else runs to its end.
"""

import asyncio
import contextlib
import fcntl
import os
import uuid
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass

from chdb.state.sqlitelike import Connection
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from embedded_clickhouse import sqltext
from embedded_clickhouse.bodies import ReadStatement
from embedded_clickhouse.compression import RESPONSE_ENCODINGS
from embedded_clickhouse.engine import (
    Engine,
    Insert,
    Outcome,
    apply_settings,
    is_read_only,
    run,
    write_result,
)
from embedded_clickhouse.forbidden import Limits
from embedded_clickhouse.protocol import (
    Code,
    Options,
    chosen_encoding,
    content_type,
    refusal,
    summary_header,
)
from embedded_clickhouse.results import HELD_BACK_BYTES, Reply, Spool
from embedded_clickhouse.sessions import InThread

_PIPE_BYTES = 1024 * 1024
_SESSION_ONLY = ("SET", "USE")
_MAKE_ROOM = ("DROP", "TRUNCATE", "KILL", "SYSTEM")


@dataclass(frozen=True)
class Call:
    """One statement of one request."""

    statement: ReadStatement
    options: Options
    connection: Connection
    reply: Reply
    may_write: bool
    accept_encoding: str


class Statements:
    """Runs statements on one engine.

    Args:
        engine: kills a SELECT whose client is gone.
        in_thread: runs a blocking call and awaits its result.
        limits: what statements may reach for.
    """

    def __init__(self, engine: Engine, in_thread: InThread, limits: Limits) -> None:
        self._engine = engine
        self._in_thread = in_thread
        self._limits = limits

    async def execute(self, call: Call, body: AsyncIterator[bytes], receive: Receive) -> None:
        """Run the statement and send what comes of it.

        Args:
            call: the statement.
            body: what is left of the request's body: data of an INSERT.
            receive: tells that the client is gone, once the body is read.

        Raises:
            ClickHouseError, RuntimeError: the statement is refused or fails.
        """
        text = call.statement.text
        insert = call.statement.insert
        limits = self._limits.of_reader() if call.options.is_reader else self._limits
        limits.check(text if insert is None or call.statement.is_whole else insert.statement)
        if call.statement.insert is not None and not _is_inline_values(call.statement):
            await self._insert(call, body)
            return
        text = _single(text)
        if not sqltext.has_tokens(text):
            raise refusal(Code.SYNTAX_ERROR, "Empty query")
        _refuse_unsupported(text)
        reads = await self._in_thread(is_read_only, call.connection, text)
        if call.options.is_reader and (
            sqltext.verb(text) == "SET" or not (reads or sqltext.verb(text) == "USE")
        ):
            raise refusal(Code.READONLY, "This user may only read")
        if not (call.may_write or reads or sqltext.verb(text) in _SESSION_ONLY):
            raise _read_only_refusal()
        if not reads and sqltext.verb(text) not in (*_SESSION_ONLY, *_MAKE_ROOM):
            self._engine.check_room()
        if reads and sqltext.is_streamable(text):
            await _unless_disconnected(self._select(call, text), receive)
            return
        output_format = sqltext.output_clauses(text).format or call.options.default_format
        outcome = await self._in_thread(
            run, call.connection, text, output_format, call.options.parameters
        )
        _reply_outcome(call, outcome, output_format if reads or outcome.body else None)

    async def _insert(self, call: Call, body: AsyncIterator[bytes]) -> None:
        if call.options.is_reader:
            raise refusal(Code.READONLY, "This user may only read")
        if not call.may_write:
            raise _read_only_refusal()
        self._engine.check_room()
        head = call.statement.insert
        parameters = {f"param_{name}": value for name, value in call.options.parameters.items()}
        await self._in_thread(apply_settings, call.connection, parameters)
        insert = await self._in_thread(
            Insert, self._engine, call.connection, head.statement, head.format
        )
        try:
            if call.statement.data:
                await self._in_thread(insert.append, call.statement.data)
            async for piece in body:
                await self._in_thread(insert.append, piece)
        except BaseException:
            await self._in_thread(insert.cancel)
            raise
        _reply_outcome(call, await self._in_thread(insert.finish), None)

    async def _select(self, call: Call, text: bytes) -> None:
        """Stream a result. The query writes into a pipe in a thread and waits while it is full."""
        query, named_format, tail = sqltext.output_clauses(text)
        output_format = named_format or call.options.default_format
        marker = uuid.uuid4().hex
        reader, transport, write_end = await _open_pipe()
        query_end = asyncio.ensure_future(
            self._in_thread(
                write_result,
                call.connection,
                query,
                output_format,
                tail,
                call.options.parameters,
                write_end,
                marker,
            )
        )
        try:
            await _forward(call, reader, query_end, output_format)
        finally:
            transport.close()  # a query that still writes gets a broken pipe
            while not query_end.done():
                await asyncio.to_thread(self._engine.kill, marker)
                await asyncio.wait({query_end}, timeout=0.2)
            with contextlib.suppress(RuntimeError):
                await query_end


async def _forward(
    call: Call, reader: asyncio.StreamReader, query_end: asyncio.Future, output_format: str
) -> None:
    """Send what comes through the pipe; held back until it is much, or whole if so asked."""
    headers = _result_headers(output_format)
    encoding = None
    if call.options.compress_response:
        encoding = chosen_encoding(call.accept_encoding, RESPONSE_ENCODINGS)
    with Spool() as spool:
        while piece := await reader.read(_PIPE_BYTES):
            spool.append(piece)
            if spool.size > HELD_BACK_BYTES and not call.options.wait_end_of_query:
                break
        outcome = Outcome() if piece else await query_end  # not known yet, if more is to come
        headers["X-ClickHouse-Summary"] = summary_header(vars(outcome), outcome.elapsed)
        await call.reply.begin(headers, encoding)
        for held in spool.pieces():
            await call.reply.piece(held)
    while piece := await reader.read(_PIPE_BYTES):
        await call.reply.piece(piece)
    await query_end
    call.reply.end()


def _reply_outcome(call: Call, outcome: Outcome, output_format: str | None) -> None:
    # A statement without a result has no format either; clients tell them apart by that.
    headers = _result_headers(output_format) if output_format is not None else {}
    headers["X-ClickHouse-Summary"] = summary_header(vars(outcome), outcome.elapsed)
    call.reply.whole(200, outcome.body, headers)


def _result_headers(output_format: str) -> dict[str, str]:
    return {"Content-Type": content_type(output_format), "X-ClickHouse-Format": output_format}


async def _unless_disconnected(work: Awaitable[None], receive: Receive) -> None:
    """Do the work, and cancel it when the client goes away. The request's body has been read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        await working
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _open_pipe() -> tuple[asyncio.StreamReader, asyncio.ReadTransport, int]:
    """A pipe to write to in a thread and to read from here; who writes closes the write end."""
    read_end, write_end = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux; elsewhere the default of 64 KiB does
        with contextlib.suppress(OSError):
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    reader = asyncio.StreamReader(limit=_PIPE_BYTES)
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
    except BaseException:
        os.close(write_end)
        raise
    return reader, transport, write_end


def _is_inline_values(statement: ReadStatement) -> bool:
    """Whether VALUES came whole with the statement; the engine then takes parameters in them."""
    return statement.is_whole and statement.insert.format == "Values"


def _single(text: bytes) -> bytes:
    try:
        return sqltext.without_terminator(text)
    except ValueError as error:
        raise refusal(
            Code.SYNTAX_ERROR,
            f"Syntax error (Multi-statements are not allowed): failed at position {error.args[0]}",
        ) from None


def _read_only_refusal() -> Exception:
    return refusal(
        Code.READONLY,
        "Cannot execute query in readonly mode. For queries over HTTP, method GET implies "
        "readonly. You should use method POST for modifying queries.",
    )


def _refuse_unsupported(text: bytes) -> None:
    """Refuse what chDB would do but a server would not, or would do without its data."""
    is_insert = sqltext.verb(text) == "INSERT"
    if is_insert and sqltext.calls(text, b"input"):
        raise refusal(
            Code.NOT_IMPLEMENTED,
            "The embedded ClickHouse cannot INSERT … SELECT from input(): insert the data into a "
            "temporary table of a session first.",
        )
