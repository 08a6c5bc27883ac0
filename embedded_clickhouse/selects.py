"""A SELECT runs in a thread, writes into a pipe, and may be stopped and started again.

It promises that memory stays bounded, that a client who goes away takes its query with it, and that
nothing is sent of a query that its lane stopped before it is started again.
"""

import asyncio
import contextlib
import fcntl
import itertools
import math
import os
from collections.abc import AsyncIterator
from typing import NamedTuple

from embedded_clickhouse.call import Call
from embedded_clickhouse.compression import RESPONSE_ENCODINGS
from embedded_clickhouse.engine import Outcome
from embedded_clickhouse.killing import Killer, Running
from embedded_clickhouse.protocol import (
    Code,
    chosen_encoding,
    refusal,
    result_headers,
    summary_header,
)
from embedded_clickhouse.results import BLOCKS, HELD_BACK_BYTES
from embedded_clickhouse.sessions import InThread
from embedded_clickhouse.spool import Spool
from embedded_clickhouse.sqltext import OutputClauses
from embedded_clickhouse.transfers import write_result

_PIPE_BYTES = 1024 * 1024
_PIECE_BYTES = 256 * 1024
_NOTHING = b"nothing"
_LOOK_S, _LOOK_AT_LEAST_S = 0.001, 0.02
# In these, a row may be no bytes at all: an empty string, or columns of type Nothing.
_WITHOUT_FRAMES = frozenset({"rawblob", "rowbinary", "null"})


class _Attempt(NamedTuple):
    spool: Spool
    query_end: "asyncio.Future[Outcome]"
    filling: "asyncio.Task[None]"


class Selects:
    """Runs SELECTs on one engine.

    Args:
        running: tells which of them a client wants to end.
        killer: ends them.
        in_thread: runs a blocking call and awaits its result.
    """

    def __init__(self, running: Running, killer: Killer, in_thread: InThread) -> None:
        self._running = running
        self._killer = killer
        self._in_thread = in_thread

    async def run(self, call: Call, clauses: OutputClauses) -> None:
        """Run a SELECT and send its result.

        Raises:
            ClickHouseError, RuntimeError: it fails.
        """
        output_format = clauses.format or call.options.default_format
        for number in itertools.count(1):
            # Of its own, so that a kill that comes late cannot meet the attempt that follows.
            marker = f"{call.marker}.{number}."
            async with self._attempt(call, clauses, output_format, marker) as attempt:
                if await _send(call, attempt, output_format, self._running):
                    return
            await self._running.check(call)
            await call.turn.again()
            await self._running.check(call)

    @contextlib.asynccontextmanager
    async def _attempt(
        self, call: Call, clauses: OutputClauses, output_format: str, marker: str
    ) -> AsyncIterator[_Attempt]:
        """Start it, and see that nothing of it is left at the end of the block."""
        spool = Spool(is_bound=not call.options.wait_end_of_query)
        pipe, write_end = _open_pipe()
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
        filling = asyncio.ensure_future(_fill(spool, pipe, query))
        call.turn.stop = lambda: self._killer.kill(marker)
        try:
            yield _Attempt(spool, query, filling)
        finally:
            call.turn.stop = None
            filling.cancel()
            os.close(pipe)  # a query that still writes fails
            if not query.done():
                self._killer.kill(marker)
            await asyncio.wait({query, filling})
            self._killer.forget(marker)
            for ended in (query, filling):
                if not ended.cancelled():
                    ended.exception()  # seen, so that nobody is warned of it
            spool.close()


async def _send(call: Call, attempt: _Attempt, output_format: str, running: Running) -> bool:
    """Send the result; False if its lane stopped the query before anything was sent.

    The engine may end a killed query without an error and with no rows, so that has to be asked.

    Raises:
        ClickHouseError: a client killed it.
        RuntimeError: it failed.
    """
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
        await running.check(call)
        if call.turn.is_stopped:
            return False
        if outcome.result_rows and not spool.size and output_format.lower() not in _WITHOUT_FRAMES:
            raise refusal(Code.LOGICAL_ERROR, "The result of the query was lost")
        call.turn.leave()
    headers = result_headers(output_format)
    headers["X-ClickHouse-Summary"] = summary_header(vars(outcome), outcome.elapsed)
    if call.options.shows_progress:
        headers["X-ClickHouse-Progress"] = summary_header(vars(outcome), outcome.elapsed)
    encoding = BLOCKS if call.options.compress_blocks else None
    if call.options.compress_response and encoding is None:
        encoding = chosen_encoding(call.accept_encoding, RESPONSE_ENCODINGS)
    await call.reply.begin(headers, encoding)
    while piece := await spool.get():
        await call.reply.piece(piece)
    await query_end
    await filling
    await running.check(call)
    call.reply.end()
    return True


async def _fill(spool: Spool, pipe: int, query_end: "asyncio.Future[Outcome]") -> None:
    """Move what the engine writes to the spool, in few large pieces.

    It looks into the pipe from time to time: to be woken for each write of a hundred queries would
    keep the event loop from everything else.
    """
    pause = _LOOK_S
    try:
        while piece := _read(pipe):
            if piece is _NOTHING:
                await asyncio.wait({query_end}, timeout=pause)
                pause = min(pause * 1.5, _LOOK_AT_LEAST_S)
                continue
            await spool.put(piece)
            pause = _LOOK_S
            await asyncio.sleep(0 if len(piece) == _PIECE_BYTES else _LOOK_S)
    except OSError as error:
        raise refusal(
            Code.NOT_ENOUGH_SPACE, f"Cannot keep the result in a file: {error.strerror}"
        ) from None
    finally:
        spool.end()


def _read(pipe: int) -> bytes:
    """What the pipe has; _NOTHING if that is nothing now, empty at its end."""
    try:
        return os.read(pipe, _PIECE_BYTES)
    except BlockingIOError:
        return _NOTHING


def _open_pipe() -> tuple[int, int]:
    """A pipe to write to in a thread and to read from here; who writes closes the write end."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux; elsewhere the default of 64 KiB does
        with contextlib.suppress(OSError):
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return read_end, write_end
