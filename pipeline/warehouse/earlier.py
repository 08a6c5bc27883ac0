"""Statements that earlier holders of the writer lock have sent: found by the comment that they carry, and stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from pipeline.errors import LockHeld
from pipeline.warehouse.client import first_line

STOP_TIMEOUT_S = 60.0
CANCELLED_TIMEOUT_S = 5.0
log = logging.getLogger(__name__)


def stop_earlier(client: Client, comment: str) -> None:
    """Stop statements that were sent under a lower number, and wait until none of them is running.

    A statement that waits for data of a run that stands still does not end, but is cancelled: it writes nothing more.
    Where ClickHouse does not show its processes to this user, nothing is stopped, and the log says so.

    Args:
        comment: the `log_comment` of the present holder, which ends in the number of its lock.

    Raises:
        LockHeld: a statement cannot be stopped.
    """
    started = time.monotonic()
    while earlier := earlier_statements(client, comment):
        running = [query_id for query_id, is_cancelled in earlier if not is_cancelled]
        waited_s = time.monotonic() - started
        if not running and waited_s > CANCELLED_TIMEOUT_S:
            return
        if waited_s > STOP_TIMEOUT_S:
            raise LockHeld(
                f"statements of an earlier run do not end ({', '.join(running)}); try again when they have"
            )
        for query_id in running:
            log.warning("lock: statement %s of an earlier run is stopped", query_id)
            client.command(
                "kill query where query_id = {id:String} async", parameters={"id": query_id}
            )
        time.sleep(0.1)


def earlier_statements(client: Client, comment: str) -> Sequence[Sequence]:
    """Query ids of the statements of earlier holders that have not ended, and whether they are cancelled."""
    words, _, number = comment.rpartition(" ")
    try:
        return client.query(
            "select query_id, is_cancelled from system.processes"
            " where startsWith(Settings['log_comment'], {prefix:String})"
            " and toUInt32OrZero(substring(Settings['log_comment'], length({prefix:String}) + 1)) < {number:UInt32}",
            parameters={"prefix": f"{words} ", "number": int(number)},
        ).result_rows
    except DatabaseError as error:
        log.warning("lock: statements of earlier runs are not seen: %s", first_line(error))
        return []
