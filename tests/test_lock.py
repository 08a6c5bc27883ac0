"""The writer lock: one holder at any time, whoever dies, sleeps, comes late or loses its server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError
from worlds import PATIENCE_S

from embedded_clickhouse import Endpoint, running
from pipeline.errors import LockHeld
from pipeline.settings import Settings
from pipeline.verbs.status import read_status
from pipeline.warehouse import holder as holder_module
from pipeline.warehouse import lock as lock_module
from pipeline.warehouse.holder import Holder
from pipeline.warehouse.lock import WriterLock
from pipeline.warehouse.run import open_run

TTL_S = 60.0
PROJECT = Path(__file__).resolve().parent.parent
# Another run: takes the lock on a machine of this name, then waits to be killed or told to go on.
OTHER_RUN = """
import socket, sys
import clickhouse_connect
from pipeline.errors import LockHeld
from pipeline.warehouse.lock import WriterLock

host, port, password, database, machine, ttl_s = sys.argv[1:]
if machine:
    socket.gethostname = lambda: machine
client = clickhouse_connect.get_client(
    host=host, port=int(port), password=password, autogenerate_session_id=False
)
with WriterLock(client, database, float(ttl_s)).held("loop") as lock:
    print("holds", flush=True)
    sys.stdin.readline()
    try:
        lock.check()
    except LockHeld as error:
        print(error, flush=True)
