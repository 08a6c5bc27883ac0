"""From upstream records to Arrow tables of the landing tables' shape.

Pure functions. A batch is decoded column by column; when one record of it is bad, the batch is
halved until that record stands alone and becomes a dead letter with a reason code: it is never lost
and never takes its neighbours with it. Columns are those of `schema/*.sql`; what they
mean for a trade is left to SQL.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa

from ingest.decoding import DECODING
from ingest.tables import DEAD_LETTERS, LATE_FILLS, ORDER_FILLED

# Python's int() would take blanks, underscores and other scripts' digits as well.
_DECIMAL = re.compile(r"-?[0-9]{1,80}").fullmatch
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}").fullmatch

NO_LOAD = 0  # load_id of rows until they are landed: which load that is, only the landing knows


class BadRecord(ValueError):
    """A record that cannot be a landing row; `reason` is its short code.

    Codes: not_an_object, missing_field, bad_field, amount_out_of_range, unknown_contract.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class DeadLetter:
    """A record as received, and why it is not a row."""

    reason: str
    detail: str
    payload: bytes


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no white space: equal content gives equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def content_hash(payload: bytes) -> int:
    """First 8 bytes of the BLAKE2b hash, as an unsigned 64-bit number (big-endian)."""
    return int.from_bytes(hashlib.blake2b(payload).digest()[:8], "big")


