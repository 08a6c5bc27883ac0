"""dbt as a team uses it: a developer's schema beside production, slim CI, cloning, empty and sampled runs, the docs page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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
from pipeline.derive.dbt import dbt_command, writes
from pipeline.settings import Settings
from pipeline.warehouse.run import Run

DEV = "t_team_dev"


@pytest.fixture(scope="module")
def production(
    clickhouse: Endpoint, template: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """A run whose databases hold a small world of a quarter of a day of each generation."""
    settings = make_settings(clickhouse, "t_team", tmp_path_factory.mktemp("team"))
    with pytest.MonkeyPatch.context() as patched, prepared(settings, template) as run:
        patched.setenv("CLICKHOUSE_DEV_DATABASE", DEV)
        patched.setenv("DBT_SEND_ANONYMOUS_USAGE_STATS", "false")
        world = small_world()
        land_gamma(run, world)
        land(run, all_fills(world))
        settle_all(run)
        run.world = world
        run.dev_artifacts = tmp_path_factory.mktemp("dev")
        yield run
        for database in (settings.clickhouse_database, settings.raw_database, DEV):
            run.client.command(f"drop database if exists {database}")


@pytest.fixture(scope="module")
def state(production: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of production, as slim CI compares with."""
    folder = tmp_path_factory.mktemp("state")
    assert dbt(production, "parse", "--target-path", str(folder)) == 0
    return folder


def dbt(run: Run, *arguments: str) -> int:
    return dbt_command(run.server, run.settings, [*arguments, "--quiet"])


def dev(run: Run, *arguments: str) -> int:
    """dbt of the developer, who keeps artifacts, and with them what was parsed, in a folder apart."""
    return dbt(run, *arguments, "--target", "dev", "--target-path", str(run.dev_artifacts))


def drop_dev(run: Run) -> None:
    """Drop the developer's schema; it is there again, empty, because dbt's connections in this process were opened in it."""
    run.client.command(f"drop database if exists {DEV}")
    run.client.command(f"create database {DEV}")


