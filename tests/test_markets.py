"""Markets and events on the real engine: versions kept, resolution as the world has it, late markets found."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

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

from ingest.records import with_load_id
from ingest.sources.gamma.entities import MARKET, entities_table
from ingest.sources.gamma.landed import known_versions, unknown_tokens
from pipeline.verbs.status import read_status
from pipeline.warehouse.loads import now_us
from pipeline.warehouse.run import Run
from sandbox.amounts import is_dust
from sandbox.contracts import V3, Fill
from sandbox.positions import COMBO, describe
from sandbox.truth import Truth

READ_AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
GAMMA_TABLES = (
    "markets",
    "events",
    "outcome_tokens",
    "market_history",
    "markets_events",
    "event_tags",
    "event_series",
    "neg_risk_groups",
)


def query(run: Run, sql: str) -> list[tuple]:
    """Rows of a query in which `{db}` is the database of the models."""
    rows = run.client.query(sql.replace("{db}", run.settings.clickhouse_database)).result_rows
    return [tuple(row) for row in rows]


def contents(run: Run) -> dict[str, list[tuple]]:
    """Every row of every table that follows from Gamma alone."""
    return {
        table: query(run, f"select * from {{db}}.{table} order by all") for table in GAMMA_TABLES
    }


def market(price: str, **fields: object) -> dict:
    """A market of Gamma's at this price of outcome 0."""
    return {
        "id": "1",
        "question": "Will it?",
        "conditionId": "0x1",
        "outcomes": '["Yes", "No"]',
        "outcomePrices": json.dumps([price, str(1 - float(price))]),
        "clobTokenIds": '["11", "12"]',
        "active": True,
        "closed": False,
    } | fields


def read_market(run: Run, payload: dict, after_s: int) -> None:
    """Land a market as the Gamma source does, read `after_s` seconds after READ_AT, and settle it."""
    load_id = now_us()
    read_at = READ_AT + timedelta(seconds=after_s)
    run.ledger.open(load_id, ["markets"])
    rows = with_load_id(entities_table(MARKET, [payload], fetched_at=read_at), load_id)
    run.client.insert_arrow("markets", rows, database=run.settings.raw_database)
    run.ledger.close_loading([load_id])
    settle_all(run)


def land_again(run: Run) -> None:
    """Insert every landed row of Gamma's a second time, under the load that brought it, and settle it."""
    raw = run.settings.raw_database
    for table in ("markets", "events"):
        run.client.command(f"insert into {raw}.{table} select * from {raw}.{table} final")
    resettle(run)


def resettle(run: Run) -> None:
    """Settle every load of Gamma's once more, as after a crash in the middle of a settle."""
    run.client.command(f"""
        insert into {run.settings.raw_database}.loads
        select * replace('settling' as state, now64(6) as updated_at)
        from {run.settings.raw_database}.loads final
        where table_name in ('markets', 'events')
    """)
    settle_all(run)


HISTORY = """
    select toString(outcome_prices[1]), toUnixTimestamp(valid_from) - {start}, is_current
    from {db}.market_history order by valid_from
""".replace("{start}", str(int(READ_AT.timestamp())))


@pytest.mark.parametrize("merged", [False, True])
def test_a_market_that_returns_to_old_content_has_three_versions(run: Run, merged: bool) -> None:
    for after_s, price in enumerate(["0.4", "0.5", "0.4"]):
        read_market(run, market(price), after_s)
    if merged:
        models, raw = run.settings.clickhouse_database, run.settings.raw_database
        for table in (f"{raw}.markets", f"{models}.market_history_store"):
            run.client.command(f"optimize table {table} final")
    assert query(run, HISTORY) == [("0.4", 0, False), ("0.5", 1, False), ("0.4", 2, True)]
    assert query(
        run, "select toString(outcome_prices[1]), toSecond(fetched_at) from {db}.markets"
    ) == [("0.4", 2)]
    # The content known is the one read last: the next pass stores nothing.
    last = entities_table(MARKET, [market("0.4")], fetched_at=READ_AT)
    known = known_versions(run.desk.landed)("markets", ["1"])["1"]
    assert known.content_hash == last.column("content_hash")[0].as_py()
    assert known.fetched_us == int(READ_AT.timestamp() + 2) * 10**6


def test_versions_that_differ_in_other_fields_only_are_one(run: Run) -> None:
    read_market(run, market("0.4", spread=0.01), 0)
    read_market(run, market("0.4", spread=0.02), 1)
    read_market(run, market("0.4", closed=True, spread=0.02), 2)
    assert query(run, HISTORY) == [("0.4", 0, False), ("0.4", 2, True)]
    ends = "select valid_to = (select max(valid_from) from {db}.market_history) from {db}.market_history order by valid_from"
    assert query(run, ends) == [(1,), (None,)]


def test_history_that_was_lost_is_derived_again(run: Run) -> None:
    for after_s, price in enumerate(["0.4", "0.5", "0.4"]):
        read_market(run, market(price), after_s)
    before = contents(run)
    for store in ("markets_store", "market_history_store", "outcome_tokens_store"):
        run.client.command(f"truncate table {run.settings.clickhouse_database}.{store}")
    resettle(run)
    assert contents(run) == before


