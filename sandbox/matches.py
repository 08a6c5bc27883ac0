"""Matches and the OrderFilled legs the exchange contracts emit for them.

A match is one taker order executed against one or more resting maker orders, or one order filled
directly by an operator. It is made first; its legs follow by the arithmetic of `_matchOrders` (V1) and
its successors (V2, V3): one leg per maker order with the taker order's owner as counterparty, then one
leg for the taker order with the exchange itself as counterparty. Amounts are integers in 1e-6 units
and are never floats. The module is longer than 300 lines because a match and the amounts and fees of
its legs follow from one arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from sandbox.catalog import Market, hex_id
from sandbox.clock import HORIZON, block_time
from sandbox.contracts import BUY, EXCHANGES, NO_BUILDER, SELL, V1, V2, V3, Fill, OrdersMatched

COMPLEMENTARY, MINT, MERGE, MIXED, DIRECT = "complementary", "mint", "merge", "mixed", "direct"
_KINDS = (COMPLEMENTARY, MINT, MERGE, MIXED, DIRECT)
_KIND_WEIGHTS = (60, 80, 92, 98, 100)  # cumulative, per cent
_MAKER_COUNTS = (1, 2, 3, 4, 6, 9)
_MAKER_COUNT_WEIGHTS = (45, 70, 84, 93, 98, 100)  # cumulative, per cent; 2.2 on average
_DUST_SHARE = 0.004
TRIAL_SECONDS = 6 * 3600  # before the cutover, in which V2 is on trial
_BUILDERS = (NO_BUILDER, NO_BUILDER, NO_BUILDER, "0x" + "ab" * 32)


@dataclass(slots=True, frozen=True)
class Match:
    """One executed taker order, or one direct fill.

    `legs` are in log order; the last one is the taker order's own, except for a direct fill, which
    has a single leg. `matched_log_index` is where OrdersMatched stands (-1 for a direct fill).
    """

    kind: str
    market_id: int
    legs: tuple[Fill, ...]
    matched_log_index: int

    @property
    def taker_leg(self) -> Fill:
        """The leg that counts as the trade."""
        return self.legs[-1]

    @property
    def maker_legs(self) -> tuple[Fill, ...]:
        """Legs of the maker orders; for a direct fill the one leg there is."""
        return self.legs if self.kind == DIRECT else self.legs[:-1]

    def logs(self) -> list[Fill | OrdersMatched]:
        """Everything the exchange logs for it, in order."""
        if self.kind == DIRECT:
            return list(self.legs)
        return [*self.legs, OrdersMatched(self.taker_leg, self.matched_log_index)]


@dataclass(slots=True)
class Slot:
    """Where in the chain the next match goes: block, transaction and the last log index used."""

    block_number: int
    tx_index: int = 0
    log_index: int = 0
    tx_hash: str = ""
    used_orders: set[str] = field(default_factory=set)  # not to be filled again in the transaction

    def next_transaction(self, rng: Random) -> None:
        """Move to a new transaction, some transactions and logs of other contracts later."""
        self.tx_index += rng.randint(1, 5)
        self.log_index += rng.randint(1, 20)
        self.tx_hash = hex_id(rng)
        self.used_orders = set()


class Exchange:
    """Makes matches: picks sides, wallets and sizes, moves the price and writes the legs."""

    def __init__(self, rng: Random, wallets: int, *, v2_trial: bool = False) -> None:
        self._v2_trial = v2_trial
        self._wallets = [hex_id(rng, 160) for _ in range(wallets)]
        self._operators = [hex_id(rng, 160) for _ in range(50)]

    def match(
        self,
        rng: Random,
        market: Market,
        slot: Slot,
        *,
        shared: bool = False,
        other_taker: str = "",
    ) -> Match:
        """Execute one taker order in `market` at `slot`; moves the slot, the price and the volume.

        `shared`: the transaction holds a second match, so no direct fill, and the taker is not
        `other_taker`.
        """
        version = self._version(market, slot)
        writer = _LegWriter(rng, market, slot, version)
        taker = self._wallet(rng)
        while taker == other_taker:
            taker = self._wallet(rng)
        market.price = min(max(market.price + rng.randint(-2, 2), 1), market.ticks - 1)
        outcome, side = rng.randrange(2), rng.choice((BUY, SELL))
        if rng.random() < _DUST_SHARE:
            legs, kind = self._dust(rng, writer, outcome, taker), COMPLEMENTARY
        else:
            kind = rng.choices(_KINDS, cum_weights=_KIND_WEIGHTS)[0]
            if shared and kind == DIRECT:
                kind = COMPLEMENTARY
            if kind == MINT:
                side = BUY
            elif kind == MERGE:
                side = SELL
            if kind == DIRECT:
                legs = self._direct(rng, writer, outcome, side)
            else:
                legs = self._matched(rng, writer, kind, outcome, side, taker)
        if kind != DIRECT:
            slot.log_index += 1
        market.volume += legs[-1].usd
        market.last_trade_at = legs[-1].timestamp
        return Match(kind, market.id, tuple(legs), -1 if kind == DIRECT else slot.log_index)

    def _version(self, market: Market, slot: Slot) -> str:
        """Generation that executes a match: V3 for markets that are there, V1 up to the cutover.

        With a trial, V2 executes one transaction in eight of the hours before the cutover.
        """
        at = block_time(slot.block_number)
        if market.is_on_v3(at):
            return V3
        if at > HORIZON.timestamp:
            return V2
        is_trial = self._v2_trial and at > HORIZON.timestamp - TRIAL_SECONDS
        return V2 if is_trial and int(slot.tx_hash[-2:], 16) % 8 == 0 else V1

    def _wallet(self, rng: Random) -> str:
        return self._wallets[int(len(self._wallets) * rng.random() ** 2)]

    def _matched(
        self, rng: Random, writer: _LegWriter, kind: str, outcome: int, side: str, taker: str
    ) -> list[Fill]:
        """Maker legs from the best price to the worst, then the taker's."""
        count = rng.choices(_MAKER_COUNTS, cum_weights=_MAKER_COUNT_WEIGHTS)[0]
        if kind == MIXED:
            count = max(count, 2)
        ticks = writer.market.ticks
        price = writer.market.price if outcome == 0 else ticks - writer.market.price
        legs, shares, usd = [], 0, 0
        for position in range(count):
            crosses = kind in (MINT, MERGE) or (kind == MIXED and position % 2 == 1)
            size = _size(rng)
            # What the maker asks or bids: for a crossing order, the complement in the other
            # outcome.
            maker_outcome = 1 - outcome if crosses else outcome
            maker_side = side if crosses else (SELL if side == BUY else BUY)
            maker_price = ticks - price if crosses else price
            maker_usd = size * maker_price // ticks
            order_hash, owner = self._resting_order(rng, writer, maker_outcome, maker_side)
            legs.append(
                writer.leg(order_hash, owner, taker, maker_outcome, maker_side, size, maker_usd)
            )
            shares += size
            usd += size - maker_usd if crosses else maker_usd
            if rng.random() < 0.4:  # the next order stands one tick further away
                price = min(max(price + (1 if side == BUY else -1), 1), ticks - 1)
        if side == BUY and rng.random() < 0.15:
            # The event shows what the order offered; what the better price saved is refunded, and
            # subtracted on V3 only.
            saved = rng.randint(0, shares // ticks)
            usd += saved if writer.version != V3 else 0
        legs.append(writer.taker_leg(hex_id(rng), taker, outcome, side, shares, usd))
        return legs

    def _resting_order(
        self, rng: Random, writer: _LegWriter, outcome: int, side: str
    ) -> tuple[str, str]:
        """Hash and owner of a maker order: one that was filled before, or a new one."""
        key = (writer.version, outcome, side)
        known = writer.market.resting.get(key)
        if known and known[0] not in writer.slot.used_orders and rng.random() < 0.25:
            order = known
        else:
            order = writer.market.resting[key] = (hex_id(rng), self._wallet(rng))
        writer.slot.used_orders.add(order[0])
        return order

    def _direct(self, rng: Random, writer: _LegWriter, outcome: int, side: str) -> list[Fill]:
        """An order filled by the operator itself: one leg, no taker order."""
        ticks, size = writer.market.ticks, _size(rng)
        price = writer.market.price if outcome == 0 else ticks - writer.market.price
        operator = rng.choice(self._operators)
        owner = self._wallet(rng)
        return [
            writer.leg(hex_id(rng), owner, operator, outcome, side, size, size * price // ticks)
        ]

    def _dust(self, rng: Random, writer: _LegWriter, outcome: int, taker: str) -> list[Fill]:
        """A few millionths: rounding leaves zero shares, or a price above one."""
        shares, usd = rng.choice(((0, 1), (0, 3), (1, 2), (3, 4)))
        order_hash, owner = self._resting_order(rng, writer, outcome, SELL)
        return [
            writer.leg(order_hash, owner, taker, outcome, SELL, shares, usd),
            writer.taker_leg(hex_id(rng), taker, outcome, BUY, shares, usd),
        ]


class _LegWriter:
    """Writes the legs of one match into a slot."""

    def __init__(self, rng: Random, market: Market, slot: Slot, version: str) -> None:
        self.rng, self.market, self.slot, self.version = rng, market, slot, version
        self.exchange = EXCHANGES[version, market.neg_risk]
        self.builder = rng.choice(_BUILDERS) if version != V1 else NO_BUILDER
        self.token_ids = market.position_ids if version == V3 else market.token_ids

    def leg(
        self,
        order_hash: str,
        maker: str,
        taker: str,
        outcome: int,
        side: str,
        shares: int,
        usd: int,
    ) -> Fill:
        """A leg of a maker order, or of a direct fill. V2 and V3 take no fee from it."""
        fee = fee_v1(side, shares, usd, self.market.fee_bps_v1) if self.version == V1 else 0
        return self._fill(order_hash, maker, taker, outcome, side, shares, usd, fee)

    def taker_leg(
        self, order_hash: str, maker: str, outcome: int, side: str, shares: int, usd: int
    ) -> Fill:
        """The leg of the taker order, whose counterparty is the exchange."""
        if self.version == V1:
            fee = fee_v1(side, shares, usd, self.market.fee_bps_v1)
        else:
            fee = fee_v2(shares, usd, self.market.fee_bps_v2)
        return self._fill(order_hash, maker, self.exchange, outcome, side, shares, usd, fee)

    def _fill(
        self,
        order_hash: str,
        maker: str,
        taker: str,
        outcome: int,
        side: str,
        shares: int,
        usd: int,
        fee: int,
    ) -> Fill:
        slot = self.slot
        slot.log_index += self.rng.randint(1, 4)  # token transfers stand between the legs
        return Fill(
            timestamp=block_time(slot.block_number),
            tx_hash=slot.tx_hash,
            order_hash=order_hash,
            token_id=self.token_ids[outcome],
            side=side,
            shares=shares,
            usd=usd,
            fee=fee,
            maker=maker,
            taker=taker,
            exchange=self.exchange,
            version=self.version,
            block_number=slot.block_number,
            log_index=slot.log_index,
            tx_index=slot.tx_index,
            builder=self.builder,
        )


def _size(rng: Random) -> int:
    """Shares of one maker order, 1e-6 units: heavy-tailed, mostly in hundredths of a share."""
    size = int(min(rng.paretovariate(1.1), 5_000) * 5_000_000)
    return size // 10_000 * 10_000 if rng.random() < 0.85 else size


def fee_v1(side: str, shares: int, usd: int, rate_bps: int) -> int:
    """V1 fee, 1e-6 units of the asset received: CalculatorHelper.calculateFee of the contract.

    rate x min(price, 1 - price) x shares in collateral for a SELL, the same divided by the price in
    shares for a BUY.
    """
    if not rate_bps or not shares or usd > shares:
        return 0
    one = 10**18
    price = usd * one // shares
    if price == 0:
        return 0
    smaller = min(price, one - price)
    if side == BUY:
        return rate_bps * smaller * shares // (price * 10_000)
    return rate_bps * smaller * shares // (10_000 * one)


def fee_v2(shares: int, usd: int, rate_bps: int) -> int:
    """V2 and V3 fee of a taker, 1e-6 units of collateral: shares x rate x p x (1 - p), to 5 decimals."""
    if not rate_bps or not shares or usd > shares:
        return 0
    numerator, denominator = rate_bps * usd * (shares - usd), 10_000 * shares
    return (numerator + 5 * denominator) // (10 * denominator) * 10