"""


@pytest.fixture
def database(database_prefix: str) -> str:
    return f"{database_prefix}_raw"


@pytest.fixture
def client(clickhouse: Endpoint) -> Client:
    return connect(clickhouse)


def connect(endpoint: Endpoint) -> Client:
    return clickhouse_connect.get_client(
        host=endpoint.host,
        port=endpoint.port,
        password=endpoint.password,
        autogenerate_session_id=False,
    )


@contextmanager
def other_run(
    endpoint: Endpoint, database: str, *, machine: str = "", ttl_s: float = TTL_S
) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    arguments = [endpoint.host, str(endpoint.port), endpoint.password, database, machine]
    arguments.append(str(ttl_s))
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_RUN, *arguments],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "holds\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def race(endpoint: Endpoint, database: str, ttl_s: float = TTL_S, runs: int = 8) -> list[str]:
    """Let several runs with clients of their own take the lock at once; what each refused one was told."""
    start, end = threading.Barrier(runs), threading.Barrier(runs)

    def attempt(number: int) -> str | None:
        lock = WriterLock(connect(endpoint), database, ttl_s)
        start.wait()
        try:
            with lock.held(f"run {number}"):
                end.wait(PATIENCE_S)
                lock.check()
                return None
        except LockHeld as refusal:
            end.wait(PATIENCE_S)
            return str(refusal)

    with ThreadPoolExecutor(runs) as pool:
        return [told for told in pool.map(attempt, range(runs)) if told is not None]


def test_a_second_run_is_refused_and_told_who_holds_the_lock(
    clickhouse: Endpoint, client: Client, database: str
) -> None:
    with WriterLock(client, database, TTL_S).held("loop"):
        with (
            pytest.raises(LockHeld) as refusal,
            WriterLock(connect(clickhouse), database, TTL_S).held("run"),
        ):
            pass
        assert refusal.value.exit_code == 3
        told = f"`loop` (pid {os.getpid()} on {socket.gethostname()}, since 20"
        assert str(refusal.value).startswith(told)
        assert str(refusal.value).endswith("wait for it to end, or stop it")
        assert "\n" not in str(refusal.value)


def test_the_lock_is_free_again_afterwards(client: Client, database: str) -> None:
    lock = WriterLock(client, database, TTL_S)
    assert lock.holder() is None
    with lock.held("run"):
        assert lock.holder().verb == "run"
    assert lock.holder() is None
    with pytest.raises(ZeroDivisionError), lock.held("run"):
        _ = 1 / 0
    assert lock.holder() is None
    with lock.held("run"):
        lock.check()
    tables = client.query(
        "select count() from system.tables where database = {database:String}",
        parameters={"database": database},
    )
    assert tables.result_rows == [(1,)]  # that of the last run


def test_of_many_runs_at_once_one_gets_the_lock(clickhouse: Endpoint, database: str) -> None:
    for _ in range(3):
        refused = race(clickhouse, database)
        assert len(refused) == 7
        assert all(told.startswith("`run ") for told in refused)


def test_no_two_runs_are_ever_inside(clickhouse: Endpoint, database: str) -> None:
    inside: list[int] = []
    crowds, turns = [], []

    def run_often(number: int) -> None:
        lock = WriterLock(connect(clickhouse), database, TTL_S)
        for _ in range(25):
            try:
                with lock.held("run"):
                    inside.append(number)
                    crowds.append(len(inside))
                    time.sleep(0.002)
                    lock.check()
                    inside.remove(number)
                    turns.append(number)
            except LockHeld:
                pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run_often, range(6)))
    assert len(turns) >= 5
    assert set(crowds) == {1}


def test_a_run_that_was_killed_here_is_replaced_at_once(
    clickhouse: Endpoint, client: Client, database: str
) -> None:
    with other_run(clickhouse, database) as other:
        lock = WriterLock(client, database, TTL_S)
        with pytest.raises(LockHeld, match=f"pid {other.pid} "), lock.held("run"):
            pass
        other.kill()
        other.wait()
        assert len(race(clickhouse, database)) == 7


def test_status_names_a_writer_only_while_it_lives(
    clickhouse: Endpoint, settings: Settings
) -> None:
    with open_run(settings) as run:
        assert read_status(run).writer is None
        with other_run(clickhouse, settings.raw_database) as other:
            assert read_status(run).writer.startswith(f"`loop` (pid {other.pid} ")
        assert read_status(run).writer is None


def test_a_run_that_fell_silent_elsewhere_is_replaced_when_its_time_is_up(
    clickhouse: Endpoint, client: Client, database: str
) -> None:
    with other_run(clickhouse, database, machine="elsewhere") as other:
        other.kill()
        other.wait()
        # Its process is not here; that says nothing about it.
        with pytest.raises(LockHeld, match="on elsewhere"):
            WriterLock(client, database, TTL_S).held("run").__enter__()
        # Long enough that the one which takes the lock renews it in time on a machine that is ten times slower.
        time.sleep(3)
        assert len(race(clickhouse, database, ttl_s=3)) == 7


def test_a_run_that_slept_too_long_notices_and_leaves_its_successor_alone(
    clickhouse: Endpoint, client: Client, database: str
) -> None:
    ttl_s = 0.8
    with other_run(clickhouse, database, ttl_s=ttl_s) as sleeper:
        sleeper.send_signal(signal.SIGSTOP)
        time.sleep(ttl_s + 0.2)
        successor = WriterLock(client, database, ttl_s)
        with successor.held("run"):
            sleeper.send_signal(signal.SIGCONT)
            time.sleep(ttl_s)
            told, _ = sleeper.communicate("\n", timeout=PATIENCE_S)
            assert told.startswith(f"this run lost the writer lock to `run` (pid {os.getpid()} ")
            assert sleeper.returncode == 0
            successor.check()
            third = WriterLock(client, database, ttl_s)
            with pytest.raises(LockHeld, match="`run`"), third.held("third"):
                pass


def test_what_fails_because_the_lock_was_lost_says_so(client: Client, database: str) -> None:
    """A run that slept meets the loss in any way first: a folder that is gone, a statement that was stopped."""
    loser, successor = (WriterLock(client, database, ttl_s) for ttl_s in (TTL_S, 0.0))
    with (
        pytest.raises(LockHeld, match="lost the writer lock") as failure,
        loser.held("loop"),
        successor.held("run"),
    ):
        raise FileNotFoundError("state.json")
    assert isinstance(failure.value.__cause__, FileNotFoundError)
    with pytest.raises(FileNotFoundError), WriterLock(client, database, TTL_S).held("loop"):
        raise FileNotFoundError("state.json")


def test_heartbeats_keep_a_lock(client: Client, database: str) -> None:
    with WriterLock(client, database, 0.6).held("loop") as lock:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            assert not lock.holder().is_dead(0.6)
            time.sleep(0.02)
        lock.check()


def test_a_run_that_comes_late_with_an_old_number_gets_nothing(
    clickhouse: Endpoint, client: Client, database: str
) -> None:
    """It saw the lock free, then stood still while others came and went and cleaned up."""
    stands, goes_on = threading.Event(), threading.Event()

    def before_create() -> None:
        stands.set()
        goes_on.wait(PATIENCE_S)

    late = WriterLock(Delayed(connect(clickhouse), before_create), database, TTL_S)
    lock = WriterLock(client, database, TTL_S)
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(late.held("late").__enter__)
        assert stands.wait(PATIENCE_S)
        for _ in range(3):
            with lock.held("early"):
                pass
        with lock.held("winner"):
            goes_on.set()
            with pytest.raises(LockHeld, match="`winner`"):
                attempt.result(20)
            lock.check()


def test_a_lock_whose_answer_was_lost_is_ours(clickhouse: Endpoint, database: str) -> None:
    """ClickHouse has made the table; the client is told of a broken connection, or asks again and is refused."""
    for code in (None, lock_module.TABLE_ALREADY_EXISTS):

        def lose(code: int | None = code) -> None:
            error = OperationalError("the answer ended inside its headers")
            error.code = code
            raise error

        losing = Losing(connect(clickhouse), lose)
        with WriterLock(losing, database, TTL_S).held("run") as lock:
            lock.check()
        assert losing.lost == 1


class Losing:
    """A client that loses the answer to every `create table`."""

    def __init__(self, client: Client, lose: Callable[[], None]) -> None:
        self._client, self._lose, self.lost = client, lose, 0

    def command(self, statement: str, **options: object) -> object:
        answer = self._client.command(statement, **options)
        if statement.lstrip().startswith("create table"):
            self.lost += 1
            self._lose()
        return answer

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)


class Delayed:
    """A client that waits for `before_create` in front of every `create table`."""

    def __init__(self, client: Client, before_create: Callable[[], None]) -> None:
        self._client = client
        self._before_create = before_create

    def command(self, statement: str, **options: object) -> object:
        if statement.lstrip().startswith("create table"):
            self._before_create()
        return self._client.command(statement, **options)

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)


def test_a_lock_outlives_its_server(tmp_path: Path) -> None:
    ttl_s = 1.2
    with ExitStack() as servers:
        first = servers.enter_context(running(tmp_path, 0))
        with WriterLock(connect(first), "raw", ttl_s).held("loop") as lock:
            os.kill(first.pid, signal.SIGKILL)
            time.sleep(ttl_s * 0.6)  # two heartbeats fail
            servers.enter_context(running(tmp_path, first.port))
            time.sleep(ttl_s)
            assert lock.holder().age_s < ttl_s / 2
            lock.check()
        assert lock.holder() is None


def test_a_server_that_is_gone_at_the_end_hides_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path, 0) as server:
        lock = WriterLock(connect(server), "raw", TTL_S)
        with pytest.raises(ZeroDivisionError), lock.held("run"):
            os.kill(server.pid, signal.SIGKILL)
            _ = 1 / 0
    assert "lock: not released, it expires by itself" in caplog.text


HERE = Holder(
    number=1,
    verb="run",
    host=socket.gethostname(),
    boot_id=holder_module._boot_id(),
    pid=os.getpid(),
    process_id=holder_module.PROCESS_ID,
    acquired_at=datetime(2026, 6, 1, tzinfo=UTC),
    age_s=1.0,
)


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        ({}, False),
        ({"age_s": 61.0}, True),
        # A container that was started again: same name, same pid, another process.
        ({"process_id": "of the one before"}, True),
        ({"pid": 2**22 + 1}, True),  # beyond the highest pid there can be
        ({"pid": 1}, False),  # of another user
        ({"pid": 2**22 + 1, "host": "elsewhere"}, False),
        ({"pid": 2**22 + 1, "boot_id": "a machine of the same name"}, False),
        ({"process_id": "in another container", "host": "elsewhere"}, False),
        ({"process_id": "unknown", "host": "elsewhere", "age_s": 61.0}, True),
    ],
)
def test_who_counts_as_dead(change: dict[str, object], dead: bool) -> None:
    assert replace(HERE, **change).is_dead(60.0) is dead
