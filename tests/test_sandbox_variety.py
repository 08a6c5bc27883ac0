"""The simulated world at the size of the demo holds every case that the models have to get right."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import combinations, pairwise, product

import pytest

from pipeline.verbs.demo import MARKETS, NEW_BLOCKS, V1_DAYS, V2_DAYS
from sandbox.clock import HORIZON, block_time
from sandbox.contracts import BUY, EXCHANGES, SELL, V1, V2, V3, Fill
from sandbox.matches import COMPLEMENTARY, DIRECT, MERGE, MINT, MIXED
from sandbox.positions import BINARY, COMBO, NEG_RISK, describe
from sandbox.truth import Truth
from sandbox.world import World

MATCHES = 20_000  # what `demo` asks for unless told
HOUR = 3600


@pytest.fixture(scope="module", params=[1, 2], ids=["seed1", "seed2"])
def world(request: pytest.FixtureRequest) -> World:
    world = World.generate(
        request.param,
        now=datetime(2026, 7, 1, tzinfo=UTC),
        markets=MARKETS,
        matches=MATCHES,
        v1_days=V1_DAYS,
        v2_days=V2_DAYS,
    )
    world.advance(NEW_BLOCKS)
    return world


@pytest.fixture(scope="module")
def truth(world: World) -> Truth:
    return Truth(world)


def test_every_kind_of_match_on_every_exchange(world: World) -> None:
    found = Counter((match.kind, match.taker_leg.exchange) for match in world.matches)
    kinds = (COMPLEMENTARY, MINT, MERGE, MIXED, DIRECT)
    assert all(found[each] > 10 for each in product(kinds, set(EXCHANGES.values()))), found


def test_takers_and_makers_pay_fees_in_shares_and_in_dollars(truth: Truth) -> None:
    paid = {
        (row["contract_version"], row["leg"], row["side"], row["fee_asset"])
        for row in truth.order_fills
        if row["fee"]
    }
    v1 = {
        (V1, leg, *what)
        for leg in ("maker", "taker", "direct")
        for what in ((BUY, "shares"), (SELL, "usd"))
    }
    assert paid == v1 | {
        (version, "taker", side, "usd") for version in (V2, V3) for side in (BUY, SELL)
    }


@pytest.mark.parametrize("version", [V1, V2, V3])
def test_two_matches_in_a_transaction(world: World, version: str) -> None:
    takers = defaultdict(list)
    for match in world.matches:
        if match.taker_leg.version == version:
            takers[match.taker_leg.tx_hash].append(match.taker_leg.maker)
    assert any(len(of_one) == 2 for of_one in takers.values())


def test_one_order_twice_in_a_transaction(world: World) -> None:
    fills = Counter((leg.version, leg.archive_id) for match in world.matches for leg in match.legs)
    assert {version for (version, _), count in fills.items() if count > 1} == {V2, V3}


@pytest.mark.parametrize("version", [V1, V2, V3])
def test_dust_of_both_kinds(truth: Truth, version: str) -> None:
    dust = [t for t in truth.trades if t["is_dust"] and t["contract_version"] == version]
    assert any(trade["shares"] == 0 for trade in dust)
    assert any(trade["price"] > 1 for trade in dust)


def test_both_tokens_of_a_market_trade_in_one_hour(truth: Truth) -> None:
    market_of = {row["token_id"]: row["market_id"] for row in truth.outcome_tokens}
    hours = Counter(
        (market_of[c["token_id"]], c["bucket_at"])
        for c in truth.candles("1h")
        if c["token_id"] in market_of
    )
    assert set(hours.values()) == {1, 2}


def test_hours_without_a_trade_and_candles_behind_the_close(truth: Truth) -> None:
    by_token = defaultdict(list)
    for candle in truth.candles("1h"):
        by_token[candle["token_id"]].append(candle["bucket_at"])
    gaps = {(b - a) // HOUR for times in by_token.values() for a, b in pairwise(times)}
    assert {1, 2, 5} <= gaps
    closed_at = {row["market_id"]: row["closed_at"] for row in truth.market_rows if row["closed"]}
    closings = {
        row["token_id"]: closed_at[row["market_id"]]
        for row in truth.outcome_tokens
        if row["market_id"] in closed_at
    }
    traded = closings.keys() & by_token.keys()
    assert any(closings[token_id] is None for token_id in traded), "closed, nobody says when"
    zeros = {each["closed"] for each in truth.markets if each.get("closedTime", "")[:4] == "0001"}
    assert zeros == {True}, "closed in the year 1"
    ends = [(by_token[t][-1], closings[t]) for t in traded if closings[t] is not None]
    assert any(last > closed for last, closed in ends), "closed before the last trades"
    assert any(last + HOUR < closed for last, closed in ends), "quiet before the close"


def test_every_way_to_end(truth: Truth) -> None:
    ways = {
        (row["resolution"], payload.get("umaResolutionStatus"), payload["outcomePrices"])
        for row, payload in zip(truth.market_rows, truth.markets, strict=True)
        if row["closed"]
    }
    yes, no, half = '["1", "0"]', '["0", "1"]', '["0.5", "0.5"]'
    assert {("winner", "resolved", yes), ("winner", "resolved", no)} <= ways
    final = {(resolution, status) for resolution, status, prices in ways if prices in (yes, no)}
    ends = {("winner", None), ("unresolved", "proposed"), ("unresolved", "disputed")}
    assert final == ends | {("winner", "resolved")}
    assert ("split", "resolved", half) in ways
    near = '["0.0000004113679809846114013590098187297978", "0.9999995886320190153885986409901813"]'
    assert ("winner", None, near) in ways
    unresolved = {prices for resolution, _, prices in ways if resolution == "unresolved"}
    assert {half, '["0", "0"]', '["0.9995", "0.0005"]'} <= unresolved


def test_groups_with_and_without_a_winner_and_with_markets_of_both_states(truth: Truth) -> None:
    groups = truth.neg_risk_groups
    assert {bool(group["winning_market_id"]) for group in groups} == {True, False}
    assert {group["open_markets"] > 0 for group in groups} == {True, False}
    assert any(0 < group["open_markets"] < group["markets"] for group in groups)


def test_a_market_in_events_that_share_tags_and_in_others(truth: Truth) -> None:
    tags = defaultdict(set)
    for row in truth.event_tags:
        tags[row["event_id"]].add(row["tag_slug"])
    events = defaultdict(list)
    for pair in truth.markets_events:
        events[pair["market_id"]].append(pair["event_id"])
    pairs = [(a, b) for of_one in events.values() for a, b in combinations(of_one, 2)]
    assert any(tags[a] & tags[b] for a, b in pairs)
    assert any(not tags[a] & tags[b] for a, b in pairs)


def test_traded_markets_that_gamma_does_not_list_or_does_not_know(
    world: World, truth: Truth
) -> None:
    traded = {trade["market_id"] for trade in truth.trades}
    assert world.gamma.unlisted & traded
    assert truth.unknown_tokens


def test_events_without_trades_and_some_that_went_quiet(truth: Truth) -> None:
    volumes = truth.event_volume
    assert any(row["trades"] == 0 for row in volumes)
    assert any(row["trades"] and not row["volume_usd_24h"] for row in volumes)
    assert {row["event_id"] for row in truth.event_series} < {row["event_id"] for row in volumes}
    changes = [row["volume_change"] is None for row in truth.trending_markets]
    assert set(changes) == {True, False}


def test_exchange_v3_trades_every_module(truth: Truth) -> None:
    """Combos have no market; the others are known to Gamma, those that moved by both of their pairs."""
    v3 = [trade for trade in truth.trades if trade["contract_version"] == V3]
    assert {trade["module"] for trade in v3} == {BINARY, NEG_RISK, COMBO}
    assert not any(trade["market_id"] for trade in v3 if trade["module"] == COMBO)
    known = [trade for trade in v3 if trade["market_id"]]
    assert len(known) > len(v3) / 2
    for trade in v3:  # whoever says it, Gamma or the position id
        assert describe(V3, trade["token_id"]).items() <= trade.items()
    pairs = Counter((row["market_id"], row["outcome_index"]) for row in truth.outcome_tokens)
    assert set(pairs.values()) == {1, 2}
    moved = {market_id for (market_id, _), count in pairs.items() if count == 2}
    versions = {trade["contract_version"] for trade in truth.trades if trade["market_id"] in moved}
    assert {V2, V3} <= versions


def test_a_v3_taker_paid_what_its_makers_got(world: World) -> None:
    """Its event carries actual amounts; on V1 and V2 a buyer may have offered more."""
    paid_more = Counter()
    for match in world.matches:
        if match.kind not in (MINT, COMPLEMENTARY) or match.taker_leg.side != BUY:
            continue
        makers = match.maker_legs
        got = sum(m.shares - m.usd if match.kind == MINT else m.usd for m in makers)
        paid_more[match.taker_leg.version] += match.taker_leg.usd > got
    assert paid_more[V1] and paid_more[V2]
    assert paid_more[V3] == 0


def test_v2_was_on_trial_before_the_cutover() -> None:
    """Off unless asked for, as a client that reads the chain from the cutover on misses it."""
    now = datetime(2026, 4, 29, tzinfo=UTC)
    for v2_trial in (False, True):
        world = World.generate(3, now=now, markets=30, matches=300, v2_trial=v2_trial)
        early = Counter(
            match.taker_leg.version
            for match in world.matches
            if match.taker_leg.timestamp <= HORIZON.timestamp
        )
        assert early[V1] > early[V2]
        assert bool(early[V2]) == v2_trial


def test_a_stray_log_is_on_the_chain_and_in_no_table() -> None:
    world = World.generate(3, now=datetime(2026, 4, 29, tzinfo=UTC), markets=30, matches=300)
    before = len(Truth(world).order_fills)
    stray = Fill(0, "0x" + "5" * 64, "0x" + "6" * 64, "7", exchange="0x" + "e" * 40, version=V2)
    world.stray(stray)
    world.advance(2)
    logs = list(world.chain.logs(world.chain.head - 1, world.chain.head))
    [found] = [log for log in logs if log.exchange == stray.exchange]
    assert (found.block_number, found.timestamp) == (
        world.chain.head - 1,
        block_time(world.chain.head - 1),
    )
    assert [log.log_index for log in logs if log.block_number == found.block_number][-1] == (
        found.log_index
    )
    mined = sum(len(match.legs) for match in world.matches)
    assert len(Truth(world).order_fills) == mined >= before
