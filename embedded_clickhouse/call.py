"""One statement of one request, with all that is needed to run and to answer it."""

from dataclasses import dataclass

from chdb.state.sqlitelike import Connection

from embedded_clickhouse.bodies import ReadStatement
from embedded_clickhouse.lanes import Turn
from embedded_clickhouse.protocol import Options
from embedded_clickhouse.results import Reply


@dataclass(frozen=True, eq=False)
class Call:
    """One statement of one request.

    Attributes:
        turn: its place among the SELECTs; None if it looks like none.
        query_id: the client's own id of it, or a random one.
        marker: a word in its text that no other has; it is killed by that.
    """

    statement: ReadStatement
    options: Options
    connection: Connection
    reply: Reply
    turn: Turn | None
    may_write: bool
    accept_encoding: str
    query_id: str
    marker: str
