"""Helpers for tests that run the pipeline: settings for a database prefix, and databases with the models already built.

dbt takes seconds to build the models, so one template is built per session and copied by its DDL. That takes two seconds
still, so a copy that a test has left as it was made is emptied and given to the next test. A world that many tests of a
module begin with is settled once, and its parts are attached to the databases of each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from embedded_clickhouse import Endpoint
from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.derive import models
from pipeline.derive.prepare import prepare
from pipeline.derive.settle import settle
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.warehouse.loads import now_us
from pipeline.warehouse.run import Run, open_run
from sandbox.contracts import Fill
from sandbox.reconcile import reconcile
from sandbox.server import SandboxServer
from sandbox.truth import Truth
from sandbox.world import World

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
COLUMNS = [
    "timestamp",
    "block_number",
    "log_index",
    "tx_hash",
    "order_hash",
    "contract_version",
    "exchange",
    "maker",
    "taker",
    "maker_asset_id",
    "taker_asset_id",
    "side",
    "token_id",
    "maker_amount",
    "taker_amount",
    "fee",
    "builder",
    "source",
    "is_deleted",
    "load_id",
]
FILLED_ROWS = 15_000  # compared in each of many tests; `demo` and `chaos` compare 100,000
# For what ends sooner unless there is a defect, on a machine that is ten times slower too. A test waits for an event.
PATIENCE_S = 900
# What is the same however often and whenever it is read; prices are as many as the readings.
WITHOUT_PRICES = "gamma,goldsky,polygon"
HISTORY = timedelta(days=0.3)  # of fills of each generation, with room


CODE = ("pipeline", "ingest", "embedded_clickhouse", "sandbox", "schema", "dbt_project")


def copied_checkout(folder: Path) -> Path:
    """A checkout of its own in a new folder, as relative data paths mean the project's folder."""
    ignored = shutil.ignore_patterns("__pycache__", "target", "logs")
    for name in CODE:
        shutil.copytree(PROJECT_DIR / name, folder / name, ignore=ignored)
    for name in ("run_pipeline.py", "profiles.yml"):
        shutil.copy(PROJECT_DIR / name, folder)
    return folder


def make_settings(endpoint: Endpoint, prefix: str, folder: Path, **overrides: Any) -> Settings:
    """Settings for a database prefix on the shared ClickHouse; upstreams point nowhere unless overridden."""
    nowhere = "http://127.0.0.1:9"
    values = {
        "clickhouse_host": endpoint.host,
        "clickhouse_port": endpoint.port,
        "clickhouse_password": endpoint.password,
        "clickhouse_database": prefix,
        "dlt_pipelines_dir": folder / "dlt",
        "polymarket_gamma_url": nowhere,
        "polymarket_clob_url": nowhere,
        "goldsky_url": nowhere,
        "polygon_rpc_url": nowhere,
        "sources": WITHOUT_PRICES,
    }
    return Settings(_env_file=None, **(values | overrides))


def sandbox_settings(
    endpoint: Endpoint, prefix: str, folder: Path, upstream: SandboxServer, **overrides: Any
) -> Settings:
    """Settings that read all of a simulated Polymarket."""
    values = {
        "polymarket_gamma_url": upstream.urls.gamma_url,
        "polymarket_clob_url": upstream.urls.clob_url,
        "goldsky_url": upstream.urls.goldsky_url,
        "polygon_rpc_url": upstream.urls.polygon_url,
        "goldsky_start": ARCHIVE_END - HISTORY,
        "fills_lookback_s": int(HISTORY.total_seconds()),
        "polygon_confirmations": 0,
        "gamma_open_every_s": 0.001,
        "polygon_stale_after_s": 10**9,  # the simulated clock stands at NOW
    }
    return make_settings(endpoint, prefix, folder, **(values | overrides))


def small_world(
    seed: int = 1, matches: int = 400, days: float = 0.25, now: datetime = NOW
) -> World:
    """A world that loads in about a second: `matches` over `days` of each generation."""
    return World.generate(seed, now=now, markets=40, matches=matches, v1_days=days, v2_days=days)


