"""Holds the promised tables of a ClickHouse against the sandbox's truth, row by row and column by
column.

Amounts are compared as integers and prices of trades exactly; candles hold binary floats, so their
prices may differ by the rounding of one conversion, and vwap by that of one division.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from clickhouse_connect.driver.client import Client

from sandbox.truth import Truth

FLOAT_TOLERANCE = 1e-12
VWAP_TOLERANCE = 1e-9
SHOWN_DIFFERENCES = 3
AMOUNTS = frozenset({"shares", "usd", "fee", "volume_usd", "volume_shares"})
FLOATS = frozenset({"open", "high", "low", "close", "vwap"})


@dataclass(frozen=True)
class Check:
    """How one table compares with the truth.

    Attributes:
        name: what was compared.
        expected: rows of the truth.
        actual: rows of the table.
        differences: the first few, in words; empty when equal.
    """

    name: str
    expected: int
    actual: int
    differences: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True if every row and column is equal."""
        return not self.differences and self.expected == self.actual


def reconcile(client: Client, database: str, truth: Truth) -> list[Check]:
    """Compare fills, trades, candles, volume, prices, tokens, markets and events with the truth."""
    plans: list[tuple[str, list[dict], tuple[str, ...], Callable[[dict], dict]]] = [
        ("order_fills", truth.order_fills, ("tx_hash", "order_hash", "log_index"), _same),
        ("trades", truth.trades, ("tx_hash", "order_hash"), _same),
        ("ohlcv_1m", truth.candles("1m"), ("token_id", "bucket_at"), _same),
        ("ohlcv_1h", truth.candles("1h"), ("token_id", "bucket_at"), _same),
        ("ohlcv_1d", truth.candles("1d"), ("token_id", "bucket_at"), _same),
        ("volume_daily", truth.volume_daily, ("day", "token_id"), _same),
        ("market_latest_price", truth.market_latest_price, ("token_id",), _same),
        ("outcome_tokens", truth.outcome_tokens, ("token_id",), _same),
        ("markets", truth.markets, ("market_id",), _market),
        ("events", truth.events, ("event_id",), _event),
        ("markets_events", truth.markets_events, ("market_id", "event_id"), _same),
    ]
    return [
        _compare(client, database, name, [shape(row) for row in expected], key)
        for name, expected, key, shape in plans
    ]


def _compare(
    client: Client, database: str, name: str, expected: list[dict], key: tuple[str, ...]
) -> Check:
    columns = list(expected[0]) if expected else list(key)
    actual = _read(client, database, name, columns)
    wanted = {tuple(row[column] for column in key): row for row in expected}
    found = {tuple(row[column] for column in key): row for row in actual}
    differences = list(_differences(wanted, found))
    if len(found) != len(actual):
        differences.append(f"{len(actual) - len(found)} keys stand twice")
    if len(wanted) != len(expected):
        raise AssertionError(f"the truth of {name} has keys twice: its key is wrong")
    return Check(name, len(expected), len(actual), differences[:SHOWN_DIFFERENCES])


def _differences(wanted: dict[tuple, dict], found: dict[tuple, dict]) -> Iterable[str]:
    for key in wanted.keys() - found.keys():
        yield f"missing {key}"
    for key in found.keys() - wanted.keys():
        yield f"not expected {key}"
    for key in wanted.keys() & found.keys():
        for column, value in wanted[key].items():
            if not _equal(column, value, found[key][column]):
                yield f"{key}: {column} is {found[key][column]!r}, should be {value!r}"


def _equal(column: str, wanted: Any, found: Any) -> bool:
    if column in FLOATS:
        tolerance = VWAP_TOLERANCE if column == "vwap" else FLOAT_TOLERANCE
        return abs(float(wanted) - float(found)) <= tolerance
    if isinstance(wanted, Decimal) and isinstance(found, float):
        return abs(float(wanted) - found) <= FLOAT_TOLERANCE
    return wanted == found


def _read(client: Client, database: str, name: str, columns: list[str]) -> list[dict]:
    terms = [f"toInt128({c} * 1000000) as {c}_units" if c in AMOUNTS else c for c in columns]
    result = client.query(f"select {', '.join(terms)} from {database}.{name}")
    return [
        {column: _plain(value) for column, value in zip(columns, row, strict=True)}
        for row in result.result_rows
    ]


def _plain(value: Any) -> Any:
    """Times as unix seconds and dates as ISO text, as the truth has them."""
    if isinstance(value, datetime):
        return int(value.replace(tzinfo=UTC).timestamp())
    return value.isoformat() if isinstance(value, date) else value


def _same(row: dict) -> dict:
    return row


def _market(payload: dict) -> dict:
    """The columns of `markets` that follow from Gamma's payload as they stand."""
    return {
        "market_id": payload["id"],
        "condition_id": (payload.get("conditionId") or "").lower(),
        "slug": payload.get("slug") or "",
        "question": payload.get("question") or "",
        "event_slug": next((event["slug"] for event in payload["events"]), ""),
        "active": bool(payload.get("active")),
        "closed": bool(payload.get("closed")),
        "neg_risk": bool(payload.get("negRisk")),
        "volume_usd": _micro_usd(payload.get("volume")),
    }


def _event(payload: dict) -> dict:
    """The columns of `events` that follow from Gamma's payload as they stand."""
    return {
        "event_id": payload["id"],
        "slug": payload.get("slug") or "",
        "title": payload.get("title") or "",
        "tags": [tag.get("label") or "" for tag in payload.get("tags") or []],
        "active": bool(payload.get("active")),
        "closed": bool(payload.get("closed")),
        "volume_usd": _micro_usd(payload.get("volume")),
    }


def _micro_usd(amount: str | float | None) -> int:
    """Dollars as Gamma writes them, cut to 1e-6."""
    return int(Decimal(str(amount or 0)) * 1_000_000)
