"""Holds the promised tables of a ClickHouse against the sandbox's truth, row by row and column by
column.

Amounts are compared as integers and prices of trades exactly; candles hold binary floats, so their
prices may differ by the rounding of one conversion, and vwap by that of one division. Of the
gap-filled candles, which may be tens of millions, some tokens are compared. What is not there is a
difference like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from clickhouse_connect.driver.client import Client

from sandbox.truth import Truth

FLOAT_TOLERANCE = 1e-12
VWAP_TOLERANCE = 1e-9
SHOWN_DIFFERENCES = 3
FILLED_ROWS = 100_000  # of gap-filled candles that are compared, where there are more
AMOUNTS = frozenset(
    {"shares", "usd", "fee", "fee_usd", "maker_shares", "maker_usd", "maker_fee_usd"}
    | {"shares_change", "usd_change", "cash_flow_usd", "buys_usd", "sells_usd", "fees_usd"}
    | {"volume_usd", "volume_shares", "volume_usd_24h", "volume_usd_previous_24h"}
)
FLOATS = frozenset(
    {"open", "high", "low", "close", "vwap", "price_24h_ago", "price_change", "volume_change"}
)


@dataclass(frozen=True)
class Check:
    """How one table compares with the truth.

    Attributes:
        name: what was compared.
        expected: rows of the truth.
        actual: rows of the table.
        differences: the first few, in words; empty when equal.
        lost: keys of the truth that the table lacks.
        doubled: rows of the table beyond one per key.
        unexpected: keys of the table that the truth lacks.
    """

    name: str
    expected: int
    actual: int
    differences: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    unexpected: int = 0

    @property
    def equal(self) -> bool:
        """True if every row and column is equal."""
        return not self.differences and self.expected == self.actual


@dataclass(frozen=True)
class Plan:
    """What of one table is compared.

    Attributes:
        table: its promised name.
        rows: the truth.
        key: columns that name a row.
        where: condition on the rows that are read; empty for all.
        distinct: rows that differ in other columns only are one.
    """

    table: str
    rows: Iterable[dict]
    key: tuple[str, ...]
    where: str = ""
    distinct: bool = False


def plans(truth: Truth, filled_rows: int) -> Iterator[Plan]:
    """The promised tables, each made in its turn, because the largest take gigabytes.

    Args:
        filled_rows: see `reconcile`.
    """
    of_candle = ("token_id", "bucket_at")
    yield Plan("order_fills", truth.order_fills, ("tx_hash", "order_hash", "log_index"))
    for trades in ("trades", "trades_by_token"):
        yield Plan(trades, truth.trades, ("tx_hash", "order_hash"))
    yield Plan("trade_legs", truth.trade_legs(), ("fill_id",))
    for fills in ("wallet_fills", "fills_by_wallet"):
        yield Plan(fills, truth.wallet_fills(), ("fill_id", "role"))
    yield Plan("ohlcv_1m", truth.candles("1m"), of_candle)
    yield Plan("ohlcv_1h", truth.candles("1h"), of_candle)
    yield Plan("ohlcv_1d", truth.candles("1d"), of_candle)
    yield Plan("market_ohlcv_1h", truth.market_ohlcv_1h, ("market_id", "bucket_at"))
    yield _sample_of_filled(truth, "1m", filled_rows)
    yield _sample_of_filled(truth, "1h", filled_rows)
    yield Plan("ohlcv_1d_filled", truth.filled_candles("1d"), of_candle)
    yield Plan("volume_daily", truth.volume_daily, ("day", "token_id"))
    yield Plan("market_volume_daily", truth.market_volume_daily, ("day", "market_id"))
    yield Plan("event_volume_daily", truth.event_volume_daily, ("day", "event_id"))
    yield Plan("tag_volume_daily", truth.tag_volume_daily, ("day", "tag_slug"))
    yield Plan("tag_volume_hourly", truth.tag_volume_hourly, ("hour_at", "tag_slug"))
    yield Plan("event_volume", truth.event_volume, ("event_id",))
    yield Plan("trending_markets", truth.trending_markets, ("market_id",))
    yield Plan("wallet_daily", truth.wallet_daily, ("day", "wallet"))
    yield Plan("market_latest_price", truth.market_latest_price, ("token_id",))
    yield Plan("outcome_tokens", truth.outcome_tokens, ("token_id",))
    yield Plan("markets", truth.market_rows, ("market_id",))
    yield Plan("events", truth.event_rows, ("event_id",))
    yield Plan("markets_events", truth.markets_events, ("market_id", "event_id"))
    yield Plan("event_tags", truth.event_tags, ("event_id", "tag_slug"))
    yield Plan("event_series", truth.event_series, ("event_id", "series_id"))
    yield Plan("neg_risk_groups", truth.neg_risk_groups, ("neg_risk_market_id",))
    yield Plan("unknown_tokens", truth.unknown_tokens, ("token_id",))
    yield Plan("position_ids", truth.position_ids, ("token_id",))
    quote = ("token_id", "bid", "ask", "mid", "spread")
    yield Plan("market_prices", truth.market_prices, quote, distinct=True)


def _sample_of_filled(truth: Truth, interval: str, most_rows: int) -> Plan:
    """Gap-filled candles of as many tokens as are compared in seconds, every row of theirs."""
    tokens = truth.filled_sample(interval, most_rows)
    return Plan(
        f"ohlcv_{interval}_filled",
        truth.filled_candles(interval, tokens),
        ("token_id", "bucket_at"),
        where=f"token_id in ({', '.join(repr(token_id) for token_id in sorted(tokens))})",
    )


def reconcile(
    client: Client,
    database: str,
    truth: Truth,
    on_table: Callable[[str], None] = lambda table: None,
    filled_rows: int = FILLED_ROWS,
) -> list[Check]:
    """Compare every promised table with the truth, one check each.

    Args:
        on_table: is told each before its turn.
        filled_rows: gap-filled candles of an interval that are compared, where there are more.
    """
    checks = []
    for plan in plans(truth, filled_rows):
        on_table(plan.table)
        checks.append(_compare(client, database, plan))
    return checks


def _compare(client: Client, database: str, plan: Plan) -> Check:
    expected = list(plan.rows)
    columns = list(expected[0]) if expected else list(plan.key)
    missing = _missing(client, database, plan.table, columns)
    if missing:
        return Check(plan.table, len(expected), 0, [missing], lost=len(expected))
    actual = _read(client, database, plan, columns)
    wanted = {tuple(row[column] for column in plan.key): row for row in expected}
    found = {tuple(row[column] for column in plan.key): row for row in actual}
    if len(wanted) != len(expected):
        raise AssertionError(f"the truth of {plan.table} has keys twice: its key is wrong")
    differences = list(islice(_differences(wanted, found), SHOWN_DIFFERENCES))
    doubled = len(actual) - len(found)
    if doubled:
        differences.append(f"{doubled} rows beyond one per key")
    return Check(
        plan.table,
        len(expected),
        len(actual),
        differences,
        lost=len(wanted.keys() - found.keys()),
        doubled=doubled,
        unexpected=len(found.keys() - wanted.keys()),
    )


def _missing(client: Client, database: str, table: str, columns: list[str]) -> str:
    """What of a table is not there, in words; empty if everything is."""
    known = client.query(
        "select name from system.columns where database = {database:String} and table = {table:String}",
        parameters={"database": database, "table": table},
    ).result_columns
    if not known:
        return "table missing"
    absent = [column for column in columns if column not in known[0]]
    return f"columns missing: {', '.join(absent)}" if absent else ""


def _differences(wanted: dict[tuple, dict], found: dict[tuple, dict]) -> Iterable[str]:
    for key in wanted.keys() - found.keys():
        yield f"missing {key}"
    for key in found.keys() - wanted.keys():
        yield f"not expected {key}"
    for key in wanted.keys() & found.keys():
        if wanted[key] == found[key]:
            continue
        for column, value in wanted[key].items():
            if not _equal(column, value, found[key][column]):
                yield f"{key}: {column} is {found[key][column]!r}, should be {value!r}"


def _equal(column: str, wanted: Any, found: Any) -> bool:
    if wanted is None or found is None:
        return wanted is found
    if column in FLOATS:
        tolerance = VWAP_TOLERANCE if column == "vwap" else FLOAT_TOLERANCE
        return abs(float(wanted) - float(found)) <= tolerance * max(1.0, abs(float(wanted)))
    if isinstance(wanted, Decimal) and isinstance(found, float):
        return abs(float(wanted) - found) <= FLOAT_TOLERANCE
    return wanted == found


def _read(client: Client, database: str, plan: Plan, columns: list[str]) -> list[dict]:
    terms = [f"toInt64({c} * 1000000) as {c}_units" if c in AMOUNTS else c for c in columns]
    where = f" where {plan.where}" if plan.where else ""
    select = "select distinct" if plan.distinct else "select"
    result = client.query(f"{select} {', '.join(terms)} from {database}.{plan.table}{where}")
    return [
        {column: _plain(value) for column, value in zip(columns, row, strict=True)}
        for row in result.result_rows
    ]


def _plain(value: Any) -> Any:
    """Times as unix seconds and dates as ISO text, as the truth has them."""
    if isinstance(value, datetime):
        return int(value.replace(tzinfo=UTC).timestamp())
    return value.isoformat() if isinstance(value, date) else value