def refused(run: Run, capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What dbt says, which must fail."""
    capfd.readouterr()
    assert dbt_command(run.server, run.settings, [*arguments]) != 0
    said = capfd.readouterr()
    return " ".join((said.out + said.err).split())


def dev_rows(run: Run, table: str) -> int:
    return run.client.query(f"select count() from {DEV}.{table}").result_rows[0][0]


def test_a_developers_schema_is_built_beside_production_and_dropped_again(production: Run) -> None:
    """Of three days of fills by default, so of the newer generations alone: the archive ends a month before."""
    run, world = production, production.world
    assert dev(run, "build", "--exclude", "test_type:unit") == 0
    newer = "trades where filled_at > toDateTime('2026-05-29 00:00:00', 'UTC')"
    assert dev_rows(run, "trades") == rows_of(run, newer) > 0
    assert dev_rows(run, "trades") < rows_of(run, "trades")
    assert dev_rows(run, "markets") == rows_of(run, "markets")
    views = run.client.query(
        f"select name from system.tables where database = '{DEV}' and engine = 'MaterializedView'"
    ).result_rows
    assert views == []

    drop_dev(run)
    world.advance(20)
    land_gamma(run, world)
    land(run, all_fills(world))
    settle_all(run)
    assert_equals_truth(run, world)


def test_the_window_of_a_developers_stores_can_be_set(production: Run) -> None:
    everything = ["--vars", "{dev_days: 100}"]
    stores = ["--select", "+ohlcv_1d"]
    assert dev(production, "run", *everything, *stores) == 0
    assert dev_rows(production, "ohlcv_1d") == rows_of(production, "ohlcv_1d")
    # Each run derives anew: the second time the window is the default again.
    assert dev(production, "run", *stores) == 0
    assert 0 < dev_rows(production, "ohlcv_1d") < rows_of(production, "ohlcv_1d")


def test_another_schema_can_be_named_with_the_raw_one_by_a_variable(
    production: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever sets CLICKHOUSE_DATABASE alone does it."""
    own = production.settings.model_copy(update={"clickhouse_database": DEV})
    raw = json.dumps({"raw_schema": production.settings.raw_database})
    arguments = ["run", "--quiet", "--select", "+markets", "--vars", raw]
    assert dbt_command(production.server, own, arguments) == 0
    assert dev_rows(production, "markets") == rows_of(production, "markets")


def test_a_schema_without_landing_tables_is_refused_with_what_to_do(
    production: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    own = production.settings.model_copy(update={"clickhouse_database": DEV})
    run = Run.__new__(Run)
    run.__dict__.update(production.__dict__ | {"settings": own})
    said = refused(run, capfd, "run", "--select", "markets")
    assert f"there is no database {DEV}_raw" in said
    assert "--target dev" in said


@pytest.mark.parametrize("option", [["--empty"], ["--sample", "2 days"]])
def test_empty_and_sampled_runs_work_for_developers_and_are_refused_in_production(
    production: Run, capfd: pytest.CaptureFixture[str], option: list[str]
) -> None:
    run = production
    said = refused(run, capfd, "run", "--select", "markets", *option)
    assert "--empty and --sample would leave the views" in said
    before = rows_of(run, "trades")
    assert dev(run, "run", *option) == 0
    assert dev_rows(run, "trades") == 0
    assert rows_of(run, "trades") == before


def test_a_sample_of_a_stretch_of_time_has_its_rows(production: Run) -> None:
    stretch = "{'start': '2026-06-01', 'end': '2026-06-02'}"
    select = ["--select", "+trades_store"]
    assert dev(production, "run", "--sample", stretch, *select) == 0
    sampled = dev_rows(production, "trades_store")
    assert sampled == rows_of(production, "trades where filled_at >= toDate('2026-06-01')") > 0


def test_slim_ci_builds_what_changed_alone(
    production: Run, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing changed: a developer's schema differs from production in no model. Then one model is built on production's."""
    run = production
    changed = ["--state", str(state)]
    capfd.readouterr()
    assert dev(run, "list", "--select", "state:modified", *changed) == 0
    assert capfd.readouterr().out.strip() == ""
    drop_dev(run)
    assert dev(run, "build", "--select", "market_volume_daily", "--defer", *changed) == 0
    tables = run.client.query(f"select name from system.tables where database = '{DEV}'")
    assert list(tables.result_columns[0]) == ["market_volume_daily"]
    assert dev_rows(run, "market_volume_daily") == rows_of(run, "market_volume_daily")


def test_stores_are_cloned_and_views_are_refused(
    production: Run, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, clone = production, ["clone", "--state", str(state)]
    drop_dev(run)
    said = refused(run, capfd, *clone, "--select", "markets", "--target", "dev")
    assert "--select config.materialized:incremental" in said
    assert dev(run, *clone, "--select", "config.materialized:incremental") == 0
    assert dev(run, "run", "--select", "config.materialized:view") == 0
    assert dev_rows(run, "ohlcv_1m") == rows_of(run, "ohlcv_1m")
    said = refused(run, capfd, "clone", "--state", str(state), "--select", "markets_store")
    assert "does not write into production" in said


def test_a_materialized_view_of_another_text_than_staging_fails_its_test(production: Run) -> None:
    run, database = production, production.settings.clickhouse_database
    view = f"{database}.order_fills_mv"
    text = run.client.command(f"show create table {view} format TSVRaw")
    wrong = text.replace("'BUY', 'SELL'", "'SELL', 'BUY'", 1)
    assert wrong != text
    select = ["--select", "order_fills_mv"]
    assert dbt(run, "test", *select) == 0
    run.client.command(f"drop table {view}")
    run.client.command(wrong)
    try:
        assert dbt(run, "test", *select) == 1
    finally:
        run.client.command(f"drop table {view}")
        run.client.command(text)


def test_promised_models_are_public_with_a_contract_and_the_rest_is_hidden(state: Path) -> None:
    manifest = json.loads((state / "manifest.json").read_text())
    for node in manifest["nodes"].values():
        if node["resource_type"] != "model":
            continue
        name = node["name"]
        inner = name.endswith(("_store", "_mv"))
        promised = not inner and not name.startswith(("int_", "base_", "stg_"))
        assert (node["access"] == "public") is promised, name
        assert node["config"]["contract"]["enforced"] or not promised, name
        assert node["docs"]["show"] is not inner, name
        assert node["docs"]["node_color"], name


def test_the_docs_are_one_page(production: Run, tmp_path: Path) -> None:
    assert dbt(production, "docs", "generate", "--static", "--target-path", str(tmp_path)) == 0
    page = (tmp_path / "static_index.html").read_text()
    assert "One row per executed taker order" in page
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    tests = [node for node in manifest["nodes"].values() if node["resource_type"] == "test"]
    assert [node["name"] for node in tests if node["docs"]["show"]] == []


@pytest.mark.parametrize(
    ("arguments", "locks"),
    [
        (["run"], True),
        (["run", "--target", "dev"], False),
        (["build", "-t", "dev"], False),
        (["run", "--target=dev"], False),
        (["run", "--target", "default"], True),
        (["test"], False),
    ],
)
def test_only_what_writes_into_production_takes_the_writer_lock(
    arguments: list[str], locks: bool
) -> None:
    assert writes(arguments) is locks
