"""How long after a block appears its candle can be read: `loop` at its default cadence over the sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.figures import Goal, Part, percentile
from bench.place import Place
from pipeline.settings import ENV_FILE_VARIABLE, PROJECT_DIR, Settings
from sandbox.clock import BLOCK_SECONDS
from sandbox.server import SandboxServer

LOOK_EVERY_S = 0.05
# Only a defect keeps the loop from a block for so long, on a slow machine too. One that has ended is noticed at once.
LONGEST_S = 600
STOP_TIMEOUT_S = 60


@dataclass(frozen=True)
class Cadence:
    """How often the loop looks, and how many blocks it leaves for later; by default as users have it."""

    poll_s: float = Settings.model_fields["poll_interval_s"].default
    confirmations: int = Settings.model_fields["polygon_confirmations"].default


def live(
    place: Place, upstream: SandboxServer, stored: int, seconds: float, cadence: Cadence
) -> Part:
    """Mine a block every two seconds for so long, and see when each can be read.

    Raises:
        RuntimeError: the loop did not start, or brought nothing.
    """
    poll_s, confirmations = cadence.poll_s, cadence.confirmations
    with _loop(place, cadence) as loop:
        _wait_for_the_loop(loop, place, upstream)
        appeared, read = _watch(loop, place, upstream, seconds)
    latencies = [read[block] - at for block, at in appeared.items()]
    behind_s = confirmations * BLOCK_SECONDS
    part = Part(
        "Live",
        f"`run_pipeline.py loop` (POLL_INTERVAL_S={poll_s:g}, POLYGON_CONFIRMATIONS={confirmations}: {behind_s:g} s in which"
        f" a block waits on purpose) over {stored:,} stored fills; a block with trades every {BLOCK_SECONDS} s"
        f" for {seconds:g} s,"
        " from its appearance until `select max(last_trade_at) from ohlcv_1m` over HTTP says that its candles are there,"
        f" asked every {LOOK_EVERY_S * 1000:g} ms; {len(latencies)} blocks.",
    )
    for percent in (50, 95, 99):
        value = percentile(latencies, percent)
        part.add(f"live_p{percent}_s", "s", [value])
        part.add(f"live_p{percent}_beyond_poll_s", "s", [value - poll_s])
        goal = {95: Goal(2, True), 99: Goal(4, True)}.get(percent)
        name = f"live_p{percent}_beyond_poll_and_confirmations_s"
        part.add(name, "s", [value - poll_s - behind_s], goal=goal)
    return part


@contextmanager
def _loop(place: Place, cadence: Cadence) -> Iterator[subprocess.Popen]:
    settings = place.run.settings
    environment = {
        "CLICKHOUSE_HOST": settings.clickhouse_host,
        "CLICKHOUSE_PORT": str(settings.clickhouse_port),
        "CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "DLT_PIPELINES_DIR": str(settings.dlt_pipelines_dir),
        "POLYGON_RPC_URL": settings.polygon_rpc_url,
        "POLYGON_CONFIRMATIONS": str(cadence.confirmations),
        "POLL_INTERVAL_S": str(cadence.poll_s),
        "SOURCES": "polygon",
        "POLYGON_STALE_AFTER_S": str(settings.polygon_stale_after_s),
    }
    with (place.folder / "loop.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, PROJECT_DIR / "run_pipeline.py", "loop"],
            cwd=place.folder,
            env=os.environ | environment | {ENV_FILE_VARIABLE: ""},
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_the_loop(loop: subprocess.Popen, place: Place, upstream: SandboxServer) -> None:
    """Mine blocks until one of them has come through."""
    newest, since = _newest(place), time.monotonic()
    while _newest(place) == newest:
        _check(loop, place, since)
        upstream.world.advance(1)
        time.sleep(BLOCK_SECONDS)


def _check(loop: subprocess.Popen, place: Place, since: float) -> None:
    """Make sure that the loop runs, and that what is waited for since then may still come.

    Raises:
        RuntimeError: it has ended, or nothing came for too long.
    """
    if loop.poll() is None and time.monotonic() - since <= LONGEST_S:
        return
    log = (place.folder / "loop.log").read_text(errors="replace").strip()
    state = "the loop ended" if loop.poll() is not None else f"nothing came live in {LONGEST_S} s"
    raise RuntimeError(f"{state}; it says: {log[-300:]}")


def _watch(
    loop: subprocess.Popen, place: Place, upstream: SandboxServer, seconds: float
) -> tuple[dict[int, float], dict[int, float]]:
    """When each block with trades appeared and could be read, by its unix time; at least one.

    Raises:
        RuntimeError: some of them never could.
    """
    appeared: dict[int, float] = {}
    read: dict[int, float] = {}
    until = time.monotonic() + seconds
    ended = threading.Event()

    def mine() -> None:
        world, due = upstream.world, time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            due += BLOCK_SECONDS
            known = len(world.matches)
            world.advance(1)
            if (at := time.monotonic()) < until or not appeared:
                times = {leg.timestamp for match in world.matches[known:] for leg in match.legs}
                appeared.update(dict.fromkeys(times, at))

    miner = threading.Thread(target=mine, daemon=True)
    miner.start()
    try:
        while time.monotonic() < until or not appeared or appeared.keys() - read.keys():
            _check(loop, place, until)
            newest, now = _newest(place), time.monotonic()
            for block in [each for each in appeared if each <= newest]:
                read.setdefault(block, now)
            time.sleep(LOOK_EVERY_S)
    finally:
        ended.set()
        miner.join()
    return appeared, read


def _newest(place: Place) -> int:
    database = place.database
    sql = f"select toUnixTimestamp(max(last_trade_at)) from {database}.ohlcv_1m where bucket_at > now() - interval 2 hour"
    return int(place.run.client.command(sql))
