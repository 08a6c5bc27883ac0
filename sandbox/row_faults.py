"""How faults of rows act: records with nulls, with numbers and times that cannot be, and records that come twice.

See `fault_acts` for what an act is.
"""

from __future__ import annotations

from typing import Any

from sandbox.fault_acts import GAMMA, GOLDSKY, POLYGON, Place, row_lists


def nulls(row: dict, number: int, place: Place) -> Any:
    """In turn a row that is null itself, and one in which all is null but what Goldsky's pages go by."""
    if number % 2 == 0 and place.source != GOLDSKY:
        return None
    kept = (
        {"id", "timestamp"} if place.source == GOLDSKY else {"id"} if place.source == GAMMA else ()
    )
    return {name: value if name in kept else None for name, value in row.items()}


def odd_integers(row: dict, number: int, place: Place) -> Any:
    """Amounts in turn negative and beyond 64 bits."""
    if place.source == GAMMA:
        return row | {
            "volume": ("-1", "1e99")[number % 2],
            "liquidityNum": (-(2**63), 2**64 - 1)[number % 2],
        }
    if place.source == GOLDSKY:
        return row | {"makerAmountFilled": ("-1", str(2**64))[number % 2]}
    huge = row["data"][:130] + "f" * 64 + row["data"][194:]  # the third word: the amount given
    return row | ({"logIndex": "-0x1"}, {"data": huge})[number % 2]


def odd_times(row: dict, number: int, place: Place) -> Any:
    """Times in turn far ahead, a zero of Go, and no time at all; the rows stay where they are in the order."""
    time = ("2099-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "soon")[number % 3]
    return row | dict.fromkeys(("createdAt", "closedTime", "updatedAt", "endDate"), time)


def unknown_contract(row: dict, number: int, place: Place) -> Any:
    """In turn another event and another contract."""
    if number % 2:
        return row | {"address": "0x" + "ab" * 20}
    return row | {"topics": ["0x" + "cd" * 32, *row["topics"][1:]]}


_DIFFERENT = {
    GAMMA: lambda row: row | {"slug": "another"},
    GOLDSKY: lambda row: row | {"makerAmountFilled": "1"},
    POLYGON: lambda row: (
        row | {"data": row["data"][:-1] + ("1" if row["data"][-1] == "0" else "0")}
    ),
}


def duplicate_ids(content: Any, place: Place) -> None:
    """Before each page its first row, with other content: an older version of it, say."""
    for rows in row_lists(content):
        if rows:
            rows.insert(0, _DIFFERENT[place.source](rows[0]))
