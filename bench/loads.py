"""Our two ways of getting the same fills to candles: the product's own, and what ClickHouse alone could do.

Both are called in a process of their own over empty tables and return what they took; `comparison.py` takes turns.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from clickhouse_connect.driver.client import Client

from bench.child import Clock
from bench.place import without_limits
from bench.stages import timed
from ingest.contracts import V1_HORIZON
from pipeline.derive.prepare import prepare
from pipeline.derive.settle import settle
from pipeline.jobs.backfill import Request, backfill
from pipeline.settings import Settings
from pipeline.warehouse.loads import now_us
from pipeline.warehouse.run import Run, open_run


def through_the_product(settings: Settings, start: int) -> Clock:
    """`backfill` of everything from `start` (unix seconds) to the end of the archive."""
    logging.disable(logging.WARNING)
    with open_run(settings) as run:
        without_limits(run, "goldsky")
        request = Request(_moment(start), _moment(V1_HORIZON + 1), source="goldsky")
        with timed() as seconds:
            clock, main_cpu_s = Clock(), time.thread_time()
            backfill(run, request)
            clock.stop()
        clock.more = seconds
        clock.more["main_cpu_s"] = time.thread_time() - main_cpu_s
    return clock


def clickhouse_alone(settings: Settings, folder: Path) -> Clock:
    """Each Parquet file of a folder by `insert select from file()` as a load of its own, then settled."""
    with open_run(settings) as run:
        prepare(run)
        models = {statement.sql: statement.model for statement in run.statements}
        timed = _TimedClient(run.client)
        clock, insert_s = Clock(), 0.0
        for path in sorted(folder.glob("*.parquet")):
            since = time.perf_counter()
            land_file(run, path)
            insert_s += time.perf_counter() - since
            settle(timed, run.ledger, run.statements, max_rows=run.settings.settle_max_rows)
        clock.stop()
    by_model = {f"settle {models[sql]}": seconds for sql, seconds in timed.seconds.items()}
    clock.more = {"insert": insert_s} | by_model
    return clock


class _TimedClient:
    """Notes how long each statement took; of a client as much as settling uses."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seconds: Counter[str] = Counter()

    def command(self, sql: str, **options: object) -> None:
        since = time.perf_counter()
        self._client.command(sql, **options)
        self.seconds[sql] += time.perf_counter() - since


def write_loads(rows: pa.Table, folder: Path, rows_per_load: int) -> None:
    """Parquet files of the size in which a backfill loads."""
    folder.mkdir()
    for number, first in enumerate(range(0, len(rows), rows_per_load)):
        path = folder / f"{number:04}.parquet"
        pq.write_table(rows.slice(first, rows_per_load), path, compression="zstd")


def land_and_settle(run: Run, rows: pa.Table, files: Path) -> None:
    """`order_filled` rows in loads of the size of a backfill's, by way of files in a folder that SQL may read."""
    with tempfile.TemporaryDirectory(dir=files) as name:
        folder = Path(name) / "loads"
        write_loads(rows, folder, run.settings.backfill_package_rows)
        for path in sorted(folder.glob("*.parquet")):
            land_file(run, path)
            settle(run.client, run.ledger, run.statements, max_rows=run.settings.settle_max_rows)


def land_file(run: Run, path: Path) -> None:
    """One Parquet file of `order_filled` rows as one load, in the ledger and not settled."""
    load_id = now_us()
    run.ledger.open(load_id, ["order_filled"])
    run.client.command(
        f"insert into {run.settings.raw_database}.order_filled"
        f" select * replace ({load_id} as load_id) from file('{path}', Parquet)"
    )
    run.ledger.close_loading([load_id])


def _moment(unix_s: int) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
