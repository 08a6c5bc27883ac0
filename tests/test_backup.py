"""`backup` and `restore`: a backup is whole or is not there, and what it brings back goes on to the truth.

The engine, the server and the processes are real. The module has an embedded ClickHouse of its own, because the one of
the session counts as a configured server.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_cli import call, command, started
from worlds import (
    PATIENCE_S,
    all_fills,
    assert_equals_truth,
    land,
    prepared,
    sandbox_settings,
    settle_all,
    small_world,
)

from embedded_clickhouse import Endpoint, running
from embedded_clickhouse.backups import Folders
from ingest.land.working_folder import forget
from pipeline.derive.prepare import prepare
from pipeline.derive.replaced import heal_replaced_tables
from pipeline.errors import BackupError, NothingLoaded, RestoreUnfinished
from pipeline.jobs.backup import alone, backup
from pipeline.jobs.backup_file import Facts, check, seal
from pipeline.jobs.cycle import run_cycle
from pipeline.jobs.restore import restore
from pipeline.settings import Settings
from pipeline.warehouse.run import UNFINISHED, Run, open_run
from sandbox.server import SandboxServer
from sandbox.world import World

# What the lock and the clock of a run change, and the tables of requests and identities.
OF_THE_MOMENT = r"^(writer_lock_.*|backup_requests|settled_tables)$"
FACTS = Facts("2026-06-01T00:00:00+00:00", "26.9.0", "26.9.2.1", "polymarket", "polymarket_raw", "", 1, 10, [])  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Endpoint]]:
    """The data folder of an embedded ClickHouse that stays up, and where it listens."""
    path = tmp_path_factory.mktemp("home") / "clickhouse"
    with running(path, 0) as endpoint:
        yield path, endpoint


@pytest.fixture(scope="module")
def polymarket() -> Iterator[SandboxServer]:
    with SandboxServer(small_world(seed=11)) as upstream:
        yield upstream


@pytest.fixture
def make(
    home: tuple[Path, Endpoint], database_prefix: str, tmp_path: Path, polymarket: SandboxServer
) -> Iterator[Callable[..., Settings]]:
    """Makes settings of this test's own databases in the embedded ClickHouse."""
    path, endpoint = home

    def made(upstream: SandboxServer = polymarket, **values: Any) -> Settings:
        embedded = {
            "clickhouse_host": "",
            "clickhouse_password": "",
            "clickhouse_local_path": path,
            "clickhouse_local_files": path / "files",
            "clickhouse_local_port": 0,
        }
        return sandbox_settings(endpoint, database_prefix, tmp_path, upstream, **embedded | values)

    yield made
    with open_run(made()) as run:
        for database in (database_prefix, f"{database_prefix}_raw"):
            run.client.command(f"drop database if exists {database} sync")


@pytest.fixture
def loaded(make: Callable[..., Settings], template: Settings) -> Iterator[tuple[Run, World]]:
    """A prepared run with a few settled fills, and their world."""
    world = small_world(seed=3, matches=60)
    with prepared(make(), template) as run:
        land(run, all_fills(world))
        settle_all(run)
        yield run, world


def environment(settings: Settings) -> dict[str, str]:
    """That of a process with these settings; nothing from a .env file."""
    values = {
        name: "" if value is None else str(value)
        for name, value in settings.model_dump(exclude={"clickhouse_password"}).items()
    }
    values["goldsky_start"] = settings.goldsky_start.isoformat()
    values["goldsky_horizon"] = settings.goldsky_horizon.isoformat()
    return os.environ | {name.upper(): value for name, value in values.items()}


def cycle(run: Run) -> None:
    with run.lock.held("test"):
        run_cycle(run).raise_failures()


