"""Helpers for tests that run the pipeline: settings for a database prefix, and databases with the models already built.

dbt takes seconds to build the models, so one template is built per session and copied by its DDL.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from embedded_clickhouse import Endpoint
from pipeline import models
from pipeline.run import Run, open_run
from pipeline.settings import ARCHIVE_END, Settings
from sandbox.server import SandboxServer
from sandbox.world import World

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HISTORY = timedelta(days=0.3)  # of fills of each generation, with room


def make_settings(endpoint: Endpoint, prefix: str, folder: Path, **overrides: Any) -> Settings:
    """Settings for a database prefix on the shared ClickHouse; upstreams point nowhere unless overridden."""
    nowhere = "http://127.0.0.1:9"
    values = {
        "clickhouse_host": endpoint.host,
        "clickhouse_port": endpoint.port,
        "clickhouse_database": prefix,
        "dlt_pipelines_dir": folder / "dlt",
        "polymarket_gamma_url": nowhere,
        "goldsky_url": nowhere,
        "polygon_rpc_url": nowhere,
    }
    return Settings(_env_file=None, **(values | overrides))


def sandbox_settings(
    endpoint: Endpoint, prefix: str, folder: Path, upstream: SandboxServer, **overrides: Any
) -> Settings:
    """Settings that read all of a simulated Polymarket."""
    values = {
        "polymarket_gamma_url": upstream.urls.gamma_url,
        "goldsky_url": upstream.urls.goldsky_url,
        "polygon_rpc_url": upstream.urls.polygon_url,
        "goldsky_start": ARCHIVE_END - HISTORY,
        "fills_lookback_s": int(HISTORY.total_seconds()),
        "polygon_confirmations": 0,
        "polygon_stale_after_s": 10**9,  # the simulated clock stands at NOW
    }
    return make_settings(endpoint, prefix, folder, **(values | overrides))


def small_world(seed: int = 1, matches: int = 400, days: float = 0.25) -> World:
    """A world that loads in about a second: `matches` over `days` of each generation."""
    return World.generate(seed, now=NOW, markets=40, matches=matches, v1_days=days, v2_days=days)


@contextmanager
def prepared(settings: Settings, template: Settings):
    """An open run on a copy of the template's databases, as `Run.prepare` would leave it."""
    with open_run(settings) as run:
        copy_databases(run, template)
        run.prepare()
        yield run


def copy_databases(run: Run, template: Settings) -> None:
    """Copy tables, views and book-keeping of the template under the run's names, without data."""
    old, new = template.clickhouse_database, run.settings.clickhouse_database
    for database in (f"{new}_raw", new):
        run.client.command(f"create database if not exists {database}")
    # Tables before the views that read them, views in the order in which they were made.
    tables = run.client.query(
        "select create_table_query from system.tables where database in ({raw:String}, {models:String})"
        " order by engine in ('View', 'MaterializedView'), metadata_modification_time, name",
        parameters={"raw": f"{old}_raw", "models": old},
    ).result_rows
    pending = [query.replace(old, new) for (query,) in tables]
    while pending:
        failed = [query for query in pending if not _created(run, query)]
        if len(failed) == len(pending):
            run.client.command(failed[0])  # raises, and says why
        pending = failed
    run.client.command(
        f"insert into {new}_raw.schema_migrations select * from {old}_raw.schema_migrations"
    )
    statements = run.client.query(
        f"select statements from {old}_raw.model_deployments final"
    ).result_rows[0][0]
    run.client.insert(
        "model_deployments",
        [
            [
                models.project_hash(run.settings),
                datetime.now(UTC),
                json.dumps(json.loads(statements)).replace(old, new),
            ]
        ],
        column_names=["project_hash", "deployed_at", "statements"],
        database=f"{new}_raw",
    )


def _created(run: Run, query: str) -> bool:
    try:
        run.client.command(query)
    except Exception:  # what it reads is not there yet
        return False
    return True
