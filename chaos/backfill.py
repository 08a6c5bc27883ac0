"""A large backfill killed again and again, compared with one that was left alone and with the simulation's truth.

Run as `python -m chaos.backfill`. Two databases on one embedded ClickHouse take the same simulated Polymarket over real
HTTP: the first undisturbed, the second by processes that SIGKILL ends at random moments. Prints one JSON line and exits
with 1 on any difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from embedded_clickhouse import Endpoint, running
from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.derive.prepare import prepare
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.warehouse.run import open_run
from sandbox.server import SandboxServer, Urls
from sandbox.truth import Truth
from sandbox.world import World

TABLES = (
    "order_fills", "trades", "ohlcv_1m", "ohlcv_1h", "ohlcv_1d", "volume_daily",
    "market_latest_price",
)  # fmt: skip
V1_DAYS = V2_DAYS = 3.0
NOW = ARCHIVE_END + timedelta(days=V2_DAYS + 1)
# Of the undisturbed run's time; what the kills leave is for the run that ends.
KILLED_SHARE = 0.85
FILL_KEY = "timestamp, tx_hash, log_index, order_hash"


@dataclass
class Usage:
    """Seconds and peak memory of processes of the pipeline."""

    seconds: float = 0.0
    peak_rss_mb: int = 0

    def add(self, process: subprocess.Popen, started: float) -> int:
        """Wait for a process, count it in, and return its exit code."""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds += time.monotonic() - started
        self.peak_rss_mb = max(self.peak_rss_mb, used.ru_maxrss // 1024)
        return process.returncode


class Backfills:
    """Starts `backfill` over a world's whole time into a database of its own."""

    def __init__(self, endpoint: Endpoint, urls: Urls, folder: Path, database: str) -> None:
        unset = {name.upper() for name in Settings.model_fields}
        self._environment = {k: v for k, v in os.environ.items() if k not in unset} | {
            "CLICKHOUSE_HOST": endpoint.host,
            "CLICKHOUSE_PORT": str(endpoint.port),
            "CLICKHOUSE_PASSWORD": endpoint.password,
            "CLICKHOUSE_DATABASE": database,
            "DLT_PIPELINES_DIR": str(folder / database),
            "POLYGON_CONFIRMATIONS": "0",
            **urls.environment(),
        }
        self.usage = Usage()
        # Building the models is not what is tried here, and would hide the early kills.
        settings = Settings(
            _env_file=None,
            clickhouse_host=endpoint.host,
            clickhouse_port=endpoint.port,
            clickhouse_password=endpoint.password,
            clickhouse_database=database,
        )
        with open_run(settings) as run, run.lock.held("chaos"):
            prepare(run)

    def start(self) -> subprocess.Popen:
        """Start one process."""
        start = (ARCHIVE_END - timedelta(days=V1_DAYS + 1)).isoformat()
        return subprocess.Popen(
            [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "backfill", "--from", start],
            env=self._environment,
        )

    def to_the_end(self) -> None:
        """Run one process until it is done.

        Raises:
            SystemExit: it failed.
        """
        started = time.monotonic()
        code = self.usage.add(self.start(), started)
        if code:
            raise SystemExit(f"backfill failed with exit code {code}")

    def killed_after(self, seconds: float) -> bool:
        """Run one process and kill it after so many seconds; False if it had ended before."""
        started = time.monotonic()
        process = self.start()
        while time.monotonic() - started < seconds:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.05)
        else:
            process.kill()
        return self.usage.add(process, started) < 0


def contents(client: Client, database: str) -> dict[str, tuple[int, int]]:
    """Rows and an order-free hash of every derived table, versions of rows aside."""
    found = {}
    for table in TABLES:
        columns = client.query(
            "select name from system.columns where database = {database:String} and table = {table:String}"
            " and name not in ('version', 'load_id')",
            parameters={"database": database, "table": table},
        ).result_columns[0]
        found[table] = client.query(
            f"select count(), sum(cityHash64({', '.join(columns)})) from {database}.{table}"
        ).result_rows[0]
    return found


