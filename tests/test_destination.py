"""dlt into ClickHouse over HTTP: tables stay as the migrations made them, cursors never get ahead."""

from __future__ import annotations

import os
import pydoc
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dlt
import pyarrow as pa
import pytest
from dlt.common.destination.exceptions import DestinationTransientException
from dlt.destinations.exceptions import (
    DatabaseTerminalException,
    DatabaseTransientException,
    DatabaseUndefinedRelation,
    DestinationConnectionError,
)
from dlt.extract import storage as extract_storage
from ingest_runs import Lake, make_landing_tables, open_lake
from worlds import PATIENCE_S

from ingest.errors import LoadError
from ingest.land import loader
from ingest.land.landing import load_id_as_integer
from ingest.land.loader import resource_states
from ingest.page import Page, Stream
from ingest.progress import Progress
from ingest.records import fills_table
from ingest.tables import ORDER_FILLED

LAST = 50


@pytest.fixture
def lake(clickhouse, database_prefix: str, tmp_path: Path) -> Lake:
    return open_lake(clickhouse, database_prefix, tmp_path / "dlt")


def counter(progress: Progress, rows: int = 10, last: int = LAST) -> list[Stream]:
    """Gives fills number 1 to `last`, `rows` a run, and keeps its place like the real sources."""

    def pages(state: dict) -> Iterator[Page]:
        first = state.get("next", 1)
        numbers = range(first, min(first + rows, last + 1))
        if numbers:
            columns = {name: [0] * len(numbers) for name in ("maker_amount", "taker_amount", "fee")}
            columns |= {"timestamp": [1_777_400_000 + number for number in numbers]}
            columns |= {"tx_hash": [f"0x{number:064x}" for number in numbers]}
            texts = ("order_hash", "contract_version", "exchange", "maker", "taker")
            columns |= {name: [name] * len(numbers) for name in texts}
            yield Page(ORDER_FILLED, [fills_table(columns, source="counter")])
            state["next"] = numbers.stop

    return [Stream("fills", ORDER_FILLED, pages)]


def stored(lake: Lake) -> tuple[int, int]:
    """Fills in the landing table: all, and distinct ones."""
    [counts] = lake.rows("select count(), uniqExact(tx_hash) from {db}.order_filled")
    return counts


def cursor(lake: Lake) -> int:
    return resource_states(lake.pipeline("counter"))["fills"]["next"]


def test_tables_are_named_exactly_and_stay_as_they_were_made(lake: Lake) -> None:
    columns = "select table, name, type from system.columns where database = '{db}' order by all"
    before = lake.rows(columns)
    lake.load("counter", counter)
    after = [row for row in lake.rows(columns) if not row[0].startswith("_dlt")]
    assert after == before
    tables = {name for (name,) in lake.rows("show tables from {db}")}
    assert {name for name in tables if "dlt" in name} == {
        "_dlt_loads",
        "_dlt_pipeline_state",
        "_dlt_version",
    }
    assert stored(lake) == (10, 10)


def test_largest_values_and_load_id_arrive(lake: Lake) -> None:
    def huge(progress: Progress) -> list[Stream]:
        def pages(_: dict) -> Iterator[Page]:
            row = dict.fromkeys(ORDER_FILLED.schema.names, "x") | dict.fromkeys(
                ("block_number", "maker_amount", "taker_amount", "fee"), 2**64 - 1
            )
            row |= {"timestamp": 2**32 - 1, "log_index": 2**32 - 1, "is_deleted": 1}
            columns = {name: [value] for name, value in row.items() if name != "load_id"}
            yield Page(ORDER_FILLED, [fills_table(columns, source="counter")])

        return [Stream("fills", ORDER_FILLED, pages)]

    lake.load("huge", huge)
    query = "select max(fee), max(log_index), max(toUnixTimestamp(timestamp)), max(load_id)"
    [(fee, log_index, timestamp, load_id)] = lake.rows(query + " from {db}.order_filled")
    assert (fee, log_index, timestamp) == (2**64 - 1, 2**32 - 1, 2**32 - 1)
    [(text,)] = lake.rows("select load_id from {db}._dlt_loads")
    assert load_id == lake.events[0][1].load_id == load_id_as_integer(text)


