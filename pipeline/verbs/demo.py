"""`demo` and `sandbox`: the whole pipeline against a simulated Polymarket on loopback.

The demo is the real thing at both ends, over real HTTP, with its data apart from real data. It starts from nothing each
time, so that what it prints can be compared with the simulation's own truth.
"""

from __future__ import annotations

import errno
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.console import human, out, shorten, simple_table, step
from pipeline.derive.prepare import prepare
from pipeline.errors import PipelineError
from pipeline.jobs.backfill import Request, backfill
from pipeline.jobs.cycle import CycleReport, run_cycle
from pipeline.settings import DEMO_DIR, Settings
from pipeline.warehouse.lock import PREFIX
from pipeline.warehouse.ports import owner_of
from pipeline.warehouse.run import Run, open_run
from sandbox.matches import TRIAL_SECONDS
from sandbox.reconcile import Check, reconcile
from sandbox.server import SandboxServer, serve
from sandbox.truth import Truth
from sandbox.world import World

V1_DAYS, V2_DAYS, MARKETS, NEW_BLOCKS = 2.0, 2.0, 200, 60
BARS = "▁▂▃▄▅▆▇█"


class NotEqual(PipelineError):
    """The promised tables differ from the simulation's truth."""


def run_demo(settings: Settings, *, seed: int, matches: int) -> None:
    """Load a simulated Polymarket in cycles with new blocks in between and by a backfill, and compare it with its truth.

    Raises:
        NotEqual: a table differs from the truth.
        LockHeld: another demo is running.
    """
    started = time.monotonic()
    out.print(
        f"[bold]A simulated Polymarket[/]: {MARKETS} markets, {human(matches)} matches, seed {seed}"
    )
    world = World.generate(
        seed,
        now=datetime.now(UTC),
        markets=MARKETS,
        matches=matches,
        v1_days=V1_DAYS,
        v2_days=V2_DAYS,
        v2_trial=True,
    )
    with SandboxServer(world) as upstream, open_run(_pointed_at(settings, upstream)) as run:
        out.print(f"  served on 127.0.0.1:{upstream.port}; loading into {run.server}")
        with run.lock.held("demo"):
            _clear(run)
            prepare(run)
            _cycle("First cycle", run)
            world.advance(NEW_BLOCKS)
            _cycle(f"Second cycle, {NEW_BLOCKS} blocks later", run)
            _cycle("Third cycle", run)
        _backfill_trial(run)
        _print_top_markets(run)
        with step("comparing with the truth") as shown:
            database = settings.clickhouse_database
            checks = reconcile(run.client, database, Truth(world), on_table=shown.update)
        _print_checks(checks)
    if not all(check.equal for check in checks):
        raise NotEqual(
            "the demo's tables differ from the simulation's truth: this is a defect, please report it"
        )
    out.print(
        f"\nDone in {time.monotonic() - started:.0f} s. The data are in {DEMO_DIR}/; look around:\n",
        highlight=False,
    )
    _print_next_commands()


def serve_sandbox(
    port: int,
    seed: int,
    markets: int,
    matches: int,
    block_time: float,
    matches_per_block: float,
    faults: Sequence[tuple[str, float]] = (),
) -> None:
    """Serve a simulated Polymarket until a signal comes, with `faults` (names and probabilities) on.

    Raises:
        PipelineError: the port is taken.
    """
    world = World.generate(
        seed,
        now=datetime.now(UTC),
        markets=markets,
        matches=matches,
        v1_days=V1_DAYS,
        v2_days=V2_DAYS,
        matches_per_block=matches_per_block,
        v2_trial=True,
    )
    try:
        serve(world, port, stop=threading.Event(), block_time=block_time, faults=faults)
    except OSError as error:
        why = error.strerror
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} is taken by {owner_of(port)}"
        raise PipelineError(f"the sandbox cannot listen: {why}; choose another --port") from error


def _clear(run: Run) -> None:
    """Remove what an earlier demo loaded, everything but the writer lock that this one holds."""
    run.client.command(f"drop database if exists {run.settings.clickhouse_database}")
    raw = run.settings.raw_database
    tables = run.client.query(
        "select name from system.tables where database = {raw:String} and not startsWith(name, {lock:String})",
        parameters={"raw": raw, "lock": PREFIX},
    ).result_rows
    for (table,) in tables:
        run.client.command(f"drop table {raw}.{table}")
    shutil.rmtree(run.settings.dlt_pipelines_dir, ignore_errors=True)


