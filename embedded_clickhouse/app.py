"""The ASGI application: who asks, what for, and on which connection; `statements.py` does the rest.

It promises what a ClickHouse server's HTTP port promises to clients of one user: `/ping`, queries
by GET and POST, parameters, settings, sessions, compression and ClickHouse's own errors. Listening,
and who may own the data, is left to `server.py`.
"""

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from embedded_clickhouse import sqltext
from embedded_clickhouse.bodies import decoded, form_fields, read_form, read_statement, unblocked
from embedded_clickhouse.call import Call
from embedded_clickhouse.compression import RESPONSE_ENCODINGS
from embedded_clickhouse.connections import PATIENCE_S, with_deadline
from embedded_clickhouse.engine import Engine
from embedded_clickhouse.external import external_tables, without_tables
from embedded_clickhouse.forbidden import Limits
from embedded_clickhouse.lanes import Lanes, Turn
from embedded_clickhouse.play import play
from embedded_clickhouse.protocol import (
    ClickHouseError,
    Code,
    chosen_encoding,
    credentials,
    query_id,
    read_options,
    refusal,
    url_parameters,
)
from embedded_clickhouse.results import Reply
from embedded_clickhouse.sessions import Sessions
from embedded_clickhouse.statements import Statements
from embedded_clickhouse.users import Users

# Statements that run at once, each in a thread; ClickHouse's max_concurrent_queries. More wait.
_STATEMENTS_AT_ONCE = 1000
_LONG_BYTES = 64 * 1024  # to look through more would keep others waiting


async def _drain(request: Request, patience: float) -> bool:
    """Read what is left of a body, because a client that still sends would miss the answer.

    Returns:
        Whether its end was reached, in `patience` seconds at most.
    """
    try:
        async with asyncio.timeout(patience):
            async for _ in request.stream():
                pass
    except (ClickHouseError, TimeoutError):
        return False
    except (RuntimeError, ClientDisconnect):  # it was read before
        return True
    return True


def _encoding(request: Request, params: dict[str, str]) -> str | None:
    """The Content-Encoding of an answer; a server packs its errors too."""
    if params.get("enable_http_compression") not in ("1", "true"):
        return None
    return chosen_encoding(request.headers.get("accept-encoding", ""), RESPONSE_ENCODINGS)


def _url(query_string: bytes) -> tuple[dict[str, str], ClickHouseError | None]:
    """The parameters of a URL, or what is wrong with them, which only those hear who may ask."""
    try:
        return url_parameters(query_string), None
    except ClickHouseError as error:
        return {}, error


async def _ok(_: Request) -> PlainTextResponse:
    return PlainTextResponse("Ok.\n")


class Front:
    """The ClickHouse HTTP interface over one data folder; `app` is the ASGI application.

    Args:
        engine: open; it is closed when the application shuts down.
        users: who may ask, and how.
        limits: what statements may reach for.
        patience: seconds to wait for more of a body.
    """

    def __init__(
        self, engine: Engine, users: Users, limits: Limits, patience: float = PATIENCE_S
    ) -> None:
        self._engine = engine
        self._patience = patience
        self._lanes = Lanes()
        self._users = users
        self._answering: set[asyncio.Task] = set()
        self._threads = ThreadPoolExecutor(_STATEMENTS_AT_ONCE, thread_name_prefix="statement")
        self._sessions = Sessions(engine, self._in_thread)
        self._statements = Statements(engine, self._in_thread, limits)
        self.app = Starlette(
            routes=[
                Route("/ping", _ok),
                Route("/replicas_status", _ok),
                Route("/play", play),
                Route("/", self),
            ],
            lifespan=self._lifespan,
        )

    def cancel_statements(self) -> None:
        """Stop everything that runs; each client is told that its query was cancelled (394)."""
        self._engine.kill()
        for task in self._answering:
            task.cancel()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Close the engine in order once everything is answered."""
        yield
        self._threads.shutdown(cancel_futures=True)
        self._sessions.close()
        self._engine.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, with_deadline(receive, self._patience))
        params, malformed = _url(scope["query_string"])
        headers = {
            "X-ClickHouse-Server-Display-Name": "embedded",
            "X-ClickHouse-Query-Id": query_id(params),
            "X-ClickHouse-Timezone": self._engine.timezone,
        }
        reply = Reply(send, headers, tag=secrets.token_hex(8))
        task = asyncio.current_task()
        self._answering.add(task)
        try:
            await self._answer(request, reply, params, malformed)
        except ClientDisconnect:
            return
        except RuntimeError as error:
            error = self._engine.error(error)
            is_read = error.code != Code.SOCKET_TIMEOUT and await _drain(request, self._patience)
            encoding = _encoding(request, params)
            await reply.fail(error, keep_alive=is_read, encoding=encoding)
        except asyncio.CancelledError:
            error = refusal(Code.QUERY_WAS_CANCELLED, "The server is stopping")
            await reply.fail(self._engine.error(error))
        finally:
            self._answering.discard(task)
        await reply.finish()

    async def _answer(
        self,
        request: Request,
        reply: Reply,
        params: dict[str, str],
        malformed: ClickHouseError | None,
    ) -> None:
        is_reader = self._users.authenticate(*credentials(params, request.headers))
        if malformed is not None:
            raise malformed
        body = decoded(request.stream(), request.headers.get("content-encoding", ""))
        if params.get("decompress") == "1":
            body = unblocked(body)
        files: dict[str, bytes] = {}
        kind = request.headers.get("content-type", "")
        if kind.startswith("multipart/form-data"):
            fields, files = form_fields(kind, await read_form(body, is_reader=is_reader))
            params |= fields
        tables = external_tables(files, params)
        options = read_options(without_tables(params, files), request.headers)
        options = replace(options, is_reader=is_reader)
        statement = await read_statement(options.query, body, is_reader=is_reader)
        if not statement.text.strip() and request.method != "POST":
            reply.whole(200, b"Ok.\n", {"Content-Type": "text/plain; charset=UTF-8"})
            return
        async with (
            self._users.admitted(is_reader),
            self._turn(statement.text) as turn,
            self._sessions.connection(options, statement.text) as connection,
        ):
            call = Call(
                statement,
                options,
                connection,
                reply,
                turn,
                may_write=request.method == "POST" and not options.read_only,
                accept_encoding=request.headers.get("accept-encoding", ""),
                query_id=reply.query_id,
                marker=uuid.uuid4().hex,
            )
            async with self._statements.loaded(call, tables):
                await self._statements.execute(call, body, request.receive)

    @contextlib.asynccontextmanager
    async def _turn(self, text: bytes) -> AsyncIterator[Turn | None]:
        """A place among the SELECTs; none for other statements, which do not wait."""
        if not await self._in_thread_if_long(sqltext.is_streamable, text):
            yield None
            return
        turn = await self._lanes.begin()
        try:
            yield turn
        finally:
            turn.leave()

    async def _in_thread_if_long(self, function: Callable[[bytes], Any], text: bytes) -> Any:
        if len(text) < _LONG_BYTES:
            return function(text)
        return await self._in_thread(function, text)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking call; wait for its end even if cancelled: it may use a connection."""
        call = asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait({call})
            if not call.cancelled():
                call.exception()  # seen, so that nobody is warned of it
            raise
