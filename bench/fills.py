"""Fills by the million, made column by column: what the pages and the Parquet files of the benchmark hold.

As on the real exchange a match has a taker leg and about 2.2 maker legs, most tokens trade rarely and a few all the
time, and hashes do not compress. Equal arguments give equal fills.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.contracts import EXCHANGES, V1, V1_HORIZON, V2
from ingest.tables import ORDER_FILLED

TOKENS, WALLETS = 20_000, 100_000
MAKER_LEGS = 2.2  # of a match, on average
FILLS_PER_HOUR = 25_000
# Two after the other are those of one market.
TOKEN_IDS = [str((number + 1) * (10**72 + 7919)) for number in range(TOKENS)]
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


def fills(
    count: int, *, end: int = V1_HORIZON + 1, per_hour: int = FILLS_PER_HOUR, version: str = V1
) -> pa.Table:
    """`order_filled` rows in the order of the archive: by time, then by transaction and order hash.

    Args:
        count: number of rows.
        end: unix seconds before which the last one happened.
        per_hour: rows in an hour, evenly.
        version: v1 as from the archive, v2 as from the chain.
    """
    rng = np.random.default_rng(count)
    match, is_taker_leg = _legs(rng, count)
    matches = match[-1] + 1
    span = max(int(count / per_hour * 3600), 1)
    times = end - span + np.arange(matches) * span // matches
    token_id, is_buy, usd, shares = _trades(rng, match, is_taker_leg)
    exchange = next(name for name, generation in EXCHANGES.items() if generation == version)
    maker, taker = _parties(rng, match, is_taker_leg, exchange)
    columns = {
        "timestamp": pa.array(times[match]).cast(pa.timestamp("s", tz="UTC")),
        "tx_hash": _hex(rng, matches, 32).take(pa.array(match)),
        "order_hash": _hex(rng, count, 32),
        "contract_version": version,
        "exchange": pc.if_else(pa.array(is_taker_leg), exchange, ""),
        "maker": maker,
        "taker": taker,
        "maker_amount": pa.array(np.where(is_buy, usd, shares), pa.uint64()),
        "taker_amount": pa.array(np.where(is_buy, shares, usd), pa.uint64()),
        "source": "goldsky" if version == V1 else "polygon",
    }
    if version == V1:
        buy = pa.array(is_buy)
        columns["maker_asset_id"] = pc.if_else(buy, "0", token_id)
        columns["taker_asset_id"] = pc.if_else(buy, token_id, "0")
    elif version == V2:
        columns |= {
            "exchange": exchange,
            "side": pc.if_else(pa.array(is_buy), "BUY", "SELL"),
            "token_id": token_id,
            "block_number": pa.array(times[match] // 2, pa.uint64()),
            "log_index": pa.array(np.arange(count) % 100_000, pa.uint32()),
        }
    table = _landing_rows(columns, count)
    return table.sort_by([(name, "ascending") for name in ("timestamp", "tx_hash", "order_hash")])


def _legs(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of so many legs the number of their match, and whether each is its taker leg, which comes last."""
    legs = 1 + np.clip(rng.geometric(1 / MAKER_LEGS, count), 1, 40)
    match = np.repeat(np.arange(count), legs)[:count]
    starts = np.concatenate([[0], np.cumsum(legs)[:-1]])
    return match, np.arange(count) - starts[match] == legs[match] - 1


def _trades(
    rng: np.random.Generator, match: np.ndarray, is_taker_leg: np.ndarray
) -> tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray]:
    """Of each leg its token, whether it buys, and its dollars and shares in 1e-6 units."""
    matches = match[-1] + 1
    token = (TOKENS * rng.random(matches) ** 4).astype(np.int64)
    buys = rng.random(matches) < 0.6
    cents = rng.integers(2, 99, matches)
    shares = rng.integers(5, 2000, len(match)) * 1_000_000
    totals = np.zeros(matches, np.int64)
    np.add.at(totals, match[~is_taker_leg], shares[~is_taker_leg])
    shares = np.where(is_taker_leg, np.maximum(totals[match], 1_000_000), shares)
    # Makers of a complementary match are on the other side of the same token.
    is_buy = np.where(is_taker_leg, buys[match], ~buys[match])
    token_id = pa.array(TOKEN_IDS).take(pa.array(token[match]))
    return token_id, is_buy, shares * cents[match] // 100, shares


def _parties(
    rng: np.random.Generator, match: np.ndarray, is_taker_leg: np.ndarray, exchange: str
) -> tuple[pa.Array, pa.Array]:
    """Maker and taker of each leg: of a taker leg the taker is the exchange itself."""
    wallets = _hex(rng, WALLETS, 20)
    owner = rng.integers(0, WALLETS, len(match))
    taker_owner = rng.integers(0, WALLETS, match[-1] + 1)[match]
    maker = wallets.take(pa.array(np.where(is_taker_leg, taker_owner, owner)))
    taker = pc.if_else(pa.array(is_taker_leg), exchange, wallets.take(pa.array(taker_owner)))
    return maker, taker


def _landing_rows(columns: dict, count: int) -> pa.Table:
    arrays = []
    for column in ORDER_FILLED.schema:
        values = columns.get(column.name, "" if pa.types.is_string(column.type) else 0)
        if not isinstance(values, pa.Array):
            values = pa.repeat(pa.scalar(values, column.type), count)
        arrays.append(values.cast(column.type))
    return pa.table(arrays, schema=ORDER_FILLED.schema)


def _hex(rng: np.random.Generator, count: int, size: int) -> pa.Array:
    """Random hashes or addresses: 0x and lower-case hex digits of `size` bytes."""
    text = np.empty((count, 2 + 2 * size), np.uint8)
    text[:, 0], text[:, 1] = ord("0"), ord("x")
    text[:, 2:] = _HEX[rng.integers(0, 256, (count, size), np.uint8)].view(np.uint8)
    offsets = np.arange(count + 1, dtype=np.int64) * text.shape[1]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text.tobytes())]
    return pa.Array.from_buffers(pa.large_string(), count, buffers)
