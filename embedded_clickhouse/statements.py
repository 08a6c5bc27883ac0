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
from embedded_clickhouse.canon import READ_ONLY, Examined, examine
from embedded_clickhouse.engine import Engine, Outcome, run
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
from embedded_clickhouse.sqltext import OutputClauses
from embedded_clickhouse.transfers import Insert

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
        insert = call.statement.insert
        with self._running.listed(call):
            if insert is not None and not _is_inline_values(call.statement):
                await self._insert(call, body)
            else:
                await self._statement(call, receive)

    async def _statement(self, call: Call, receive: Receive) -> None:
        """Run a statement that brings no data."""
        found = await self._examined(call, call.statement.text, is_head=False)
        if call.options.is_reader and not found.is_of_reader:
            raise refusal(Code.READONLY, "This user may only read")
        if not (call.may_write or found.reads or found.verb in _SESSION_ONLY):
            raise _read_only_refusal()
        may_kill = call.may_write and not call.options.is_reader
        if (answer := self._running.kill(found.canonical, may_kill)) is not None:
            found = Examined(answer, answer, READ_ONLY)
        if not found.reads and found.verb not in (*_SESSION_ONLY, *_MAKE_ROOM):
            self._engine.check_room()
        clauses = await self._clauses(found)
        if call.turn is not None and found.reads:
            await _unless_disconnected(self._selects.run(call, clauses), receive)
            return
        if call.turn is not None:  # WITH … INSERT, say
            call.turn.leave()
        await self._at_one_go(call, found, clauses)

    async def _at_one_go(self, call: Call, found: Examined, clauses: OutputClauses) -> None:
        text, output_format = found.text, clauses.format or call.options.default_format
        if kills_queries(found.canonical):
            kill = self._run(call, clauses.query + clauses.tail, "TabSeparated")
            text = await self._running.by_engine(kill)
        outcome = await self._run(call, text, output_format)
        if found.reads:
            await self._running.check(call)
        _reply_outcome(call, outcome, output_format if found.reads or outcome.body else None)

    async def _examined(self, call: Call, text: bytes, *, is_head: bool) -> Examined:
        """What the engine and the limits say of a text, in a thread unless that takes less than to change threads.

        Args:
            is_head: it is an INSERT without its data, and made into a statement for this.
        """
        arguments = (self._engine, self._limits, call, text, is_head)
        if len(text) < _SHORT_BYTES and sqltext.is_plain(text) and not call.options.is_reader:
            return _examine(*arguments)
        return await self._in_thread(_examine, *arguments)

    async def _clauses(self, found: Examined) -> OutputClauses:
        """Where the FORMAT of a statement is.

        Raises:
            ClickHouseError: the engine finds another one (62).
        """
        if len(found.text) < _SHORT_BYTES:
            return _clauses(found)
        return await self._in_thread(_clauses, found)

    async def _run(self, call: Call, text: bytes, output_format: str) -> Outcome:
        """Run a statement at one go."""
        if call.statement.insert is None:
            text = b"%b\n/* %b */" % (text, call.marker.encode())
        return await self._in_thread(
            run, call.connection, text, output_format, call.options.parameters
        )

    async def _insert(self, call: Call, body: AsyncIterator[bytes]) -> None:
        if call.options.is_reader:
            raise refusal(Code.READONLY, "This user may only read")
        if not call.may_write:
            raise _read_only_refusal()
        self._engine.check_room()
        head = call.statement.insert
        text = b"%b\nFORMAT %b" % (head.statement, head.format.encode())
        await self._examined(call, text, is_head=True)
        insert = await self._in_thread(
            Insert,
            self._engine,
            call.connection,
            head.statement,
            head.format,
            call.marker,
            call.options.parameters,
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


def _examine(engine: Engine, limits: Limits, call: Call, text: bytes, is_head: bool) -> Examined:
    """Check a text by its own tokens and by those of what the engine makes of it; it blocks.

    Raises:
        ClickHouseError, RuntimeError: either is refused, or the text is not one statement.
    """
    if not sqltext.has_tokens(text):
        raise refusal(Code.SYNTAX_ERROR, "Empty query")
    limits = limits.of_reader() if call.options.is_reader else limits
    limits.check(text)
    text = _single(text)
    found = examine(engine, call.connection, text, is_reader=call.options.is_reader)
    if is_head and (found.verb != "INSERT" or found.reads):
        raise refusal(Code.SYNTAX_ERROR, "Syntax error: data came with what is no INSERT")
    for each in {text, found.canonical}:
        _refuse_unsupported(each)
    if found.canonical != text:
        limits.check(found.canonical)
    return found


def _clauses(found: Examined) -> OutputClauses:
    clauses = sqltext.output_clauses(found.text)
    if found.reads and sqltext.output_clauses(found.canonical).format != clauses.format:
        raise refusal(Code.SYNTAX_ERROR, "Syntax error: the FORMAT of the query is ambiguous")
    return clauses


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