def test_a_wiped_working_folder_goes_on_from_clickhouse(lake: Lake) -> None:
    for run_number in range(1, 4):
        lake.load("counter", counter)
        assert stored(lake) == (10 * run_number, 10 * run_number)
        shutil.rmtree(lake.folder)
    lake.load("counter", counter)
    assert cursor(lake) == 41


def test_packages_of_one_name_do_not_get_into_each_others_way(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dlt names them by the clock, which may show the same moment again."""
    monkeypatch.setattr(extract_storage, "create_load_id", lambda: "1795688862.691325")
    for run_number in range(1, 4):
        lake.load("counter", counter)
        assert stored(lake) == (10 * run_number, 10 * run_number)
    assert cursor(lake) == 31


def test_a_lost_database_is_read_again(lake: Lake, database_prefix: str) -> None:
    lake.load("other", counter)
    lake.load("counter", counter)
    lake.client.command(f"drop database {lake.database}")
    make_landing_tables(lake.client, database_prefix)
    lake.load("other", counter)  # makes dlt's tables again, so that they are there for the next
    lake.load("counter", counter)
    assert stored(lake) == (20, 10)
    assert cursor(lake) == 11


def test_an_older_backup_is_followed(lake: Lake) -> None:
    """What ClickHouse has is the truth: a cursor on disk that is ahead of it is given up."""
    lake.load("counter", counter)
    names = ["order_filled", "_dlt_loads", "_dlt_pipeline_state"]
    for name in names:
        lake.client.command(f"create table {lake.database}.copy{name} as {lake.database}.{name}")
        lake.client.command(
            f"insert into {lake.database}.copy{name} select * from {lake.database}.{name}"
        )
    lake.load("counter", counter)
    for name in names:
        lake.client.command(
            f"exchange tables {lake.database}.copy{name} and {lake.database}.{name}"
        )
    lake.load("counter", counter)
    assert stored(lake) == (20, 20)
    assert cursor(lake) == 21


class Crash(BaseException):
    """Stands for a kill between two steps: nothing handles it."""


def test_a_crash_before_the_load_loses_and_doubles_nothing(lake: Lake) -> None:
    def crash() -> None:
        raise Crash

    with pytest.raises(Crash):
        lake.load("counter", counter, before=crash)
    assert stored(lake) == (0, 0)
    lake.load("counter", counter)
    assert stored(lake) == (20, 20)
    whens = [when for when, _ in lake.events]
    assert whens == ["before", "before", "after", "before", "after"]
    assert lake.events[0] == lake.events[1], "the ledger sees the same package again"


def test_a_crash_after_the_load_loses_and_doubles_nothing(lake: Lake) -> None:
    def crash() -> None:
        raise Crash

    with pytest.raises(Crash):
        lake.load("counter", counter, after=crash)
    lake.load("counter", counter)
    assert stored(lake) == (20, 20)


@pytest.mark.parametrize(
    "step",
    [
        "dlt.extract.extract.Extract.commit_packages",
        "dlt.common.storages.load_storage.LoadStorage.commit_new_load_package",
        "dlt.common.storages.load_package.PackageStorage.complete_loading_package",
    ],
)
def test_a_crash_between_two_steps_of_dlt_is_got_over(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """After each of these dlt leaves two files that contradict each other until the next step is done."""
    lake.load("counter", counter)
    crash_after(monkeypatch, step)
    with pytest.raises(Crash):
        lake.load("counter", counter)
    monkeypatch.undo()
    lake.load("counter", counter)
    assert stored(lake) == (30, 30), "what was pending once, then what follows it"
    assert cursor(lake) == 31


def crash_after(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    holder, name = function.rsplit(".", 1)
    original = getattr(pydoc.locate(holder), name)

    def crash(*args, **kwargs):
        original(*args, **kwargs)
        raise Crash

    monkeypatch.setattr(function, crash)


def test_folders_that_a_crash_left_half_deleted_stop_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "KEPT_PACKAGES", 1)
    lake.load("counter", counter)
    folder = lake.folder / "counter"
    for half_deleted in ("load/loaded/1.5", "load/new/1.5", "normalize/extracted/1.5"):
        (folder / half_deleted / "completed_jobs").mkdir(parents=True)
    for _ in range(2):
        lake.load("counter", counter)
    assert stored(lake) == (30, 30)
    assert not list(folder.glob("*/*/1.5"))


def test_a_working_folder_is_given_up_all_at_once(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder that is half deleted, a pending package could bring the cursor without its rows."""
    crash_after(monkeypatch, "dlt.Pipeline.extract")
    with pytest.raises(Crash):
        lake.load("counter", counter)
    monkeypatch.undo()
    monkeypatch.setattr(loader, "_stored_state", lambda pipeline: (-5, ""))  # as of a lost database
    monkeypatch.setattr("shutil.rmtree", delete_only_rows)
    with pytest.raises(Crash):
        lake.load("counter", counter)
    monkeypatch.undo()
    lake.load("counter", counter)
    assert stored(lake) == (10, 10)
    assert cursor(lake) == 11


def delete_only_rows(folder: str | Path, *_: object, **__: object) -> None:
    if not Path(folder).exists():
        return
    for file in Path(folder).rglob("order_filled*"):
        file.unlink()
    raise Crash


def test_a_landing_table_without_a_column_is_an_error_and_the_cursor_stays(lake: Lake) -> None:
    lake.load("counter", counter)
    lake.client.command(f"alter table {lake.database}.order_filled drop column fee")
    shutil.rmtree(lake.folder)  # a cached schema would not be compared again
    lake.client.command(f"truncate table {lake.database}._dlt_version")
    with pytest.raises(LoadError, match=r"order_filled has no column fee: add a migration"):
        lake.load("counter", counter)
    assert stored(lake) == (10, 10)
    lake.client.command(
        f"alter table {lake.database}.order_filled add column fee UInt64 after taker"
    )
    for _ in range(2):
        lake.load("counter", counter)
    assert stored(lake)[1] in (30, 40)
    assert stored(lake)[0] == stored(lake)[1] == cursor(lake) - 1


def test_a_load_that_is_refused_is_tried_again_when_that_is_fixed(lake: Lake) -> None:
    lake.load("counter", counter)
    alter = f"alter table {lake.database}.order_filled"

    def drop_column() -> None:
        lake.client.command(f"{alter} drop column fee")

    with pytest.raises(LoadError, match="fee"):
        lake.load("counter", counter, before=drop_column)
    assert stored(lake) == (10, 10)
    lake.client.command(f"{alter} add column fee UInt64 after taker")
    lake.load("counter", counter)
    assert stored(lake) == (30, 30), "the package that was pending, and one more"
    assert cursor(lake) == 31


def test_a_column_that_dlt_did_not_see_before_is_refused(lake: Lake) -> None:
    lake.load("counter", counter)

    def wider(progress: Progress):
        def pages(_: dict) -> Iterator[Page]:
            yield Page(ORDER_FILLED, [pa.table({"surprise": ["!"], "load_id": [0]})])

        return [Stream("fills", ORDER_FILLED, pages)]

    with pytest.raises(LoadError, match="surprise"):
        lake.load("counter", wider)
    assert stored(lake) == (10, 10)


def test_missing_tables_and_databases_are_said_in_one_line(lake: Lake) -> None:
    lake.client.command(f"drop table {lake.database}.order_filled")
    with pytest.raises(LoadError, match="order_filled does not exist: run the migrations") as told:
        lake.load("counter", counter)
    assert "\n" not in str(told.value)
    nowhere = replace(lake, database=f"{lake.database}_nowhere", folder=lake.folder / "b")
    with pytest.raises(LoadError, match="_nowhere does not exist: run the migrations"):
        nowhere.load("counter", counter)


# -- the connection ---


class Proxy:
    """Passes TCP on to ClickHouse until it is cut."""

    def __init__(self, port: int) -> None:
        self._target, self._open = port, True
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._open = False

    def mend(self) -> None:
        self._open = True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            if not self._open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while (data := one.recv(1 << 16)) and self._open:
                other.sendall(data)
        except OSError:
            pass
        for each in (one, other):
            each.close()

    def close(self) -> None:
        self._socket.close()


def test_a_dropped_connection_is_transient(lake: Lake) -> None:
    proxy = Proxy(lake.endpoint.port)
    through = replace(lake, endpoint=replace(lake.endpoint, port=proxy.port))
    with pytest.raises(LoadError) as told:
        through.load("counter", counter, before=proxy.cut)
    assert "\n" not in str(told.value)
    assert through.pipeline("counter").has_pending_data, "the package is kept for the next run"
    proxy.mend()
    through.load("counter", counter)
    proxy.close()
    assert stored(lake) == (20, 20)


def test_a_connection_lost_while_cursors_are_compared_is_one_line(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.load("counter", counter)
    proxy = Proxy(lake.endpoint.port)
    through = replace(lake, endpoint=replace(lake.endpoint, port=proxy.port))
    synchronise = dlt.Pipeline.sync_destination

    def cut_afterwards(pipeline: dlt.Pipeline) -> None:
        synchronise(pipeline)
        proxy.cut()

    monkeypatch.setattr(dlt.Pipeline, "sync_destination", cut_afterwards)
    with pytest.raises(LoadError, match=r"counter: (sync|reading) failed") as told:
        through.load("counter", counter)
    assert "\n" not in str(told.value)
    proxy.close()


def sql_client(lake: Lake):
    return lake.pipeline("counter").sql_client(schema_name="counter")


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select * from nowhere.nothing", DatabaseUndefinedRelation),
        ("select * from {db}.nothing", DatabaseUndefinedRelation),
        ("selec 1", DatabaseTerminalException),
        ("select nothing from {db}.order_filled", DatabaseTerminalException),
        ("select 1 settings no_such_setting = 1", DatabaseTerminalException),
        ("select toDate('x')", DatabaseTerminalException),
        ("select throwIf(1)", DatabaseTransientException),
        (
            "select sleepEachRow(1) from numbers(3) settings max_execution_time = 1",
            DatabaseTransientException,
        ),
    ],
)
def test_errors_are_told_apart_by_clickhouse_code(lake: Lake, sql: str, error: type) -> None:
    lake.load("counter", counter)
    with sql_client(lake) as client, pytest.raises(error):
        client.execute_sql(sql.replace("{db}", lake.database))