def contents(run: Run) -> dict[str, tuple]:
    """Row count and order-free hash of every table that is versioned by rows, whatever was merged, and of what is read."""
    databases = [run.settings.raw_database, run.settings.clickhouse_database]
    tables = run.client.query(
        "select concat(database, '.', name, if(engine = 'View', '', ' final')) from system.tables"
        " where database in {databases:Array(String)} and not match(name, {left_out:String})"
        " and (engine = 'ReplacingMergeTree' or name in ('trades', 'markets', 'ohlcv_1h'))",
        parameters={"databases": databases, "left_out": OF_THE_MOMENT},
    ).result_rows
    return {
        table.removesuffix(" final"): run.client.query(
            f"select count(), sum(cityHash64(*)) from {table}"
        ).result_rows[0]
        for (table,) in tables
    }


def files_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


# ---------- there and back


def test_a_restored_database_is_as_it_was_and_the_next_cycle_loads_the_rest(
    make: Callable[..., Settings], template: Settings, tmp_path: Path
) -> None:
    world = small_world(seed=5)
    with SandboxServer(world) as upstream:
        settings = make(upstream)
        with prepared(settings, template) as run:
            cycle(run)
            before = contents(run)
            made = backup(run, tmp_path / "then.tar")
            assert made.path == tmp_path / "then.tar" and made.size == made.path.stat().st_size
            assert made.manifest.rows >= sum(before[f"{settings.raw_database}.order_filled"][:1])

            world.advance(20)
            cycle(run)
            assert contents(run) != before
        with open_run(settings) as run:
            restore(run, made.path, replace=True)
            assert contents(run) == before
            assert not list((tmp_path / "dlt" / "writers").iterdir())
        with open_run(settings) as run:
            with run.lock.held("test"):
                prepare(run)
                assert heal_replaced_tables(run) == []
            cycle(run)
            assert_equals_truth(run, world)
    assert files_in(Folders.of(settings.clickhouse_local_path).written) == []


def test_a_backup_goes_into_a_fresh_folder(
    loaded: tuple[Run, World], tmp_path: Path, template: Settings
) -> None:
    run, _ = loaded
    for _ in range(3):  # the fence of the books is beyond that of a new database
        with run.lock.held("test") as lock:
            fence = lock.number
    raw = run.settings.raw_database
    models = run.settings.clickhouse_database
    run.client.command(f"create view {models}.of_a_user as select 1 as file, 'x' as backup")
    run.client.command(f"alter database {raw} modify comment 'what is a migration\\'s'")
    made, before = backup(run, tmp_path / "b.tar"), contents(run)
    assert made.manifest.facts.fence > fence

    values = {"clickhouse_local_path": tmp_path / "new", "dlt_pipelines_dir": tmp_path / "dlt2"}
    with open_run(run.settings.model_copy(update=values)) as fresh:
        restore(fresh, made.path, replace=False)
        assert contents(fresh) == before
        comment = f"select comment from system.databases where name = '{raw}'"
        assert fresh.client.query(comment).result_rows == [("what is a migration's",)]
        with fresh.lock.held("test") as lock:
            assert lock.number > made.manifest.facts.fence
            prepare(fresh)
        with pytest.raises(BackupError, match="--replace drops them"):
            restore(fresh, made.path, replace=False)
        assert contents(fresh) == before


def test_books_without_data_may_be_replaced(
    loaded: tuple[Run, World], tmp_path: Path, template: Settings
) -> None:
    run, _ = loaded
    made, before = backup(run, tmp_path / "b.tar"), contents(run)
    raw, models = run.settings.raw_database, run.settings.clickhouse_database
    for database in (raw, models):
        run.client.command(f"drop database {database} sync")
    with prepared(run.settings, template) as empty:
        restore(empty, made.path, replace=False)
        assert contents(empty) == before


def test_a_database_of_an_earlier_version_is_backed_up_before_its_first_run(
    loaded: tuple[Run, World], tmp_path: Path
) -> None:
    run, _ = loaded
    raw = run.settings.raw_database
    run.client.command(f"drop table {raw}.settled_tables sync")
    run.client.command(f"delete from {raw}.schema_migrations where number >= 10")
    facts = backup(run, tmp_path / "old.tar").manifest.facts
    assert (facts.migration, facts.settled_in_place) == (9, [])
    restore(run, tmp_path / "old.tar", replace=True)
    with run.lock.held("test"):
        prepare(run)
    assert files_in(Folders.of(run.settings.clickhouse_local_path).kept) == []


