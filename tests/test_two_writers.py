"""A run that was paused for longer than its lock lives, and goes on beside its successor, does no lasting harm."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from signalled import signalled_at
from test_interruptions import environment
from test_ledger import HOUR, NOON, insert_fills
from worlds import (
    COLUMNS,
    PATIENCE_S,
    all_fills,
    assert_equals_truth,
    land_gamma,
    landing_row,
    settle_all,
    small_world,
)

from ingest.events import Event
from ingest.land.sql_client import ClickHouseHttpSqlClient
from ingest.land.working_folder import of_writer
from pipeline.derive import settle as settle_module
from pipeline.errors import LockHeld
from pipeline.jobs.cycle import run_cycle
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.verbs.status import read_status
from pipeline.warehouse.earlier import earlier_statements
from pipeline.warehouse.holder import Holder
from pipeline.warehouse.ledger import Ledger
from pipeline.warehouse.loads import Load
from pipeline.warehouse.migrations import migrate
from pipeline.warehouse.orphans import merged
from pipeline.warehouse.run import Run, open_run
from sandbox.reconcile import reconcile
from sandbox.server import SandboxServer
from sandbox.truth import Truth
from sandbox.world import World


@pytest.fixture
def landing(settings: Settings) -> Iterator[Run]:
    """A landing database, not the models."""
    with open_run(settings) as run:
        run.client.command(f"create database {settings.raw_database}")
        migrate(run.client, settings)
        yield run


@contextmanager
def other(run: Run) -> Iterator[Run]:
    """A second run on the databases of the first, ready to settle."""
    with open_run(run.settings) as second:
        second.statements = run.statements
        yield second


@contextmanager
def taking_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The run holds the lock: whoever held it before looks dead, as if it had been silent for long."""
    with monkeypatch.context() as patched:
        patched.setattr(Holder, "is_dead", lambda self, ttl_s: True)
        held = run.lock.held("successor")
        held.__enter__()
    try:
        yield run
    finally:
        held.__exit__(None, None, None)


def state_of(run: Run, load_id: int) -> tuple[str, int]:
    return run.client.query(
        f"select state, loaded_rows from {run.settings.raw_database}.loads final where load_id = {load_id}"
    ).result_rows[0]


# ---------- the ledger


LATE_WRITES: dict[str, Callable[[Ledger, list[Load]], object]] = {
    "opens a load": lambda ledger, loads: ledger.open(12, ["order_filled"]),
    "closes its load": lambda ledger, loads: ledger.close_loading([10]),
    "starts to settle": lambda ledger, loads: ledger.start_settling(loads),
    "says that it has settled": lambda ledger, loads: ledger.finish_settling(loads),
    "gives up settling": lambda ledger, loads: ledger.back_to_loaded(loads),
    "adopts what is left": lambda ledger, loads: ledger.adopt_orphans(),
    "adds a rebuild": lambda ledger, loads: ledger.add_rebuild(loads),
}


