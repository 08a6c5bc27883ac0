"""Which chDB connection a request runs on: a fresh one, or the one its session_id keeps.

A session keeps temporary tables, USE and SET from request to request until it idles for its
timeout. The database and the settings in a URL count for that request only, also within a session.
Everything here belongs to the event loop; only what talks to the engine goes through `in_thread`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from chdb.state.sqlitelike import Connection

from embedded_clickhouse import sqltext
from embedded_clickhouse.access import READER_ROLE
from embedded_clickhouse.engine import Engine, apply_settings, identifier, run
from embedded_clickhouse.protocol import (
    Code,
    Options,
    refusal,
)

InThread = Callable[..., Awaitable[Any]]
# Settings by which a SELECT has one row less or none.
_WHOLE = (
    "limit = 0, offset = 0, max_result_rows = 0, max_result_bytes = 0, max_rows_to_read = 0,"
    " max_bytes_to_read = 0, additional_result_filter = ''"
)


class _Session:
    """A chDB connection and what requests change of it for themselves. Its methods block."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_busy = False
        self.expiry: asyncio.TimerHandle | None = None
        self._own_database = self._database = "default"
        self._applied: dict[str, str] = {}  # settings of the last request, still in force
        self._own: dict[str, str] = {}  # what the session has SET itself, as SQL

    def enter_once(self, options: Options) -> None:
        """Make the database and the settings of a request current, on a connection for it alone."""
        self._use(options.database or self._own_database)
        apply_settings(self.connection, options.settings)

    def enter(self, options: Options, text: bytes, usual: Mapping[str, str]) -> None:
        """Make the database and the settings of a request current; undo those of the last one.

        Undoing waits for the next request, because clients repeat their settings. Nothing is read for it: a SELECT would
        itself go by settings such as `limit` and `offset`. SET and USE run on what the session has by itself.

        Args:
            text: the statement.
            usual: what a fresh session has that is not the default of a setting, as SQL.
        """
        self._use(options.database or self._own_database)
        if options.is_reader:
            run(self.connection, f"SET ROLE {READER_ROLE}")  # whatever happened before
            apply_settings(self.connection, options.settings)  # refused, unless nothing changes
            return
        wanted = {} if sqltext.verb(text) in ("SET", "USE") else options.settings
        if wanted == self._applied:
            return
        left = self._applied.keys() - wanted.keys()
        values = {name: self._own.get(name, usual.get(name, "DEFAULT")) for name in left}
        if values:
            undone = ", ".join(f"{name} = {value}" for name, value in values.items())
            run(self.connection, f"SET {undone}")
        # Noted before: some of them may count although another one is refused.
        self._applied |= wanted
        apply_settings(self.connection, wanted)
        self._applied = dict(wanted)

    def leave(self, text: bytes) -> None:
        """Note what a statement has made of the session."""
        verb = sqltext.verb(text)
        if verb == "USE":
            name = run(self.connection, f"SELECT currentDatabase() SETTINGS {_WHOLE}", "TSVRaw")
            self._own_database = self._database = name.body.decode().removesuffix("\n")
        elif verb == "SET":
            for name, value in sqltext.assignments(text).items():
                if value.upper() == "DEFAULT":
                    self._own.pop(name, None)
                else:
                    self._own[name] = value

    def _use(self, database: str) -> None:
        if database != self._database:
            run(self.connection, f"USE {identifier(database)}")
            self._database = database


class Sessions:
    """The sessions of one engine.

    Args:
        engine: opens the connections.
        in_thread: runs a blocking call and awaits its result.
    """

    def __init__(self, engine: Engine, in_thread: InThread) -> None:
        self._engine = engine
        self._in_thread = in_thread
        self._by_id: dict[tuple[bool, str], _Session] = {}

    @contextlib.asynccontextmanager
    async def connection(self, options: Options, text: bytes) -> AsyncIterator[Connection]:
        """Lend the connection for one statement, in the database and with the settings it asks for.

        Raises:
            ClickHouseError: the session is in use (373) or does not exist (372).
            RuntimeError: what the engine says of the database or the settings.
        """
        if options.session_id:
            async with self._kept(options, text) as connection:
                yield connection
            return
        session = _Session(self._engine.connect(is_reader=options.is_reader))
        try:
            if options.database or options.settings:
                await self._in_thread(session.enter_once, options)
            yield session.connection
        finally:
            session.connection.close()

    @contextlib.asynccontextmanager
    async def _kept(self, options: Options, text: bytes) -> AsyncIterator[Connection]:
        session = self._acquire(options)
        try:
            usual = self._engine.usual_settings
            await self._in_thread(session.enter, options, text, usual)
            yield session.connection
            await self._in_thread(session.leave, text)
        finally:
            self._release(session, options)

    def close(self) -> None:
        """End every session."""
        for key in list(self._by_id):
            self._end(key)

    def _acquire(self, options: Options) -> _Session:
        key = _key(options)
        session = self._by_id.get(key)
        if session is None:
            if options.session_check:
                raise refusal(
                    Code.SESSION_NOT_FOUND,
                    f"Session {options.session_id} not found",
                )
            connection = self._engine.connect(is_reader=options.is_reader)
            session = self._by_id[key] = _Session(connection)
        elif session.is_busy:
            raise refusal(
                Code.SESSION_IS_LOCKED,
                f"Session {options.session_id} is locked by a concurrent client",
            )
        if session.expiry is not None:
            session.expiry.cancel()
        session.is_busy = True
        return session

    def _release(self, session: _Session, options: Options) -> None:
        session.is_busy = False
        if options.close_session:
            self._end(_key(options))
            return
        loop = asyncio.get_running_loop()
        session.expiry = loop.call_later(options.session_timeout, self._end, _key(options))

    def _end(self, key: tuple[bool, str]) -> None:
        session = self._by_id.pop(key)
        if session.expiry is not None:
            session.expiry.cancel()
        session.connection.close()


def _key(options: Options) -> tuple[bool, str]:
    """What a session goes by: a user cannot enter that of another one."""
    return options.is_reader, options.session_id
