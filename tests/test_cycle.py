"""Cycles against the simulated Polymarket: exactly what is new, nothing twice, and one failing source stops no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from worlds import assert_equals_truth, prepared, sandbox_settings, small_world

from embedded_clickhouse import Endpoint
from pipeline.errors import LoadFailed
from pipeline.jobs.cycle import CycleReport, run_cycle
from pipeline.jobs.freshness import last_reads
from pipeline.settings import Settings
from pipeline.warehouse.run import Run
from sandbox.server import AppServer, SandboxServer, Urls, build_app
from sandbox.world import World

PROMISED = (
    "markets", "events", "markets_events", "outcome_tokens", "order_fills", "trades",
    "ohlcv_1m", "ohlcv_1h", "ohlcv_1d", "volume_daily", "market_latest_price",
)  # fmt: skip


class Faults:
    """Passes requests on to the sandbox, except to paths that a test has made fail."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.answers: dict[str, Callable[[], Response]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for prefix, answer in self.answers.items():
            if scope["type"] == "http" and scope["path"].startswith(prefix):
                await answer()(scope, receive, send)
                return
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(seed=5)


@pytest.fixture
def polymarket() -> Iterator[SandboxServer]:
    """A simulated Polymarket of this test's own, because tests move it on."""
    with SandboxServer(small_world(seed=5)) as upstream:
        yield upstream


@pytest.fixture
def loading(reading_from, polymarket: SandboxServer) -> Iterator[Run]:
    """A prepared run that reads all of the simulated Polymarket."""
    with reading_from(polymarket) as run:
        yield run


def cycle(run: Run) -> CycleReport:
    with run.lock.held("test"):
        report = run_cycle(run)
    report.raise_failures()
    return report


def contents(run: Run) -> dict[str, tuple[int, int]]:
    """Row count and order-free hash of every promised table, bookkeeping columns and all."""
    database = run.settings.clickhouse_database
    return {
        table: run.client.query(
            f"select count(), sum(cityHash64(*)) from {database}.{table}"
        ).result_rows[0]
        for table in PROMISED
    }


def stored_rows(run: Run) -> dict[str, int]:
    """Rows of every table, copies included, but for what a run notes about itself."""
    return dict(
        run.client.query(
            "select database || '.' || name, total_rows from system.tables where total_rows is not null"
            " and database in ({raw:String}, {models:String})"
            " and not match(name, '^(_dlt_|job_|loads$|load_packages$|source_readings$|writer_lock)')",
            parameters={
                "raw": run.settings.raw_database,
                "models": run.settings.clickhouse_database,
            },
        ).result_rows
    )


def test_cycles_load_exactly_what_is_new(loading: Run, polymarket: SandboxServer) -> None:
    world = polymarket.world
    fills = sum(len(match.legs) for match in world.matches)
    assert cycle(loading).rows["order_filled"] == fills
    cycle(loading)  # asks Gamma for the tokens that the first cycle could not know
    assert_equals_truth(loading, world)

    before, stored = contents(loading), stored_rows(loading)
    idle = cycle(loading)
    assert not +idle.rows and idle.caught_up
    assert contents(loading) == before
    assert stored_rows(loading) == stored

    world.advance(40)
    new = sum(len(match.legs) for match in world.matches) - fills
    assert new > 0
    assert cycle(loading).rows["order_filled"] == new
    cycle(loading)
    assert_equals_truth(loading, world)


def test_loading_everything_again_changes_no_number(
    loading: Run, polymarket: SandboxServer
) -> None:
    cycle(loading)
    cycle(loading)
    before = contents(loading)
    shutil.rmtree(loading.settings.dlt_pipelines_dir)
    for table in ("_dlt_pipeline_state", "_dlt_loads", "_dlt_version"):
        loading.client.command(f"drop table {loading.settings.raw_database}.{table}")
    again = cycle(loading)
    assert again.rows["order_filled"] == sum(len(match.legs) for match in polymarket.world.matches)
    assert again.rows["markets"] == 0  # unchanged content is not stored again
    cycle(loading)
    assert contents(loading) == before


def test_a_lost_working_folder_is_no_loss(loading: Run, polymarket: SandboxServer) -> None:
    """The cursors come back from ClickHouse, and loading goes on where it stood."""
    cycle(loading)
    cycle(loading)
    shutil.rmtree(loading.settings.dlt_pipelines_dir)
    polymarket.world.advance(5)
    report = cycle(loading)
    assert 0 < report.rows["order_filled"] < 1000
    cycle(loading)
    assert_equals_truth(loading, polymarket.world)


def test_a_small_budget_gets_there_in_several_cycles(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings
) -> None:
    world = small_world(seed=5, days=0.006)
    with SandboxServer(world) as upstream:
        settings = sandbox_settings(
            clickhouse,
            database_prefix,
            tmp_path,
            upstream,
            cycle_budget_s=0.001,
            goldsky_page_size=200,
            fills_lookback_s=600,
        )
        with prepared(settings, template) as run:
            assert not cycle(run).caught_up
            assert any(cycle(run).caught_up for _ in range(30))
            cycle(run)
            assert_equals_truth(run, world)