@pytest.mark.parametrize("late", LATE_WRITES)
def test_a_run_that_lost_its_lock_writes_nothing_into_the_ledger(
    landing: Run, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    table = f"{landing.settings.raw_database}.loads"
    with open_run(landing.settings) as second, landing.lock.held("sleeper"):
        landing.ledger.open(10, ["order_filled"])
        loads = landing.ledger.unsettled()
        with taking_over(second, monkeypatch):
            before = landing.client.query(f"select * from {table} order by all").result_rows
            with pytest.raises(LockHeld, match="lost the writer lock to `successor`"):
                LATE_WRITES[late](landing.ledger, loads)
            assert landing.client.query(f"select * from {table} order by all").result_rows == before


def test_a_load_that_is_loading_is_never_empty(landing: Run) -> None:
    landing.ledger.open(10, ["order_filled"])
    assert settle_all(landing) == 0
    assert state_of(landing, 10) == ("loading", 0)


def test_a_run_closes_its_own_loads_only(landing: Run) -> None:
    other_ledger = Ledger(landing.client, landing.settings.raw_database)
    other_ledger.open(10, ["order_filled"])
    landing.ledger.open(11, ["order_filled"])
    assert [load.load_id for load in landing.ledger.close_loading([10, 11])] == [11]
    assert state_of(landing, 10) == ("loading", 0)


def test_a_statement_that_arrives_again_later_changes_nothing(landing: Run) -> None:
    """A proxy repeats a request, or the client asks again because the answer was lost."""
    sent: list[str] = []
    command = landing.client.command
    landing.client.command = lambda sql, **options: (sent.append(sql), command(sql, **options))[1]
    landing.ledger.open(10, ["order_filled"])
    landing.ledger.finish_settling(landing.ledger.close_loading([10]))
    for statement in [text for text in sent if "insert into" in text]:
        command(statement)
        assert state_of(landing, 10) == ("settled", 0)


def test_rows_that_come_after_a_successor_settled_their_load_are_found(
    landing: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(landing.settings) as successor, landing.lock.held("sleeper"):
        landing.ledger.open(10, ["order_filled"])
        insert_fills(landing, 10, NOON)
        with taking_over(successor, monkeypatch):
            (adopted,) = successor.ledger.adopt_orphans()
            assert (adopted.state, adopted.loaded_rows) == ("loaded", 1)
            successor.ledger.finish_settling([adopted])
            insert_fills(landing, 10, NOON)  # again: nothing new
            assert successor.ledger.find_late() == []
            insert_fills(landing, 10, NOON + HOUR, NOON + 2 * HOUR)
            (late,) = successor.ledger.find_late()
            assert (late.state, late.to_at) == ("loaded", NOON + 2 * HOUR)
            assert [load.load_id for load in successor.ledger.unsettled()] == [10]
            assert successor.ledger.find_late() == []
            # One that a later load has replaced: counted, no more.
            insert_fills(landing, 11, *[NOON + number * HOUR for number in range(4)])
            successor.ledger.finish_settling([late])
            insert_fills(landing, 10, *[NOON + number * HOUR for number in range(4)])
            assert [load.loaded_rows for load in successor.ledger.find_late()] == [8]
            assert successor.ledger.find_late() == []


def test_a_statement_under_way_is_stopped_by_the_successor(
    landing: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = f"{landing.settings.raw_database}.loads"
    slow = (
        f"insert into {table} (load_id) select number + sleepEachRow(1) from numbers(60)"
        " settings max_block_size = 1, function_sleep_max_microseconds_per_block = 2000000"
    )
    ended: list[Exception] = []

    def send() -> None:
        try:
            landing.client.command(slow)
        except Exception as error:
            ended.append(error)

    with open_run(landing.settings) as successor, landing.lock.held("sleeper"):
        sender = threading.Thread(target=send)
        sender.start()
        while not landing.client.query(
            "select count() from system.processes where query like '%sleepEachRow(1)%' and query like 'insert%'"
        ).result_rows[0][0]:
            time.sleep(0.05)
        with taking_over(successor, monkeypatch):
            assert len(earlier_statements(successor.client, successor.lock.comment)) == 1
            # What a later one sends is none of its business.
            assert earlier_statements(landing.client, landing.lock.comment) == []
            successor.ledger.adopt_orphans()
            sender.join(PATIENCE_S)
            assert not sender.is_alive()
    assert "cancelled" in str(ended[0])


def test_ranges_are_merged() -> None:
    assert merged([]) == ()
    assert merged([(7, 9), (1, 3), (4, 4), (8, 12), (20, 20)]) == ((1, 4), (7, 12), (20, 20))


# ---------- dlt's folder


def test_the_folder_of_a_run_moves_to_its_successor(tmp_path: Path) -> None:
    (tmp_path / "polymarket_gamma").mkdir()
    (tmp_path / "polymarket_gamma" / "state.json").touch()
    names = ("polymarket_gamma", "polymarket_polygon")
    first = of_writer(tmp_path, "raw", 3, names)
    assert [path.name for path in first.iterdir()] == ["polymarket_gamma"]
    assert of_writer(tmp_path, "raw", 3, names) == first
    elsewhere = of_writer(tmp_path, "other_raw", 9, names)
    second = of_writer(tmp_path, "raw", 5, names)
    assert not first.exists() and elsewhere.exists()
    assert (second / "polymarket_gamma" / "state.json").exists()
    # By the old path for people and dlt's command line.
    (second / "polymarket_polygon").mkdir()
    assert (tmp_path / "polymarket_polygon").resolve() == second / "polymarket_polygon"
    # What the first writes now is found by nobody.
    (first / "polymarket_gamma").mkdir(parents=True)
    assert (of_writer(tmp_path, "raw", 6, names) / "polymarket_gamma" / "state.json").exists()
    assert not first.exists()


# ---------- settling


@pytest.mark.parametrize("nth", [0, 1, 3])
def test_a_settle_that_goes_on_beside_its_successor_takes_nothing_from_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Paused in front of a statement, it wakes while its successor loads."""
    world = small_world(matches=120)
    fills = all_fills(world)
    land_gamma(run, world)
    half = len(fills) // 2
    calls = []

    with other(run) as successor, run.lock.held("sleeper"):
        land_some(run, 10, fills[:half])
        run.ledger.close_loading([10])
        execute = settle_module.execute

        def paused(client: object, statement: object, settle_id: int) -> None:
            if client is run.client and len(calls) == nth:
                woken.enter_context(taking_over(successor, monkeypatch))
                successor.ledger.adopt_orphans()
                settle_all(successor)
                land_some(successor, 11, fills[half : half + 40])
                # Its check came before the pause, so the statement is sent.
                execute(client, statement, settle_id)
            else:
                execute(client, statement, settle_id)
            calls.append(statement)

        monkeypatch.setattr(settle_module, "execute", paused)
        with ExitStack() as woken:
            before = len(calls)
            with pytest.raises(LockHeld, match="lost the writer lock"):
                settle_all(run)
            assert len(calls) > before
            assert state_of(successor, 11) == ("loading", 0)
            monkeypatch.setattr(settle_module, "execute", execute)
            insert(successor, 11, fills[half + 40 :])
            successor.ledger.close_loading([11])
            settle_all(successor)
            assert successor.ledger.unsettled() == []
            assert_equals_truth(successor, world)


def land_some(run: Run, load_id: int, fills: list) -> None:
    run.ledger.open(load_id, ["order_filled"])
    insert(run, load_id, fills)


def insert(run: Run, load_id: int, fills: list) -> None:
    rows = [landing_row(fill, load_id) for fill in fills]
    run.client.insert(
        "order_filled", rows, column_names=COLUMNS, database=run.settings.raw_database
    )


# ---------- the chain


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(seed=21, matches=80, days=0.05)


def test_late_rows_of_blocks_that_left_the_chain_are_taken_back(
    reading_from: Callable, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """The paused run read blocks, its successor handled their reorganisation, then the insert arrives."""
    with SandboxServer(world) as upstream, reading_from(upstream) as run:
        with run.lock.held("test"):
            catch_up(run)
        late: list[tuple[str, str]] = []
        insert_file = ClickHouseHttpSqlClient.insert_file

        def paused(self: ClickHouseHttpSqlClient, path: str, table: str) -> None:
            if table == "order_filled" and not late:
                late.append((str(Path(path).rename(kept / Path(path).name)), table))
                raise InterruptedError("the process stands still")
            insert_file(self, path, table)

        kept = Path(run.settings.dlt_pipelines_dir).parent
        world.advance(30)
        held = run.lock.held("sleeper")
        held.__enter__()
        try:
            with monkeypatch.context() as patched:
                patched.setattr(ClickHouseHttpSqlClient, "insert_file", paused)
                report = run_cycle(run)
            assert late and "polygon" in report.failures
            world.reorg(25)
            world.advance(5)
            with other(run) as successor, taking_over(successor, monkeypatch):
                # Another machine: without the folder of the one that sleeps.
                successor.settings.dlt_pipelines_dir = kept / "elsewhere"
                catch_up(successor)
                assert_fills_equal_truth(successor, world)

                insert_late(run, *late[0])
                catch_up(successor)
                assert read_status(successor).unsettled_loads == 0
                assert_fills_equal_truth(successor, world)
        finally:
            held.__exit__(None, None, None)


def assert_fills_equal_truth(run: Run, world: World) -> None:
    """Markets aside, whose volumes Gamma is not asked for in every cycle."""
    checks = reconcile(run.client, run.settings.clickhouse_database, Truth(world))
    wrong = {each.name: each.differences for each in checks if not each.equal}
    assert wrong.keys() <= {"markets", "events", "neg_risk_groups"}, wrong


def insert_late(run: Run, path: str, table: str) -> None:
    """Insert a file of a run that proved that it holds the lock before it was paused."""
    with Path(path).open("rb") as file:
        run.client.raw_insert(
            f"{run.settings.raw_database}.{table}",
            column_names=pq.read_schema(path).names,
            insert_block=file,
            fmt="Parquet",
        )


def catch_up(run: Run) -> None:
    """Two cycles: the second asks Gamma for the tokens that the first could not know."""
    for _ in range(2):
        run_cycle(run).raise_failures()


# ---------- real processes


@pytest.mark.parametrize("stage", [Event.FILE_INSERTED, Event.STATEMENT_EXECUTED])
def test_a_process_that_was_stopped_ends_with_3_and_leaves_the_truth(
    reading_from: Callable, stage: Event
) -> None:
    world = small_world(seed=22, matches=80, days=0.05)
    with SandboxServer(world) as upstream, reading_from(upstream, lock_ttl_s=5) as run:
        sleeper = subprocess.Popen(
            signalled_at(stage, signal.SIGSTOP),
            env=environment(run.settings),
            cwd=PROJECT_DIR,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert sleeper.stdout.readline() == "stage reached\n"
            while not run.lock.holder().is_dead(run.settings.lock_ttl_s):
                time.sleep(0.1)
            world.reorg(10)
            world.advance(12)
            with run.lock.held("successor"):
                catch_up(run)
                os.kill(sleeper.pid, signal.SIGCONT)
                _, said = sleeper.communicate(timeout=PATIENCE_S)
                assert (sleeper.returncode, "Traceback" in said) == (3, False), said
                catch_up(run)
            assert run.ledger.unsettled() == []
            assert_equals_truth(run, world)
        finally:
            sleeper.kill()
            sleeper.wait()
            sleeper.stdout.close()
            sleeper.stderr.close()
