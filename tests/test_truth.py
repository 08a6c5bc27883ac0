"""The sandbox's truth, worked out by hand: a match of each kind, candles, volumes, resolution.

Nothing here needs ClickHouse; that the pipeline arrives at this truth is tested where it runs.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from sandbox.contracts import BUY, EXCHANGES, SELL, V1, V2, Fill
from sandbox.matches import COMPLEMENTARY, DIRECT, MERGE, MINT, MIXED, Match
from sandbox.truth import Truth
from sandbox.truth_gamma import neg_risk_groups, resolution_of, token_rows
from sandbox.world import World

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOON = int(NOW.timestamp())
HOUR = 3600
YES, NO, OTHER = "11", "22", "33"
ALICE, BOB, CAROL, OPERATOR = "0xa", "0xb", "0xc", "0xd"
DOLLAR = 1_000_000  # and a share


def dollars(amount: str) -> int:
    """Dollars or shares in 1e-6 units."""
    return int(Decimal(amount) * DOLLAR)


def leg(
    wallet: str, side: str, shares: str, token_id: str, usd: str, fee: str = "0", at: int = NOON
) -> Fill:
    """A fill of `wallet`'s order; `a_match` says who stands on the other side."""
    return Fill(
        timestamp=at,
        tx_hash="",
        order_hash=f"0x{wallet}{side}{token_id}{at}",
        token_id=token_id,
        side=side,
        shares=dollars(shares),
        usd=dollars(usd),
        fee=dollars(fee),
        maker=wallet,
    )


_transactions = iter(range(1, 1_000_000))


def a_match(kind: str, *legs: Fill, version: str = V2) -> Match:
    """A match of these legs, the taker's last, in a transaction of its own."""
    exchange, number = EXCHANGES[version, False], next(_transactions)
    taker = legs[-1].maker
    placed = []
    for index, each in enumerate(legs):
        other = exchange if index == len(legs) - 1 else taker
        placed.append(
            replace(
                each,
                tx_hash=f"0x{number:04}",
                order_hash=f"{each.order_hash}{index}",
                taker=OPERATOR if kind == DIRECT else other,
                exchange=exchange,
                version=version,
                block_number=number,
                log_index=index + 1,
            )
        )
    return Match(kind, 1, tuple(placed), len(legs) + 1)


def market(market_id: str = "1", tokens: str = f'["{YES}", "{NO}"]', **fields: object) -> dict:
    """Gamma's payload of a market with two outcomes that is open, unless told otherwise."""
    return {
        "id": market_id,
        "conditionId": f"0x{market_id}",
        "question": f"Question {market_id}?",
        "outcomes": '["Yes", "No"]',
        "outcomePrices": '["0.4", "0.6"]',
        "clobTokenIds": tokens,
        "createdAt": "2026-05-01T00:00:00Z",
    } | fields


def truth_of(*matches: Match, markets: tuple = (market(),), events: tuple = ()) -> Truth:
    """The truth of a world with just these matches, oldest first; events name their markets."""
    world = World(1, NOW, 0, wallets=1)
    world.matches.extend(matches)
    world.gamma.tags = {slug: {"id": slug, "slug": slug, "label": slug} for slug in ("t", "u")}
    for payload in markets:
        world.gamma.put_market(payload)
    for event_id, market_ids, tags in events:
        payload = {"id": event_id, "slug": f"e{event_id}", "title": f"Event {event_id}"}
        world.gamma.put_event(payload, market_ids=market_ids, tags=tags)
    return Truth(world)


def picked(row: dict, *columns: str) -> tuple:
    return tuple(row[column] for column in columns)


def changes(truth: Truth) -> dict:
    """What each wallet gained, by role: shares and dollars."""
    return {
        picked(row, "wallet", "role", "side", "token_id"): picked(
            row, "shares_change", "usd_change"
        )
        for row in truth.wallet_fills()
    }


