"""Fills of the chain on their way into the landing table, and those that are there when blocks are read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from ingest.errors import WrongShape
from ingest.page import Page
from ingest.records import DeadLetter, as_order_filled
from ingest.sources.polygon.chain import SOURCE, Endpoint, where_of
from ingest.tables import ORDER_FILLED

# (first block, last block) -> the landing rows of this source in these blocks, both included.
KnownFills = Callable[[int, int], pa.Table]


def fills_page(tables: Sequence[pa.Table], dead: Sequence[DeadLetter] = ()) -> Page:
    """A page of fills of the chain."""
    return Page(ORDER_FILLED, tables, SOURCE, dead)


def landed_fills(
    known_fills: KnownFills, versions: Sequence[str], first: int, last: int
) -> pa.Table:
    """Landing rows of these generations, of blocks `first` to `last`."""
    return fills_within(as_order_filled(known_fills(first, last)), versions, first, last)


def fills_within(rows: pa.Table, versions: Sequence[str], first: int, last: int) -> pa.Table:
    """Those of some landing rows that are of these generations, and of blocks `first` to `last`."""
    names = ("contract_version", "block_number")
    within = [
        version in versions and first <= block <= last
        for version, block in zip(*(rows.column(name).to_pylist() for name in names), strict=True)
    ]
    return rows.filter(pa.array(within, pa.bool_()))


def unreadable(first: int, last: int, endpoint: Endpoint) -> WrongShape:
    """Why fills stay that another reading did not find: some of its logs may be theirs."""
    return WrongShape(
        f"logs of blocks {first} to {last} cannot be parsed, so no fill of them is taken back; try another node",
        **where_of(endpoint),
    )
