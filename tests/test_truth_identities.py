"""The sandbox's truth over a whole world: its tables add up to each other, and nothing is lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest

from sandbox.catalog import Market
from sandbox.contracts import BUY
from sandbox.matches import COMPLEMENTARY, DIRECT, MERGE, MINT, MIXED
from sandbox.truth import Truth
from sandbox.world import World

HOUR, DAY = 3600, 86_400
LAST_DIGIT = Decimal("1e-18")  # prices are cut, so that a complement is rounded up


def picked(row: dict, *columns: str) -> tuple:
    return tuple(row[column] for column in columns)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(
        3, now=datetime(2026, 7, 1, tzinfo=UTC), markets=80, matches=5_000, v1_days=1, v2_days=2
    )


@pytest.fixture(scope="module")
def truth(world: World) -> Truth:
    return Truth(world)


def payouts_meant(market: Market) -> list[float]:
    """The early pools stay a little off 1 and 0."""
    return [round(float(price), 4) for price in market.resolution]


def test_resolution_is_what_the_catalog_meant(world: World, truth: Truth):
    kinds = Counter()
    for row in truth.market_rows:
        meant = world.catalog.markets[int(row["market_id"])]
        if meant.closed_at is None:
            expected = "unresolved"
        elif payouts_meant(meant) in ([1, 0], [0, 1]) and meant.uma_status in ("resolved", ""):
            expected = "winner"
            assert row["winning_outcome"] == meant.outcomes[payouts_meant(meant).index(1)]
        elif meant.resolution == ("0.5", "0.5") and meant.uma_status == "resolved":
            expected = "split"
        else:
            expected = "unresolved"
        assert row["resolution"] == expected
        kinds[expected] += 1
    assert len(kinds) == 3


def test_legs_are_the_fills_and_add_up_to_their_trades(truth: Truth):
    legs = defaultdict(list)
    for row in truth.trade_legs():
        legs[row["trade_id"]].append(row)
    fills = [row["fill_id"] for row in truth.order_fills]
    assert [row["fill_id"] for of_one in legs.values() for row in of_one] == fills
    assert len(set(fills)) == len(fills)
    assert len(legs) == len(truth.trades)
    for trade in truth.trades:
        *makers, own = legs[trade["trade_id"]]
        is_direct = trade["match_type"] == DIRECT
        counted = [own] if is_direct else makers
        assert picked(own, "shares", "usd", "fee_usd") == picked(trade, "shares", "usd", "fee_usd")
        assert len(counted) == trade["maker_legs"]
        assert sum(row["shares"] for row in counted) == trade["maker_shares"] == trade["shares"]
        assert sum(row["usd"] for row in counted) == trade["maker_usd"]
        assert sum(row["fee_usd"] for row in makers) == trade["maker_fee_usd"]


def test_a_fee_in_dollars_is_its_share_of_what_was_paid(truth: Truth):
    in_shares = [row for row in truth.order_fills if row["fee_asset"] == "shares" and row["fee"]]
    assert in_shares
    for row in in_shares:
        exact = Decimal(row["fee"]) * row["usd"] / row["shares"]
        assert 0 <= exact - row["fee_usd"] < 1
    assert all(r["fee_usd"] == r["fee"] for r in truth.order_fills if r["fee_asset"] == "usd")


def test_nothing_comes_from_nothing(truth: Truth):
    """Per match over all wallets: a pair of shares is made for a dollar and burnt for one.

    Beyond that only fees leave, and what a buyer offered too much, at most a tick.
    """
    trade_of = {row["fill_id"]: row["trade_id"] for row in truth.trade_legs()}
    shares: dict[str, Counter] = defaultdict(Counter)
    dollars_paid: Counter = Counter()
    for row in truth.wallet_fills():
        fee_shares, fee = (row["fee"], 0) if row["fee_asset"] == "shares" else (0, row["fee"])
        shares[trade_of[row["fill_id"]]][row["token_id"]] += row["shares_change"] + fee_shares
        dollars_paid[trade_of[row["fill_id"]]] -= row["usd_change"] + fee
    sign = {MINT: 1, MERGE: -1, COMPLEMENTARY: 0, DIRECT: 0}
    refunds = 0
    for trade in truth.trades:
        (made,) = set(shares[trade["trade_id"]].values())  # as many of either token
        if trade["match_type"] != MIXED:
            assert made == sign[trade["match_type"]] * trade["shares"]
        refund = dollars_paid[trade["trade_id"]] - made
        assert 0 <= refund <= (trade["shares"] // 100 if trade["side"] == BUY else 0)
        refunds += refund > 0
    assert refunds > 100


def test_wallets_and_days_add_up_to_the_fills(truth: Truth):
    rows = list(truth.wallet_fills())
    assert Counter(row["role"] for row in rows)["operator"] == sum(
        trade["match_type"] == DIRECT for trade in truth.trades
    )
    daily = truth.wallet_daily
    assert len({picked(row, "day", "wallet") for row in daily}) == len(daily)
    assert sum(row["fills"] for row in daily) == len(rows)
    assert sum(row["trades"] for row in daily) == len(truth.trades)
    assert sum(row["cash_flow_usd"] for row in daily) == sum(row["usd_change"] for row in rows)
    assert sum(row["fees_usd"] for row in daily) == sum(r["fee_usd"] for r in truth.order_fills)
    assert all(row["volume_usd"] == row["buys_usd"] + row["sells_usd"] for row in daily)


def test_volumes_of_markets_are_those_of_their_tokens(truth: Truth):
    known = {row["token_id"] for row in truth.outcome_tokens}
    tokens = [row for row in truth.volume_daily if row["token_id"] in known]
    for name in ("volume_usd", "volume_shares", "trades"):
        total = sum(row[name] for row in tokens)
        assert sum(row[name] for row in truth.market_volume_daily) == total
        assert sum(row[name] for row in truth.market_ohlcv_1h) == total
    for candle in truth.market_ohlcv_1h:
        assert 0 <= candle["low"] <= candle["vwap"] + LAST_DIGIT
        assert candle["vwap"] - LAST_DIGIT <= candle["high"] <= 1
        assert candle["low"] <= candle["open"] <= candle["high"]


def test_an_event_has_the_volume_of_its_days(truth: Truth):
    days = Counter()
    for row in truth.event_volume_daily:
        days[row["event_id"]] += row["volume_usd"]
    volumes = {row["event_id"]: row["volume_usd"] for row in truth.event_volume}
    assert {event_id: usd for event_id, usd in volumes.items() if usd} == dict(days)
    assert any(row["volume_usd"] == 0 for row in truth.event_volume)
    assert all(row["volume_usd_24h"] <= row["volume_usd"] for row in truth.event_volume)


@pytest.mark.parametrize(("interval", "step"), [("1h", HOUR), ("1d", DAY)])
def test_filled_candles_have_all_the_real_ones_and_no_gaps_until_the_close(
    truth: Truth, interval: str, step: int
):
    by_token = defaultdict(list)
    for row in truth.filled_candles(interval):
        by_token[row["token_id"]].append(row)
    gaps = 0
    for rows in by_token.values():
        assert not rows[0]["is_filled"]
        for before, row in pairwise(rows):
            if row["is_filled"]:
                assert row["bucket_at"] - before["bucket_at"] == step
                assert row["open"] == row["close"] == before["close"]
            elif row["bucket_at"] - before["bucket_at"] > step:
                gaps += 1
    assert gaps or interval == "1d", "some trades stand alone behind the close"
    real = [
        {column: value for column, value in row.items() if column != "is_filled"}
        for rows in by_token.values()
        for row in rows
        if not row["is_filled"]
    ]
    assert real == truth.candles(interval)


def test_a_sample_of_filled_candles_keeps_to_its_size(truth: Truth):
    sample = truth.filled_sample("1m", 20_000)
    rows = list(truth.filled_candles("1m", sample))
    assert 0 < len(rows) <= 20_000
    assert {row["token_id"] for row in rows} <= sample
    traded = {row["token_id"] for row in truth.market_latest_price}
    assert truth.filled_sample("1d", 10**9) == traded