# -- one match of each kind ------------------------------------------------------------------------


def test_complementary():
    """Alice buys 100 Yes at 60 cents from Bob and pays 1.68 (7 % of 100 x .6 x .4)."""
    truth = truth_of(
        a_match(
            COMPLEMENTARY,
            leg(BOB, SELL, "100", YES, "60"),
            leg(ALICE, BUY, "100", YES, "60", fee="1.68"),
        )
    )
    (trade,) = truth.trades
    assert picked(trade, "wallet", "side", "token_id", "usd") == (ALICE, BUY, YES, dollars("60"))
    assert picked(trade, "maker_shares", "maker_usd") == (dollars("100"), dollars("60"))
    assert picked(trade, "fee_usd", "maker_fee_usd") == (dollars("1.68"), 0)
    assert changes(truth) == {
        (BOB, "maker", SELL, YES): (dollars("-100"), dollars("60")),
        (ALICE, "taker", BUY, YES): (dollars("100"), dollars("-61.68")),
    }


def test_mint():
    """Both buy: Alice 10 Yes at 40.1 cents, Bob 10 No at 59.9. Their ten dollars become ten sets."""
    truth = truth_of(
        a_match(MINT, leg(BOB, BUY, "10", NO, "5.99"), leg(ALICE, BUY, "10", YES, "4.01"))
    )
    (trade,) = truth.trades
    assert picked(trade, "match_type", "usd", "maker_usd") == (
        MINT,
        dollars("4.01"),
        dollars("5.99"),
    )
    assert changes(truth) == {
        (BOB, "maker", BUY, NO): (dollars("10"), dollars("-5.99")),
        (ALICE, "taker", BUY, YES): (dollars("10"), dollars("-4.01")),
    }
    assert [picked(row, "day", "token_id", "volume_usd") for row in truth.volume_daily] == [
        ("2026-06-01", YES, dollars("4.01"))
    ]


def test_merge_on_v1_charges_both_sellers_in_dollars():
    truth = truth_of(
        a_match(
            MERGE,
            leg(BOB, SELL, "10", YES, "3", fee="0.3"),
            leg(ALICE, SELL, "10", NO, "7", fee="0.25"),
            version=V1,
        )
    )
    (trade,) = truth.trades
    assert picked(trade, "match_type", "fee_asset", "fee_usd", "maker_fee_usd") == (
        MERGE,
        "usd",
        dollars("0.25"),
        dollars("0.3"),
    )
    assert changes(truth) == {
        (BOB, "maker", SELL, YES): (dollars("-10"), dollars("2.7")),
        (ALICE, "taker", SELL, NO): (dollars("-10"), dollars("6.75")),
    }


def test_mixed_match_sums_makers_of_both_tokens():
    """Alice buys 30 Yes: 10 from Bob, who sells Yes, and 20 minted with Carol, who buys No."""
    truth = truth_of(
        a_match(
            MIXED,
            leg(BOB, SELL, "10", YES, "4"),
            leg(CAROL, BUY, "20", NO, "12"),
            leg(ALICE, BUY, "30", YES, "12"),
        )
    )
    (trade,) = truth.trades
    assert picked(trade, "match_type", "maker_legs", "shares", "usd") == (
        MIXED,
        2,
        dollars("30"),
        dollars("12"),
    )
    assert picked(trade, "maker_shares", "maker_usd") == (dollars("30"), dollars("16"))
    legs = list(truth.trade_legs())
    assert {row["trade_id"] for row in legs} == {trade["trade_id"]} == {legs[-1]["fill_id"]}
    assert [picked(row, "leg", "wallet", "counterparty") for row in legs] == [
        ("maker", BOB, ALICE),
        ("maker", CAROL, ALICE),
        ("taker", ALICE, EXCHANGES[V2, False]),
    ]