def test_a_rebuild_derives_its_range_and_nothing_else(run: Run) -> None:
    for after_s, price in ((0, "0.4"), (10, "0.5"), (20, "0.6")):
        read_market(run, market(price), after_s)
    run.client.command(f"truncate table {run.settings.clickhouse_database}.market_history_store")
    rebuild = {"from_at": READ_AT + timedelta(seconds=5), "to_at": READ_AT + timedelta(seconds=10)}
    run.client.insert(
        "loads",
        [[now_us(), "markets", "loaded", 1, 0, *rebuild.values(), 0, datetime.now(UTC)]],
        column_names=[
            *("load_id", "table_name", "state", "is_rebuild", "loaded_rows"),
            *("from_at", "to_at", "settle_id", "updated_at"),
        ],
        database=run.settings.raw_database,
    )
    settle_all(run)
    assert query(run, HISTORY) == [("0.5", 10, True)]


def test_landing_the_same_rows_again_changes_nothing(run: Run) -> None:
    world = small_world()
    land_gamma(run, world)
    world.advance(200)
    land_gamma(run, world)
    before = contents(run)
    assert all(before.values())
    land_again(run)
    assert contents(run) == before


def test_resolution_and_payouts_are_those_of_the_world(run: Run) -> None:
    """Of the catalogue itself, which the payloads were made of."""
    world = small_world()
    land_gamma(run, world)
    found = {
        market_id: (resolution, winner, payouts)
        for market_id, resolution, winner, payouts in query(
            run,
            """
            select market_id, resolution, winning_outcome_index, arrayMap(p -> toFloat64(p.2), payouts)
            from {db}.markets
            left join (
                select market_id, arraySort(groupUniqArray((outcome_index, payout))) as payouts
                from {db}.outcome_tokens group by market_id
            ) as tokens on markets.market_id = tokens.market_id
            """,
        )
    }
    kinds: Counter[str] = Counter()
    for market_id, (resolution, winner, payouts) in found.items():
        truth = world.catalog.markets[int(market_id)]
        # The pools of early markets stay a little off 1 and 0.
        prices = [round(float(price), 4) for price in truth.resolution] if truth.closed_at else []
        if sorted(prices) == [0, 1] and truth.uma_status not in ("proposed", "disputed"):
            expected = ("winner", prices.index(1), prices)
        elif prices == [0.5, 0.5] and truth.uma_status == "resolved":
            expected = ("split", None, prices)
        else:
            expected = ("unresolved", None, [None, None])
        kinds[resolution] += 1
        has_tokens = not truth.lacks_token_ids
        assert (resolution, winner, payouts) == (*expected[:2], expected[2] if has_tokens else [])
    assert set(kinds) == {"winner", "split", "unresolved"}


def test_legacy_markets_without_tokens_stay(run: Run) -> None:
    world = small_world()
    land_gamma(run, world)
    legacy = {str(m.id) for m in world.catalog.markets.values() if m.lacks_token_ids}
    kept = query(run, "select market_id, resolution from {db}.markets where token_ids = []")
    assert legacy
    assert set(kept) == {(market_id, "unresolved") for market_id in legacy}


def module_of(leg: Fill) -> str:
    return describe(leg.version, leg.token_id)["module"]


def test_a_market_that_lands_late_names_its_trades(run: Run) -> None:
    """Trades wait for their market under its tokens; it fills their columns, and nothing is rebuilt."""
    world = small_world()
    land(run, all_fills(world))
    settle_all(run)
    traded = {match.taker_leg.token_id for match in world.matches}
    counts = query(run, "select token_id, trades, volume_usd from {db}.unknown_tokens")
    assert {row[0] for row in counts} == traded
    assert sum(row[1] for row in counts) == len(world.matches)
    assert sum(row[2] for row in counts) * 10**6 == sum(m.taker_leg.usd for m in world.matches)
    combos = {m.taker_leg.token_id for m in world.matches if module_of(m.taker_leg) == COMBO}
    positions = {m.taker_leg.token_id for m in world.matches if m.taker_leg.version == V3}
    assert combos < positions
    assert set(unknown_tokens(run.desk.landed)) == traded - positions
    assert set(unknown_tokens(run.desk.landed, positions=True)) == positions - combos
    assert len(unknown_tokens(run.desk.landed, most=3)) == 3
    assert read_status(run).unknown_tokens == len(traded - combos)

    trades_before = rows_of(run, "trades_store")
    land_gamma(run, world)
    unlisted = {row["token_id"] for row in Truth(world).unknown_tokens}  # Gamma never lists them
    assert len(unlisted) < len(traded)
    assert combos < unlisted
    asked = [*unknown_tokens(run.desk.landed), *unknown_tokens(run.desk.landed, positions=True)]
    assert set(asked) == unlisted - combos
    assert read_status(run).unknown_tokens == len(asked)
    assert rows_of(run, "trades_store") == trades_before
    assert_equals_truth(run, world)


def test_tokens_that_have_only_dust_are_asked_for_too(run: Run) -> None:
    """They are in no candle."""
    world = small_world()
    match = next(m for m in world.matches if is_dust(m.taker_leg.usd, m.taker_leg.shares))
    land(run, match.legs)
    settle_all(run)
    assert rows_of(run, "ohlcv_1d") == 0
    assert unknown_tokens(run.desk.landed) == [match.taker_leg.token_id]
    land(run, match.legs, is_deleted=1)
    settle_all(run)
    assert unknown_tokens(run.desk.landed) == []
