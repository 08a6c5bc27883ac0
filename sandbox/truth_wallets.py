"""The truth of wallets: what every fill did to each wallet whose order or inventory was in it.

Pure functions over rows of `order_fills`; amounts are integers in 1e-6 units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sandbox.amounts import is_dust
from sandbox.clock import iso_date
from sandbox.contracts import BUY, SELL

_DAY = 86_400  # seconds
_OTHER_SIDE = {BUY: SELL, SELL: BUY}
_FROM_FILL = (
    "fill_id",
    "filled_at",
    "tx_hash",
    "block_number",
    "log_index",
    "order_hash",
    "contract_version",
    "exchange",
    "side",
    "token_id",
    "shares",
    "usd",
    "price",
    "fee",
    "fee_asset",
    "fee_usd",
    "market_id",
    "condition_id",
    "outcome",
    "outcome_index",
)


def wallet_fills(order_fills: Iterable[dict]) -> Iterator[dict]:
    """One row per fill and wallet: the owner of the order, and the operator of a direct fill.

    A match needs no row for its other side, because that has an order and so a fill of its own. A
    direct fill has one order only; the operator gives or takes the same shares from its inventory.
    """
    for fill in order_fills:
        yield _wallet_fill(fill, fill["maker"], fill["leg"])
        if fill["leg"] == "direct":
            mirrored = {"side": _OTHER_SIDE[fill["side"]], "fee": 0, "fee_usd": 0}
            yield _wallet_fill(fill | mirrored, fill["taker"], "operator")


def _wallet_fill(fill: dict, wallet: str, role: str) -> dict:
    shares_fee = fill["fee"] if fill["fee_asset"] == "shares" else 0
    usd_fee = fill["fee"] if fill["fee_asset"] == "usd" else 0
    sign = 1 if fill["side"] == BUY else -1
    return {column: fill[column] for column in _FROM_FILL} | {
        "wallet": wallet,
        "role": role,
        "shares_change": sign * fill["shares"] - shares_fee,
        "usd_change": -sign * fill["usd"] - usd_fee,
        "is_dust": is_dust(fill["usd"], fill["shares"]),
    }


def wallet_daily(rows: Iterable[dict]) -> list[dict]:
    """Volume and cash flow per UTC day and wallet, of rows of `wallet_fills`.

    Dust is left out of the volumes, but not of what it cost or of the number of fills.
    """
    days: dict[tuple[int, str], dict] = {}
    for row in rows:
        key = (row["filled_at"] // _DAY, row["wallet"])
        if key not in days:
            names = {"day": iso_date(row["filled_at"]), "wallet": row["wallet"]}
            days[key] = names | dict.fromkeys(_SUMS, 0)
        sums = days[key]
        if not row["is_dust"]:
            sums["volume_usd"] += row["usd"]
            sums["buys_usd" if row["side"] == BUY else "sells_usd"] += row["usd"]
        sums["fees_usd"] += row["fee_usd"]
        sums["fills"] += 1
        sums["trades"] += row["role"] in ("taker", "direct")
        sums["cash_flow_usd"] += row["usd_change"]
    return list(days.values())


_SUMS = ("volume_usd", "buys_usd", "sells_usd", "fees_usd", "fills", "trades", "cash_flow_usd")
