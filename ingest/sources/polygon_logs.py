"""ABI decoding of `OrderFilled` logs, V1 and V2, into landing columns. Pure functions.

V1 data: makerAssetId, takerAssetId, makerAmountFilled, takerAmountFilled, fee. V2 data: side (0 is
BUY, 1 is SELL, of the maker's order), tokenId, makerAmountFilled, takerAmountFilled, fee, builder,
metadata.
Both have topics orderHash, maker, taker. Amounts are in 1e-6 units. Source: the contracts' ABI.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from ingest.contracts import EXCHANGES, ORDER_FILLED_TOPICS, V1, V2
from ingest.records import (
    BadRecord,
    DeadLetter,
    decode_batch,
    fills_table,
    hex_number,
    lower_hex,
    unsigned,
)

_WORD = 64  # hex digits
_WORDS = {V1: 5, V2: 7}
_DATA = {
    version: re.compile(f"0x[0-9a-fA-F]{{{count * _WORD}}}").fullmatch
    for version, count in _WORDS.items()
}
_SIDES = {0: "BUY", 1: "SELL"}
_VERSION_OF_TOPIC = {topic: version for version, topic in ORDER_FILLED_TOPICS.items()}
_NO_BUILDER = "0" * _WORD


def decode_logs(
    logs: Sequence[Any], *, source: str, load_id: int
) -> tuple[list[pa.Table], list[DeadLetter]]:
    """`order_filled` rows of logs that carry `blockTimestamp`, and the logs that are no fills."""
    groups: dict[str | None, list] = {V1: [], V2: [], None: []}
    for log in logs:
        groups[_version(log)].append(log)

    def to_table(columns_of: Callable[[Sequence[dict]], dict[str, list]]) -> Callable:
        return lambda group: fills_table(columns_of(group), source=source, load_id=load_id)

    tables, dead = [], []
    for version, columns_of in ((V1, _v1_columns), (V2, _v2_columns), (None, _refuse)):
        decoded = decode_batch(groups[version], to_table(columns_of))
        tables.extend(decoded[0])
        dead.extend(decoded[1])
    return tables, dead


def _version(log: Any) -> str | None:
    """Generation of the contract, if the topic and the address agree on it."""
    try:
        version = _VERSION_OF_TOPIC[log["topics"][0].lower()]
        return version if EXCHANGES[log["address"].lower()] == version else None
    except (LookupError, TypeError, AttributeError):
        return None


def _refuse(logs: Sequence[Any]) -> dict[str, list]:
    if not isinstance(logs[0], dict):
        raise BadRecord("not_an_object", "a log is not a JSON object")
    raise BadRecord("unknown_contract", "not an OrderFilled of an exchange contract known here")


def _v1_columns(logs: Sequence[dict]) -> dict[str, list]:
    words = _data_words(logs, V1)
    return _common_columns(logs, V1, words[2:5]) | {
        "maker_asset_id": [str(int(word, 16)) for word in words[0]],
        "taker_asset_id": [str(int(word, 16)) for word in words[1]],
    }


def _v2_columns(logs: Sequence[dict]) -> dict[str, list]:
    words = _data_words(logs, V2)
    return _common_columns(logs, V2, words[2:5]) | {
        "side": [_side(int(word, 16)) for word in words[0]],
        "token_id": [str(int(word, 16)) for word in words[1]],
        "builder": ["" if word == _NO_BUILDER else f"0x{word.lower()}" for word in words[5]],
    }


def _side(code: int) -> str:
    if code not in _SIDES:
        raise BadRecord("bad_field", f"side {code} is neither BUY nor SELL")
    return _SIDES[code]


def _data_words(logs: Sequence[dict], version: str) -> list[list[str]]:
    """Column by column the 32-byte words of the data, as hex digits."""
    count = _WORDS[version]
    data = [log["data"] for log in logs]
    for value in data:
        if not _DATA[version](value):
            raise BadRecord("bad_field", f"data is not 0x and {count} words of 32 bytes")
    return [[value[2 + at * _WORD : 2 + (at + 1) * _WORD] for value in data] for at in range(count)]


def _common_columns(
    logs: Sequence[dict], version: str, amounts: Sequence[list[str]]
) -> dict[str, list]:
    maker_amounts, taker_amounts, fees = amounts
    return {
        "timestamp": unsigned("timestamp", _numbers(logs, "blockTimestamp"), bits=32),
        "block_number": unsigned("block_number", _numbers(logs, "blockNumber")),
        "log_index": unsigned("log_index", _numbers(logs, "logIndex"), bits=32),
        "tx_hash": lower_hex("transactionHash", (log["transactionHash"] for log in logs), 64),
        "order_hash": lower_hex("orderHash", (log["topics"][1] for log in logs), 64),
        "contract_version": [version] * len(logs),
        "exchange": lower_hex("address", (log["address"] for log in logs), 40),
        "maker": _addresses("maker", [log["topics"][2] for log in logs]),
        "taker": _addresses("taker", [log["topics"][3] for log in logs]),
        "maker_amount": unsigned("maker_amount", (int(word, 16) for word in maker_amounts)),
        "taker_amount": unsigned("taker_amount", (int(word, 16) for word in taker_amounts)),
        "fee": unsigned("fee", (int(word, 16) for word in fees)),
    }


def _numbers(logs: Sequence[dict], name: str) -> list[int]:
    return [hex_number(name, log[name]) for log in logs]


def _addresses(name: str, topics: Sequence[str]) -> list[str]:
    """Addresses of indexed parameters: the last 20 of 32 bytes."""
    return [f"0x{topic[26:]}" for topic in lower_hex(name, topics, 64)]