@contextmanager
def prepared(settings: Settings, template: Settings):
    """An open run on a copy of the template's databases, as `prepare` would leave it."""
    with open_run(settings) as run:
        if not run.has_database(settings.raw_database):  # else they are a copy that was emptied
            copy_databases(run, template)
        prepare(run)
        yield run


def copy_databases(run: Run, template: Settings) -> None:
    """Copy tables, views and book-keeping of the template under the run's names, without data.

    The template may be in another ClickHouse.
    """
    new = run.settings.clickhouse_database
    for database in (f"{new}_raw", new):
        run.client.command(f"create database if not exists {database}")
    with open_run(template) as source:
        pending = list(_definitions(source, new))
        while pending:
            failed = [query for query in pending if not _created(run, query)]
            if len(failed) == len(pending):
                run.client.command(failed[0])  # raises, and says why
            pending = failed
        _copy_books(source, run)


def emptied(run: Run, template: Settings) -> bool:
    """Empty a copy of the template for the next test; False if it cannot be made as it was.

    Tables beyond those of the template go, such as dlt's. The copy is given up if one of the template's is changed or gone,
    or if a statement still runs in it.
    """
    new = run.settings.clickhouse_database
    names = {"databases": [new, f"{new}_raw"]}
    busy = run.client.query(
        "select (select count() from system.processes where position(query, {name:String}) and query_id != queryID())"
        " + (select count() from system.mutations where database in {databases:Array(String)} and not is_done)",
        parameters=names | {"name": new},
    ).result_rows[0][0]
    tables = run.client.query(
        "select create_table_query, database || '.' || name, has_parts from system.tables left join ("
        "   select database, table as name, 1 as has_parts from system.parts where active group by all"
        " ) as parts using (database, name) where database in {databases:Array(String)}",
        parameters=names,
    ).result_rows
    with open_run(template) as source:
        wanted = set(_definitions(source, new))
        if busy or not wanted <= {query for query, _, _ in tables}:
            return False
        for query, name, has_parts in tables:
            if query not in wanted:
                run.client.command(f"drop table {name}")
            elif has_parts:
                run.client.command(f"truncate table {name}")
        _copy_books(source, run)
    return True


def copy_rows(run: Run, settled: Settings) -> None:
    """Fill the empty databases of a run with the rows of others in the same ClickHouse, as they were loaded and settled."""
    new, old = run.settings.clickhouse_database, settled.clickhouse_database
    tables = run.client.query(
        "select distinct database, table from system.parts where active and database in {databases:Array(String)}"
        " and table not in ('schema_migrations', 'deployed_stores', 'model_deployments')",
        parameters={"databases": [old, f"{old}_raw"]},
    ).result_rows
    for database, table in tables:
        copy = f"{new}{database.removeprefix(old)}.{table}"
        run.client.command(f"alter table {copy} attach partition all from {database}.{table}")


def _definitions(source: Run, name: str) -> dict[str, None]:
    """How the tables and views of a template are made under another name, in the order in which they can be."""
    old = source.settings.clickhouse_database
    # Tables before the views that read them, views in the order in which they were made.
    tables = source.client.query(
        "select create_table_query from system.tables where database in ({raw:String}, {models:String})"
        " order by engine in ('View', 'MaterializedView'), metadata_modification_time, name",
        parameters={"raw": f"{old}_raw", "models": old},
    ).result_rows
    return {query.replace(old, name): None for (query,) in tables}