def test_packages_that_were_read_after_the_backup_are_forgotten(tmp_path: Path) -> None:
    for name in ("p_raw-3", "p_raw-12", "p_raw-x", "pp_raw-3"):
        (tmp_path / "writers" / name / "polymarket_polygon").mkdir(parents=True)
    forget(tmp_path, "p_raw")
    assert files_in(tmp_path / "writers") == ["p_raw-x", "pp_raw-3"]
    forget(tmp_path / "nowhere", "p_raw")


# ---------- the command line


def test_the_verbs_print_one_line_each(loaded: tuple[Run, World], tmp_path: Path) -> None:
    run, _ = loaded
    env, database = environment(run.settings), run.settings.clickhouse_database
    answer = call(env, tmp_path, "backup")
    assert answer.returncode == 0, answer.stderr
    path, rest = answer.stdout.split(": ", 1)
    kept = Folders.of(run.settings.clickhouse_local_path).kept
    assert Path(path).parent == kept and Path(path).name.startswith(f"{database}-")
    assert re.fullmatch(rf"{database}_raw and {database} as of \S+, [\d,]+ rows, [\d.]+ MB\n", rest)

    for target in (path, str(tmp_path / "no" / "such.tar")):
        refused = call(env, tmp_path, "backup", target)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "exists already" in call(env, tmp_path, "backup", path).stderr

    refused = call(env, tmp_path, "restore", path)
    assert refused.returncode == 1 and "--replace drops them" in refused.stderr
    answer = call(env, tmp_path, "restore", path, "--replace")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith("the next run goes on from there\n")
    Path(path).unlink()


def test_beside_a_loop_the_loop_writes_the_backup(
    make: Callable[..., Settings], template: Settings, tmp_path: Path
) -> None:
    settings = make(poll_interval_s=1.0)
    env, folder = environment(settings), tmp_path / "backups"
    folder.mkdir()
    with prepared(settings, template):
        pass
    with started(env, tmp_path, "loop", until="gamma: ") as loop:
        answer = call(env, tmp_path, "backup", "backups")
        assert answer.returncode == 0, answer.stderr
        assert f"`loop` (pid {loop.pid} on " in answer.stderr and "writes it" in answer.stderr
        [made] = folder.iterdir()
        refused = call(env, tmp_path, "restore", str(made), "--replace")
        assert refused.returncode == 3 and f"`loop` (pid {loop.pid}" in refused.stderr
        loop.send_signal(signal.SIGTERM)
        assert loop.wait(timeout=PATIENCE_S) == 143
    check(made, has_network=False)
    with open_run(settings) as run:
        restore(run, made, replace=True)
        assert not run.ledger.unsettled()
        # What the loop had not read by then is read by the next cycle, and nothing twice.
        for _ in range(2):  # the second asks for tokens that the first has met
            assert call(env, tmp_path).returncode == 0
        assert_equals_truth(run, small_world(seed=11))


def test_a_server_has_backups_of_its_own(tmp_path: Path) -> None:
    for arguments in (["backup"], ["restore", "x.tar"]):
        answer = call(os.environ | {"CLICKHOUSE_HOST": "ch.example"}, tmp_path, *arguments)
        assert (answer.returncode, answer.stderr.count("\n")) == (2, 1)
        assert "on ch.example use ClickHouse's own BACKUP and RESTORE" in answer.stderr


def test_nothing_to_back_up(make: Callable[..., Settings]) -> None:
    with open_run(make()) as run, pytest.raises(NothingLoaded):
        backup(run, None)


# ---------- cut off