def _pointed_at(settings: Settings, upstream: SandboxServer) -> Settings:
    """Settings of the demo: the simulated upstreams, all of their history, nothing left unconfirmed."""
    history = timedelta(days=max(V1_DAYS, V2_DAYS), hours=1)
    return settings.model_copy(
        update={
            "polymarket_gamma_url": upstream.urls.gamma_url,
            "goldsky_url": upstream.urls.goldsky_url,
            "sqd_portal_url": upstream.urls.sqd_url,
            "polymarket_clob_url": upstream.urls.clob_url,
            "polygon_rpc_url": "",
            "goldsky_start": settings.goldsky_horizon - history,
            "fills_lookback_s": int(history.total_seconds()),
            "backfill_slice_s": TRIAL_SECONDS,
            "polygon_stale_after_s": 86_400,  # the simulated clock stands still while it is read
            "cycle_budget_s": 600,  # however slow the machine is, the first cycle reads all there is
            "polygon_confirmations": 0,
            "gamma_open_every_s": 0.001,
            "tracked_every_s": 0.001,
        }
    )


def _cycle(title: str, run: Run) -> CycleReport:
    report = run_cycle(run)
    report.raise_failures()
    rows = (
        ", ".join(f"{human(count)} {name}" for name, count in report.rows.items() if count)
        or "nothing new"
    )
    out.print(f"[bold]{title}[/]: {rows} in {report.seconds:.1f} s")
    return report


def _backfill_trial(run: Run) -> None:
    """Read what V2 executed before the cutover, which is older than cycles look back."""
    archive_end = run.settings.goldsky_horizon
    trial = timedelta(seconds=TRIAL_SECONDS)
    started = time.monotonic()
    before = _fills(run)
    backfill(
        run, Request(archive_end - trial, archive_end + timedelta(seconds=1), source="polygon")
    )
    out.print(
        f"[bold]Backfill[/]: {human(_fills(run) - before)} fills of V2 before the cutover"
        f" in {time.monotonic() - started:.1f} s"
    )


def _fills(run: Run) -> int:
    raw = run.settings.raw_database
    return run.client.query(f"select count() from {raw}.order_filled final").result_rows[0][0]


def _print_top_markets(run: Run) -> None:
    database = run.settings.clickhouse_database
    rows = run.client.query(f"""
        with
            top as (
                select market_id, sum(usd) as usd, count() as trades
                from {database}.trades
                where market_id != '' and not is_dust
                group by market_id
                order by usd desc
                limit 8
            ),
            prices as (
                select market_id, groupArray(close) as closes
                from (select * from {database}.market_ohlcv_1h order by bucket_at)
                group by market_id
            )
        select question, outcomes[1], closes[-1], closes, usd, trades
        from top
        inner join {database}.markets using (market_id)
        left join prices using (market_id)
        order by usd desc
    """).result_rows
    table = simple_table(
        ("market", "left"),
        ("outcome", "left"),
        ("price", "right"),
        ("by hour", "left"),
        ("volume $", "right"),
        ("trades", "right"),
    )
    for question, outcome, price, closes, usd, trades in rows:
        table.add_row(
            shorten(question, 28),
            shorten(outcome, 10),
            f"{price or 0:.3f}",
            sparkline(closes),
            human(usd),
            human(trades),
        )
    out.print("\n[bold]Top markets by volume[/]")
    out.print(table)


def sparkline(values: list[float], width: int = 14) -> str:
    """The last `width` values as bars between their lowest and highest."""
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    step = (high - low) / (len(BARS) - 1) or 1
    return "".join(BARS[round((value - low) / step)] for value in shown)


def _print_checks(checks: list[Check]) -> None:
    table = simple_table(("table", "left"), ("truth", "right"), ("loaded", "right"), ("", "left"))
    for check in checks:
        verdict = "[green]equal[/]" if check.equal else "[red]DIFFERENT[/]"
        table.add_row(check.name, human(check.expected), human(check.actual), verdict)
    out.print("\n[bold]Against the simulation's truth, every row and column[/]")
    out.print(table)
    for check in checks:
        for difference in check.differences:
            out.print(f"  {check.name}: {difference}", style="red", markup=False, soft_wrap=True)


def _print_next_commands() -> None:
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    command = f"{shown} run_pipeline.py --demo"
    queries = (
        "select match_type, count(), sum(usd) from trades group by 1 order by 3 desc",
        "select * from ohlcv_1h order by volume_usd desc limit 5 format Vertical",
        "select title, question, tags from markets_events limit 5 format PrettyCompact",
    )
    for query in queries:
        out.print(f'  {command} sql "{query}"', markup=False, highlight=False, soft_wrap=True)
    out.print(f"  {command} status", highlight=False, soft_wrap=True)
    out.print(f"  {command} dbt test", highlight=False, soft_wrap=True)
    out.print("\nThe real Polymarket: see README.md, or just")
    out.print(f"  {shown} run_pipeline.py", highlight=False, soft_wrap=True)
