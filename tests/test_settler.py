"""What cannot be settled is left alone for a while, and everything else is settled as ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from worlds import all_fills, assert_equals_truth, land, land_gamma, small_world

from pipeline.derive.settler import FIRST_PAUSE_S, LONGEST_PAUSE_S, Settler
from pipeline.warehouse.run import Run
from sandbox.world import World


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(matches=120)


@pytest.fixture
def held(run: Run, world: World) -> Iterator[Run]:
    land_gamma(run, world)
    with run.lock.held("test"):
        yield run


BROKEN = " where throwIf(1, 'broken') = 0"


def breaking(run: Run, model: str) -> list:
    """The statements, that of one model failing."""
    return [
        replace(each, sql=each.sql.replace("\nsettings ", f"{BROKEN}\nsettings ", 1))
        if each.model == model
        else each
        for each in run.statements
    ]


def settler(run: Run, statements: list, clock: Clock) -> Settler:
    return Settler(run.client, run.ledger, statements, max_rows=10**6, clock=clock)


def counts(run: Run, *tables: str) -> list[int]:
    database = run.settings.clickhouse_database
    return [
        run.client.query(f"select count() from {database}.{table}").result_rows[0][0]
        for table in tables
    ]


def test_a_model_that_fails_stops_neither_others_nor_later_loads(held: Run, world: World) -> None:
    clock, fills = Clock(), all_fills(world)
    third = len(fills) // 3
    each = settler(held, breaking(held, "ohlcv_1m_store"), clock)
    seen = []
    for part in (fills[:third], fills[third : 2 * third], fills[2 * third :]):
        land(held, part)
        each.settle()
        seen.append(counts(held, "trades", "wallet_daily"))
        clock.now += 1
    assert seen[0][0] < seen[1][0] < seen[2][0] == len(world.matches)
    assert seen[2][1] > 0, "a model that does not read the broken one"
    assert counts(held, "ohlcv_1m") == [0]
    [problem] = each.problems
    assert problem.startswith("settling ohlcv_1m_store failed")
    assert "broken" in problem
    assert len(held.ledger.unsettled()) == 3

    each._statements = held.statements  # mended
    each.settle()
    assert counts(held, "ohlcv_1m") == [0], "its pause is not over"
    clock.now += LONGEST_PAUSE_S
    each.settle()
    assert each.problems == []
    assert held.ledger.unsettled() == []
    assert_equals_truth(held, world)


def test_a_load_that_cannot_be_settled_is_set_apart(held: Run, world: World) -> None:
    """Its rows are fine; the statement fails for this load alone, as one does that needs too much memory."""
    clock, fills = Clock(), all_fills(world)
    half = len(fills) // 2
    land(held, fills[:half])
    bad = max(load.load_id for load in held.ledger.unsettled())
    land(held, fills[half:])
    raw = held.settings.raw_database
    fails = (
        f" where throwIf((select count() from {raw}.loads final where load_id = {bad}"
        " and settle_id = {settle_id:UInt64}) > 0, 'too large') = 0"
    )
    statements = [
        replace(each, sql=each.sql.replace("\nsettings ", f"{fails}\nsettings ", 1))
        if each.model == "trades_store"
        else each
        for each in held.statements
    ]
    each = settler(held, statements, clock)
    each.settle()
    assert [load.load_id for load in held.ledger.unsettled()] == [bad]
    assert "too large" in each.problems[0]
    tries = []
    each._client = Watched(held.client, tries)
    each.settle()
    assert not tries, "it is left alone for a while"
    clock.now += FIRST_PAUSE_S
    each.settle()
    assert tries
    each._statements = held.statements
    clock.now += LONGEST_PAUSE_S
    each.settle()
    assert held.ledger.unsettled() == []
    assert_equals_truth(held, world)


def test_gamma_is_settled_while_fills_cannot_be(held: Run, world: World) -> None:
    clock = Clock()
    land(held, all_fills(world))
    each = settler(held, breaking(held, "trades_store"), clock)
    each.settle()
    assert counts(held, "markets")[0] > 0
    assert {load.table_name for load in held.ledger.unsettled()} == {"order_filled"}


class Watched:
    """A client that notes its commands."""

    def __init__(self, client, seen: list) -> None:
        self._client, self._seen = client, seen

    def command(self, sql: str, **options):
        self._seen.append(sql)
        return self._client.command(sql, **options)