def test_a_direct_fill_is_a_trade_of_one_order_and_of_the_operator_s_inventory():
    """Bob sells 20 No at 25 cents on V1 and pays a tenth of a dollar; the operator buys them."""
    truth = truth_of(a_match(DIRECT, leg(BOB, SELL, "20", NO, "5", fee="0.1"), version=V1))
    (trade,) = truth.trades
    assert picked(trade, "match_type", "wallet", "maker_legs") == (DIRECT, BOB, 1)
    assert picked(trade, "maker_shares", "maker_usd", "fee_usd", "maker_fee_usd") == (
        dollars("20"),
        dollars("5"),
        dollars("0.1"),
        0,
    )
    assert changes(truth) == {
        (BOB, "direct", SELL, NO): (dollars("-20"), dollars("4.9")),
        (OPERATOR, "operator", BUY, NO): (dollars("20"), dollars("-5")),
    }
    daily = {row["wallet"]: row for row in truth.wallet_daily}
    sums = ("volume_usd", "buys_usd", "sells_usd", "fees_usd", "fills", "trades", "cash_flow_usd")
    five = dollars("5")
    assert picked(daily[BOB], *sums) == (five, 0, five, dollars("0.1"), 1, 1, dollars("4.9"))
    assert picked(daily[OPERATOR], *sums) == (five, five, 0, 0, 1, 0, -five)


def test_a_fee_in_shares_is_worth_what_they_cost():
    """17.7 shares at 42 cents with a fee of 1.77 shares: 74.34 cents, and 15.93 shares arrive."""
    truth = truth_of(
        a_match(
            COMPLEMENTARY,
            leg(BOB, SELL, "17.7", YES, "7.434"),
            leg(ALICE, BUY, "17.7", YES, "7.434", fee="1.77"),
            version=V1,
        )
    )
    (trade,) = truth.trades
    assert picked(trade, "fee_asset", "fee_usd") == ("shares", dollars("0.7434"))
    assert changes(truth)[ALICE, "taker", BUY, YES] == (dollars("15.93"), dollars("-7.434"))


def test_dust_stays_out_of_volumes_but_not_out_of_cash():
    truth = truth_of(
        a_match(
            COMPLEMENTARY,
            leg(BOB, SELL, "0", YES, "0.000003"),
            leg(ALICE, BUY, "0", YES, "0.000003"),
        ),
        a_match(COMPLEMENTARY, leg(BOB, SELL, "2", YES, "1"), leg(ALICE, BUY, "2", YES, "1")),
    )
    alice = next(row for row in truth.wallet_daily if row["wallet"] == ALICE)
    assert picked(alice, "volume_usd", "fills", "cash_flow_usd") == (
        dollars("1"),
        2,
        dollars("-1.000003"),
    )
    assert [row["volume_usd"] for row in truth.market_volume_daily] == [dollars("1")]


# -- candles ---------------------------------------------------------------------------------------


def bought(token_id: str, price: str, at: int, shares: str = "10", wallet: str = ALICE) -> Match:
    """`wallet` buys from Bob at `price`."""
    usd = str(Decimal(price) * Decimal(shares))
    return a_match(
        COMPLEMENTARY,
        leg(BOB, SELL, shares, token_id, usd, at=at),
        leg(wallet, BUY, shares, token_id, usd, at=at),
    )


def test_candles_of_a_market_turn_prints_of_the_complement_around():
    truth = truth_of(
        bought(YES, "0.40", NOON),
        bought(NO, "0.52", NOON + 10, shares="30"),  # Yes at .48
        bought(YES, "0.45", NOON + 20),
        bought(NO, "0.65", NOON + 30, shares="50"),  # Yes at .35
        bought(OTHER, "0.99", NOON + 40),
    )
    (candle,) = truth.market_ohlcv_1h
    assert picked(candle, "open", "high", "low", "close") == tuple(
        map(Decimal, ("0.40", "0.48", "0.35", "0.35"))
    )
    # 4 + 14.4 + 4.5 + 17.5 dollars of Yes over 100 shares
    assert candle["vwap"] == Decimal("0.404")
    # but 4 + 15.6 + 4.5 + 32.5 dollars were paid
    assert picked(candle, "volume_usd", "volume_shares", "trades") == (
        dollars("56.6"),
        dollars("100"),
        4,
    )
    assert picked(candle, "market_id", "condition_id", "bucket_at") == ("1", "0x1", NOON)


