"""What a correct pipeline must arrive at, computed from the matches in plain Python.

It never uses the project's SQL and never floats: amounts are integers in 1e-6 units, prices
Decimals cut to 18 digits, times unix seconds. Columns have the promised names; ids the project
makes up (`fill_id`, `trade_id`) are left out.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from functools import cached_property

from sandbox.catalog import Market
from sandbox.clock import iso_date
from sandbox.contracts import BUY, EXCHANGES, V1, Fill
from sandbox.matches import COMPLEMENTARY, DIRECT, MERGE, MINT, MIXED, Match
from sandbox.world import World

BUCKETS = {"1m": 60, "1h": 3600, "1d": 86_400}  # seconds
_EXCHANGE_ADDRESSES = frozenset(EXCHANGES.values())


def exact_price(usd: int, shares: int) -> Decimal:
    """`usd` per share, cut to 18 digits; 0 without shares."""
    return Decimal(f"{usd * 10**18 // shares}e-18") if shares else Decimal(0)


def is_dust(usd: int, shares: int) -> bool:
    """Whether a trade has no usable price: zero shares, or a price above one."""
    return shares == 0 or usd > shares


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


class Truth:
    """The promised tables for a world as it stands; each is a list of dicts, made when first asked
    for.

    `v1_from_chain` False: V1 fills come from the archive, which knows no block, log index or
    exchange, so these are 0, 0 and empty, and trades within a second are ordered by id. True: they
    come from the chain.
    """

    def __init__(self, world: World, *, v1_from_chain: bool = False) -> None:
        self._world = world
        self._v1_from_chain = v1_from_chain
        self._matches = list(world.matches)

    @cached_property
    def order_fills(self) -> list[dict]:
        """One row per leg."""
        return [self._fill_row(leg) for match in self._matches for leg in match.legs]

    @cached_property
    def trades(self) -> list[dict]:
        """One row per taker order executed, and per direct fill."""
        owners = {row["token_id"]: row for row in self.outcome_tokens}
        return [self._trade_row(match, owners) for match in self._matches]

    @cached_property
    def volume_daily(self) -> list[dict]:
        """Volume per UTC day and token, without dust."""
        keys = ("token_id", "volume_usd", "volume_shares", "trades")
        return [
            {"day": iso_date(candle["bucket_at"])} | {key: candle[key] for key in keys}
            for candle in self.candles("1d")
        ]

    @cached_property
    def market_latest_price(self) -> list[dict]:
        """Price of the last trade of each token that is not dust."""
        latest = {leg.token_id: leg for leg in self._priced_legs}
        return [
            {
                "token_id": token_id,
                "price": exact_price(leg.usd, leg.shares),
                "priced_at": leg.timestamp,
            }
            for token_id, leg in latest.items()
        ]

    @cached_property
    def outcome_tokens(self) -> list[dict]:
        """Tokens of every market in `markets`."""
        return [
            {
                "token_id": token_id,
                "market_id": str(market.id),
                "condition_id": market.condition_id,
                "outcome_index": index,
                "outcome": market.outcomes[index],
            }
            for market in self._known_markets
            if not market.lacks_token_ids
            for index, token_id in enumerate(market.token_ids)
        ]

    @cached_property
    def markets(self) -> list[dict]:
        """Gamma's payload of every market a client can know.

        These are the listed ones, and those it can look up because one of their tokens was traded.
        """
        gamma = self._world.gamma
        traded = {str(match.market_id) for match in self._matches}
        return [
            gamma.full_market(row, with_tags=False)
            for row in gamma.listing("markets")
            if row["id"] not in gamma.unlisted or row["id"] in traded
        ]

    @cached_property
    def events(self) -> list[dict]:
        """Gamma's payload of every event it lists now."""
        gamma = self._world.gamma
        return [gamma.full_event(row) for row in gamma.listing("events")]

    @cached_property
    def markets_events(self) -> list[dict]:
        """Pairs of listed markets and events."""
        return [
            {"market_id": market_id, "event_id": event_id}
            for event_id, market_ids in self._world.gamma.event_markets.items()
            for market_id in market_ids
        ]

    def candles(self, interval: str) -> list[dict]:
        """Candles of every token, by token and time; `interval` is 1m, 1h or 1d."""
        seconds = BUCKETS[interval]
        buckets: dict[tuple[str, int], list[Fill]] = defaultdict(list)
        for leg in self._priced_legs:
            buckets[leg.token_id, leg.timestamp - leg.timestamp % seconds].append(leg)
        return [
            _candle(token_id, bucket_at, legs)
            for (token_id, bucket_at), legs in sorted(buckets.items())
        ]

    def totals(self) -> dict:
        """Figures to compare a whole load with; amounts are integers in 1e-6 units."""
        traded = self._priced_legs
        by_day: dict[str, int] = defaultdict(int)
        for leg in traded:
            by_day[iso_date(leg.timestamp)] += leg.usd
        return {
            "head": self._world.chain.head,
            "now": self._world.now,
            "order_fills": sum(len(match.legs) for match in self._matches),
            "trades": len(self._matches),
            "dust_trades": len(self._matches) - len(traded),
            "volume_usd": sum(leg.usd for leg in traded),
            "volume_shares": sum(leg.shares for leg in traded),
            "volume_usd_by_day": dict(sorted(by_day.items())),
            "markets": len(self.markets),
            "events": len(self.events),
            "markets_events": len(self.markets_events),
        }

    @property
    def _known_markets(self) -> list[Market]:
        catalog = self._world.catalog.markets
        return [catalog[int(row["id"])] for row in self.markets]

    @cached_property
    def _priced_legs(self) -> list[Fill]:
        """Taker legs and direct fills that are not dust, in order of execution."""
        legs = [match.taker_leg for match in self._matches]
        return sorted(
            (leg for leg in legs if not is_dust(leg.usd, leg.shares)), key=self._execution_order
        )

    def _execution_order(self, leg: Fill) -> tuple:
        if leg.version == V1 and not self._v1_from_chain:
            return (leg.timestamp, 0, 0, leg.archive_id)
        return (leg.timestamp, leg.block_number, leg.log_index, "")

    def _fill_row(self, leg: Fill) -> dict:
        from_archive = leg.version == V1 and not self._v1_from_chain
        if leg.taker in _EXCHANGE_ADDRESSES:
            role = "taker"
        else:
            role = "direct" if leg.tx_hash in self._direct_transactions else "maker"
        return {
            "contract_version": leg.version,
            # The archive names the exchange only where it is the counterparty.
            "exchange": leg.exchange if not from_archive or role == "taker" else "",
            "block_number": 0 if from_archive else leg.block_number,
            "log_index": 0 if from_archive else leg.log_index,
            "tx_hash": leg.tx_hash,
            "filled_at": leg.timestamp,
            "order_hash": leg.order_hash,
            "maker": leg.maker,
            "taker": leg.taker,
            "leg": role,
            "side": leg.side,
            "token_id": leg.token_id,
            "shares": leg.shares,
            "usd": leg.usd,
            "price": exact_price(leg.usd, leg.shares),
            "fee": leg.fee,
            "fee_asset": "shares" if leg.version == V1 and leg.side == BUY else "usd",
        }

    @cached_property
    def _direct_transactions(self) -> frozenset[str]:
        return frozenset(m.taker_leg.tx_hash for m in self._matches if m.kind == DIRECT)

    def _trade_row(self, match: Match, owners: dict[str, dict]) -> dict:
        leg = match.taker_leg
        owner = owners.get(leg.token_id, {})
        return {
            "contract_version": leg.version,
            "filled_at": leg.timestamp,
            "tx_hash": leg.tx_hash,
            "order_hash": leg.order_hash,
            "wallet": leg.maker,
            "side": leg.side,
            "token_id": leg.token_id,
            "match_type": match_type_of(match),
            "maker_legs": len(match.maker_legs),
            "shares": leg.shares,
            "usd": leg.usd,
            "price": exact_price(leg.usd, leg.shares),
            "fee": leg.fee,
            "is_dust": is_dust(leg.usd, leg.shares),
            "market_id": owner.get("market_id", ""),
            "condition_id": owner.get("condition_id", ""),
            "outcome": owner.get("outcome", ""),
            "outcome_index": owner.get("outcome_index"),
        }


def _candle(token_id: str, bucket_at: int, legs: list[Fill]) -> dict:
    """A candle of legs in order of execution."""
    prices = [exact_price(leg.usd, leg.shares) for leg in legs]
    usd, shares = sum(leg.usd for leg in legs), sum(leg.shares for leg in legs)
    return {
        "token_id": token_id,
        "bucket_at": bucket_at,
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "vwap": exact_price(usd, shares),
        "volume_usd": usd,
        "volume_shares": shares,
        "trades": len(legs),
    }
