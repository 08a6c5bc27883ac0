"""Settling: whatever order fills come in, and however often, the derived tables equal the truth."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from worlds import (
    all_fills,
    assert_equals_truth,
    land,
    land_gamma,
    rows_of,
    settle_all,
    small_world,
)

from pipeline.errors import ModelsError
from pipeline.warehouse.run import Run
from sandbox.matches import Match
from sandbox.reconcile import reconcile
from sandbox.truth import Truth
from sandbox.world import World

FILLS_TABLES = (
    "order_fills",
    "trades",
    "ohlcv_1m",
    "ohlcv_1h",
    "ohlcv_1d",
    "volume_daily",
    "market_latest_price",
)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_loads_gives_the_truth(run: Run, seed: int) -> None:
    """Legs of one match in different loads, loads that overlap or repeat, settled now or later."""
    world, rng = small_world(seed), random.Random(seed)
    fills = all_fills(world)
    rng.shuffle(fills)
    land_gamma(run, world)
    size = max(1, len(fills) // 6)
    loads = [fills[at : at + size] for at in range(0, len(fills), size)]
    loads += [rng.sample(fills, size), loads[0]]
    for load in loads:
        land(run, load)
        if rng.random() < 0.6:
            settle_all(run, max_rows=rng.choice([1, 10_000]))
    settle_all(run)
    assert run.ledger.unsettled() == []
    assert_equals_truth(run, world)


def test_markets_may_come_after_their_fills(run: Run) -> None:
    world = small_world()
    land(run, all_fills(world))
    settle_all(run)
    trades = f"{run.settings.clickhouse_database}.trades"
    # A position id of ExchangeV3 names its outcome itself.
    known = (
        "select countIf(market_id != ''), countIf(outcome_index is not null and contract_version != 'v3')"
        f" from {trades}"
    )
    assert run.client.query(known).result_rows == [(0, 0)]
    land_gamma(run, world)
    assert_equals_truth(run, world)


@pytest.mark.parametrize(
    "lost", ["order_fills_store", "trades_store", "ohlcv_1m_store", "ohlcv_1h_store"]
)
def test_rows_lost_before_a_settle_are_written_again(run: Run, lost: str) -> None:
    """A crash between two writes: the landing table has the rows, a derived table lacks some."""
    world = small_world()
    raw, models = run.settings.raw_database, run.settings.clickhouse_database
    land_gamma(run, world)
    land(run, all_fills(world))
    settle_all(run)
    run.client.command(f"delete from {models}.{lost} where cityHash64(token_id) % 2 = 0")
    assert not all(c.equal for c in reconcile(run.client, models, Truth(world)))
    run.client.command(f"""
        insert into {raw}.loads
        select * replace('settling' as state, now64(6) as updated_at)
        from {raw}.loads final
        where table_name = 'order_filled'
    """)
    settle_all(run)
    assert_equals_truth(run, world)


def test_a_fill_is_direct_only_until_its_taker_leg_comes(run: Run) -> None:
    mint = a_lone_match(small_world(), "mint")
    models = run.settings.clickhouse_database
    legs = f"select leg, count() from {models}.order_fills group by leg order by leg"
    trades = f"select match_type, token_id, maker_legs from {models}.trades"
    land(run, mint.maker_legs)
    settle_all(run)
    assert run.client.query(legs).result_rows == [("direct", len(mint.maker_legs))]
    assert {row[0] for row in run.client.query(trades).result_rows} == {"direct"}

    land(run, [mint.taker_leg])
    settle_all(run)
    expected = ("mint", mint.taker_leg.token_id, len(mint.maker_legs))
    assert run.client.query(legs).result_rows == [("maker", len(mint.maker_legs)), ("taker", 1)]
    assert run.client.query(trades).result_rows == [expected]
    # The makers' token was printed by mistake and must not keep a candle, a volume or a price.
    for table in FILLS_TABLES[2:]:
        tokens = run.client.query(f"select token_id from {models}.{table}").result_rows
        assert tokens == [(mint.taker_leg.token_id,)], table


def test_fills_taken_back_by_the_chain_leave_no_trace(run: Run) -> None:
    world = small_world()
    fills = all_fills(world)
    land(run, fills)
    settle_all(run)
    land(run, fills, is_deleted=1)
    settle_all(run)
    assert {table: rows_of(run, table) for table in FILLS_TABLES} == dict.fromkeys(FILLS_TABLES, 0)
    land(run, fills)
    settle_all(run)
    assert rows_of(run, "trades") == len(world.matches)


def test_settling_what_is_settled_writes_nothing(run: Run) -> None:
    land(run, all_fills(small_world()))
    assert settle_all(run) > 0
    stores = ("order_fills_store", "trades_store", "ohlcv_1m_store", "ohlcv_1d_store")
    before = {store: rows_of(run, store) for store in stores}
    assert settle_all(run) == 0
    assert {store: rows_of(run, store) for store in stores} == before


def test_a_statement_that_fails_leaves_its_loads_for_the_next_run(run: Run) -> None:
    land(run, all_fills(small_world()))
    good = run.statements
    run.statements = [
        dataclasses.replace(each, sql=each.sql.replace("ohlcv_1m_store", "no_such_table"))
        for each in good
    ]
    with pytest.raises(ModelsError, match="settling ohlcv_1m_store failed and will be tried again"):
        settle_all(run)
    assert [load.state for load in run.ledger.unsettled()] == ["settling"]
    run.statements = good
    settle_all(run)
    assert rows_of(run, "ohlcv_1m") > 0
    assert run.ledger.unsettled() == []


def test_a_settle_that_was_cut_off_after_a_trade_was_withdrawn_withdraws_its_candles(
    run: Run,
) -> None:
    mint = a_lone_match(small_world(), "mint")
    land(run, mint.maker_legs)
    settle_all(run)
    land(run, [mint.taker_leg])
    good = run.statements
    run.statements = [
        dataclasses.replace(each, sql="select throwIf(1)") if "ohlcv" in each.model else each
        for each in good
    ]
    with pytest.raises(ModelsError):
        settle_all(run)
    run.statements = good
    settle_all(run)
    for table in FILLS_TABLES[2:]:
        tokens = run.client.query(
            f"select distinct token_id from {run.settings.clickhouse_database}.{table}"
        ).result_rows
        assert tokens == [(mint.taker_leg.token_id,)], table


def a_lone_match(world: World, kind: str) -> Match:
    """A match of this kind that has its transaction for itself."""
    transactions = Counter(match.taker_leg.tx_hash for match in world.matches)
    return next(
        m for m in world.matches if m.kind == kind and transactions[m.taker_leg.tx_hash] == 1
    )
