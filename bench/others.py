"""The ways of others, over the same pages: rows as dictionaries through dlt, and a loop that appends to a CSV file.

Both are written for this benchmark. The loop follows what poly_data documents of itself (one request after the other,
each page appended to a CSV file, trades derived from it by polars at the end), not its code. Neither of them makes candles,
nor withstands what ours does.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import polars as pl
import requests

from bench.child import Clock
from ingest.contracts import EXCHANGES, V1_HORIZON
from ingest.land.loader import open_pipeline
from pipeline.jobs.load import destination
from pipeline.settings import Settings
from pipeline.warehouse.run import open_run

PAGE = 1000
FIELDS = (
    "id",
    "transactionHash",
    "timestamp",
    "orderHash",
    "maker",
    "taker",
    "makerAssetId",
    "takerAssetId",
    "makerAmountFilled",
    "takerAmountFilled",
    "fee",
)
_QUERY = f"""
query Fills($where: OrderFilledEvent_filter!, $first: Int!) {{
  orderFilledEvents(where: $where, first: $first, orderBy: timestamp, orderDirection: asc) {{ {" ".join(FIELDS)} }}
}}"""
# Of dlt: every dictionary gets these two.
_DLT_COLUMNS = ("_dlt_load_id", "_dlt_id")


def pages(url: str, start: int, count: int) -> Iterator[list[dict[str, str]]]:
    """Pages of fills from `start` (unix seconds) on, with at least `count` fills if there are so many."""
    session = requests.Session()
    where: dict[str, Any] = {"timestamp_gt": str(start - 1)}
    while count > 0:
        body = {"query": _QUERY, "variables": {"where": where, "first": PAGE}}
        answer = session.post(url, json=body, timeout=60)
        rows = json.loads(answer.content)["data"]["orderFilledEvents"]
        if not rows:
            return
        yield rows
        count -= len(rows)
        last = rows[-1]
        later = {"timestamp_gt": last["timestamp"], "timestamp_lt": str(V1_HORIZON + 1)}
        where = {"or": [later, {"timestamp": last["timestamp"], "id_gt": last["id"]}]}


def dictionaries_through_dlt(settings: Settings, start: int, count: int) -> Clock:
    """requests, json, and rows as dictionaries through dlt's extract, normalize and load, into a table of text."""
    with open_run(settings) as run:
        database = f"{settings.clickhouse_database}_dictionaries"
        columns = [*map(_snake_case, FIELDS), *_DLT_COLUMNS]
        run.client.command(f"create database if not exists {database}")
        run.client.command(
            f"create or replace table {database}.fills ({' String, '.join(columns)} String)"
            " engine = MergeTree order by (timestamp, id)"
        )

        @dlt.resource(name="fills", write_disposition="append")
        def fills() -> Iterator[list[dict[str, str]]]:
            yield from pages(settings.goldsky_url, start, count)

        pipeline = open_pipeline(
            f"dictionaries_{time.time_ns()}",
            destination(run),
            database=database,
            pipelines_dir=settings.dlt_pipelines_dir,
        )
        clock = Clock()
        pipeline.run(fills())
        clock.stop()
        clock.more["rows"] = run.client.command(f"select count() from {database}.fills")
        run.client.command(f"drop database {database}")
    return clock


def loop_with_csv(url: str, folder: Path, start: int, count: int) -> Clock:
    """One request after the other, each page appended to a CSV file; then trades from it by polars, as CSV again."""
    fills, trades = folder / "orderFilled.csv", folder / "trades.csv"
    fills.unlink(missing_ok=True)
    clock, rows = Clock(), 0
    for page in pages(url, start, count):
        with fills.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if not rows:
                writer.writeheader()
            writer.writerows(page)
        rows += len(page)
    loop_s = time.perf_counter() - clock.since
    transform(fills, trades)
    clock.stop()
    clock.more = {"rows": rows, "loop": loop_s, "transform": clock.seconds - loop_s}
    return clock


def transform(fills: Path, trades: Path) -> int:
    """Trades of a CSV file of fills, into another; returns how many."""
    buys = pl.col("makerAssetId") == "0"
    maker, taker = pl.col("makerAmountFilled") / 1e6, pl.col("takerAmountFilled") / 1e6
    text = {name: pl.String for name in FIELDS if not name.endswith(("Filled", "fee", "timestamp"))}
    frame = (
        pl.read_csv(fills, schema_overrides=text)
        .filter(pl.col("taker").is_in(list(EXCHANGES)))
        .with_columns(
            pl.from_epoch("timestamp"),
            pl.when(buys).then(pl.lit("BUY")).otherwise(pl.lit("SELL")).alias("side"),
            pl.when(buys).then(pl.col("takerAssetId")).otherwise(pl.col("makerAssetId")).alias("token"),
            pl.when(buys).then(maker).otherwise(taker).alias("usd_amount"),
            pl.when(buys).then(taker).otherwise(maker).alias("token_amount"),
        )
        .with_columns((pl.col("usd_amount") / pl.col("token_amount")).alias("price"))
        .select(
            "timestamp", "token", "maker", "taker", "side", "price", "usd_amount", "token_amount", "transactionHash"
        )
    )  # fmt: skip
    frame.write_csv(trades)
    return len(frame)


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
