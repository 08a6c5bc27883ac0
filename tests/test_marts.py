"""Marts: equal to the sandbox's truth, empty without data; and conservation tests, which fail when the data are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from worlds import (
    all_fills,
    assert_equals_truth,
    land,
    land_gamma,
    make_settings,
    prepared,
    rows_of,
    settle_all,
    small_world,
)

from embedded_clickhouse import Endpoint
from pipeline.derive.dbt import DBT_DIR, dbt_command
from pipeline.settings import Settings
from pipeline.warehouse.run import Run
from sandbox.truth import Truth

MARTS = sorted(path.stem for path in (DBT_DIR / "models" / "marts").glob("*.sql"))
CONSERVATION = {
    entry["name"]
    for entry in yaml.safe_load((DBT_DIR / "tests" / "conservation.yml").read_text())["data_tests"]
}
ALL_DAYS = ("--vars", "{conservation_days: 10000, conservation_tokens: 20}")

# A mistake in one relation, as what it would then return, and the conservation tests that must see it.
MISTAKES = {
    "a maker leg that went after its trade was computed": (
        "int_order_fills_deduplicated",
        "select * from {right} where fill_id != (select min(fill_id) from {right} where leg = 'maker')",
        {"fills_by_wallet_are_wallet_fills", "trades_sum_their_maker_legs"},
    ),
    "every leg counted as a trade": (
        "trades",
        "select * from {right} union all select * from {right} where match_type = 'merge'",
        {
            "candles_sum_to_trades",
            "trades_are_taker_legs_and_direct_fills",
            "trades_by_token_are_trades",
            "trades_sum_their_maker_legs",
        },
    ),
    "the taker's side as the inverse of the makers'": (
        "trades",
        "select * replace (if(match_type = 'mint', 'SELL', side) as side) from {right}",
        {"trades_are_taker_legs_and_direct_fills", "trades_by_token_are_trades"},
    ),
    "candles of late trades left out where gaps are filled": (
        "ohlcv_1h_filled",
        "select * from {right} where is_filled or (token_id, bucket_at) not in"
        " (select token_id, max(bucket_at) from {right} where not is_filled group by token_id)",
        {"filled_candles_sum_to_candles"},
    ),
    "a leg that is lost": (
        "trade_legs",
        "select * from {right} where fill_id != (select min(fill_id) from {right} where leg = 'taker')",
        {"trade_legs_are_order_fills", "trades_are_taker_legs_and_direct_fills"},
    ),
    "a leg that stands twice": (
        "trade_legs",
        "select * from {right} union all (select * from {right} where leg = 'maker' limit 1)",
        {"trade_legs_are_order_fills", "trades_sum_their_maker_legs"},
    ),
    "a trade that only trades_by_token has": (
        "trades_by_token",
        "select * from {right} union all"
        " (select * replace (concat(trade_id, '0') as trade_id) from {right} limit 1)",
        {"trades_by_token_are_trades"},
    ),
    "an operator that is left in fills_by_wallet": (
        "fills_by_wallet",
        "select * from {right} union all"
        " (select * replace ('operator' as role) from (select * from {right} where role = 'maker' limit 1))",
        {"fills_by_wallet_are_wallet_fills"},
    ),
    "a transaction without a time": (
        "transaction_times",
        "select * from {right} where tx_key != (select min(tx_key) from {right})",
        {"transaction_times_are_those_of_fills"},
    ),
    "a candle that stands twice": (
        "ohlcv_1m",
        "select * from {right} union all (select * from {right} limit 1)",
        {"candles_sum_to_trades"},
    ),
    "a day without a candle": (
        "ohlcv_1h",
        "select * from {right} where toDate(bucket_at) != (select toDate(max(bucket_at)) from {right})",
        {"candles_sum_to_trades", "market_candles_sum_to_token_candles"},
    ),
    "a market candle of one token only": (
        "market_ohlcv_1h",
        "select * replace (volume_usd / 2 as volume_usd) from {right}",
        {"market_candles_sum_to_token_candles"},
    ),
    "a market that is lost": (
        "market_volume_daily",
        "select * from {right} where market_id != (select min(market_id) from {right})",
        {"event_volumes_sum_their_days", "market_volumes_sum_to_token_volumes"},
    ),
    "an event in which a market counts twice": (
        "event_volume",
        "select * replace (volume_shares * 2 as volume_shares) from {right}",
        {"event_volumes_sum_their_days"},
    ),
    "a maker's side as the inverse of its own": (
        "wallet_fills",
        "select * replace (if(role = 'maker' and side = 'BUY', -1, 1) * shares_change as shares_change) from {right}",
        {"fills_by_wallet_are_wallet_fills", "wallets_gain_what_others_lose"},
    ),
    "a direct fill without its operator": (
        "wallet_fills",
        "select * from {right} where role != 'operator'",
        {"fills_by_wallet_are_wallet_fills", "wallets_gain_what_others_lose"},
    ),
    "a fee taken off twice": (
        "wallet_fills",
        "select * replace (usd_change - fee_usd as usd_change) from {right}",
        {"fills_by_wallet_are_wallet_fills", "wallets_gain_what_others_lose"},
    ),
}


@pytest.fixture(scope="module")
def loaded(
    clickhouse: Endpoint, template: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """A run whose databases hold a small world of two days of each generation."""
    settings = make_settings(clickhouse, "t_marts", tmp_path_factory.mktemp("marts"))
    with prepared(settings, template) as run:
        run.world = small_world(days=2)
        land_gamma(run, run.world)
        land(run, all_fills(run.world))
        settle_all(run)
        yield run
        for database in (settings.clickhouse_database, settings.raw_database):
            run.client.command(f"drop database {database}")


@pytest.fixture(scope="module")
def conservation_sql(loaded: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The query of every conservation test over all days, by its name; all of them pass."""
    folder = tmp_path_factory.mktemp("conservation")
    assert dbt_test(loaded, folder, *ALL_DAYS) == set()
    results = json.loads((folder / "run_results.json").read_text())["results"]
    queries = {name_of(result): result["compiled_code"] for result in results}
    return {name: queries[name] for name in CONSERVATION}


