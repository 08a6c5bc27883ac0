"""Cycles by the clock and in a loop: real processes with an embedded ClickHouse of their own, stopped, refused, cut off."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from worlds import HISTORY, small_world

from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.errors import SettingsError
from pipeline.jobs.job import next_tick
from pipeline.settings import PROJECT_DIR, Settings
from sandbox.server import AppServer, Urls, build_app
from sandbox.world import World

NOW = datetime(2026, 6, 1, 12, 0, 0, 500_000, tzinfo=UTC)


# ---------- when


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("* * * * *", 59.5),
        ("* * * * * *", 0.5),
        ("* * * * * */2", 1.5),
        ("* * * * * */15", 14.5),
        ("*/10 * * * *", 599.5),
        ("0 12 * * *", 86_399.5),
        ("@hourly", 3599.5),
    ],
)
def test_the_next_time_of_an_expression(expression: str, seconds: float) -> None:
    assert (next_tick(expression, NOW) - NOW).total_seconds() == seconds


@pytest.mark.parametrize(
    "expression",
    ["", "soon", "* * * *", "61 * * * *", "*/0 * * * *", "0 0 30 2 *", "H * * * *", "*\n* * *"],
)
def test_a_bad_expression_is_one_line(expression: str) -> None:
    with pytest.raises(SettingsError, match="is not a cron expression") as failure:
        next_tick(expression, NOW)
    assert "\n" not in str(failure.value)


@given(st.text("0123456789*/-,#@LWH ?abcMON\n", max_size=20))
@example("* * * * * * 2020")
def test_any_text_is_an_expression_or_refused(expression: str) -> None:
    try:
        assert next_tick(expression, NOW) > NOW
    except SettingsError as refusal:
        assert refusal.exit_code == 2


# ---------- processes


class Upstream:
    """In front of the simulated Polymarket: notes its requests, and can be down or keep them waiting."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.down = False
        self.waits = False
        self.waiting_paths: tuple[str, ...] = ()
        self.asked: queue.Queue[str] = queue.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.asked.put(scope["path"])
            while self.waits or scope["path"].startswith(self.waiting_paths or "-"):
                await asyncio.sleep(0.02)
            if self.down:
                await PlainTextResponse("down for maintenance", 503)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Process:
    """A running `run_pipeline.py` and what it has written to standard error so far."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str, times: int = 1, timeout: float = 240) -> None:
        """Wait until so many lines match."""
        deadline = time.monotonic() + timeout
        while self.count(pattern) < times:
            assert self._process.poll() is None, "".join(self.lines)
            assert time.monotonic() < deadline, f"no {pattern}: {''.join(self.lines)}"
            time.sleep(0.02)

    def count(self, pattern: str) -> int:
        """Number of lines so far that match."""
        return sum(bool(re.search(pattern, line)) for line in self.lines)

    def stop(self, number: int, within: float = 60) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(number)
        return self.end(within)

    def end(self, within: float) -> int:
        code = self._process.wait(within)
        self._reader.join()
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        for line in self._process.stderr:
            self.lines.append(line)


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(matches=150)


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[tuple[Upstream, Urls]]:
    app = Upstream(build_app(world))
    with AppServer(app) as server:
        yield app, Urls.at(server.port)


@pytest.fixture
def upstream(server: tuple[Upstream, Urls]) -> Iterator[Upstream]:
    app, _ = server
    app.asked = queue.Queue()
    yield app
    app.down = app.waits = False
    app.waiting_paths = ()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of this file's processes; the first of them builds the models."""
    return tmp_path_factory.mktemp("loop")


@pytest.fixture
def environment(server: tuple[Upstream, Urls], folder: Path) -> dict[str, str]:
    """Settings of an embedded ClickHouse on a free port, and of a simulated Polymarket."""
    unset = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in unset} | {
        "CLICKHOUSE_LOCAL_PATH": str(folder / "clickhouse"),
        "CLICKHOUSE_LOCAL_PORT": "0",
        "DLT_PIPELINES_DIR": str(folder / "dlt"),
        "GOLDSKY_START": (ARCHIVE_END - HISTORY).isoformat(),
        "FILLS_LOOKBACK_S": str(int(HISTORY.total_seconds())),
        "POLYGON_CONFIRMATIONS": "0",
        "POLYGON_STALE_AFTER_S": "1000000000",
        "HTTP_GIVE_UP_S": "0",
        "POLL_INTERVAL_S": "60",
        "SOURCES": "gamma,goldsky,polygon",
        **server[1].environment(),
    }


@contextmanager
def started(environment: dict[str, str], *arguments: str) -> Iterator[Process]:
    process = Process(environment, *arguments)
    try:
        yield process
    finally:
        process.kill()


