"""Every landing table, declared once: its columns, its identity, its time, and whether its loads are settled.

The tables themselves are made by `schema/*.sql`; a test compares both.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

_SECONDS = pa.timestamp("s", tz="UTC")
_MICROSECONDS = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """A landing table.

    Attributes:
        name: in the landing database.
        schema: columns that a source brings, as Arrow; ClickHouse fills in the others.
        key: columns of the sorting key, by which rows that came twice are one.
        time: the column that says when a row happened.
        is_settled: whether models are recomputed for what its loads touch.
        deletes: the column that says that a row is taken back; empty if none is.
        has_blocks: whether its rows are of blocks, which may leave the chain.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    time: str
    is_settled: bool = True
    deletes: str = ""
    has_blocks: bool = False

    @property
    def id_column(self) -> str:
        """The first column: the id of a record of Gamma."""
        return self.schema.names[0]

    @property
    def content(self) -> str:
        """Columns in which two different rows differ, for a `select`."""
        return ", ".join(filter(None, (*self.key, self.deletes)))


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


ORDER_FILLED = Table(
    "order_filled",
    _schema(
        timestamp=_SECONDS,
        block_number=pa.uint64(),
        log_index=pa.uint32(),
        tx_hash=pa.string(),
        order_hash=pa.string(),
        contract_version=pa.string(),
        exchange=pa.string(),
        maker=pa.string(),
        taker=pa.string(),
        maker_asset_id=pa.string(),
        taker_asset_id=pa.string(),
        side=pa.string(),
        token_id=pa.string(),
        maker_amount=pa.uint64(),
        taker_amount=pa.uint64(),
        fee=pa.uint64(),
        builder=pa.string(),
        source=pa.string(),
        is_deleted=pa.uint8(),
        load_id=pa.uint64(),
    ),
    key=("timestamp", "tx_hash", "log_index", "order_hash"),
    time="timestamp",
    deletes="is_deleted",
    has_blocks=True,
)

# V1 fills with their place in the block (chain, archives with log index), and those without (Goldsky): their keys differ, so
# a fill that lands in both ways stands twice.
V1_WITH_PLACE = "contract_version = 'v1' and block_number > 0"
V1_WITHOUT_PLACE = "contract_version = 'v1' and block_number = 0"


def _of_gamma(name: str, id_column: str) -> Table:
    schema = _schema(
        **{id_column: pa.string()},
        content_hash=pa.uint64(),
        fetched_at=_MICROSECONDS,
        closed=pa.uint8(),
        payload=pa.string(),
        load_id=pa.uint64(),
    )
    return Table(name, schema, key=(id_column, "fetched_at", "content_hash"), time="fetched_at")


MARKETS = _of_gamma("markets", "market_id")
EVENTS = _of_gamma("events", "event_id")

DEAD_LETTERS = Table(
    "dead_letter_sightings",
    _schema(
        source=pa.string(),
        reason=pa.string(),
        payload_hash=pa.uint64(),
        detail=pa.string(),
        payload=pa.string(),
        seen_at=_MICROSECONDS,
        load_id=pa.uint64(),
    ),
    key=("source", "reason", "payload_hash", "load_id"),
    time="seen_at",
    is_settled=False,
)

LATE_FILLS = Table(
    "late_fills",
    _schema(
        block_number=pa.uint64(),
        load_id=pa.uint64(),
        fills=pa.uint32(),
        taken_back=pa.uint32(),
        endpoint=pa.string(),
        found_at=_MICROSECONDS,
    ),
    key=("block_number", "load_id"),
    time="found_at",
    is_settled=False,
)

_PRICE = pa.decimal128(18, 9)
MARKET_PRICES = Table(
    "market_prices",
    pa.schema(
        [
            pa.field("token_id", pa.string(), nullable=False),
            pa.field("observed_at", _MICROSECONDS, nullable=False),
            pa.field("bid", _PRICE),
            pa.field("ask", _PRICE),
            pa.field("mid", _PRICE),
            pa.field("spread", _PRICE),
            pa.field("load_id", pa.uint64(), nullable=False),
        ]
    ),
    key=("token_id", "observed_at"),
    time="observed_at",
    is_settled=False,
)

_ALL = (ORDER_FILLED, MARKETS, EVENTS, DEAD_LETTERS, LATE_FILLS, MARKET_PRICES)
TABLES = {each.name: each for each in _ALL}
SETTLED = {name: table for name, table in TABLES.items() if table.is_settled}
