"""With no setting but the addresses of a simulated SQD Portal and Gamma, a first run loads the last hour."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from worlds import PATIENCE_S, copied_checkout

from pipeline.settings import Settings
from pipeline.warehouse.run import open_run
from sandbox.reconcile import reconcile
from sandbox.server import SandboxServer
from sandbox.truth import Truth
from sandbox.world import World

UNCONFIRMED = 5  # blocks that a run leaves for the next one by default


@pytest.fixture
def world() -> World:
    """Forty minutes of V2 and V3 up to now, and the blocks that are not confirmed yet."""
    world = World.generate(
        8, now=datetime.now(UTC), markets=30, matches=300, v1_days=0, v2_days=40 / 1440
    )
    world.chain.head += UNCONFIRMED
    return world


def test_the_last_hour_is_loaded_and_equals_the_truth(world: World, tmp_path: Path) -> None:
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env["CLICKHOUSE_LOCAL_PORT"] = "0"  # the usual one may be in use by whoever runs the tests
    checkout = copied_checkout(tmp_path / "checkout")
    with SandboxServer(world) as upstream:
        env |= {
            "SQD_PORTAL_URL": upstream.urls.sqd_url,
            "POLYMARKET_GAMMA_URL": upstream.urls.gamma_url,
            "POLYMARKET_CLOB_URL": upstream.urls.clob_url,
        }
        run = subprocess.run(
            [sys.executable, str(checkout / "run_pipeline.py")],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        asked = upstream.app.counts
    assert run.returncode == 0, run.stderr
    assert any(path.startswith("/sqd/") for path in asked)
    assert not any(path.startswith("/polygon") for path in asked)
    settings = Settings(
        _env_file=None,
        clickhouse_local_path=checkout / "data/clickhouse",
        clickhouse_local_port=0,
    )
    with open_run(settings) as opened:
        checks = reconcile(opened.client, settings.clickhouse_database, Truth(world))
    wrong = {
        each.name: each.differences or (each.expected, each.actual)
        for each in checks
        if not each.equal
    }
    assert not wrong
    assert sum(each.actual for each in checks if each.name == "trades") == 300