# A signal that comes while a destructor runs, where Python drops exceptions; then a second one during the clean-up.
STOPPED_IN_A_DESTRUCTOR = """
import os, signal, sys, time
from pipeline.signals import Stopped, stop_on_signals

class Unlucky:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

stop_on_signals()
try:
    try:
        Unlucky()
        time.sleep(20)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        print("cleaned up")
except Stopped as stop:
    sys.exit(stop.exit_code)
"""
# A signal that comes while dlt finishes its last package.
STOPPED_BY_THE_LAST_INSERT = """
import os, signal, sys, time
import dlt
from pipeline.signals import Stopped, stop_on_signals

@dlt.destination(batch_size=10)
def destination(items, table):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)

stop_on_signals()
pipeline = dlt.pipeline("stopped", destination=destination, pipelines_dir=sys.argv[1])
try:
    pipeline.run([{"a": 1}], table_name="a")
    time.sleep(20)
except Stopped as stop:
    print("cleaned up")
    sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize("program", [STOPPED_IN_A_DESTRUCTOR, STOPPED_BY_THE_LAST_INSERT])
def test_no_signal_gets_lost(tmp_path: Path, program: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert (answer.returncode, answer.stdout) == (143, "cleaned up\n"), answer.stderr


READ = r"polygon: .* in [0-9.]+ s"


def test_a_second_run_is_told_who_is_writing(
    environment: dict[str, str], upstream: Upstream
) -> None:
    with started(environment, "loop") as loop:
        loop.wait_for(READ)
        with started(environment) as second:
            assert second.end(120) == 3
            assert len(second.lines) == 1
            assert second.lines[0].startswith(f"`loop` (pid {loop.pid} on ")
        assert loop.stop(signal.SIGTERM) == 143
        assert loop.lines[-1] == "stopped by SIGTERM\n"
        assert "Traceback" not in "".join(loop.lines)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_of_a_load_ends_it(
    environment: dict[str, str], upstream: Upstream, number: int, code: int
) -> None:
    upstream.waits = True
    with started(environment, "loop") as loop:
        upstream.asked.get(timeout=120)
        assert loop.stop(number) == code
        assert "Traceback" not in "".join(loop.lines)
        assert "taken over" not in "".join(loop.lines)  # the one before had released the lock


def test_cron_runs_jobs_at_its_times(environment: dict[str, str], upstream: Upstream) -> None:
    with started(environment, "cron", "* * * * * */2") as cron:
        for path in ("/polygon", "/gamma") * 3:
            wait_until_asked(upstream, path)
        assert cron.stop(signal.SIGINT) == 130
        assert any("cron: * * * * * */2, first cycle in " in line for line in cron.lines)


def test_a_loop_outlasts_upstreams_that_are_down(
    environment: dict[str, str], upstream: Upstream, world: World
) -> None:
    upstream.down = True
    with started(environment | {"POLL_INTERVAL_S": "0.2"}, "loop") as loop:
        for _ in range(3):  # tries, each of them one request
            wait_until_asked(upstream, "/polygon")
        for source in ("gamma", "polygon"):
            loop.wait_for(f"ERROR .*{source}: .*503")
        world.advance(20)
        upstream.down = False
        for source in ("gamma", "polygon"):
            loop.wait_for(f"{source}: back again")
        loop.wait_for("polygon: [1-9][0-9]* order_filled in")
        loop.wait_for("goldsky: .* in")
        assert loop.stop(signal.SIGTERM) == 143
        for source in ("gamma", "polygon"):
            assert loop.count(f"ERROR .*{source}: .*503") == 1, source
            assert loop.count(f"{source}: back again") == 1, source
    assert ask(environment, "select count() from trades format TSV") == f"{len(world.matches)}\n"
    runs = (
        "select countIf(outcome = 'failed') >= 3, max(failures) >= 3, countIf(outcome = 'done') > 0,"
        " argMax(rows, rows) > 0 from polymarket_raw.job_runs where job = 'polygon' format TSV"
    )
    assert ask(environment, runs) == "1\t1\t1\t1\n"
    state = "select failures, outcome, problem, done_at = ended_at from polymarket_raw.jobs where job = 'polygon' format TSV"
    assert ask(environment, state) == "0\tdone\t\t1\n"


def test_a_dead_upstream_slows_no_other(
    environment: dict[str, str], upstream: Upstream, world: World
) -> None:
    """The loop goes on at its usual pace: were the pauses after failures everybody's, this would take minutes."""
    dead = {"POLYMARKET_GAMMA_URL": "http://127.0.0.1:9", "POLL_INTERVAL_S": "0.2"}
    with started(environment | dead, "loop") as loop:
        loop.wait_for("ERROR .*gamma: cannot connect")
        for _ in range(10):
            wait_until_asked(upstream, "/polygon")
        world.advance(20)
        loop.wait_for("polygon: [1-9][0-9]* order_filled in")
        assert loop.stop(signal.SIGTERM) == 143
        assert loop.count("gamma: ") == 1
        assert loop.count("ERROR") == 1


def test_an_upstream_that_never_answers_delays_no_other(
    environment: dict[str, str], upstream: Upstream, world: World
) -> None:
    """Gamma takes each request and keeps it; fills come all the same, and `status` says which job is running."""
    upstream.waiting_paths = ("/gamma",)
    with started(environment | {"POLL_INTERVAL_S": "0.2"}, "loop") as loop:
        wait_until_asked(upstream, "/gamma")
        for _ in range(5):
            world.advance(20)
            loop.wait_for(
                "polygon: [1-9][0-9]* order_filled in", times=1 + loop.count("polygon: [1-9]")
            )
        until = time.monotonic() + 240
        query = "select state from polymarket_raw.jobs where job = 'gamma' format TSV"
        while ask(environment, query) != "running\n":
            assert time.monotonic() < until
            time.sleep(0.5)
        assert loop.count("gamma: ") == 0
        assert loop.stop(signal.SIGTERM, within=20) == 143


def ask(environment: dict[str, str], query: str) -> str:
    """What `sql` prints."""
    answer = subprocess.run(
        [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "sql", query],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def wait_until_asked(upstream: Upstream, path: str) -> None:
    while not upstream.asked.get(timeout=120).startswith(path):
        pass
