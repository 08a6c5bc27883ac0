"""A SELECT runs in a thread, writes into a pipe, and may be stopped and started again.

It promises that memory stays bounded, that a client who goes away takes its query with it, and that
nothing is sent of a query that its lane stopped before it is started again.
"""

import asyncio
import contextlib
import fcntl
import math
import os
import uuid
from collections.abc import AsyncIterator
from typing import NamedTuple

from embedded_clickhouse.call import Call
from embedded_clickhouse.compression import RESPONSE_ENCODINGS
from embedded_clickhouse.engine import Engine, Outcome, write_result
from embedded_clickhouse.protocol import (
    Code,
    chosen_encoding,
    refusal,
    result_headers,
    summary_header,
)
from embedded_clickhouse.results import HELD_BACK_BYTES
from embedded_clickhouse.sessions import InThread
from embedded_clickhouse.spool import Spool
from embedded_clickhouse.sqltext import OutputClauses

_PIPE_BYTES = 256 * 1024
_PIECE_BYTES = 256 * 1024
_KILL_AGAIN_S = 0.05


class Killer:
    """Kills statements by their markers, all that are asked for at a time, until they have ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._markers: set[str] = set()
        self._working: asyncio.Task[None] | None = None

    def kill(self, marker: str) -> None:
        """Have the statement killed; it may take a moment."""
        self._markers.add(marker)
        if self._working is None or self._working.done():
            self._working = asyncio.get_running_loop().create_task(self._work())

    def forget(self, marker: str) -> None:
        """The statement has ended."""
        self._markers.discard(marker)

    async def _work(self) -> None:
        while self._markers:  # again and again: the engine may not have begun with one of them
            await asyncio.to_thread(self._engine.kill, list(self._markers))
            await asyncio.sleep(_KILL_AGAIN_S)


class _Attempt(NamedTuple):
    spool: Spool
    query_end: "asyncio.Future[Outcome]"
    filling: "asyncio.Task[None]"


class Selects:
    """Runs SELECTs on one engine.

    Args:
        engine: kills them.
        in_thread: runs a blocking call and awaits its result.
    """

    def __init__(self, engine: Engine, in_thread: InThread) -> None:
        self._killer = Killer(engine)
        self._in_thread = in_thread

    async def run(self, call: Call, clauses: OutputClauses) -> None:
        """Run a SELECT and send its result.

        Raises:
            ClickHouseError, RuntimeError: it fails.
        """
        output_format = clauses.format or call.options.default_format
        while True:
            async with self._attempt(call, clauses, output_format) as attempt:
                if await _send(call, attempt, output_format):
                    return
            await call.turn.again()

    @contextlib.asynccontextmanager
    async def _attempt(
        self, call: Call, clauses: OutputClauses, output_format: str
    ) -> AsyncIterator[_Attempt]:
        """Start it, and see that nothing of it is left at the end of the block."""
        spool = Spool(is_bound=not call.options.wait_end_of_query)
        marker = uuid.uuid4().hex
        reader, transport, write_end = await _open_pipe()
        query = asyncio.ensure_future(
            self._in_thread(
                write_result,
                call.connection,
                clauses.query,
                output_format,
                clauses.tail,
                call.options.parameters,
                write_end,
                marker,
            )
        )
        filling = asyncio.ensure_future(_fill(spool, reader))
        call.turn.stop = lambda: self._killer.kill(marker)
        try:
            yield _Attempt(spool, query, filling)
        finally:
            call.turn.stop = None
            transport.close()  # a query that still writes gets a broken pipe
            filling.cancel()
            if not query.done():
                self._killer.kill(marker)
            await asyncio.wait({query, filling})
            self._killer.forget(marker)
            for ended in (query, filling):
                if not ended.cancelled():
                    ended.exception()  # seen, so that nobody is warned of it
            spool.close()


async def _send(call: Call, attempt: _Attempt, output_format: str) -> bool:
    """Send the result; False if its lane stopped the query before anything was sent."""
    spool, query_end, filling = attempt
    is_long = await spool.wait_for(HELD_BACK_BYTES)
    if is_long:
        if call.turn.is_stopped:
            return False
        call.turn.leave()
    if call.options.wait_end_of_query:
        await spool.wait_for(math.inf)
    outcome = Outcome()  # not known yet, if more is to come
    if spool.has_ended:
        try:
            outcome = await query_end
            await filling
        except RuntimeError:
            if call.turn.is_stopped:
                return False
            raise
        call.turn.leave()
    headers = result_headers(output_format)
    headers["X-ClickHouse-Summary"] = summary_header(vars(outcome), outcome.elapsed)
    encoding = None
    if call.options.compress_response:
        encoding = chosen_encoding(call.accept_encoding, RESPONSE_ENCODINGS)
    await call.reply.begin(headers, encoding)
    while piece := await spool.get():
        await call.reply.piece(piece)
    await query_end
    await filling
    call.reply.end()
    return True


async def _fill(spool: Spool, reader: asyncio.StreamReader) -> None:
    try:
        while piece := await reader.read(_PIECE_BYTES):
            await spool.put(piece)
    except OSError as error:
        raise refusal(
            Code.NOT_ENOUGH_SPACE, f"Cannot keep the result in a file: {error.strerror}"
        ) from None
    finally:
        spool.end()


async def _open_pipe() -> tuple[asyncio.StreamReader, asyncio.ReadTransport, int]:
    """A pipe to write to in a thread and to read from here; who writes closes the write end."""
    read_end, write_end = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux; elsewhere the default of 64 KiB does
        with contextlib.suppress(OSError):
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    reader = asyncio.StreamReader(limit=_PIECE_BYTES)
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
    except BaseException:
        os.close(write_end)
        raise
    return reader, transport, write_end
