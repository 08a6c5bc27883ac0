"""Reconciling with the truth: equal where everything is, and every way to differ is found and named."""

from __future__ import annotations

import pytest
from worlds import all_fills, land, land_gamma, settle_all, small_world

from pipeline.warehouse.run import Run
from sandbox.clob import open_quotes
from sandbox.reconcile import Check, plans, reconcile
from sandbox.truth import Truth
from sandbox.world import World


@pytest.fixture
def world(run: Run) -> World:
    """A small world, loaded and settled."""
    world = small_world()
    land_gamma(run, world)
    land(run, all_fills(world))
    settle_all(run)
    return world


def checks_of(run: Run, world: World) -> dict[str, Check]:
    checks = reconcile(run.client, run.settings.clickhouse_database, Truth(world))
    return {check.name: check for check in checks}


def test_what_differs_is_named_and_the_rest_is_equal(run: Run, world: World) -> None:
    database = run.settings.clickhouse_database
    checks = checks_of(run, world)
    assert {name: check.differences for name, check in checks.items() if not check.equal} == {}
    unread = {"market_prices"}  # their truth is what was quoted, and nobody has asked
    assert all(check.expected for name, check in checks.items() if name not in unread), (
        "nothing is compared with nothing"
    )

    fill, other, third = Truth(world).order_fills[:3]
    for table, change in {
        "trade_legs": f"select * except (fee_usd) from {database}.order_fills",
        "order_fills": f"""
            select * replace (if(order_hash = '{fill["order_hash"]}', usd + 0.000001, usd) as usd)
            from {database}.all_order_fills
            where order_hash != '{other["order_hash"]}'
            union all
            select * from {database}.all_order_fills where order_hash = '{third["order_hash"]}'
        """,
    }.items():
        run.client.command(f"rename table {database}.{table} to {database}.all_{table}")
        run.client.command(f"create view {database}.{table} as {change}")
    run.client.command(f"drop table {database}.event_series")

    checks = checks_of(run, world)
    assert checks["event_series"].differences == ["table missing"]
    assert checks["trade_legs"].differences == [
        "columns missing: trade_id, wallet, counterparty, fee_usd"
    ]
    missing, changed, doubled = checks["order_fills"].differences
    assert "missing" in missing
    assert other["order_hash"] in missing
    assert f"usd is {fill['usd'] + 1}, should be {fill['usd']}" in changed
    assert doubled == "1 rows beyond one per key"
    fills = checks["order_fills"]
    assert (fills.lost, fills.doubled, fills.unexpected) == (1, 1, 0)
    assert checks["event_series"].lost == checks["event_series"].expected > 0
    assert checks["trades"].equal


def test_every_key_names_one_row() -> None:
    world = small_world()
    world.quotes.update(open_quotes(world).values())
    for plan in plans(Truth(world), 1000):
        rows = list(plan.rows)
        assert len({tuple(row[column] for column in plan.key) for row in rows}) == len(rows)
