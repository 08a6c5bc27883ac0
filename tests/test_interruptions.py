"""Whatever is taken away in the middle (process, disk, ClickHouse, memory): one clear line, and the next run goes on."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from signalled import signalled_at
from worlds import (
    PATIENCE_S,
    all_fills,
    assert_equals_truth,
    land,
    land_gamma,
    prepared,
    sandbox_settings,
    settle_all,
    small_world,
)

from embedded_clickhouse import Endpoint, running
from ingest.events import Event
from pipeline.derive.prepare import prepare
from pipeline.errors import ModelsError
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.verbs.status import read_status
from pipeline.warehouse.run import Run
from sandbox.server import SandboxServer
from sandbox.world import World

# Where a cycle gets SIGTERM.
STAGES = {
    "models": Event.MODELS_BUILT,
    "fetch": Event.REQUEST_SENT,
    "page": Event.PAGE_READ,
    "extract": Event.PACKAGE_EXTRACTED,
    "normalize": Event.PACKAGE_NORMALIZED,
    "before the load": Event.LOAD_OPENED,
    "load": Event.FILE_INSERTED,
    "after the load": Event.LOAD_CLOSED,
    "settle": Event.STATEMENT_EXECUTED,
    "settled": Event.SETTLE_RECORDED,
}


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(seed=12, matches=150)


@pytest.fixture(scope="module")
def upstream(world: World) -> Iterator[SandboxServer]:
    with SandboxServer(world) as server:
        yield server


@pytest.fixture
def reading(reading_from, upstream: SandboxServer) -> Iterator[Run]:
    """A run with its models in place, which processes of `environment` work on too."""
    with reading_from(upstream) as run:
        yield run


def environment(settings: Settings) -> dict[str, str]:
    """The settings as variables of a process."""
    unset = {name.upper() for name in Settings.model_fields}
    values = settings.model_dump(exclude_none=True)
    values["clickhouse_password"] = settings.clickhouse_password.get_secret_value()
    return {name: value for name, value in os.environ.items() if name not in unset} | {
        name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
    }


def call(
    settings: Settings,
    *arguments: str,
    stopped_at: Event | None = None,
    limit: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess:
    program = (
        signalled_at(stopped_at, signal.SIGTERM)
        if stopped_at
        else [sys.executable, "run_pipeline.py"]
    )
    return subprocess.run(
        [*program, *arguments],
        env=environment(settings),
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        preexec_fn=limit,
    )


def finish(run: Run, world: World) -> None:
    """Two cycles with nothing in their way (the second asks for tokens that the first met), and everything is there."""
    for _ in range(2):
        answer = call(run.settings)
        assert answer.returncode == 0, answer.stderr
    assert_equals_truth(run, world)
    assert run.ledger.unsettled() == []


# ---------- the process


def test_a_signal_in_any_stage_ends_the_run_and_loses_nothing(reading: Run, world: World) -> None:
    """Each stage goes on from what the one before has left."""
    reading.client.command(f"truncate table {reading.settings.raw_database}.model_deployments")
    for stage, where in STAGES.items():
        answer = call(reading.settings, stopped_at=where)
        assert answer.stdout.startswith("stage reached"), (stage, answer.stderr)
        assert answer.returncode == 143, (stage, answer.stderr)
        assert answer.stderr.endswith("stopped by SIGTERM\n"), stage
        assert "Traceback" not in answer.stderr, stage
        assert read_status(reading).writer is None, (
            stage
        )  # released, or of a process that has ended
        if stage == "models":
            assert call(reading.settings, "status").returncode == 0
            prepare(reading)
    finish(reading, world)


def test_of_two_loops_started_at_once_one_works_and_the_other_says_so(reading: Run) -> None:
    command = [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "loop"]
    with ExitStack() as stack:
        loops = [
            stack.enter_context(
                subprocess.Popen(
                    command, env=environment(reading.settings), stderr=subprocess.PIPE, text=True
                )
            )
            for _ in range(2)
        ]
        stack.callback(lambda: [loop.kill() for loop in loops])
        deadline = time.monotonic() + PATIENCE_S
        while not (ended := [loop for loop in loops if loop.poll() is not None]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        [refused] = ended
        [working] = set(loops) - {refused}
        assert refused.returncode == 3
        assert refused.stderr.read().startswith(f"`loop` (pid {working.pid} on ")
        for line in working.stderr:
            if "order_filled in" in line:
                break
        working.send_signal(signal.SIGTERM)
        assert working.wait(PATIENCE_S) == 143
    assert reading.lock.holder() is None


# ---------- the disk


def test_a_full_disk_under_the_working_folder(reading: Run, world: World) -> None:
    """A limit on the size of a file fails like a disk without space, in the same calls."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    answer = call(reading.settings, limit=limit)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    last = answer.stderr.splitlines()[-1]
    assert re.search(r"File too large.*run again when that is fixed, nothing was lost", last), (
        answer.stderr
    )
    assert reading.lock.holder() is None
    finish(reading, world)


