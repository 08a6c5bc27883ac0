"""dbt beside a run: refused while it writes; and where a table was replaced all the same, nothing stays lost."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_interruptions import environment
from worlds import (
    PATIENCE_S,
    all_fills,
    assert_equals_truth,
    land,
    land_gamma,
    rows_of,
    settle_all,
    small_world,
)

from pipeline.derive.dbt import FENCE_VARIABLE, dbt_command, writes
from pipeline.derive.models import ensure_models, full_refresh_selects
from pipeline.derive.replaced import heal_replaced_tables
from pipeline.settings import PROJECT_DIR
from pipeline.warehouse.run import Run


def test_what_was_settled_into_a_table_that_was_replaced_is_settled_again(run: Run) -> None:
    """As `dbt run --full-refresh` does: a new table is filled, and takes the place of the old one at the end."""
    world = small_world(matches=150)
    fills, database = all_fills(world), run.settings.clickhouse_database
    third = len(fills) // 3
    land_gamma(run, world)
    land(run, fills[:third])
    settle_all(run)
    assert heal_replaced_tables(run) == []

    land(run, fills[third : 2 * third])
    loads = run.ledger.start_settling(run.ledger.unsettled())  # under way when the refresh begins
    refreshed = ("order_fills_store", "trades_store", "ohlcv_1h_store", "market_latest_price_store")
    selects = full_refresh_selects(run)
    for name in refreshed:
        run.client.command(f"create table {database}.new_{name} as {database}.{name}")
        columns = ", ".join(
            run.client.query(f"select * from {database}.{name} limit 0").column_names
        )
        run.client.command(
            f"insert into {database}.new_{name} ({columns}) select {columns} from ({selects[name]})"
        )
    run.ledger.back_to_loaded(loads)
    land(run, fills[2 * third :])
    settle_all(run)
    for name in refreshed:
        run.client.command(f"exchange tables {database}.new_{name} and {database}.{name}")
        run.client.command(f"drop table {database}.new_{name}")

    assert sorted(heal_replaced_tables(run)) == sorted(refreshed)
    healed = {load.loaded_rows for load in run.ledger.unsettled() if not load.is_rebuild}
    assert healed == {third, len(fills) - 2 * third}  # not those that the new tables have
    settle_all(run)
    assert_equals_truth(run, world)
    assert heal_replaced_tables(run) == []


@pytest.mark.parametrize("store", ["order_fills_store", "trades_store"])
def test_what_a_refreshed_table_forgot_is_withdrawn_from_its_copies(run: Run, store: str) -> None:
    """A refresh writes no withdrawn row, so tables made from it must not wait for one."""
    world = small_world(matches=60)
    fills, database = all_fills(world), run.settings.clickhouse_database
    land(run, fills)
    settle_all(run)
    assert heal_replaced_tables(run) == []
    left = [match for match in world.matches if match.legs[0].version != "v1"][:20]
    land(run, [leg for match in left for leg in match.legs], is_deleted=1)
    assert dbt_command(run.server, run.settings, ["run", "--full-refresh", "--select", store]) == 0
    assert heal_replaced_tables(run) == [store]
    settle_all(run)
    for copy, original in (
        ("trades_by_token", "trades"), ("fills_by_wallet", "wallet_fills"), ("transaction_times", "order_fills"),
    ):  # fmt: skip
        columns = (
            "filled_at" if copy == "transaction_times" else "filled_at, tx_hash, token_id, wallet"
        )
        one, other = (
            run.client.query(
                f"select distinct {columns} from {database}.{table} order by all"
            ).result_rows
            for table in (copy, original)
        )
        assert one == other, copy
    trades = run.client.query(
        f"select (select sum(trades) from {database}.volume_daily),"
        f" (select count() from {database}.trades where not is_dust)"
    ).result_rows[0]
    assert trades[0] == trades[1]


def test_a_view_that_was_dropped_is_built_again(run: Run) -> None:
    database = run.settings.clickhouse_database
    run.client.command(f"drop view {database}.trades")
    run.client.command(f"drop view {database}.order_fills_mv")
    run.statements = ensure_models(run)
    assert rows_of(run, "trades") == 0
    assert run.client.command(f"exists table {database}.order_fills_mv")


@pytest.mark.parametrize(
    ("arguments", "writing"),
    [
        ("run", True),
        ("--debug run --full-refresh", True),
        ("build --select trades", True),
        ("seed", True),
        ("run-operation anything", True),
        ("test --select run", False),
        ("docs generate", False),
        ("ls --resource-type seed", False),
        ("source freshness", False),
        ("compile", False),
        ("show --select trades", False),
        ("--version", False),
    ],
)
def test_which_commands_write(arguments: str, writing: bool) -> None:
    assert writes(arguments.split()) is writing


def test_dbt_does_not_write_beside_a_run(run: Run, capfd: pytest.CaptureFixture) -> None:
    verb = [sys.executable, "run_pipeline.py", "dbt", "run", "--select", "exchanges"]
    options = {"env": environment(run.settings), "cwd": PROJECT_DIR, "text": True}
    with run.lock.held("loop") as lock:
        told = subprocess.run(verb, capture_output=True, timeout=PATIENCE_S, **options)
        assert (told.returncode, "`loop`" in told.stderr) == (3, True), told.stderr
        # Plain dbt, which knows nothing of the lock.
        select = ["run", "--select", "exchanges"]
        assert dbt_command(run.server, run.settings, select) != 0
        assert "loop (pid" in capfd.readouterr().out
        # The holder itself.
        assert dbt_command(run.server, run.settings, select, lock.number) == 0
        assert dbt_command(run.server, run.settings, select, lock.number + 1) != 0
        assert "lost the writer lock" in capfd.readouterr().out
    assert dbt_command(run.server, run.settings, select) == 0
    assert FENCE_VARIABLE not in environment(run.settings)