def test_nobody_there_is_transient(lake: Lake) -> None:
    lake.load("counter", counter)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = replace(lake, endpoint=replace(lake.endpoint, port=free.getsockname()[1]))
        with pytest.raises(DestinationTransientException) as told, sql_client(nowhere):
            pass
        assert isinstance(told.value, DestinationConnectionError)


def test_parameters_and_semicolons_in_strings(lake: Lake) -> None:
    lake.load("counter", counter)
    with sql_client(lake) as client:
        assert client.execute_sql("select %s, 7 %% 4", "a;'b\\c%s") == [("a;'b\\c%s", 3)]
        assert client.execute_sql("select '50% ; x', 7 % 4") == [("50% ; x", 3)]


# -- what dlt's own tools see ---


def test_dlt_command_line_reads_the_working_folder(lake: Lake) -> None:
    lake.load("counter", counter)
    for verb, words in (("info", "fills with 1 table(s)"), ("trace", "order_filled: 10 row(s)")):
        command = [Path(sys.executable).parent / "dlt", "pipeline"]
        command += ["--pipelines-dir", lake.folder, "counter", verb]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


def test_dlt_dataset_reads_the_landing_tables(lake: Lake) -> None:
    lake.load("counter", counter)
    dataset = lake.pipeline("counter").dataset()
    assert dataset.order_filled.select("tx_hash").arrow().num_rows == 10


def test_old_packages_do_not_pile_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "KEPT_PACKAGES", 2)
    for _ in range(4):
        lake.load("counter", counter)
    assert len(lake.pipeline("counter").list_completed_load_packages()) == 2
    assert stored(lake) == (40, 40)
