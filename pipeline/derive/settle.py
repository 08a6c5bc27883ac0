"""Settling: bringing every derived table in line with what was loaded.

The SQL is that of the incremental dbt models, compiled once (see `models.py`). Each statement recomputes what the
loads marked `settling` touched and writes it under the settle's own version, so doing one twice is harmless.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from ingest.events import Event, span
from ingest.query_settings import UNMERGED
from pipeline.errors import ModelsError
from pipeline.warehouse.client import first_line
from pipeline.warehouse.ledger import Ledger
from pipeline.warehouse.loads import Load, next_batch

MEMORY_LIMIT_EXCEEDED = 241
MORE_MEMORY = (
    "; it needs more memory, so lower SETTLE_MAX_ROWS, or raise CLICKHOUSE_LOCAL_MEMORY_GB (embedded)"
    " or max_memory_usage (a server)"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Statement:
    """One settling statement: the incremental insert of one model.

    Attributes:
        model: name of the dbt model.
        landing_table: the landing table whose loads it settles.
        sql: the complete `insert into … select …`, with the parameter {settle_id:UInt64}.
        reads: settled models whose rows it reads; of a deployment before there were names here, none.
    """

    model: str
    landing_table: str
    sql: str
    reads: Sequence[str] = ()


def settle(
    client: Client,
    ledger: Ledger,
    statements: list[Statement],
    *,
    max_rows: int,
) -> int:
    """Settle every unsettled load and return how many rows they hold.

    Loads that are loading, or whose blocks are to be read again, are left alone. The loads of a batch are marked with a
    settle id, and the statements are bound to it: one that comes late, after another run has marked them anew, finds
    nothing to settle.

    Raises:
        LockHeld: the writer lock was lost.
        ModelsError: a statement failed; its loads stay unsettled and the next run settles them.
    """
    rows = 0
    with span(Event.SETTLED):
        while batch := take(ledger, max_rows):
            for statement in statements:
                if statement.landing_table == batch[0].table_name:
                    ledger.prove()
                    execute(client, statement, batch[0].settle_id)
            ledger.finish_settling(batch)
            rows += sum(load.loaded_rows for load in batch)
    return rows


def take(ledger: Ledger, max_rows: int, left_alone: Container[tuple[int, str]] = ()) -> list[Load]:
    """Mark the next batch as being settled; empty when everything is.

    Args:
        left_alone: keys of loads that are not taken.
    """
    ready = [load for load in ledger.unsettled() if load.state in ("loaded", "settling")]
    empty = [load for load in ready if load.loaded_rows == 0 and not load.is_rebuild]
    ledger.finish_settling(empty)
    pending = [load for load in ready if load not in empty]
    batch = next_batch([load for load in pending if load.key not in left_alone], max_rows)
    ledger.back_to_loaded(
        [load for load in pending if load.state == "settling" and load not in batch]
    )
    return ledger.start_settling(batch) if batch else []


def execute(client: Client, statement: Statement, settle_id: int) -> None:
    """Let ClickHouse settle the loads of a settle id for one model.

    Raises:
        ModelsError: the statement failed.
    """
    try:
        with span(Event.STATEMENT_EXECUTED, model=statement.model):
            client.command(statement.sql, parameters={"settle_id": settle_id}, settings=UNMERGED)
    except ClickHouseError as error:
        advice = MORE_MEMORY if getattr(error, "code", None) == MEMORY_LIMIT_EXCEEDED else ""
        raise ModelsError(
            f"settling {statement.model} failed and will be tried again by the next run{advice}: {first_line(error)}"
        ) from error
