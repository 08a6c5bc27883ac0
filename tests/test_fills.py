"""Fills: those that cannot be read are refused in the open, and every wallet and trade finds its own."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from worlds import COLUMNS, all_fills, land, landing_row, rows_of, settle_all, small_world

from pipeline.verbs.status import read_status
from pipeline.warehouse.loads import now_us
from pipeline.warehouse.run import Run
from sandbox.contracts import EXCHANGES, V2, Fill

STRANGER = "0x" + "9" * 40
FILL = Fill(
    timestamp=int(datetime(2026, 5, 20, tzinfo=UTC).timestamp()),
    tx_hash="0x" + "a" * 64,
    order_hash="0x" + "b" * 64,
    token_id="77",
    exchange=EXCHANGES[V2, False],
    version=V2,
    block_number=90_000_000,
    log_index=3,
)


def land_rows(run: Run, rows: list[list]) -> None:
    """Land rows as they are, as a source that knows no better would, and settle them."""
    run.ledger.open(rows[0][-1], ["order_filled"])
    run.client.insert(
        "order_filled", rows, column_names=COLUMNS, database=run.settings.raw_database
    )
    run.ledger.close_loading([rows[0][-1]])
    settle_all(run)


@pytest.mark.parametrize(
    ("column", "value", "reason", "said"),
    [
        ("contract_version", "v4", "unknown_contract_version", "'v4'"),
        ("exchange", STRANGER, "unknown_exchange", STRANGER),
        ("exchange", "", "unknown_exchange", "contract version v2"),
    ],
)
def test_a_fill_that_cannot_be_read_is_a_dead_letter(
    run: Run, column: str, value: str, reason: str, said: str
) -> None:
    good, bad = FILL, replace(FILL, log_index=4)
    load_id = now_us()
    rows = [landing_row(fill, load_id) for fill in (good, bad)]
    rows[1][COLUMNS.index(column)] = value
    land_rows(run, rows)
    land_rows(run, rows)  # a retry of the same load
    assert rows_of(run, "order_fills") == rows_of(run, "trades") == 1
    letters = run.client.query(
        f"select source, reason, detail, payload, times_seen from {run.settings.raw_database}.dead_letters"
    ).result_rows
    assert [(row[0], row[1], row[4]) for row in letters] == [("polygon", reason, 1)]
    assert said in letters[0][2]
    assert json.loads(letters[0][3])["log_index"] == "4"
    assert read_status(run).dead_letters == [{"source": "polygon", "reason": reason, "records": 1}]


def test_every_fill_belongs_to_one_trade(run: Run) -> None:
    world = small_world()
    land(run, all_fills(world))
    settle_all(run)
    models = run.settings.clickhouse_database
    of_legs = f"""
        select trade_id, countIf(leg != 'taker') as makers, sumIf(shares, leg != 'taker')
        from {models}.trade_legs group by trade_id order by trade_id
    """
    of_trades = f"select trade_id, maker_legs, maker_shares from {models}.trades order by trade_id"
    assert run.client.query(of_legs).result_rows == run.client.query(of_trades).result_rows
    assert rows_of(run, "trade_legs") == rows_of(run, "order_fills")
