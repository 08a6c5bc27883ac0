"""Freshness: what is stale, what is complete and never an outage, and the exit code that tells a health check."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from worlds import PATIENCE_S, all_fills, land, prepared, sandbox_settings, small_world

from embedded_clickhouse import Endpoint
from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.jobs.cycle import run_cycle
from pipeline.jobs.freshness import Freshness, Read, judge, last_reads, note_read
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.verbs.status import read_status
from pipeline.warehouse.run import Run
from sandbox.server import SandboxServer

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = Settings(
    _env_file=None,
    goldsky_start="2026-04-01",
    gamma_max_lag_s=100,
    polygon_max_lag_s=200,
    goldsky_max_lag_s=300,
    prices_max_lag_s=50,
)


def judged(source: str, read: Read | None, settings: Settings = SETTINGS) -> Freshness:
    reads = {} if read is None else {source: read}
    return next(each for each in judge(settings, reads, None, NOW) if each.source == source)


@pytest.mark.parametrize(
    ("source", "read_s_ago", "read_to_s_ago", "caught_up", "state", "lag_s"),
    [
        ("gamma", 100, 100, True, "fresh", 100),
        ("gamma", 101, 101, True, "stale", 101),
        ("gamma", 10, 10, False, "fresh", 10),  # a full pass is under way
        ("polygon", 5, 200, True, "fresh", 200),
        ("polygon", 5, 201, False, "stale", 201),  # answers, but is behind
        ("prices", 50, 50, True, "fresh", 50),
        ("prices", 51, 51, True, "stale", 51),
        ("goldsky", 300, 10**8, False, "fresh", 300),
        ("goldsky", 301, 10**8, False, "stale", 301),
        ("goldsky", 10**7, 10**8, True, "complete", 10**7),  # ended for good
    ],
)
def test_what_is_stale(
    source: str, read_s_ago: int, read_to_s_ago: int, caught_up: bool, state: str, lag_s: int
) -> None:
    at, to = (NOW - timedelta(seconds=seconds) for seconds in (read_s_ago, read_to_s_ago))
    found = judged(source, Read(at, to, caught_up))
    assert (found.state, found.lag_s, found.is_stale) == (state, lag_s, state == "stale")
    assert found.read_to == to.isoformat()


def test_a_source_that_was_never_read_is_stale() -> None:
    found = judged("gamma", None)
    assert (found.state, found.is_stale, found.lag_s) == ("never read", True, None)


def test_only_sources_of_a_cycle_are_expected() -> None:
    names = [each.source for each in judge(SETTINGS, {}, None, NOW)]
    assert names == ["polygon", "goldsky", "gamma", "prices", "settling"]
    alone = SETTINGS.model_copy(update={"sources": "goldsky,polygon", "goldsky_start": None})
    assert [each.source for each in judge(alone, {}, None, NOW)] == ["polygon", "settling"]


@pytest.mark.parametrize(("waiting_s", "stale"), [(None, False), (200, False), (201, True)])
def test_loads_that_stay_unsettled_make_what_is_derived_stale(
    waiting_s: int | None, stale: bool
) -> None:
    since = None if waiting_s is None else NOW - timedelta(seconds=waiting_s)
    settling = judge(SETTINGS, {}, since, NOW)[-1]
    assert (settling.source, settling.is_stale, settling.lag_s) == (
        "settling",
        stale,
        waiting_s or 0,
    )


def test_the_last_good_reading_counts(run: Run) -> None:
    raw = run.settings.raw_database
    note_read(run.client, raw, "polygon", int(NOW.timestamp()), False)
    note_read(run.client, raw, "polygon", int((NOW + HOUR).timestamp()), True)
    note_read(run.client, raw, "gamma", 0, True)  # a source that is read up to now
    reads = last_reads(run.client, raw)
    assert reads["polygon"].read_to == NOW + HOUR and reads["polygon"].caught_up
    assert reads["gamma"].read_to == reads["gamma"].read_at > NOW
    assert reads["polygon"].read_at.tzinfo is not None


def test_cycles_note_how_far_they_read(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings
) -> None:
    with SandboxServer(small_world(seed=2, matches=60)) as upstream:
        settings = sandbox_settings(clickhouse, database_prefix, tmp_path, upstream)
        with prepared(settings, template) as run, run.lock.held("run"):
            run_cycle(run)
            reads = last_reads(run.client, settings.raw_database)
            assert reads["polygon"].read_to == datetime.fromtimestamp(upstream.world.now, UTC)
            assert reads["goldsky"].caught_up and reads["goldsky"].read_to <= ARCHIVE_END
            states = {each.source: each.state for each in read_status(run).sources}
            # The chain of the world stands still at a time of its own.
            assert states == {
                "gamma": "fresh",
                "polygon": "stale",
                "goldsky": "complete",
                "settling": "fresh",
            }

            dead = settings.model_copy(
                update={"polymarket_gamma_url": "http://127.0.0.1:9", "http_give_up_s": 0.0}
            )
            run.settings = dead
            del run.desk  # the next one is of these settings
            assert "gamma" in run_cycle(run).failures
            assert last_reads(run.client, settings.raw_database)["gamma"] == reads["gamma"]


def test_strict_tells_a_health_check(run: Run) -> None:
    def status() -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "status", "--strict"],
            env=os.environ
            | {
                "CLICKHOUSE_HOST": run.settings.clickhouse_host,
                "CLICKHOUSE_PORT": str(run.settings.clickhouse_port),
                "CLICKHOUSE_PASSWORD": run.settings.clickhouse_password.get_secret_value(),
                "CLICKHOUSE_DATABASE": run.settings.clickhouse_database,
                "GOLDSKY_START": "",
                "SOURCES": "gamma,goldsky,polygon",
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    raw, now = run.settings.raw_database, int(datetime.now(UTC).timestamp())
    note_read(run.client, raw, "gamma", 0, True)
    behind = status()
    assert (behind.returncode, behind.stderr) == (1, "stale: polygon\n")
    assert "never read" in behind.stdout
    note_read(run.client, raw, "polygon", now, True)
    assert status().returncode == 0
    land(run, all_fills(small_world(seed=2, matches=5)))
    assert status().returncode == 0  # a load of just now
    run.client.command(
        f"insert into {raw}.loads (load_id, table_name, state, updated_at)"
        f" values ({(now - 3600) * 1_000_000}, 'order_filled', 'settling', now64(6))"
    )
    assert status().stderr == "stale: settling\n"


def test_status_reads_a_database_of_before_there_were_prices(run: Run) -> None:
    run.client.command(f"drop view {run.settings.clickhouse_database}.market_prices")
    names = [table.name for table in read_status(run).tables]
    assert "trades" in names and "market_prices" not in names