def _copy_books(source: Run, run: Run) -> None:
    """Note in a copy of the template what is noted in the template: its migrations and its models."""
    old, new = source.settings.clickhouse_database, run.settings.clickhouse_database
    copied = {
        table: source.client.query(f"select * from {old}_raw.{table}")
        for table in ("schema_migrations", "deployed_stores")
    }
    statements, relations = source.client.query(
        f"select statements, relations from {old}_raw.model_deployments final"
    ).result_rows[0]
    for table, rows in copied.items():
        run.client.insert(
            table, rows.result_rows, column_names=rows.column_names, database=f"{new}_raw"
        )
    run.client.insert(
        "model_deployments",
        [
            [
                models.project_hash(run.settings),
                datetime.now(UTC),
                json.dumps(json.loads(statements)).replace(old, new),
                relations,
            ]
        ],
        column_names=["project_hash", "deployed_at", "statements", "relations"],
        database=f"{new}_raw",
    )


def _created(run: Run, query: str) -> bool:
    try:
        run.client.command(query)
    except Exception:  # what it reads is not there yet
        return False
    return True


def landing_row(fill: Fill, load_id: int, *, is_deleted: int = 0) -> list:
    """A fill as its source lands it: V1 from the archive, V2 from the chain."""
    buys = fill.side == "BUY"
    given_amount, received = (fill.usd, fill.shares) if buys else (fill.shares, fill.usd)
    v1 = fill.version == "v1"
    return [
        datetime.fromtimestamp(fill.timestamp, UTC),
        0 if v1 else fill.block_number,
        0 if v1 else fill.log_index,
        fill.tx_hash,
        fill.order_hash,
        fill.version,
        (fill.exchange if not v1 or fill.taker == fill.exchange else ""),
        fill.maker,
        fill.taker,
        ("0" if buys else fill.token_id) if v1 else "",
        (fill.token_id if buys else "0") if v1 else "",
        "" if v1 else fill.side,
        "" if v1 else fill.token_id,
        given_amount,
        received,
        fill.fee,
        "",
        "goldsky" if v1 else "polygon",
        is_deleted,
        load_id,
    ]


def land(run: Run, fills: Iterable[Fill], *, is_deleted: int = 0) -> int:
    """Land fills as one load, as a cycle would, without settling; return its id."""
    load_id = now_us()
    run.ledger.open(load_id, ["order_filled"])
    rows = [landing_row(fill, load_id, is_deleted=is_deleted) for fill in fills]
    if rows:
        run.client.insert(
            "order_filled", rows, column_names=COLUMNS, database=run.settings.raw_database
        )
    run.ledger.close_loading([load_id])
    return load_id


def settle_all(run: Run, max_rows: int = 1_000_000) -> int:
    return settle(run.client, run.ledger, run.statements, max_rows=max_rows)


def land_gamma(run: Run, world: World) -> None:
    """Land the markets and events of a world as they stand, and settle them."""
    truth = Truth(world)
    for table, key, payloads in (
        ("markets", "market_id", truth.markets),
        ("events", "event_id", truth.events),
    ):
        load_id = now_us()
        run.ledger.open(load_id, [table])
        rows = [
            [
                row["id"],
                number,
                datetime.now(UTC),
                bool(row.get("closed")),
                json.dumps(row),
                load_id,
            ]
            for number, row in enumerate(payloads)
        ]
        columns = [key, "content_hash", "fetched_at", "closed", "payload", "load_id"]
        run.client.insert(table, rows, column_names=columns, database=run.settings.raw_database)
        run.ledger.close_loading([load_id])
    settle_all(run)


def assert_equals_truth(run: Run, world: World, *, v1_from_chain: bool = False) -> None:
    """Every promised table is equal; of gap-filled candles, which follow from the others, those of a few tokens."""
    database = run.settings.clickhouse_database
    truth = Truth(world, v1_from_chain=v1_from_chain)
    checks = reconcile(run.client, database, truth, filled_rows=FILLED_ROWS)
    wrong = {c.name: c.differences or (c.expected, c.actual) for c in checks if not c.equal}
    assert not wrong, wrong


def rows_of(run: Run, table: str) -> int:
    database = run.settings.clickhouse_database
    return run.client.query(f"select count() from {database}.{table}").result_rows[0][0]


def all_fills(world: World) -> list[Fill]:
    return [leg for match in world.matches for leg in match.legs]
