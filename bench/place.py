"""Where a part runs: an embedded ClickHouse over a folder of its own, schema and models in place, upstreams as given.

What is timed begins with empty tables; `Place.empty` makes them so, because building the models anew takes seconds.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import reset_peak
from embedded_clickhouse import Access, Endpoint, running
from ingest.http import HttpClient
from pipeline.derive.prepare import prepare
from pipeline.settings import Settings
from pipeline.warehouse.run import Run, open_run

NOWHERE = "http://127.0.0.1:9"
DATABASE = "bench"
# What a run needs to find itself prepared.
_KEPT = ("schema_migrations", "model_deployments")


@dataclass(frozen=True)
class Place:
    """An open, prepared run and the process of its ClickHouse.

    Attributes:
        files: the folder that SQL may read files of.
    """

    run: Run
    clickhouse_pid: int
    folder: Path
    files: Path

    @property
    def database(self) -> str:
        """The database of the models."""
        return self.run.settings.clickhouse_database

    def empty(self) -> None:
        """Empty every table, and forget the peak of ClickHouse's memory."""
        tables = self.run.client.query(
            "select database, name from system.tables where startsWith(database, {name:String})"
            " and engine like '%MergeTree' and name not in {kept:Array(String)} and total_rows > 0",
            parameters={"name": DATABASE, "kept": list(_KEPT)},
        ).result_rows
        for database, name in tables:
            if not name.startswith("writer_lock"):
                self.run.client.command(f"truncate table {database}.{name}")
        reset_peak(self.clickhouse_pid)


def make_settings(endpoint: Endpoint, folder: Path, **overrides: Any) -> Settings:
    """Default settings but for where ClickHouse is; upstreams point nowhere unless overridden."""
    values = {
        "clickhouse_host": endpoint.host,
        "clickhouse_port": endpoint.port,
        "clickhouse_password": endpoint.password,
        "clickhouse_database": DATABASE,
        "dlt_pipelines_dir": folder / "dlt",
        "polymarket_gamma_url": NOWHERE,
        "goldsky_url": NOWHERE,
        "polygon_rpc_url": NOWHERE,
        "polymarket_clob_url": NOWHERE,
        "sources": "gamma,goldsky,polygon",
    }
    return Settings(_env_file=None, **(values | overrides))


@contextlib.contextmanager
def prepared(
    memory_gb: float = 4.0, sources_of_sql: Sequence[str] = (), **overrides: Any
) -> Iterator[Place]:
    """A place for the length of the block; its folder is removed afterwards.

    Args:
        sources_of_sql: what SQL may reach beside files.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder, files = Path(name), Path(name) / "files"
        access = Access(files=files, sources=sources_of_sql)
        memory = int(memory_gb * 1e9)
        with running(folder / "clickhouse", 0, access=access, max_memory=memory) as endpoint:
            settings = make_settings(endpoint, folder, **overrides)
            with open_run(settings) as run:
                prepare(run)
                yield Place(run, endpoint.pid, folder, files)


def without_limits(run: Run, source: str) -> None:
    """Let a source be read as fast as it answers: the real one's rate limit is not what is measured."""
    run.desk.kept(f"client of {source}", lambda: HttpClient(source))
