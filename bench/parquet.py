"""An archive of Parquet files to candles: `backfill --parquet` beside ClickHouse alone with the same inserts and settles."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from starlette.applications import Starlette
from starlette.staticfiles import StaticFiles

from bench.child import Clock, in_child
from bench.figures import Goal, Part, ratios
from bench.fills import fills
from bench.machine import cpu_seconds, peak_mb
from bench.place import Place, prepared
from ingest.contracts import V2
from ingest.sources.parquet.places import Keys, places_of
from pipeline.derive.prepare import prepare
from pipeline.derive.settle import settle
from pipeline.jobs.archive_files import LONGEST_S, Archive, look_at
from pipeline.jobs.archive_plan import Request
from pipeline.jobs.parquet import backfill_parquet
from pipeline.settings import Settings
from pipeline.warehouse.client import connect
from pipeline.warehouse.loads import now_us
from pipeline.warehouse.run import open_run
from sandbox.server import AppServer

ROW_GROUP = 131_072
RENAMED = {
    "timestamp": "block_timestamp",
    "tx_hash": "transaction_hash",
    "maker_amount": "maker_amount_filled",
    "taker_amount": "taker_amount_filled",
}
TAKEN = (
    *(
        "timestamp",
        "block_number",
        "log_index",
        "tx_hash",
        "order_hash",
        "exchange",
        "maker",
        "taker",
    ),
    *("side", "token_id", "maker_amount", "taker_amount", "fee", "builder"),
)


def measure(rows: int, runs: int) -> Part:
    """Both ways in turns, over one file of `rows` V2 fills behind a web server with ranges.

    Raises:
        RuntimeError: not every fill came out.
    """
    part = Part(
        "Parquet",
        f"{rows:,} V2 fills, decoded, as text, in one Parquet file (ZSTD, row groups of {ROW_GROUP:,}) behind a web server"
        " with range requests, by `backfill --parquet` to candles; against the same inserts and settles sent to ClickHouse"
        f" without any books but the ledger. {runs} turns, each in a process of its own over empty tables.",
    )
    with prepared(sources_of_sql=("URL",)) as place, _served(rows) as url:
        taken: dict[str, list[Clock]] = {"ours": [], "alone": []}
        for _ in range(runs):
            for name, path in (("ours", through_backfill), ("alone", same_statements)):
                place.empty()
                before = cpu_seconds(place.clickhouse_pid)
                clock = in_child(path, place.run.settings, url)
                clock.more["clickhouse_cpu_s"] = cpu_seconds(place.clickhouse_pid) - before
                clock.more["clickhouse_peak_mb"] = peak_mb(place.clickhouse_pid)
                _check(place, rows)
                taken[name].append(clock)
    rates = {name: [rows / clock.seconds for clock in clocks] for name, clocks in taken.items()}
    ours = taken["ours"]
    part.add("parquet_rows_per_s", "rows/s", rates["ours"], "file to candles")
    part.add("parquet_alone_rows_per_s", "rows/s", rates["alone"], "ClickHouse alone, to candles")
    part.add("parquet_vs_alone", "ratio", ratios(rates["ours"], rates["alone"]), goal=Goal(0.9))
    inserts = [rows / clock.more["insert_s"] for clock in taken["alone"]]
    part.add(
        "parquet_raw_rows_per_s", "rows/s", inserts, "inserts alone, views included", Goal(150_000)
    )
    part.add("parquet_pipeline_peak_mb", "MB", [x.peak_mb for x in ours], goal=Goal(300, True))
    part.add("parquet_clickhouse_peak_mb", "MB", [x.more["clickhouse_peak_mb"] for x in ours])
    for name, key in (("pipeline", None), ("clickhouse", "clickhouse_cpu_s")):
        cpu = [(x.more[key] if key else x.cpu_s) / (rows / 1e6) for x in ours]
        part.add(f"parquet_{name}_cpu_s_per_million_rows", "s", cpu)
    return part


def through_backfill(settings: Settings, url: str) -> Clock:
    """`backfill --parquet` of a file."""
    logging.disable(logging.WARNING)
    with open_run(settings) as run:
        clock = Clock()
        backfill_parquet(run, Request([url]))
        return clock.stop()


def same_statements(settings: Settings, url: str) -> Clock:
    """The inserts of a backfill, each settled, and nothing else."""
    with open_run(settings) as run:
        prepare(run)
        archive = Archive(connect(run.server, LONGEST_S), Keys())
        [place] = places_of(url)
        clock, insert_s = Clock(), 0.0
        file = look_at(archive, place.name, place)
        for part in file.conditions:
            load_id = now_us()
            run.ledger.open(load_id, ["order_filled"])
            since = time.perf_counter()
            sql = file.reading(archive, part).insert_fills(settings.raw_database, load_id, "1")
            archive.command(place, sql)
            insert_s += time.perf_counter() - since
            run.ledger.close_loading([load_id])
            settle(run.client, run.ledger, run.statements, max_rows=settings.settle_max_rows)
        clock.stop()
        clock.more["insert_s"] = insert_s
        return clock


def _check(place: Place, rows: int) -> None:
    found, candles = place.run.client.query(
        f"select (select count() from {place.database}.order_fills), (select count() from {place.database}.ohlcv_1m)"
    ).result_rows[0]
    if found != rows or not candles:
        raise RuntimeError(f"{found} of {rows} fills and {candles} candles came out")


@contextmanager
def _served(rows: int) -> Iterator[str]:
    """The address of an archive."""
    table = fills(rows, version=V2).select(TAKEN)
    names = [RENAMED.get(name, name) for name in table.column_names]
    times = table.column("timestamp").cast(pa.int64())
    table = table.set_column(0, "timestamp", times).rename_columns(names)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "fills.parquet"
        pq.write_table(table, path, row_group_size=ROW_GROUP, compression="zstd")
        app = Starlette()
        app.mount("/", StaticFiles(directory=folder))
        with AppServer(app) as server:
            yield f"{server.base_url}/{path.name}"
