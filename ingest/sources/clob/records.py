"""Answers of the CLOB as landing rows.

Pure functions. Prices come as text and stay exact: they become decimals of 9 digits, four more than half of the smallest
tick has. What the CLOB says is kept as it is, nothing is derived: a bid above the ask, or a midpoint of another moment,
is for SQL to judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ingest.columns import decimal_ids
from ingest.records import NO_LOAD, BadRecord
from ingest.tables import MARKET_PRICES

# Side of a request -> column. The CLOB means the side of the resting orders: the best order to BUY is the bid.
SIDES = {"BUY": "bid", "SELL": "ask"}
_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?").fullmatch
_UNIT = Decimal("1e-9")


def observations(
    tokens: Sequence[str],
    observed_at: datetime,
    prices: Mapping[str, Any],
    midpoints: Mapping[str, Any],
    spreads: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One record for each token that an answer says something of, as received; those without an order book have none.

    Args:
        observed_at: when the last of the answers came, UTC.
        prices, midpoints, spreads: by token; what is not there is left out or null.
    """
    return [
        {
            "token_id": token,
            "observed_at": observed_at.isoformat(),
            "prices": prices.get(token),
            "midpoint": midpoints.get(token),
            "spread": spreads.get(token),
        }
        for token in tokens
        if any(_says(answer.get(token)) for answer in (prices, midpoints, spreads))
    ]


def _says(value: Any) -> bool:
    """Whether a value of an answer is there; null, an empty text and sides of these are not."""
    if isinstance(value, dict):
        return any(map(_says, value.values()))
    return value is not None and value != ""


def prices_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """`market_prices` rows of no load yet, one for each observation.

    Raises:
        BadRecord: a price of one is none.
        LookupError, TypeError, ValueError: one is no observation.
    """
    columns: dict[str, Any] = {
        "token_id": decimal_ids("token_id", [record["token_id"] for record in records]),
        "observed_at": [datetime.fromisoformat(record["observed_at"]) for record in records],
        "mid": [price("mid", record["midpoint"]) for record in records],
        "spread": [price("spread", record["spread"], least=-1) for record in records],
        "load_id": [NO_LOAD] * len(records),
    }
    for side, column in SIDES.items():
        columns[column] = [price(column, _sides(record).get(side)) for record in records]
    arrays = [pa.array(columns[field.name], field.type) for field in MARKET_PRICES.schema]
    return pa.table(arrays, schema=MARKET_PRICES.schema)


def _sides(record: Mapping[str, Any]) -> Mapping[str, Any]:
    sides = record["prices"]
    if sides is None:
        return {}
    if not isinstance(sides, dict):
        raise BadRecord("bad_field", "prices is not an object")
    if others := sides.keys() - SIDES.keys():
        raise BadRecord("bad_field", f"prices has a side that is none: {min(others)[:80]}")
    return sides


def price(name: str, value: Any, *, least: int = 0) -> Decimal | None:
    """The decimal in a JSON value: a number as text, or a JSON number; None for null and for an empty text.

    A JSON number is read by its shortest spelling, which is how it was written if that has up to 15 digits.

    Args:
        least: smallest value that makes sense; the greatest is 1.

    Raises:
        BadRecord: it is something else, or has more than 9 digits behind the point.
    """
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else repr(value)
    if isinstance(value, bool) or not _NUMBER(text):
        raise BadRecord("bad_field", f"{name} is not a number: {str(value)[:80]}")
    number = Decimal(text)
    if not least <= number <= 1:
        raise BadRecord("amount_out_of_range", f"{name} is not between {least} and 1: {text[:80]}")
    exact = number.quantize(_UNIT)
    if exact != number:
        raise BadRecord("bad_field", f"{name} has more than 9 digits behind the point: {text[:80]}")
    return exact