def against_truth(client: Client, database: str, world: World) -> dict[str, dict[str, int]]:
    """Produced, lost and doubled per table, by fills and trades, and what is left unsettled."""
    fills = {(leg.tx_hash, leg.order_hash) for match in world.matches for leg in match.legs}
    raw = f"{database}_raw"
    key, final = client.query(
        f"select uniqExact({FILL_KEY}), (select count() from {raw}.order_filled final) from {raw}.order_filled"
    ).result_rows[0]
    derived, distinct = client.query(
        f"select count(), uniqExact(tx_hash, order_hash) from {database}.order_fills"
    ).result_rows[0]
    trades, orders = client.query(
        f"select count(), uniqExact(tx_hash, order_hash) from {database}.trades"
    ).result_rows[0]
    produced = sum(len(match.legs) for match in world.matches)
    return {
        "order_filled": _counted(produced, key, final),
        "order_fills": _counted(produced, derived - (len(fills) - distinct), derived),
        "trades": _counted(len(world.matches), orders, trades),
    }


def _counted(produced: int, distinct: int, rows: int) -> dict[str, int]:
    return {"produced": produced, "lost": produced - distinct, "doubled": rows - distinct}


def volumes(client: Client, database: str) -> tuple[int, int]:
    """Dollars and shares of all trades that are not dust, in 1e-6 units."""
    return client.query(
        f"select toInt128(sum(usd) * 1000000), toInt128(sum(shares) * 1000000)"
        f" from {database}.trades where not is_dust"
    ).result_rows[0]


def main() -> None:
    """Run it, print one JSON line, exit with 1 on any difference."""
    parser = argparse.ArgumentParser(prog="python -m chaos.backfill", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--matches", type=int, default=640_000, help="about 3.2 fills each")
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = compare(options.seed, options.matches, options.kills, Path(folder))
    print(json.dumps(result))
    sys.exit(0 if result["equal"] else 1)


def compare(seed: int, matches: int, kills: int, folder: Path) -> dict:
    """Backfill a world undisturbed and killed, and say how they compare."""
    world = World.generate(
        seed, now=NOW, markets=400, matches=matches, v1_days=V1_DAYS, v2_days=V2_DAYS
    )
    moments = Random(seed)
    with SandboxServer(world) as upstream, running(folder / "clickhouse", 0) as endpoint:
        whole = Backfills(endpoint, upstream.urls, folder, "whole")
        whole.to_the_end()
        killed = Backfills(endpoint, upstream.urls, folder, "killed")
        longest = 2 * KILLED_SHARE * whole.usage.seconds / max(kills, 1)
        done = sum(killed.killed_after(moments.uniform(0.5, 1) * longest) for _ in range(kills))
        killed.to_the_end()
        client = clickhouse_connect.get_client(
            host=endpoint.host, port=endpoint.port, password=endpoint.password
        )
        tables = against_truth(client, "killed", world)
        totals = Truth(world).totals()
        equal = (
            contents(client, "whole") == contents(client, "killed")
            and volumes(client, "killed") == (totals["volume_usd"], totals["volume_shares"])
            and not any(each["lost"] or each["doubled"] for each in tables.values())
        )
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "matches": matches,
            "kills": done,
            "equal": equal,
            "tables": tables,
            "rows": {name: found[0] for name, found in contents(client, "killed").items()},
            "copies_in_raw": _copies(client, "killed"),
            "whole": vars(whole.usage),
            "killed": vars(killed.usage),
        }


def _copies(client: Client, database: str) -> int:
    """Rows of the landing table beyond one per fill, which ClickHouse has not merged away yet."""
    return client.query(
        f"select count() - uniqExact({FILL_KEY}) from {database}_raw.order_filled"
    ).result_rows[0][0]


if __name__ == "__main__":
    main()
