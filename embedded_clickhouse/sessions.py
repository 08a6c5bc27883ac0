"""Which chDB connection a request runs on: a fresh one, or the one its session_id keeps.

A session keeps temporary tables, USE and SET from request to request until it idles for its
timeout. The database and the settings in a URL count for that request only, also within a session.
Everything here belongs to the event loop; only what talks to the engine goes through `in_thread`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from chdb.state.sqlitelike import Connection

from embedded_clickhouse.engine import Engine, apply_settings, run, settings_now
from embedded_clickhouse.protocol import (
    SESSION_IS_LOCKED,
    SESSION_NOT_FOUND,
    Options,
    refusal,
)

InThread = Callable[..., Awaitable[Any]]


class _Session:
    """A chDB connection and what requests may change of it. `enter` and `leave` block."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_busy = False
        self.expiry: asyncio.TimerHandle | None = None
        self._own_database = self._database = "default"
        self._overridden: dict[str, str] = {}

    def enter(self, options: Options, is_kept: bool) -> None:
        """Make the database and the settings of a request current."""
        database = options.database or self._own_database
        if database != self._database:
            run(self.connection, f"USE `{database.replace('`', '``')}`")
            self._database = database
        if is_kept and options.settings:
            self._overridden = settings_now(self.connection, list(options.settings))
        apply_settings(self.connection, options.settings)

    def leave(self, verb: str) -> None:
        """Undo the settings of a request, after a statement that began with `verb`."""
        overridden, self._overridden = self._overridden, {}
        apply_settings(self.connection, overridden)
        if verb == "USE":
            name = run(self.connection, "SELECT currentDatabase()", "TSVRaw").body.decode()
            self._own_database = self._database = name.removesuffix("\n")


class Sessions:
    """The sessions of one engine.

    Args:
        engine: opens the connections.
        in_thread: runs a blocking call and awaits its result.
    """

    def __init__(self, engine: Engine, in_thread: InThread) -> None:
        self._engine = engine
        self._in_thread = in_thread
        self._by_id: dict[str, _Session] = {}

    @contextlib.asynccontextmanager
    async def connection(self, options: Options, verb: str) -> AsyncIterator[Connection]:
        """Lend the connection for one statement, in the database and with the settings it asks for.

        Raises:
            ClickHouseError: the session is in use (373) or does not exist (372).
            RuntimeError: what the engine says of the database or the settings.
        """
        if options.session_id:
            async with self._kept(options, verb) as connection:
                yield connection
            return
        session = _Session(self._engine.connect())
        try:
            if options.database or options.settings:
                await self._in_thread(session.enter, options, False)
            yield session.connection
        finally:
            session.connection.close()

    @contextlib.asynccontextmanager
    async def _kept(self, options: Options, verb: str) -> AsyncIterator[Connection]:
        session = self._acquire(options)
        try:
            await self._in_thread(session.enter, options, True)
            yield session.connection
        finally:
            try:
                await self._in_thread(session.leave, verb)
            except RuntimeError:  # such as readonly = 1, which nothing undoes
                self._end(options.session_id)
            self._release(session, options)

    def close(self) -> None:
        """End every session."""
        for session_id in list(self._by_id):
            self._end(session_id)

    def _acquire(self, options: Options) -> _Session:
        session = self._by_id.get(options.session_id)
        if session is None:
            if options.session_check:
                raise refusal(
                    SESSION_NOT_FOUND,
                    "SESSION_NOT_FOUND",
                    f"Session {options.session_id} not found",
                )
            session = self._by_id[options.session_id] = _Session(self._engine.connect())
        elif session.is_busy:
            raise refusal(
                SESSION_IS_LOCKED,
                "SESSION_IS_LOCKED",
                f"Session {options.session_id} is locked by a concurrent client",
            )
        if session.expiry is not None:
            session.expiry.cancel()
        session.is_busy = True
        return session

    def _release(self, session: _Session, options: Options) -> None:
        session.is_busy = False
        if self._by_id.get(options.session_id) is not session:
            return
        if options.close_session:
            self._end(options.session_id)
            return
        loop = asyncio.get_running_loop()
        session.expiry = loop.call_later(options.session_timeout, self._end, options.session_id)

    def _end(self, session_id: str) -> None:
        session = self._by_id.pop(session_id)
        if session.expiry is not None:
            session.expiry.cancel()
        session.connection.close()
