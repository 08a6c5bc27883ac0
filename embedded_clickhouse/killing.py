"""Statements that have to end: found by a marker in their text, because chDB has no ids of ours.

`Killer` kills until the statement has ended. `Running` knows the ids that clients gave their queries,
so that KILL QUERY WHERE query_id = '…' means what it means on a server.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Iterator

from embedded_clickhouse import sqltext
from embedded_clickhouse.call import Call
from embedded_clickhouse.engine import Engine, Outcome, quoted
from embedded_clickhouse.lexer import tokens
from embedded_clickhouse.protocol import Code, refusal
from embedded_clickhouse.sessions import InThread

_KILL_AGAIN_S = 0.05
_KILL_TIMEOUT_S = 1
_KILL = re.compile(
    rb"\s*KILL\s+QUERY\s+WHERE\s+query_id\s*=\s*'([^'\\]+)'\s*(SYNC|ASYNC)?\s*", re.IGNORECASE
)
_COLUMNS = "kill_status String, query_id String, user String, query String"


def kills_queries(text: bytes) -> bool:
    """Whether a statement is a KILL QUERY that kills; with TEST it only says whom it would."""
    if sqltext.verb(text) != "KILL":
        return False
    query = sqltext.output_clauses(text).query
    words = [token.text.upper() if token.kind == "word" else b"" for token in tokens(query)]
    return words[:2] == [b"KILL", b"QUERY"] and words[-1] != b"TEST"


class Killer:
    """Kills statements by their markers, all that are asked for at a time, until they have ended."""

    def __init__(self, engine: Engine, in_thread: InThread) -> None:
        self._engine = engine
        self._in_thread = in_thread
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
            killing = asyncio.ensure_future(self._in_thread(self._engine.kill, list(self._markers)))
            await asyncio.wait({killing}, timeout=_KILL_TIMEOUT_S)
            await asyncio.sleep(_KILL_AGAIN_S)


class Running:
    """The statements that run, by the ids of their clients."""

    def __init__(self, killer: Killer) -> None:
        self._killer = killer
        self._calls: dict[str, set[Call]] = {}
        self._killed: set[Call] = set()
        self._kills = 0  # that the engine has not answered yet
        self._settled = asyncio.Event()

    @contextlib.contextmanager
    def listed(self, call: Call) -> Iterator[None]:
        """Have the call found by its id for the length of the block."""
        calls = self._calls.setdefault(call.query_id, set())
        calls.add(call)
        try:
            yield
        finally:
            self._killer.forget(call.marker)
            self._killed.discard(call)
            calls.discard(call)
            if not calls:
                self._calls.pop(call.query_id, None)

    async def check(self, call: Call) -> None:
        """Make sure that no client has killed the call, once every KILL that runs has told whom it meets.

        Raises:
            ClickHouseError: one has.
        """
        while self._kills:
            await self._settled.wait()
        if call in self._killed:
            raise refusal(Code.QUERY_WAS_CANCELLED, "Query was cancelled")

    async def by_engine(self, kill: Awaitable[Outcome]) -> bytes:
        """Let the engine run a KILL QUERY in the format TabSeparated; a SELECT of its answer.

        Its answer has the texts of the statements that it kills, and in these are their markers.
        """
        self._kills += 1
        self._settled.clear()
        try:
            body = (await kill).body
            calls = (call for calls in self._calls.values() for call in calls)
            self._killed |= {call for call in calls if call.marker.encode() in body}
        finally:
            self._kills -= 1
            if not self._kills:
                self._settled.set()
        rows = quoted(body.decode("utf-8", "surrogateescape"))
        return f"SELECT * FROM format(TSV, '{_COLUMNS}', {rows})".encode("utf-8", "surrogateescape")

    def kill(self, text: bytes, may_kill: bool) -> bytes | None:
        """Kill by the id that a statement names.

        Args:
            text: any statement.
            may_kill: whether its user may do that.

        Returns:
            The SELECT that has a server's answer; None if it is no `KILL QUERY WHERE query_id = '…'`.
        """
        if not may_kill or sqltext.verb(text) != "KILL":
            return None
        query, output_format, tail = sqltext.output_clauses(text)
        found = _KILL.fullmatch(query)
        if found is None:
            return None
        name = found[1].decode("utf-8", "replace")
        calls = list(self._calls.get(name, ()))
        for call in calls:
            self._killed.add(call)
            self._killer.kill(call.marker)
        rows = [_row(name, call) for call in calls] or [f"{_row(name, None)} WHERE 0"]
        answer = " UNION ALL ".join(rows).encode()
        return answer + (f" FORMAT {output_format}".encode() if output_format else b"") + tail


def _row(name: str, call: Call | None) -> str:
    text = call.statement.text[:1000].decode("utf-8", "replace") if call is not None else ""
    return (
        f"SELECT 'waiting' AS kill_status, {quoted(name)} AS query_id, 'default' AS user,"
        f" {quoted(text)} AS query"
    )