def decode_batch(
    records: Sequence[Any], decode: Callable[[Sequence[Any]], pa.Table]
) -> tuple[list[pa.Table], list[DeadLetter]]:
    """Rows of all records that `decode` accepts, and dead letters of those it does not.

    Args:
        decode: makes a table of several records, or raises if any of them is bad; the batch is then
            halved until the bad ones stand alone.
    """
    if not records:
        return [], []
    try:
        with DECODING:
            return [decode(records)], []
    except (BadRecord, LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        if len(records) == 1:
            return [], [_dead_letter(records[0], error)]
    middle = len(records) // 2
    left, right = (decode_batch(half, decode) for half in (records[:middle], records[middle:]))
    return left[0] + right[0], left[1] + right[1]


def _dead_letter(record: Any, error: Exception) -> DeadLetter:
    payload = orjson.dumps(record)
    if isinstance(error, BadRecord):
        return DeadLetter(error.reason, str(error), payload)
    if not isinstance(record, dict):
        return DeadLetter("not_an_object", f"a {type(record).__name__}, not an object", payload)
    reason = "missing_field" if isinstance(error, KeyError) else "bad_field"
    return DeadLetter(reason, f"{type(error).__name__}: {error}", payload)


def unsigned(name: str, values: Iterable[int], bits: int = 64) -> list[int]:
    """The values, all of them unsigned integers of `bits` bits.

    Raises:
        BadRecord: one is negative or too large.
    """
    checked = list(values)
    if checked and (min(checked) < 0 or max(checked) >= 1 << bits):
        raise BadRecord("amount_out_of_range", f"{name} does not fit an unsigned {bits}-bit number")
    return checked


def whole_number(name: str, value: Any) -> int:
    """The integer in a JSON value: decimal digits in a string, or a number without a fraction.

    A JSON number beyond 64 bits arrives as a float, rounded, and is refused as every float is.

    Raises:
        BadRecord: it is something else.
    """
    if isinstance(value, str) and _DECIMAL(value):
        return int(value)
    if type(value) is int:
        return value
    raise BadRecord("bad_field", f"{name} is not a whole number: {str(value)[:80]}")


def hex_number(name: str, value: Any) -> int:
    """The integer in a JSON-RPC quantity: 0x and hex digits.

    Raises:
        BadRecord: it is something else.
    """
    if isinstance(value, str) and _QUANTITY(value):
        return int(value, 16)
    raise BadRecord("bad_field", f"{name} is not 0x and hex digits: {str(value)[:80]}")


def quantity(name: str, value: Any) -> int:
    """The integer in a JSON-RPC quantity, or a JSON integer, as SQD sends it.

    Raises:
        BadRecord: it is something else.
    """
    return value if type(value) is int else hex_number(name, value)


def fills_table(columns: dict[str, list | pa.Array], *, source: str) -> pa.Table:
    """`order_filled` rows of no load yet; columns that are the same for all rows of a source may be left out."""
    rows = len(columns["tx_hash"])
    constants = {"source": source, "is_deleted": 0, "load_id": NO_LOAD}
    defaults = {"maker_asset_id": "", "taker_asset_id": "", "side": "", "token_id": ""}
    defaults |= {"block_number": 0, "log_index": 0, "builder": ""}
    arrays = []
    for column in ORDER_FILLED.schema:
        values = columns.get(column.name)
        if values is None:
            value = (constants | defaults)[column.name]
            arrays.append(pa.repeat(pa.scalar(value, column.type), rows))
        elif not isinstance(values, pa.Array):
            arrays.append(pa.array(values, column.type))
        elif pa.types.is_timestamp(column.type):
            arrays.append(values.cast(pa.int64()).cast(column.type))
        else:
            arrays.append(values)
    return pa.table(arrays, schema=ORDER_FILLED.schema)


def as_order_filled(rows: pa.Table) -> pa.Table:
    """`order_filled` rows in the types they are loaded with, from those ClickHouse reads back.

    ClickHouse writes DateTime to Arrow as an unsigned integer of seconds.
    """
    arrays = []
    for column in ORDER_FILLED.schema:
        values = rows.column(column.name)
        if pa.types.is_unsigned_integer(values.type) and pa.types.is_timestamp(column.type):
            values = values.cast(pa.int64())
        arrays.append(values.cast(column.type))
    return pa.table(arrays, schema=ORDER_FILLED.schema)


def tombstones(rows: pa.Table) -> pa.Table:
    """`order_filled` rows that take `rows` back once they land: the same keys, `is_deleted` 1."""
    return _with_constant(rows, "is_deleted", 1)


def with_load_id(rows: pa.Table, load_id: int) -> pa.Table:
    """Rows of any landing table as rows of this load."""
    return _with_constant(rows, "load_id", load_id)


def _with_constant(rows: pa.Table, name: str, value: int) -> pa.Table:
    at, column = rows.schema.get_field_index(name), rows.schema.field(name)
    return rows.set_column(at, column, pa.repeat(pa.scalar(value, column.type), len(rows)))


def fill_keys(rows: pa.Table) -> list[tuple[int, str, int, str]]:
    """Landing key of each `order_filled` row: unix seconds, tx_hash, log_index, order_hash."""
    columns = [rows.column(name) for name in ("timestamp", "tx_hash", "log_index", "order_hash")]
    columns[0] = columns[0].cast(pa.int64())
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def dead_letters_table(letters: Sequence[DeadLetter], *, source: str) -> pa.Table:
    """`dead_letter_sightings` rows of no load yet, seen now."""
    now = datetime.now(UTC)
    payloads = [letter.payload.decode("utf-8", "replace") for letter in letters]
    return pa.table(
        {
            "source": [source] * len(letters),
            "reason": [letter.reason for letter in letters],
            "payload_hash": pa.array([content_hash(x.payload) for x in letters], pa.uint64()),
            "detail": [letter.detail for letter in letters],
            "payload": payloads,
            "seen_at": pa.array([now] * len(letters), DEAD_LETTERS.schema.field("seen_at").type),
            "load_id": pa.array([NO_LOAD] * len(letters), pa.uint64()),
        },
        schema=DEAD_LETTERS.schema,
    )


def late_fills_table(block: int, fills: int, taken_back: int, endpoint: str) -> pa.Table:
    """The `late_fills` row, of no load yet, of a block whose second reading just found other fills than the first."""
    row = {
        "block_number": block,
        "load_id": NO_LOAD,
        "fills": fills,
        "taken_back": taken_back,
        "endpoint": endpoint,
        "found_at": datetime.now(UTC),
    }
    return pa.Table.from_pylist([row], schema=LATE_FILLS.schema)
