"""The dbt project: builds twice without a change, documents everything, and agrees with the Python beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
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
from ingest import contracts
from pipeline.derive import models, upgrade
from pipeline.derive.dbt import dbt_command
from pipeline.derive.models import ensure_models, project_hash
from pipeline.derive.prepare import prepare
from pipeline.settings import Settings
from pipeline.warehouse.run import Run, open_run

PROMISED_COLUMNS = {
    "order_fills": "fill_id contract_version exchange block_number log_index tx_hash filled_at order_hash maker taker"
    " leg side token_id shares usd price fee fee_asset",
    "trades": "trade_id contract_version filled_at tx_hash wallet side token_id match_type maker_legs shares usd price"
    " is_dust market_id condition_id outcome outcome_index",
    "ohlcv_1m": "token_id bucket_at open high low close vwap volume_usd volume_shares trades",
    "ohlcv_1h": "token_id bucket_at open high low close vwap volume_usd volume_shares trades",
    "ohlcv_1d": "token_id bucket_at open high low close vwap volume_usd volume_shares trades",
    "volume_daily": "day token_id volume_usd volume_shares trades",
    "market_latest_price": "token_id price priced_at",
    "outcome_tokens": "token_id market_id condition_id outcome_index outcome",
    "markets": "market_id condition_id slug question event_slug active closed neg_risk volume_usd created_at closed_at",
    "events": "event_id slug title tags active closed volume_usd",
    "markets_events": "market_id event_id question title tags",
}


@pytest.fixture(scope="module")
def loaded(
    clickhouse: Endpoint, template: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """A run whose databases hold a small world."""
    settings = make_settings(clickhouse, "t_models", tmp_path_factory.mktemp("models"))
    with prepared(settings, template) as run:
        world = small_world()
        land_gamma(run, world)
        land(run, all_fills(world))
        settle_all(run)
        run.world = world
        yield run
        for database in (settings.clickhouse_database, settings.raw_database):
            run.client.command(f"drop database {database}")


def dbt(run: Run, *arguments: str) -> int:
    return dbt_command(run.server, run.settings, [*arguments, "--quiet"])


@pytest.mark.parametrize("table", PROMISED_COLUMNS)
def test_promised_tables_have_the_promised_columns(loaded: Run, table: str) -> None:
    database = loaded.settings.clickhouse_database
    columns = loaded.client.query(f"select * from {database}.{table} limit 1").column_names
    assert set(PROMISED_COLUMNS[table].split()) <= set(columns)
    assert rows_of(loaded, table) > 0


def test_every_relation_and_column_is_commented_in_clickhouse(loaded: Run) -> None:
    database = loaded.settings.clickhouse_database
    bare = loaded.client.query(
        "select table || '.' || name from system.columns where database = {d:String} and comment = ''"
        " union all select name from system.tables where database = {d:String} and comment = ''",
        parameters={"d": database},
    ).result_rows
    assert bare == []


def test_a_build_changes_nothing_and_gives_no_warning(loaded: Run) -> None:
    """Models, data tests and unit tests; a warning of any of them, or of the project itself, fails it."""
    stores = ("order_fills_store", "trades_store", "ohlcv_1m_store", "markets_store")
    before = {store: rows_of(loaded, store) for store in stores}
    assert dbt(loaded, "build", "--warn-error") == 0
    assert {store: rows_of(loaded, store) for store in stores} == before
    assert_equals_truth(loaded, loaded.world)


def test_full_refresh_derives_everything_again_from_raw(loaded: Run) -> None:
    database = loaded.settings.clickhouse_database
    loaded.client.command(f"truncate table {database}.trades_store")
    loaded.client.command(
        f"alter table {database}.ohlcv_1h_store delete where 1 settings mutations_sync = 2"
    )
    assert dbt(loaded, "run", "--full-refresh") == 0
    assert_equals_truth(loaded, loaded.world)


def test_what_comes_after_a_full_refresh_still_settles(loaded: Run) -> None:
    world = loaded.world
    assert dbt(loaded, "run", "--full-refresh") == 0
    world.advance(5)
    land(loaded, all_fills(world)[-40:])
    settle_all(loaded)
    land_gamma(loaded, world)
    assert_equals_truth(loaded, world)


def test_stores_of_this_version_are_not_derived_again(
    loaded: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version whose stores are the same is built by a plain run."""
    run_dbt = models.run_dbt

    def only_compile(arguments: list[str], *_: Any) -> Any:
        assert arguments == ["compile", "--full-refresh"], arguments
        return run_dbt(arguments)

    monkeypatch.setattr(models, "run_dbt", only_compile)
    monkeypatch.setattr(upgrade, "fill_beside", None)
    monkeypatch.setattr(models, "project_hash", lambda settings: "another version")
    with pytest.raises(AssertionError, match=r"^\['run'\]"):
        ensure_models(loaded)


