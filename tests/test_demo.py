"""`demo` as the README promises it: everything equal, and the commands that it prints work as printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import clickhouse_connect
import pytest
from worlds import PATIENCE_S, copied_checkout

from embedded_clickhouse import running
from pipeline.verbs.demo import sparkline

CHECKED = (
    "order_fills", "trades", "trades_by_token", "trade_legs", "wallet_fills", "fills_by_wallet",
    "ohlcv_1m", "ohlcv_1h", "ohlcv_1d", "market_ohlcv_1h",
    "ohlcv_1m_filled", "ohlcv_1h_filled", "ohlcv_1d_filled",
    "volume_daily", "market_volume_daily", "event_volume_daily", "tag_volume_daily",
    "tag_volume_hourly",
    "event_volume", "trending_markets", "wallet_daily", "market_latest_price",
    "outcome_tokens", "markets", "events", "markets_events", "event_tags", "event_series", "neg_risk_groups",
    "unknown_tokens", "position_ids", "market_prices",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose data are its own."""
    folder = copied_checkout(tmp_path_factory.mktemp("checkout"))
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def demo(folder: Path) -> subprocess.CompletedProcess:
    """A demo that begins where another one has left something."""
    with running(folder / "data/demo/clickhouse", 0) as endpoint:
        client = clickhouse_connect.get_client(
            host=endpoint.host, port=endpoint.port, password=endpoint.password
        )
        for database in ("polymarket", "polymarket_raw"):
            client.command(f"create database {database}")
            client.command(f"create table {database}.markets (left_over UInt8) engine = Memory")
    return subprocess.run(
        [folder / ".venv/bin/python", "run_pipeline.py", "demo", "--matches", "800"],
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip


def test_everything_equals_the_truth(demo: subprocess.CompletedProcess) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    lines = [line.split() for line in demo.stdout.splitlines()]
    verdicts = {
        words[0]: words[1:] for words in lines if words and words[-1] in ("equal", "DIFFERENT")
    }
    assert set(verdicts) == set(CHECKED)
    for table, (truth, loaded, verdict) in verdicts.items():
        assert (truth, verdict) == (loaded, "equal"), table
    # What was quoted again is all that a third cycle finds.
    assert re.search(r"^Third cycle: [0-9,]+ market_prices in ", demo.stdout, re.MULTILINE)
    assert "Top markets by volume" in demo.stdout


def test_the_commands_it_prints_work_as_printed(
    demo: subprocess.CompletedProcess, folder: Path
) -> None:
    commands = [line.strip() for line in demo.stdout.splitlines() if " --demo " in line]
    assert len(commands) >= 4
    for text in commands:
        answer = subprocess.run(
            shlex.split(text), cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert answer.returncode == 0, f"{text}\n{answer.stdout}{answer.stderr}"
        assert answer.stdout.strip(), text


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.5]) == "▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([1.0] * 40, width=3) == "▁▁▁"
