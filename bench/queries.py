"""What users ask of the tables: how long it takes, and how many rows ClickHouse reads for it."""

from __future__ import annotations

import time

from bench.figures import Goal, Part, percentile, shown
from bench.place import Place

# Name -> SQL; {token} and {wallet} are others each time.
QUESTIONS = {
    "candles": "select * from ohlcv_1m where token_id = '{token}' order by bucket_at",
    "candles_1h": "select * from ohlcv_1h where token_id = '{token}' order by bucket_at",
    "day_volume": "select sum(volume_usd) from volume_daily where day = (select max(day) from volume_daily)",
    "top_markets": "select * from trending_markets order by volume_usd_24h desc limit 10",
    "wallet_history": "select * from wallet_fills where wallet = '{wallet}' order by filled_at desc limit 100",
}
NO_CACHE = {"use_query_condition_cache": 0}


def queries(place: Place, stored: int, times: int) -> Part:
    """Each question so many times, one after the other."""
    part = Part(
        "Queries",
        f"At {stored:,} stored fills, each {times} times over HTTP by one client; tokens and wallets drawn by their trades,"
        " query condition cache off. `candles` is all one-minute candles of one token.",
    )
    client = place.run.client
    client.database = place.run.settings.clickhouse_database
    drawn = client.query(
        f"select token_id, wallet from trades_store order by cityHash64(tx_hash, log_index) limit {times}"
    ).result_rows
    rows: list[tuple[object, ...]] = [
        ("question", "p50, ms", "p95, ms", "rows read, median", "rows returned, median")
    ]
    for name, sql in QUESTIONS.items():
        milliseconds, read, returned = [], [], []
        for token, wallet in drawn:
            before = _rows_read(place)
            since = time.perf_counter()
            result = client.query(sql.format(token=token, wallet=wallet), settings=NO_CACHE)
            milliseconds.append((time.perf_counter() - since) * 1000)
            read.append(_rows_read(place) - before)
            returned.append(len(result.result_rows))
        if not max(returned):
            raise RuntimeError(f"{name} found nothing")
        p95 = percentile(milliseconds, 95)
        goal = Goal(50, True) if name == "candles" else None
        part.add(f"{name}_p95_ms", "ms", [p95], goal=goal)
        rows.append(
            (
                f"`{sql}`",
                shown(percentile(milliseconds, 50)),
                shown(p95),
                f"{percentile(read, 50):,}",
                f"{percentile(returned, 50):,}",
            )
        )
    part.tables["In detail"] = rows
    return part


def _rows_read(place: Place) -> int:
    """Rows that ClickHouse has read in all."""
    return int(
        place.run.client.command("select value from system.events where event = 'SelectedRows'")
    )