def test_a_market_of_three_outcomes_has_no_complement():
    three = market(tokens=f'["{YES}", "{NO}", "{OTHER}"]', outcomes='["A", "B", "C"]')
    truth = truth_of(
        bought(YES, "0.40", NOON), bought(NO, "0.52", NOON), bought(OTHER, "0.2", NOON),
        markets=(three,),
    )  # fmt: skip
    (candle,) = truth.market_ohlcv_1h
    assert picked(candle, "close", "trades") == (Decimal("0.40"), 1)


def filled_of(truth: Truth, token_id: str) -> list[tuple]:
    return [
        ((row["bucket_at"] - NOON) // HOUR, str(row["close"].normalize()), row["is_filled"])
        for row in truth.filled_candles("1h", [token_id])
    ]


def test_gaps_are_filled_with_the_close_before_up_to_the_newest_trade_of_all():
    truth = truth_of(
        bought(YES, "0.4", NOON + 5),
        bought(YES, "0.3", NOON + 6),
        bought(YES, "0.5", NOON + 2 * HOUR),
        bought(OTHER, "0.1", NOON + 3 * HOUR + 7),
    )
    assert filled_of(truth, YES) == [
        (0, "0.3", False),
        (1, "0.3", True),
        (2, "0.5", False),
        (3, "0.5", True),
    ]
    gap = list(truth.filled_candles("1h", [YES]))[1]
    assert picked(gap, "open", "high", "low", "vwap") == (*[Decimal("0.3")] * 3, None)
    assert picked(gap, "volume_usd", "volume_shares", "trades") == (0, 0, 0)


@pytest.mark.parametrize(
    ("closed_time", "expected"),
    [
        ("2026-06-01 13:59:59+00", [(0, "0.4", False), (1, "0.4", True), (2, "0.5", False)]),  # a trade comes later
        ("2026-06-01 11:59:59+00", [(0, "0.4", False), (2, "0.5", False)]),
        (None, [(0, "0.4", False), (1, "0.4", True), (2, "0.5", False)]),
        ("2026-06-09 00:00:00+00", [(0, "0.4", False), (1, "0.4", True), (2, "0.5", False), (3, "0.5", True)]),
    ],
)  # fmt: skip
def test_nothing_is_filled_after_the_close_and_no_trade_is_left_out(
    closed_time: str | None, expected: list
):
    truth = truth_of(
        bought(YES, "0.4", NOON),
        bought(YES, "0.5", NOON + 2 * HOUR),
        bought(OTHER, "0.1", NOON + 3 * HOUR),
        markets=(market(closed=True, closedTime=closed_time),),
    )
    assert filled_of(truth, YES) == expected


# -- volumes ---------------------------------------------------------------------------------------


def test_a_market_counts_in_each_of_its_events_and_once_in_a_tag():
    truth = truth_of(
        bought(YES, "0.5", NOON),
        bought(NO, "0.5", NOON),
        bought(OTHER, "0.5", NOON),
        events=(("1", ["1"], ("t",)), ("2", ["1"], ("t", "u")), ("3", [], ("u",))),
    )
    ten = dollars("10")
    by_event = {row["event_id"]: row["volume_usd"] for row in truth.event_volume_daily}
    assert by_event == {"1": ten, "2": ten}
    assert {row["tag_slug"]: row["volume_usd"] for row in truth.tag_volume_daily} == {
        "t": ten,
        "u": ten,
    }
    columns = ("event_id", "markets", "volume_usd", "trades", "last_traded_at")
    assert [picked(row, *columns) for row in truth.event_volume] == [
        ("1", 1, ten, 2, NOON),
        ("2", 1, ten, 2, NOON),
        ("3", 0, 0, 0, None),
    ]
    assert truth.unknown_tokens == [
        {
            "token_id": OTHER,
            "module": "",
            "trades": 1,
            "volume_usd": dollars("5"),
            "first_traded_at": NOON,
            "last_traded_at": NOON,
        }
    ]


def test_trending_compares_24_hourly_buckets_with_the_24_before():
    newest = NOON + HOUR - 1
    start = NOON - 23 * HOUR
    truth = truth_of(
        bought(YES, "0.5", start - 24 * HOUR - 1, shares="1000"),  # before both windows
        bought(YES, "0.2", start - 24 * HOUR),
        bought(NO, "0.7", start - 1),
        bought(YES, "0.4", start),
        bought(NO, "0.5", NOON, wallet=CAROL),
        bought(OTHER, "0.5", newest),
    )
    (row,) = truth.trending_markets
    assert picked(row, "window_start_at", "as_of") == (start, newest)
    assert picked(row, "volume_usd_24h", "volume_usd_previous_24h") == (
        dollars("9"),
        dollars("9"),
    )
    assert picked(row, "volume_change", "trades_24h", "traders_24h") == (0, 2, 2)
    assert picked(row, "price", "price_24h_ago", "price_change") == tuple(
        map(Decimal, ("0.5", "0.3", "0.2"))
    )


# -- resolution ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prices", "status", "expected", "payouts"),
    [
        ('["1", "0"]', "resolved", "winner", ["1", "0"]),
        ('["0", "1"]', None, "winner", ["0", "1"]),
        ('["1", "0"]', "proposed", "unresolved", [None, None]),
        ('["1", "0"]', "disputed", "unresolved", [None, None]),
        ('["0.5", "0.5"]', "resolved", "split", ["0.5", "0.5"]),
        ('["0.5", "0.5"]', None, "unresolved", [None, None]),
        ('["0", "0"]', None, "unresolved", [None, None]),
        ('["0.9995", "0.0005"]', "resolved", "unresolved", [None, None]),
        ('["0.00000004", "0.99999996"]', None, "winner", ["0", "1"]),
        ('["0.00000004", "0.99999996"]', "disputed", "unresolved", [None, None]),
        ('["0.9999", "0.0001"]', None, "unresolved", [None, None]),
        ("[]", "resolved", "unresolved", [None, None]),
    ],
)
def test_how_a_closed_market_ended(prices, status, expected, payouts):
    payload = market(closed=True, outcomePrices=prices, umaResolutionStatus=status)
    assert resolution_of(payload) == expected
    assert [row["payout"] for row in token_rows(payload)] == [
        None if payout is None else Decimal(payout) for payout in payouts
    ]
    assert resolution_of(payload | {"closed": False}) == "unresolved"


def test_a_group_has_the_market_that_ended_with_yes():
    group = {"negRiskMarketID": "0xg", "closed": True, "umaResolutionStatus": "resolved"}
    markets = [
        market("10", volume="1.5", **group | {"outcomePrices": '["0", "1"]'}),
        market("9", volume="2", **group | {"outcomePrices": '["1", "0"]'}),
        market("8", negRiskMarketID="0xg"),
        market("7"),
    ]
    events = [{"id": "3", "title": "Who?", "negRiskMarketID": "0xg"}, {"id": "4", "title": "?"}]
    assert neg_risk_groups(markets, events) == [
        {
            "neg_risk_market_id": "0xg",
            "event_id": "3",
            "title": "Who?",
            "markets": 3,
            "open_markets": 1,
            "market_ids": ["10", "8", "9"],
            "volume_usd": dollars("3.5"),
            "winning_market_id": "9",
        }
    ]