def rpc_error() -> Response:
    return JSONResponse(
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no state"}}
    )


# A fault of each source; `test_faults.py` has every kind.
FAULTS = {  # what happens: which source, its path, the answer, a word of the failure
    "html": ("gamma", "/gamma", lambda: HTMLResponse("<html>busy</html>"), "HTML"),
    "graphql": (
        "goldsky",
        "/goldsky",
        lambda: JSONResponse({"errors": [{"message": "lost"}]}),
        "lost",
    ),
    "rpc": ("polygon", "/polygon", rpc_error, "no state"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_source_is_named_and_stops_no_other(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings, fault: str
) -> None:
    source, prefix, answer, message = FAULTS[fault]
    world = small_world(seed=6, matches=150)
    faults = Faults(build_app(world))
    with AppServer(faults) as server:
        urls = Urls.at(server.port)
        settings = sandbox_settings(
            clickhouse,
            database_prefix,
            tmp_path,
            _Upstream(urls),
            http_give_up_s=0.2,
            http_timeout_s=5,
        )
        with prepared(settings, template) as run:
            faults.answers[prefix] = answer
            with pytest.raises(LoadFailed, match=message) as failure:
                cycle(run)
            assert str(failure.value).startswith(source)
            assert "\n" not in str(failure.value)
            tables = {"gamma": ("markets",), "goldsky": ("v1",), "polygon": ("v2",)}
            for name in tables.keys() - {source}:
                assert _loaded(run, name) > 0, name
            assert _loaded(run, source) == 0
            faults.answers.clear()
            cycle(run)
            cycle(run)
            assert_equals_truth(run, world)


class _Upstream:
    def __init__(self, urls: Urls) -> None:
        self.urls = urls


def _loaded(run: Run, source: str) -> int:
    raw = run.settings.raw_database
    table = (
        f"{raw}.markets" if source == "gamma" else f"{raw}.order_filled where source = '{source}'"
    )
    return run.client.query(f"select count() from {table}").result_rows[0][0]


def test_dead_upstreams_are_named_each(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings
) -> None:
    nowhere = Urls("http://127.0.0.1:9", "http://127.0.0.1:9", "http://127.0.0.1:9")
    settings = sandbox_settings(
        clickhouse, database_prefix, tmp_path, _Upstream(nowhere), http_give_up_s=0
    )
    with prepared(settings, template) as run:
        with pytest.raises(LoadFailed) as failure:
            cycle(run)
        for name in ("gamma", "goldsky", "polygon"):
            assert name in str(failure.value)
        assert run.lock.holder() is None


def test_a_query_that_clickhouse_refuses_fails_one_source_only(
    loading: Run, polymarket: SandboxServer
) -> None:
    """Gamma asks for unknown tokens by a view; without it the others are read, settled and noted."""
    models, raw = loading.settings.clickhouse_database, loading.settings.raw_database
    loading.client.command(f"drop view {models}.unknown_tokens")
    with loading.lock.held("test"):
        report = run_cycle(loading)
    assert report.failures.keys() == {"gamma"}
    assert "unknown_tokens" in report.failures["gamma"]
    assert report.rows["order_filled"] > 0
    assert loading.ledger.unsettled() == []
    outcomes = loading.client.query(f"select job, outcome from {raw}.jobs order by job").result_rows
    assert dict(outcomes) == {"gamma": "failed", "goldsky": "done", "polygon": "done"}


def test_a_listing_by_id_is_no_fresh_read_and_hides_nothing(
    loading: Run, polymarket: SandboxServer
) -> None:
    """The full passes are not due for hours and days, but begin at once."""
    loading.settings = loading.settings.model_copy(update={"gamma_open_every_s": 3600.0})
    cycle(loading)
    first = last_reads(loading.client, loading.settings.raw_database)["gamma"]
    polymarket.world.advance(300)
    polymarket.app.faults.add("order-ignored")
    with pytest.raises(LoadFailed, match="gamma: the listing is not newest first although order="):
        cycle(loading)
    assert last_reads(loading.client, loading.settings.raw_database)["gamma"] == first
    assert_equals_truth(loading, polymarket.world)


def test_a_cached_page_reopens_no_market(loading: Run, polymarket: SandboxServer) -> None:
    """The pages by id still have the markets open that the newest-first pages have closed."""
    world, models = polymarket.world, loading.settings.clickhouse_database
    polymarket.app.faults.add("stale-page")
    cycle(loading)
    open_before = {key for key, market in world.gamma.markets.items() if not market["closed"]}
    world.advance(600)
    for _ in range(2):
        cycle(loading)
    closed = {key for key in open_before if world.gamma.markets[key]["closed"]}
    assert closed - world.gamma.unlisted
    rows = loading.client.query(
        f"select market_id from {models}.market_history group by market_id"
        " having countIf(closed) = 1 and argMax(closed, valid_from) and countIf(not closed) > 0"
    ).result_rows
    assert {key for (key,) in rows} >= closed - world.gamma.unlisted
    reopened = f"select count() from {models}.market_history where closed and not is_current"
    assert loading.client.command(reopened) == 0