def test_a_kill_in_the_middle_leaves_nothing_under_the_name(
    loaded: tuple[Run, World], tmp_path: Path
) -> None:
    run, _ = loaded
    folders = Folders.of(run.settings.clickhouse_local_path)
    run.client.command(
        f"create table {run.settings.clickhouse_database}.big engine = MergeTree order by ()"
        " as select randomString(1000) as a from numbers(300000)"
    )
    final = tmp_path / "killed.tar"
    with subprocess.Popen(
        command("backup", str(final)), env=environment(run.settings), cwd=tmp_path
    ) as process:
        while not files_in(folders.written):
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert files_in(tmp_path) == []

    made = backup(run, final)
    assert check(made.path, has_network=False).rows > 300_000
    assert files_in(folders.written) == []
    assert [name for name in files_in(folders.kept) if name.startswith(".")] == []


def test_a_restore_that_was_killed_is_known_and_finished(
    loaded: tuple[Run, World], tmp_path: Path
) -> None:
    run, _ = loaded
    made, before = backup(run, tmp_path / "b.tar"), contents(run)
    with subprocess.Popen(
        command("restore", str(made.path), "--replace"),
        env=environment(run.settings),
        cwd=tmp_path,
    ) as process:
        while not run.client.command(f"exists table {run.settings.raw_database}.{UNFINISHED}"):
            assert process.poll() is None
        process.kill()
    with run.lock.held("test") as lock:
        lock.stop_earlier()
        with pytest.raises(RestoreUnfinished, match="restore FILE --replace"):
            prepare(run)
    with pytest.raises(RestoreUnfinished):
        backup(run, tmp_path / "half.tar")
    restore(run, made.path, replace=False)
    with run.lock.held("test"):
        prepare(run)
    assert contents(run) == before
    assert files_in(Folders.of(run.settings.clickhouse_local_path).kept) == []


def test_one_backs_up_or_restores_at_a_time(loaded: tuple[Run, World], tmp_path: Path) -> None:
    run, _ = loaded
    with (
        alone(run.settings),
        pytest.raises(BackupError, match="another run backs up or restores"),
    ):
        backup(run, tmp_path / "b.tar")
    assert files_in(tmp_path) == []


# ---------- what does not fit


def damages() -> dict[str, Callable[[Path], None]]:
    def cut(path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)

    def flip(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 3)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))

    def garble_manifest(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content.replace(b'"fence"', b'"fance"'))

    return {
        "cut": cut,
        "cut a little": lambda path: os.truncate(path, path.stat().st_size - 11_000),
        "a bit": flip,
        "its manifest": garble_manifest,
        "empty": lambda path: path.write_bytes(b""),
        "no tar": lambda path: path.write_bytes(b"x" * 20_000),
        "not there": Path.unlink,
    }


def test_a_damaged_backup_is_refused_and_nothing_is_lost(
    loaded: tuple[Run, World], tmp_path: Path
) -> None:
    run, _ = loaded
    made, before = backup(run, tmp_path / "good.tar"), contents(run)
    for name, damage in damages().items():
        bad = tmp_path / "bad.tar"
        shutil.copy(made.path, bad)
        damage(bad)
        with pytest.raises(BackupError) as refusal:
            restore(run, bad, replace=True)
        assert "\n" not in str(refusal.value) and str(bad) in str(refusal.value), name
        assert contents(run) == before, name
    answer = call(environment(run.settings), tmp_path, "restore", "bad.tar", "--replace")
    assert (answer.returncode, answer.stderr.count("\n")) == (1, 1)


@contextmanager
def changed(path: Path, manifest_facts: Facts) -> Iterator[Path]:
    """The same backup with other facts in its manifest."""
    copy = path.with_name("changed.tar")
    shutil.copy(path, copy)
    size = check(path, has_network=False).size
    os.truncate(copy, size)
    with copy.open("ab") as file:
        file.write(bytes(10_240))  # the end of a tar
    seal(copy, manifest_facts)
    yield copy
    copy.unlink()


