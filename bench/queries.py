"""What users ask of the tables: how long it takes, and how many rows ClickHouse reads for it."""

from __future__ import annotations

import time

from bench.figures import Goal, Part, percentile, shown
from bench.place import Place

# Name -> milliseconds that the 95th percentile may take, and SQL; {token}, {wallet} … are others each time.
QUESTIONS: dict[str, tuple[float, str]] = {
    "candles": (50, "select * from ohlcv_1m where token_id = '{token}' order by bucket_at"),
    "candles_1h": (100, "select * from ohlcv_1h where token_id = '{token}' order by bucket_at"),
    "token_trades": (
        100,
        "select * from trades_by_token where token_id = '{token}' order by filled_at desc limit 100",
    ),
    "market_trades": (
        100,
        "select * from trades_by_token where token_id in (select token_id from outcome_tokens"
        " where market_id = '{market}') order by filled_at desc limit 100",
    ),
    "wallet_history": (
        100,
        "select * from fills_by_wallet where wallet = '{wallet}' order by filled_at desc limit 100",
    ),
    "wallet_markets": (
        100,
        "select market_id, outcome, sum(shares_change), sum(usd_change) from fills_by_wallet"
        " where wallet = '{wallet}' group by market_id, outcome",
    ),
    "transaction": (
        100,
        "select * from order_fills where tx_hash = '{transaction}' and filled_at in"
        " (select filled_at from transaction_times where tx_key = cityHash64('{transaction}'))",
    ),
    "top_wallets": (
        200,
        "select wallet, sum(usd) as volume_usd from trades_by_token where token_id in (select token_id"
        " from outcome_tokens where market_id = '{market}') group by wallet order by volume_usd desc limit 10",
    ),
    "latest_prices": (
        200,
        "select * from market_latest_price where token_id in"
        " (select token_id from outcome_tokens order by cityHash64(token_id, '{token}') limit 500)",
    ),
    "market_volume_daily": (
        200,
        "select * from market_volume_daily where market_id = '{market}' order by day",
    ),
    "top_markets": (
        200,
        "select * from trending_markets order by volume_usd_24h desc limit 10",
    ),
    "day_volume": (
        200,
        "select sum(volume_usd) from volume_daily where day = (select max(day) from volume_daily)",
    ),
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
        "select token_id, wallet, tx_hash, market_id from trades_store inner any join outcome_tokens using (token_id)"
        f" order by cityHash64(tx_hash, log_index) limit {times}"
    ).result_rows
    rows: list[tuple[object, ...]] = [
        ("question", "p50, ms", "p95, ms", "rows read, median", "rows returned, median")
    ]
    for name, (at_most_ms, sql) in QUESTIONS.items():
        milliseconds, read, returned = [], [], []
        for token, wallet, transaction, market in drawn:
            before = _rows_read(place)
            since = time.perf_counter()
            text = sql.format(token=token, wallet=wallet, transaction=transaction, market=market)
            result = client.query(text, settings=NO_CACHE)
            milliseconds.append((time.perf_counter() - since) * 1000)
            read.append(_rows_read(place) - before)
            returned.append(len(result.result_rows))
        if not max(returned):
            raise RuntimeError(f"{name} found nothing")
        p95 = percentile(milliseconds, 95)
        part.add(f"{name}_p95_ms", "ms", [p95], goal=Goal(at_most_ms, True))
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
