"""ABI decoding of `OrderFilled` logs of all generations into landing columns. Pure functions.

V1 data: makerAssetId, takerAssetId, makerAmountFilled, takerAmountFilled, fee. V2 and V3 data: side
(0 is BUY, 1 is SELL, of the maker's order), tokenId, makerAmountFilled, takerAmountFilled, fee,
builder, metadata. On V3 tokenId is a position id of the PositionManager.
All have topics orderHash, maker, taker. Amounts are in 1e-6 units. Source: the contracts' ABI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.columns import hex_text, word_hex, word_ids, word_numbers, words
from ingest.contracts import EXCHANGES, ORDER_FILLED_TOPICS, V1, V2, V3
from ingest.records import (
    BadRecord,
    DeadLetter,
    decode_batch,
    fills_table,
    quantity,
    unsigned,
)

_V1_WORDS, _V2_WORDS = 5, 7  # of 32 bytes, in the data
_SIDES = pa.array(["BUY", "SELL"])  # by the number of the side


def decode_logs(logs: Sequence[Any], *, source: str) -> tuple[list[pa.Table], list[DeadLetter]]:
    """`order_filled` rows of logs that carry `blockTimestamp`, and the logs that are no fills.

    Numbers may be JSON-RPC quantities (0x and hex digits) or JSON integers, which SQD sends.
    A log of an unknown contract, or with another generation's topic, is a dead letter
    `unknown_contract`.
    """
    groups: dict[str | None, list] = {V1: [], V2: [], V3: [], None: []}
    for log in logs:
        groups[_version(log)].append(log)

    def to_table(columns_of: Callable[[Sequence[dict]], dict[str, Any]]) -> Callable:
        return lambda group: fills_table(columns_of(group), source=source)

    tables, dead = [], []
    for version, columns_of in _COLUMNS_OF.items():
        decoded = decode_batch(groups[version], to_table(columns_of))
        tables.extend(decoded[0])
        dead.extend(decoded[1])
    return tables, dead


def _version(log: Any) -> str | None:
    """Generation of the contract, if the topic is that generation's."""
    try:
        version = EXCHANGES[log["address"].lower()]
        return version if log["topics"][0].lower() == ORDER_FILLED_TOPICS[version] else None
    except (LookupError, TypeError, AttributeError):
        return None


def _refuse(logs: Sequence[Any]) -> dict[str, Any]:
    if not isinstance(logs[0], dict):
        raise BadRecord("not_an_object", "a log is not a JSON object")
    raise BadRecord("unknown_contract", "not an OrderFilled of an exchange contract known here")


def _v1_columns(logs: Sequence[dict]) -> dict[str, Any]:
    data = words("data", [log["data"] for log in logs], _V1_WORDS)
    return _common_columns(logs, V1, data) | {
        "maker_asset_id": word_ids(data[:, 0]),
        "taker_asset_id": word_ids(data[:, 1]),
    }


def _v2_columns(logs: Sequence[dict], version: str = V2) -> dict[str, Any]:
    data = words("data", [log["data"] for log in logs], _V2_WORDS)
    return _common_columns(logs, version, data) | {
        "side": _sides(data[:, 0]),
        "token_id": word_ids(data[:, 1]),
        "builder": word_hex(data[:, 5]),
    }


_COLUMNS_OF = {
    V1: _v1_columns,
    V2: _v2_columns,
    V3: partial(_v2_columns, version=V3),
    None: _refuse,
}


def _sides(column: np.ndarray) -> pa.Array:
    """BUY or SELL, from words of shape (records, 32)."""
    if column[:, :31].any() or (column[:, 31] >= len(_SIDES)).any():
        raise BadRecord("bad_field", "the side is neither 0 (BUY) nor 1 (SELL)")
    return _SIDES.take(pa.array(column[:, 31]))


def _common_columns(logs: Sequence[dict], version: str, data: np.ndarray) -> dict[str, Any]:
    return {
        "timestamp": _numbers(logs, "blockTimestamp", bits=32),
        "block_number": _numbers(logs, "blockNumber"),
        "log_index": _numbers(logs, "logIndex", bits=32),
        "tx_hash": hex_text("transactionHash", [log["transactionHash"] for log in logs], 64),
        "order_hash": hex_text("orderHash", [log["topics"][1] for log in logs], 64),
        "contract_version": pa.repeat(version, len(logs)),
        "exchange": hex_text("address", [log["address"] for log in logs], 40),
        "maker": _addresses("maker", [log["topics"][2] for log in logs]),
        "taker": _addresses("taker", [log["topics"][3] for log in logs]),
        "maker_amount": word_numbers("maker_amount", data[:, 2]),
        "taker_amount": word_numbers("taker_amount", data[:, 3]),
        "fee": word_numbers("fee", data[:, 4]),
    }


def _numbers(logs: Sequence[dict], name: str, bits: int = 64) -> pa.Array:
    values = unsigned(name, [quantity(name, log[name]) for log in logs], bits)
    return pa.array(values, pa.uint64() if bits == 64 else pa.uint32())


def _addresses(name: str, topics: Sequence[Any]) -> pa.Array:
    """Addresses of indexed parameters: the last 20 of 32 bytes."""
    digits = pc.utf8_slice_codeunits(hex_text(name, topics, 64), start=26)
    return pc.binary_join_element_wise("0x", digits, "")