def test_a_backup_that_does_not_fit_is_refused(loaded: tuple[Run, World], tmp_path: Path) -> None:
    run, _ = loaded
    made, before = backup(run, tmp_path / "b.tar"), contents(run)
    facts = made.manifest.facts
    for change, reason in (
        ({"chdb_core": "99.1.0"}, "was made by chdb-core 99.1.0"),
        ({"migration": 9999}, "was made by a later version of this project"),
        ({"database": "another"}, "set CLICKHOUSE_DATABASE=another"),
    ):
        with (
            changed(made.path, replace(facts, **change)) as other,
            pytest.raises(BackupError, match=reason),
        ):
            restore(run, other, replace=True)
    assert contents(run) == before
    with changed(made.path, facts) as same:
        restore(run, same, replace=True)


@pytest.mark.parametrize(
    "definition",
    [
        "create dictionary x (a UInt64) primary key a source(executable(command 'id' format TSV))"
        " layout(flat()) lifetime(1)",
        "create table x (a Int8) engine = MySQL('h:1', 'd', 't', 'u', 'p')",
    ],
)
def test_definitions_that_sql_may_not_make_are_not_restored(
    tmp_path: Path, definition: str
) -> None:
    path = tmp_path / "forged.tar"
    listing = "<config><contents><file><name>metadata/d/x.sql</name><data_file>y</data_file></file></contents></config>"
    with tarfile.open(path, "w") as archive:
        for name, text in (("y", definition), (".backup", listing)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    seal(path, FACTS)
    with pytest.raises(BackupError, match=r"metadata/d/x\.sql is not allowed"):
        check(path, has_network=False)


def forged(path: Path, files: dict[str, str]) -> Path:
    """A whole backup of our making, with these files."""
    listed = "".join(f"<file><name>{name}</name></file>" for name in files)
    with tarfile.open(path, "w") as archive:
        for name, text in {
            **files,
            ".backup": f"<config><contents>{listed}</contents></config>",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    seal(path, FACTS)
    return path


@pytest.mark.parametrize(
    "definition",
    [
        "CREATE TABLE d.x (a String) /*/**/'*/ ENGINE = URL('http://127.0.0.1:9/', 'CSV')",
        "CREATE TABLE d.x (engine String) ENGINE = URL('http://127.0.0.1:9/', 'CSV')",
        "CREATE DICTIONARY d.x (k UInt64) PRIMARY KEY k /*/**/'*/ SOURCE(EXECUTABLE(COMMAND 'id' FORMAT TSV))"
        " LAYOUT(FLAT()) LIFETIME(0)",
        "CREATE\u00a0DATABASE d ENGINE = Filesystem('/')",
        "CREATE TABLE d.x (a Int8) ENGINE = Memory; DROP TABLE d.y",
        "DROP TABLE d.x",
        "CREATE TABL",
    ],
)
def test_definitions_are_judged_as_the_engine_reads_them(
    loaded: tuple[Run, World], tmp_path: Path, definition: str
) -> None:
    run, _ = loaded
    before = contents(run)
    path = forged(tmp_path / "forged.tar", {"metadata/d/x.sql": definition})
    with pytest.raises(BackupError, match=r"metadata/d/x\.sql is not allowed"):
        restore(run, path, replace=True)
    assert contents(run) == before


@pytest.mark.parametrize("name", ["../x", "data/../../x", "/etc/x", "data/.."])
def test_a_backup_whose_entries_lead_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackupError, match="leads out") as refusal:
        check(forged(tmp_path / "out.tar", {name: "x"}), has_network=False)
    assert "\n" not in str(refusal.value)


def test_files_that_would_be_removed_are_neither_read_nor_made(
    loaded: tuple[Run, World], tmp_path: Path
) -> None:
    run, _ = loaded
    folders = Folders.of(run.settings.clickhouse_local_path)
    made = backup(run, tmp_path / "whole.tar").path
    for path in (
        folders.written / "mine.tar",
        folders.kept / f"restoring-{'0' * 32}.tar",
        folders.kept / ".mine.tar.partial",
    ):
        with pytest.raises(BackupError, match="unfinished backups") as refusal:
            backup(run, path)
        assert "\n" not in str(refusal.value)
        shutil.copyfile(made, path)
        with pytest.raises(BackupError, match="unfinished backups"):
            restore(run, path, replace=True)
        assert path.exists()
        path.unlink()
