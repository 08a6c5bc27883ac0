"""The simulated world: legs follow from matches, the truth adds up, all follows from the seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest

from sandbox.clock import HORIZON, block_time
from sandbox.contracts import BUY, EXCHANGES, SELL, V1, V2, V3
from sandbox.matches import COMPLEMENTARY, DIRECT, MERGE, MINT, MIXED, fee_v1, fee_v2
from sandbox.truth import Truth
from sandbox.truth_fills import match_type_of
from sandbox.world import World

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def small_world(seed: int = 1, **sizes: object) -> World:
    return World.generate(seed, now=NOW, **({"markets": 60, "matches": 1_500} | sizes))


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(matches=6_000)


@pytest.fixture(scope="module")
def truth(world: World) -> Truth:
    return Truth(world)


def ticks_of(world: World, match) -> int:
    return world.catalog.markets[match.market_id].ticks


# -- legs ------------------------------------------------------------------------------------------


def test_every_kind_of_match_occurs_in_both_versions_and_on_both_exchanges(world):
    kinds = Counter((match.kind, match.taker_leg.version) for match in world.matches)
    for kind in (COMPLEMENTARY, MINT, MERGE, MIXED, DIRECT):
        assert kinds[kind, V1] and kinds[kind, V2]
    assert {leg.exchange for match in world.matches for leg in match.legs} == set(
        EXCHANGES.values()
    )


def test_kind_of_a_match_can_be_read_off_its_legs(world):
    assert all(match_type_of(match) == match.kind for match in world.matches)


def test_a_taker_receives_or_gives_exactly_the_shares_of_its_maker_legs(world):
    for match in world.matches:
        assert sum(leg.shares for leg in match.maker_legs) == match.taker_leg.shares


def test_maker_legs_name_the_taker_and_the_taker_leg_names_the_exchange(world):
    for match in world.matches:
        taker = match.taker_leg
        if match.kind == DIRECT:
            assert taker.taker not in EXCHANGES.values()
            continue
        assert taker.taker == taker.exchange
        assert {leg.taker for leg in match.maker_legs} == {taker.maker}


def test_a_buyer_pays_what_the_makers_get_plus_at_most_one_tick_of_refund(world):
    refunds = 0
    for match in world.matches:
        if match.kind == DIRECT or match.taker_leg.shares < 100:
            continue
        taker = match.taker_leg
        due = 0
        for leg in match.maker_legs:
            crosses = leg.token_id != taker.token_id
            due += leg.shares - leg.usd if crosses else leg.usd
        refund = taker.usd - due
        assert 0 <= refund <= taker.shares // ticks_of(world, match)
        assert refund == 0 or taker.side == BUY
        refunds += refund > 0
    assert refunds > 100


def test_prices_of_both_sides_of_a_mint_or_merge_sum_to_one_within_a_tick(world):
    for match in world.matches:
        if match.kind not in (MINT, MERGE):
            continue
        makers = match.maker_legs
        maker_price = Decimal(sum(leg.usd for leg in makers)) / sum(leg.shares for leg in makers)
        taker_price = Decimal(match.taker_leg.usd) / match.taker_leg.shares
        assert abs(maker_price + taker_price - 1) <= Decimal(1) / ticks_of(world, match)


def test_fees_follow_the_contracts():
    # A recorded V1 fill: 17.7 shares bought at 0.42 with 1000 bps cost 1.77 shares.
    assert fee_v1(BUY, 17_700_000, 7_434_000, 1000) == 1_770_000
    assert fee_v1(SELL, 10_000_000, 9_000_000, 1000) == 100_000  # 10 % of min(.9, .1) x 10
    assert fee_v1(BUY, 10_000_000, 9_000_000, 0) == 0
    assert fee_v2(100_000_000, 50_000_000, 700) == 1_750_000  # 100 x .07 x .5 x .5
    assert fee_v2(1_234_567, 400_000, 500) % 10 == 0  # five decimals


def test_only_takers_pay_a_fee_on_v2(world):
    legs = [leg for match in world.matches for leg in match.legs if leg.version == V2]
    assert any(leg.fee for leg in legs)
    assert all(leg.fee == 0 for leg in legs if leg.taker != leg.exchange)


def test_versions_change_at_the_cutover(world):
    for match in world.matches:
        leg = match.taker_leg
        assert (leg.timestamp <= HORIZON.timestamp) == (leg.version == V1)
        assert leg.timestamp == block_time(leg.block_number)
    assert max(leg.timestamp for leg in world.archive_fills()) == HORIZON.timestamp


def test_logs_are_numbered_upwards_within_a_block_with_gaps(world):
    logs = list(world.chain.logs(0, world.chain.head))
    positions = [(log.block_number, log.log_index) for log in logs]
    assert positions == sorted(set(positions))
    gaps = {(b[1] - a[1]) for a, b in pairwise(positions) if a[0] == b[0]}
    assert len(gaps) > 2


def test_the_awkward_cases_are_there(world):
    by_transaction = defaultdict(list)
    by_block = Counter()
    transactions_of_order = defaultdict(set)
    for match in world.matches:
        by_transaction[match.taker_leg.tx_hash].append(match)
        by_block[match.taker_leg.block_number] += 1
        for leg in match.legs:
            transactions_of_order[leg.order_hash].add(leg.tx_hash)
    shared = [matches for matches in by_transaction.values() if len(matches) == 2]
    assert shared
    assert all(a.taker_leg.maker != b.taker_leg.maker for a, b in shared)
    assert max(by_block.values()) >= 15, "a burst within one block"
    assert any(len(transactions) > 2 for transactions in transactions_of_order.values())


def test_v1_never_fills_an_order_twice_in_one_transaction():
    world = small_world(seed=5, matches=12_000, markets=10)
    fills = Counter((leg.version, leg.archive_id) for match in world.matches for leg in match.legs)
    repeated = {version for (version, _), count in fills.items() if count > 1}
    assert repeated == {V2, V3}


# -- truth -----------------------------------------------------------------------------------------


def test_dust_is_a_trade_but_not_in_any_candle(world, truth):
    dust = [trade for trade in truth.trades if trade["is_dust"]]
    assert any(trade["shares"] == 0 for trade in dust)
    assert any(trade["price"] > 1 for trade in dust)
    assert truth.totals()["dust_trades"] == len(dust)


@pytest.mark.parametrize("interval", ["1m", "1h", "1d"])
def test_candles_sum_to_the_trades_that_are_not_dust(truth, interval):
    candles = truth.candles(interval)
    real = [trade for trade in truth.trades if not trade["is_dust"]]
    assert sum(candle["volume_usd"] for candle in candles) == sum(t["usd"] for t in real)
    assert sum(candle["volume_shares"] for candle in candles) == sum(t["shares"] for t in real)
    assert sum(candle["trades"] for candle in candles) == len(real)
    for candle in candles:
        assert 0 <= candle["low"] <= candle["open"] <= candle["high"] <= 1
        assert candle["low"] <= candle["close"] <= candle["high"]


def test_a_candle_opens_with_the_first_trade_and_closes_with_the_last(truth):
    v2 = [t for t in truth.trades if t["contract_version"] == V2 and not t["is_dust"]]
    by_minute = defaultdict(list)
    for trade in v2:  # in chain order
        by_minute[trade["token_id"], trade["filled_at"] // 60 * 60].append(trade["price"])
    candles = {(c["token_id"], c["bucket_at"]): c for c in truth.candles("1m")}
    assert any(len(prices) > 2 for prices in by_minute.values())
    for key, prices in by_minute.items():
        assert (candles[key]["open"], candles[key]["close"]) == (prices[0], prices[-1])


def test_within_a_second_archive_trades_are_ordered_by_id(world):
    from_archive, from_chain = Truth(world), Truth(world, v1_from_chain=True)
    assert from_archive.candles("1m") != from_chain.candles("1m")
    without_ends = ("token_id", "bucket_at", "high", "low", "volume_usd", "trades")
    assert [[c[key] for key in without_ends] for c in from_archive.candles("1m")] == [
        [c[key] for key in without_ends] for c in from_chain.candles("1m")
    ]


def test_latest_price_is_the_close_of_the_last_candle(truth):
    closes = {candle["token_id"]: candle["close"] for candle in truth.candles("1m")}
    assert {row["token_id"]: row["price"] for row in truth.market_latest_price} == closes


def test_daily_volume_equals_the_totals(truth):
    by_day = Counter()
    for row in truth.volume_daily:
        by_day[row["day"]] += row["volume_usd"]
    assert dict(by_day) == truth.totals()["volume_usd_by_day"]


def test_there_is_one_fill_per_leg_and_each_has_a_role(world, truth):
    roles = Counter(row["leg"] for row in truth.order_fills)
    kinds = Counter(match.kind for match in world.matches)
    assert roles["direct"] == kinds[DIRECT]
    assert roles["taker"] == len(world.matches) - kinds[DIRECT]
    assert roles["maker"] == sum(t["maker_legs"] for t in truth.trades) - kinds[DIRECT]


def test_some_trades_have_no_known_market(truth):
    unknown = [trade for trade in truth.trades if not trade["market_id"]]
    assert 0 < len(unknown) < len(truth.trades) / 4


# -- time ------------------------------------------------------------------------------------------


def state(world: World) -> tuple:
    logs = list(world.chain.logs(0, world.chain.head))
    return world.chain.head, world.matches, logs, world.gamma.markets, world.gamma.events


def test_the_same_seed_makes_the_same_world_and_another_seed_another():
    assert state(small_world(seed=3)) == state(small_world(seed=3))
    assert state(small_world(seed=3))[1] != state(small_world(seed=4))[1]


def test_advancing_at_once_or_block_by_block_is_the_same():
    at_once, stepwise = small_world(), small_world()
    at_once.advance(40)
    for _ in range(40):
        stepwise.advance()
    assert state(at_once) == state(stepwise)


def test_advancing_only_appends_to_the_chain_and_moves_gamma():
    world = small_world()
    head, matches, archive = world.chain.head, list(world.matches), world.archive_fills()
    markets = dict(world.gamma.markets)
    world.advance(300)
    assert world.chain.head == head + 300
    assert world.matches[: len(matches)] == matches
    assert all(m.taker_leg.block_number > head for m in world.matches[len(matches) :])
    assert len(world.matches) > len(matches)
    assert world.archive_fills() == archive, "the archive is frozen"
    after = world.gamma.markets
    assert set(after) > set(markets), "new markets"
    assert any(after[i]["closed"] and not markets[i]["closed"] for i in markets), "closed markets"
    assert any(after[i]["updatedAt"] > markets[i]["updatedAt"] for i in markets)


def test_markets_trade_before_gamma_lists_them():
    world = small_world()
    early = {row["token_id"] for row in Truth(world).unknown_tokens}
    world.advance(60)
    late = early & {row["token_id"] for row in Truth(world).outcome_tokens}
    assert late
    combos = {m.id for m in world.catalog.markets.values() if m.kind == "combo"}
    never = [m for m in world.catalog.markets.values() if m.visible_from > 2**40]
    [unknown] = [m for m in never if m.id not in combos]  # one market stays unknown for good
    hidden = [*(m.position_ids for m in never if m.id in combos), unknown.token_ids]
    hidden.append(unknown.position_ids or ())
    assert early - late <= {token for pair in hidden for token in pair}


def test_traded_markets_that_are_never_listed_count_as_known(world, truth):
    assert world.gamma.unlisted
    assert world.gamma.unlisted <= {trade["market_id"] for trade in truth.trades}


def test_a_reorganisation_replaces_the_last_blocks_and_the_truth_follows():
    world = small_world(matches_per_block=3.0)
    world.advance(30)
    head = world.chain.head
    before = {n: world.chain.block_hash(n) for n in range(head - 12, head + 1)}
    old = {m.taker_leg.order_hash: m for m in world.matches}
    world.reorg(10)
    new = {m.taker_leg.order_hash: m for m in world.matches}
    assert world.chain.head == head
    for number, block_hash in before.items():
        assert (world.chain.block_hash(number) != block_hash) == (number > head - 10)
    assert set(old) - set(new), "matches that are gone"
    assert set(new) - set(old), "matches that are new"
    moved = [
        order
        for order in set(old) & set(new)
        if old[order].taker_leg.block_number != new[order].taker_leg.block_number
    ]
    assert moved, "matches in another block"
    for order in moved:
        assert old[order].taker_leg.tx_hash == new[order].taker_leg.tx_hash
        assert old[order].taker_leg.usd == new[order].taker_leg.usd
    logs = [log for match in world.matches for log in match.logs()]
    assert list(world.chain.logs(0, head)) == logs
    assert Truth(world).totals()["trades"] == len(new)


def test_a_reorganisation_cannot_touch_the_archive():
    world = World.generate(1, now=datetime(2026, 4, 28, 12, 10, tzinfo=UTC), markets=10, matches=50)
    with pytest.raises(ValueError, match="before V2"):
        world.reorg(2_200)


@pytest.mark.parametrize(
    "wrong",
    [
        {"now": datetime(2026, 7, 1)},
        {"now": datetime(2026, 4, 1, tzinfo=UTC)},
        {"now": NOW, "v1_days": 0, "v2_days": 0},
        {"now": NOW, "matches": 0},
    ],
)
def test_a_world_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        World.generate(1, **wrong)
