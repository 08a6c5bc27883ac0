"""The three ways a statement runs: INSERT fed from the body, SELECT through a pipe, or at one go.

Each turns a statement on a lent connection into a reply. Memory per statement stays bounded in the
first two, and the last is for what has a small result. A client that goes away takes its SELECT
with it and leaves an INSERT uncommitted; a statement that changes something else runs to its end.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from embedded_clickhouse import sqltext
from embedded_clickhouse.blocks import BlockCompressor
from embedded_clickhouse.bodies import ReadStatement
from embedded_clickhouse.call import Call
from embedded_clickhouse.engine import (
    Engine,
    Insert,
    Outcome,
    apply_settings,
    is_read_only,
    run,
)
from embedded_clickhouse.external import ExternalTable, drop, load
from embedded_clickhouse.forbidden import Limits
from embedded_clickhouse.killing import Killer, Running, kills_queries
from embedded_clickhouse.protocol import (
    Code,
    refusal,
    result_headers,
    summary_header,
)
from embedded_clickhouse.selects import Selects
from embedded_clickhouse.sessions import InThread

_SHORT_BYTES = 4096
_SESSION_ONLY = ("SET", "USE")
_MAKE_ROOM = ("DROP", "TRUNCATE", "KILL", "SYSTEM")


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
        killer = Killer(engine, in_thread)
        self._running = Running(killer)
        self._selects = Selects(self._running, killer, in_thread)
        self._limits = limits

    @contextlib.asynccontextmanager
    async def loaded(self, call: Call, tables: list[ExternalTable]) -> AsyncIterator[None]:
        """Have external tables for the length of the block.

        Raises:
            ClickHouseError, RuntimeError: one is refused or cannot be filled.
        """
        if tables and (call.options.is_reader or not call.may_write):
            raise _read_only_refusal()
        try:
            for table in tables:
                await self._in_thread(load, self._engine, call.connection, self._limits, table)
            yield
        finally:
            for table in tables:
                await self._in_thread(drop, call.connection, table)

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
        with self._running.listed(call):
            if insert is not None and not _is_inline_values(call.statement):
                await self._insert(call, body)
            else:
                await self._statement(call, _single(text), receive)

    async def _statement(self, call: Call, text: bytes, receive: Receive) -> None:
        """Run a statement that brings no data."""
        if not sqltext.has_tokens(text):
            raise refusal(Code.SYNTAX_ERROR, "Empty query")
        _refuse_unsupported(text)
        may_kill = call.may_write and not call.options.is_reader
        if (answer := self._running.kill(text, may_kill)) is not None:
            text = answer
        reads = await self._reads(call, text)
        if reads is None and not (call.may_write and not call.options.is_reader):
            await self._in_thread(_raise_syntax_error, self._engine, text)
        if call.options.is_reader and (
            sqltext.verb(text) == "SET" or not (reads or sqltext.verb(text) == "USE")
        ):
            raise refusal(Code.READONLY, "This user may only read")
        if not (call.may_write or reads or sqltext.verb(text) in _SESSION_ONLY):
            raise _read_only_refusal()
        if not reads and sqltext.verb(text) not in (*_SESSION_ONLY, *_MAKE_ROOM):
            self._engine.check_room()
        if call.turn is not None and reads:
            await _unless_disconnected(
                self._selects.run(call, sqltext.output_clauses(text)), receive
            )
            return
        if call.turn is not None:  # WITH … INSERT, say
            call.turn.leave()
        clauses = sqltext.output_clauses(text)
        output_format = clauses.format or call.options.default_format
        if kills_queries(text):
            kill = self._run(call, clauses.query + clauses.tail, "TabSeparated")
            text = await self._running.by_engine(kill)
        outcome = await self._run(call, text, output_format)
        if reads:
            await self._running.check(call)
        _reply_outcome(call, outcome, output_format if reads or outcome.body else None)

    async def _run(self, call: Call, text: bytes, output_format: str) -> Outcome:
        """Run a statement at one go."""
        if call.statement.insert is None:
            text = b"%b\n/* %b */" % (text, call.marker.encode())
        return await self._in_thread(
            run, call.connection, text, output_format, call.options.parameters
        )

    async def _reads(self, call: Call, text: bytes) -> bool | None:
        # To parse a short text takes less than to change threads and back.
        if len(text) < _SHORT_BYTES:
            return is_read_only(call.connection, text)
        return await self._in_thread(is_read_only, call.connection, text)

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
            Insert,
            self._engine,
            call.connection,
            head.statement,
            head.format,
            call.marker,
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


def _reply_outcome(call: Call, outcome: Outcome, output_format: str | None) -> None:
    # A statement without a result has no format either; clients tell them apart by that.
    headers = {"Content-Type": "text/plain; charset=UTF-8"}
    if output_format is not None:
        headers = result_headers(output_format)
    headers["X-ClickHouse-Summary"] = summary_header(vars(outcome), outcome.elapsed)
    body = outcome.body
    if call.options.compress_blocks:
        body = BlockCompressor().compress(body)
    call.reply.whole(200, body, headers)


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


def _raise_syntax_error(engine: Engine, text: bytes) -> None:
    """Let the engine say what is wrong with a text that it cannot parse; it may only read."""
    with contextlib.closing(engine.connect(is_reader=True)) as connection:
        run(connection, text)


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
