"""Statements that have to end: found by a marker in their text, because chDB has no ids of ours.

`Killer` kills until the statement has ended. `Running` knows the ids that clients gave their queries,
so that KILL QUERY WHERE query_id = '…' means what it means on a server.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterator

from embedded_clickhouse import sqltext
from embedded_clickhouse.call import Call
from embedded_clickhouse.engine import Engine, quoted
from embedded_clickhouse.sessions import InThread

_KILL_AGAIN_S = 0.05
_KILL_TIMEOUT_S = 1
_KILL = re.compile(
    rb"\s*KILL\s+QUERY\s+WHERE\s+query_id\s*=\s*'([^'\\]+)'\s*(SYNC|ASYNC)?\s*", re.IGNORECASE
)


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

    def was_killed(self, call: Call) -> bool:
        """Whether a client asked for its end."""
        return call in self._killed

    def kill(self, text: bytes, may_kill: bool) -> bytes | None:
        """Kill by the id that a statement names.

        Args:
            text: any statement.
            may_kill: whether its user may do that.

        Returns:
            The SELECT that has a server's answer; None if it is no `KILL QUERY WHERE query_id = '…'`.
        """
        query, output_format, tail = sqltext.output_clauses(text)
        found = _KILL.fullmatch(query)
        if found is None or not may_kill:
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