def name_of(result: dict) -> str:
    return result["unique_id"].split(".")[2]


def dbt_test(run: Run, folder: Path, *arguments: str) -> set[str]:
    """Run the tests of marts and the singular tests with dbt; return the names of those that fail."""
    selected = ["--select", "path:models/marts", "test_type:singular", "--target-path", str(folder)]
    exit_code = dbt_command(run.server, run.settings, ["test", *selected, *arguments, "--quiet"])
    every = json.loads((folder / "run_results.json").read_text())["results"]
    results = [result for result in every if result["unique_id"].startswith("test.")]  # no hooks
    assert {name_of(result) for result in results} > CONSERVATION
    assert {result["status"] for result in results} <= {"pass", "fail"}
    failing = {name_of(result) for result in results if result["status"] == "fail"}
    assert exit_code == bool(failing)
    return failing


@contextmanager
def mistaken(run: Run, relation: str, wrong: str) -> Iterator[None]:
    """Let a relation return what `wrong` makes of `{right}`, and everything that reads it read that."""
    database = run.settings.clickhouse_database
    right = f"{database}.right_{relation}"
    run.client.command(f"rename table {database}.{relation} to {right}")
    try:
        run.client.command(f"create view {database}.{relation} as {wrong.format(right=right)}")
        yield
    finally:
        run.client.command(f"drop table if exists {database}.{relation}")
        run.client.command(f"rename table {right} to {database}.{relation}")


def test_without_data_marts_are_empty_and_conserve(run: Run, tmp_path: Path) -> None:
    assert {mart: rows_of(run, mart) for mart in MARTS} == dict.fromkeys(MARTS, 0)
    assert dbt_test(run, tmp_path) == set()


def test_marts_equal_the_truth(loaded: Run) -> None:
    assert_equals_truth(loaded, loaded.world)
    trending = Truth(loaded.world).trending_markets
    assert {row["price_24h_ago"] is None for row in trending} == {True, False}
    assert {row["volume_change"] is None for row in trending} == {True, False}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_conservation_tests_see_a_mistake(
    loaded: Run, conservation_sql: dict[str, str], mistake: str
) -> None:
    relation, wrong, expected = MISTAKES[mistake]
    with mistaken(loaded, relation, wrong):
        failing = {
            name for name, sql in conservation_sql.items() if loaded.client.query(sql).result_rows
        }
    assert failing == expected


def test_every_conservation_test_sees_one() -> None:
    assert set().union(*(expected for _, _, expected in MISTAKES.values())) == CONSERVATION


def test_conservation_looks_at_the_last_days_unless_told(loaded: Run, tmp_path: Path) -> None:
    """V1 ended weeks before the newest fill of the world."""
    old = "select * from {right} where bucket_at >= '2026-05-01'"
    with mistaken(loaded, "ohlcv_1m", old):
        assert dbt_test(loaded, tmp_path) == set()
        assert dbt_test(loaded, tmp_path, *ALL_DAYS) == {"candles_sum_to_trades"}