# ---------- ClickHouse


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own_clickhouse")


@pytest.fixture
def harmed(
    own_folder: Path,
    database_prefix: str,
    template: Settings,
    tmp_path: Path,
    upstream: SandboxServer,
) -> Iterator[tuple[Run, Endpoint]]:
    """A run on a ClickHouse that its test may harm, and that ClickHouse."""
    with running(own_folder, 0) as endpoint:
        settings = sandbox_settings(
            endpoint, database_prefix, tmp_path, upstream, poll_interval_s=0.2
        )
        with prepared(settings, template) as run:
            yield run, endpoint


def test_a_full_disk_under_clickhouse(
    harmed: tuple[Run, Endpoint], own_folder: Path, world: World
) -> None:
    """The embedded one takes its disk for full: what is there can be read, and nothing is half written."""
    run, endpoint = harmed
    os.kill(endpoint.pid, signal.SIGKILL)
    with running(own_folder, endpoint.port, min_free=1 << 60) as full:
        answer = call(run.settings)
        assert answer.returncode == 1
        assert "Traceback" not in answer.stderr
        assert re.search(r"MiB are free.*not enough space", answer.stderr), answer.stderr
        assert "0 trades" not in call(run.settings, "status").stdout
        os.kill(full.pid, signal.SIGKILL)
    with running(own_folder, endpoint.port):
        finish(run, world)


def test_clickhouse_out_of_space_in_the_middle_of_a_load(
    harmed: tuple[Run, Endpoint], world: World
) -> None:
    """Rows that ClickHouse refuses stay in the working folder and are loaded by the next run."""
    run, _ = harmed
    raw = run.settings.raw_database
    run.client.command(
        f"alter table {raw}.order_filled modify setting min_free_disk_bytes_to_perform_insert = {1 << 60}"
    )
    answer = call(run.settings)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert re.search(
        r"NOT_ENOUGH_SPACE.*run again when that is fixed, nothing was lost", answer.stderr
    )
    assert run.client.command(f"select count() from {raw}.order_filled") == 0
    run.client.command(
        f"alter table {raw}.order_filled reset setting min_free_disk_bytes_to_perform_insert"
    )
    finish(run, world)


def test_a_clickhouse_that_goes_down_while_a_loop_works_and_comes_back(
    harmed: tuple[Run, Endpoint], own_folder: Path, world: World
) -> None:
    run, endpoint = harmed
    command = [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "loop"]
    with ExitStack() as stack:
        loop = stack.enter_context(
            subprocess.Popen(
                command, env=environment(run.settings), stderr=subprocess.PIPE, text=True
            )
        )
        stack.callback(loop.kill)
        lines: list[str] = []
        threading.Thread(target=lambda: lines.extend(loop.stderr), daemon=True).start()
        wait_for(lambda: count(lines, "order_filled in") >= 1, lines)
        os.kill(endpoint.pid, signal.SIGKILL)
        wait_for(lambda: count(lines, "ERROR") >= 1, lines)
        world.advance(20)
        stack.enter_context(running(own_folder, endpoint.port))
        done = len(lines)
        wait_for(lambda: count(lines[done:], r"polygon: [1-9][0-9,]* order_filled in") >= 1, lines)
        loop.send_signal(signal.SIGTERM)
        assert loop.wait(PATIENCE_S) == 143
        assert count(lines, "Traceback") == 0
        assert count(lines, r"ERROR .*ClickHouse") >= 1, lines
        finish(run, world)


def count(lines: list[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in lines)


def wait_for(happened: Callable[[], bool], lines: list[str], within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "".join(lines)
        time.sleep(0.05)


def test_a_settle_that_needs_more_memory_than_it_may_have(reading: Run, world: World) -> None:
    land_gamma(reading, world)
    land(reading, all_fills(world))
    reading.client.set_client_setting("max_memory_usage", 1_000_000)
    with pytest.raises(ModelsError) as failure:
        settle_all(reading)
    message = str(failure.value)
    assert message.startswith("settling ") and "memory" in message and "\n" not in message
    assert "SETTLE_MAX_ROWS" in message and "CLICKHOUSE_LOCAL_MEMORY_GB" in message
    assert [load.state for load in reading.ledger.unsettled()] == ["settling"]
    reading.client.set_client_setting("max_memory_usage", 0)
    settle_all(reading)
    assert reading.ledger.unsettled() == []
    assert_equals_truth(reading, world)
