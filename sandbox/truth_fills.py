"""The truth of fills and trades: one row per leg, one per executed taker order.

Pure functions of matches and their legs. `from_archive` says that a leg is read from the archive of
V1, which knows no block, log index or exchange. Amounts are integers in 1e-6 units.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.amounts import exact_price, fee_asset_of, fee_in_usd, is_dust
from sandbox.contracts import BUY, EXCHANGES, Fill
from sandbox.matches import COMPLEMENTARY, DIRECT, MERGE, MINT, MIXED, Match
from sandbox.positions import describe

_EXCHANGE_ADDRESSES = frozenset(EXCHANGES.values())


def match_type_of(match: Match) -> str:
    """How a taker order was matched, from its legs alone."""
    if match.kind == DIRECT:
        return DIRECT
    taker = match.taker_leg
    same_token = [leg.token_id == taker.token_id for leg in match.maker_legs]
    same_side = [leg.side == taker.side for leg in match.maker_legs]
    if all(same_token) and not any(same_side):
        return COMPLEMENTARY
    if not any(same_token) and all(same_side):
        return MINT if taker.side == BUY else MERGE
    return MIXED


def key_of(leg: Fill, from_archive: bool) -> str:
    """Key of a fill, and of the trade it makes: its log, or its order where that is unknown."""
    return f"{leg.tx_hash}_{leg.order_hash if from_archive else leg.log_index}"


def market_of(leg: Fill, token: Mapping) -> dict:
    """The columns that say what a token stands for; `token` is its row of `outcome_tokens`, empty if unknown."""
    said = describe(leg.version, leg.token_id)
    return {
        "market_id": token.get("market_id", ""),
        "condition_id": token.get("condition_id", said["condition_id"]),
        "outcome": token.get("outcome", ""),
        "outcome_index": token.get("outcome_index", said["outcome_index"]),
    }


def order_fill(leg: Fill, token: Mapping, is_direct: bool, from_archive: bool) -> dict:
    """The row of `order_fills` of a leg; `is_direct`: its transaction has no taker order."""
    is_taker = leg.taker in _EXCHANGE_ADDRESSES
    fee_asset = fee_asset_of(leg.version, leg.side)
    return {
        "fill_id": key_of(leg, from_archive),
        "contract_version": leg.version,
        # The archive names the exchange only where it is the counterparty.
        "exchange": leg.exchange if not from_archive or is_taker else "",
        "block_number": 0 if from_archive else leg.block_number,
        "log_index": 0 if from_archive else leg.log_index,
        "tx_hash": leg.tx_hash,
        "filled_at": leg.timestamp,
        "order_hash": leg.order_hash,
        "maker": leg.maker,
        "taker": leg.taker,
        "leg": "taker" if is_taker else "direct" if is_direct else "maker",
        "side": leg.side,
        "token_id": leg.token_id,
        "shares": leg.shares,
        "usd": leg.usd,
        "price": exact_price(leg.usd, leg.shares),
        "fee": leg.fee,
        "fee_asset": fee_asset,
        "fee_usd": fee_in_usd(leg.fee, fee_asset, leg.usd, leg.shares),
        "is_dust": is_dust(leg.usd, leg.shares),
    } | market_of(leg, token)


def trade(match: Match, token: Mapping, from_archive: bool) -> dict:
    """The row of `trades` of a match; `token` is that of `outcome_tokens`, empty if unknown."""
    leg, makers = match.taker_leg, match.maker_legs
    return {
        "trade_id": key_of(leg, from_archive),
        "contract_version": leg.version,
        "filled_at": leg.timestamp,
        "tx_hash": leg.tx_hash,
        "order_hash": leg.order_hash,
        "wallet": leg.maker,
        "side": leg.side,
        "token_id": leg.token_id,
        "module": describe(leg.version, leg.token_id)["module"],
        "match_type": match_type_of(match),
        "maker_legs": len(makers),
        "shares": leg.shares,
        "usd": leg.usd,
        "price": exact_price(leg.usd, leg.shares),
        "maker_shares": sum(maker.shares for maker in makers),
        "maker_usd": sum(maker.usd for maker in makers),
        "fee": leg.fee,
        "fee_asset": fee_asset_of(leg.version, leg.side),
        "fee_usd": _fee_usd(leg),
        "maker_fee_usd": 0 if match.kind == DIRECT else sum(map(_fee_usd, makers)),
        "is_dust": is_dust(leg.usd, leg.shares),
    } | market_of(leg, token)


def _fee_usd(leg: Fill) -> int:
    return fee_in_usd(leg.fee, fee_asset_of(leg.version, leg.side), leg.usd, leg.shares)


def trade_leg(fill: dict, trade_id: str) -> dict:
    """The row of `trade_legs` of a row of `order_fills`."""
    renamed = {"maker": "wallet", "taker": "counterparty"}
    left_out = ("contract_version", "exchange")
    row = {renamed.get(name, name): v for name, v in fill.items() if name not in left_out}
    return {"trade_id": trade_id} | row