def as_in_an_earlier_version(run: Run) -> None:
    """Give the stores of markets and events the columns of 0.1.0, with 0 for null, and a token that is none."""
    models = run.settings.clickhouse_database
    for store in ("markets_store", "events_store", "market_history_store"):
        text = run.client.command(f"show create table {models}.{store} format TSVRaw")
        for kind in ("Decimal(38, 6)", "Float64"):
            text = text.replace(f"Nullable({kind})", kind)
        run.client.command(f"rename table {models}.{store} to {models}.new_{store}")
        run.client.command(text)
        run.client.command(f"insert into {models}.{store} select * from {models}.new_{store}")
        run.client.command(f"drop table {models}.new_{store}")
    run.client.command(
        f"insert into {models}.outcome_tokens_store select * replace ('' as token_id)"
        f" from {models}.outcome_tokens_store limit 1"
    )
    raw = run.settings.raw_database
    run.client.command(f"delete from {raw}.deployed_stores where name = 'outcome_tokens_store'")
    run.client.command(f"truncate table {raw}.model_deployments")


def interrupted_at(number: int) -> Callable[[Run, Any], None]:
    """`fill_beside`, interrupted at this one of its calls."""
    fill_beside, asked = upgrade.fill_beside, []

    def interrupted(run: Run, store: Any) -> None:
        asked.append(store)
        if len(asked) == number:
            raise KeyboardInterrupt
        fill_beside(run, store)

    return interrupted


def test_an_upgrade_derives_markets_again_and_keeps_the_rest(
    loaded: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run that began it was interrupted between two stores."""
    world, database = loaded.world, loaded.settings.clickhouse_database
    uuids = f"select name, uuid from system.tables where database = '{database}' and engine like '%MergeTree'"
    as_in_an_earlier_version(loaded)
    before = dict(loaded.client.query(uuids).result_rows)
    assert rows_of(loaded, "markets_store where volume_usd is null") == 0
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(upgrade, "fill_beside", interrupted_at(3))
        ensure_models(loaded)
    loaded.statements = ensure_models(loaded)
    after = dict(loaded.client.query(uuids).result_rows)
    assert {name for name in before if before[name] != after[name]} == {
        "markets_store", "events_store", "market_history_store", "outcome_tokens_store",
    }  # fmt: skip
    assert rows_of(loaded, "outcome_tokens where token_id = ''") == 0
    assert_equals_truth(loaded, world)
    world.advance(200)
    land_gamma(loaded, world)
    land(loaded, all_fills(world))
    settle_all(loaded)
    assert_equals_truth(loaded, world)


def test_dropped_models_are_built_again_with_their_data(loaded: Run) -> None:
    """The models can always be thrown away: everything in them follows from raw."""
    loaded.client.command(f"drop database {loaded.settings.clickhouse_database}")
    loaded.client.command(f"create database {loaded.settings.clickhouse_database}")
    loaded.statements = ensure_models(loaded)
    assert_equals_truth(loaded, loaded.world)


def test_docs_generate_and_describe_everything(loaded: Run) -> None:
    assert dbt(loaded, "docs", "generate") == 0
    manifest = json.loads((models.DBT_DIR / "target" / "manifest.json").read_text())
    bare = []
    for node in manifest["nodes"].values():
        if node["resource_type"] == "model":
            columns = actual_columns(loaded, node["alias"])
            described = {name for name, column in node["columns"].items() if column["description"]}
            bare += [f"{node['name']}.{name}" for name in columns if name not in described]
            bare += [] if node["description"] else [node["name"]]
    assert bare == []


def actual_columns(run: Run, table: str) -> list[str]:
    return [
        name
        for (name,) in run.client.query(
            "select name from system.columns where database = {d:String} and table = {t:String}",
            parameters={"d": run.settings.clickhouse_database, "t": table},
        ).result_rows
    ]


def test_exchanges_in_sql_are_those_that_are_read_from_the_chain(loaded: Run) -> None:
    rows = loaded.client.query(
        f"select address, contract_version from {loaded.settings.clickhouse_database}.exchanges"
    ).result_rows
    assert dict(rows) == contracts.EXCHANGES


def test_models_are_built_once_per_version(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(arguments: list[str]) -> Any:
        raise AssertionError(f"dbt {arguments} although nothing changed")

    monkeypatch.setattr(models, "run_dbt", refuse)
    assert ensure_models(run) == run.statements
    with pytest.raises(AssertionError, match="although"):
        monkeypatch.setattr(models, "project_hash", lambda settings: "another version")
        ensure_models(run)


def test_the_version_follows_files_and_names(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.sql").write_text("select 1")
    monkeypatch.setattr(models, "DBT_DIR", tmp_path)
    first = project_hash(settings)
    assert project_hash(settings) == first
    assert project_hash(settings.model_copy(update={"clickhouse_database": "other"})) != first
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "compiled.sql").write_text("select 1")
    assert project_hash(settings) == first
    (tmp_path / "model.sql").write_text("select 2")
    assert project_hash(settings) != first


def test_building_says_how_far_it_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.derive.models.LOG_EVERY_S", -1.0)
    caplog.set_level("INFO")
    with open_run(settings) as run:
        prepare(run)
    said = [re.fullmatch(r"models: (\d+) of (\d+) built", line) for line in caplog.messages]
    counts = [tuple(map(int, each.groups())) for each in said if each]
    assert len(counts) > 20
    assert counts[-1][0] == counts[-1][1]
