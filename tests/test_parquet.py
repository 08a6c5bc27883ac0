"""Archives of Parquet files: whatever layout and server, and however often the run is killed, the tables equal the truth."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worlds import (
    NOW,
    PATIENCE_S,
    assert_equals_truth,
    land_gamma,
    prepared,
    sandbox_settings,
)

from embedded_clickhouse import Endpoint, running
from ingest.errors import ArchiveError
from ingest.events import Event, Moment, listen
from ingest.sources.parquet.places import Keys, Place
from pipeline.errors import LoadFailed, SettingsError
from pipeline.jobs import archive_files
from pipeline.jobs import backfill as backfilling
from pipeline.jobs.archive_files import Archive
from pipeline.jobs.archive_plan import Request, make_plan
from pipeline.jobs.cycle import finish_earlier, run_cycle
from pipeline.jobs.parquet import backfill_parquet
from pipeline.jobs.replay import replay
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.warehouse.client import Server, connect
from pipeline.warehouse.run import Run
from sandbox import parquet as archives
from sandbox.server import SandboxServer
from sandbox.world import World

FILES = "{0..2}.parquet"


@pytest.fixture(scope="module")
def world() -> World:
    """A world of which all generations fit into a few hours."""
    return World.generate(31, now=NOW, markets=30, matches=300, v1_days=0.25, v2_days=0.25)


@pytest.fixture(scope="module")
def upstream(world: World) -> Iterator[SandboxServer]:
    with SandboxServer(world) as server:
        yield server


@pytest.fixture
def filling(reading_from, upstream: SandboxServer) -> Iterator[Run]:
    """A prepared run over a world whose markets have landed, and none of its fills."""
    with reading_from(upstream, goldsky_page_size=500) as run:
        land_gamma(run, upstream.world)
        yield run


def archive(upstream: SandboxServer, *layouts: str, kind: str = "plain") -> list[str]:
    return [f"{upstream.urls.parquet_url}/{kind}/{layout}/{FILES}" for layout in layouts]


def landed(run: Run) -> list[tuple]:
    """Versions, sources and numbers of rows of the landing table."""
    return run.client.query(
        "select contract_version, source, block_number > 0, count()"
        f" from {run.settings.raw_database}.order_filled final group by all order by all"
    ).result_rows


def letters(run: Run) -> list[tuple]:
    return run.client.query(
        f"select source, reason, detail from {run.settings.raw_database}.dead_letters order by all"
    ).result_rows


def states(run: Run) -> list[tuple]:
    """State, rows, fills, dead letters and other events of the slices."""
    return run.client.query(
        "select state, rows, fills, dead_letters, other_events"
        f" from {run.settings.raw_database}.parquet_slices final order by file, part"
    ).result_rows


@pytest.fixture
def clickhouse_with_files(tmp_path: Path) -> Iterator[tuple[Archive, Path]]:
    """An embedded ClickHouse, and the folder in which it reads files."""
    with running(tmp_path / "own", 0) as own:
        server = Server(own.host, own.port, own.user, own.password, False, embedded=True)
        yield Archive(connect(server), Keys()), tmp_path / "own" / "files"


def write_large(path: Path, rows: int) -> None:
    """Decoded V1 fills in no order of time or block."""
    blocks = [number * 7_919 % rows for number in range(rows)]
    text = pa.array(["0x"] * rows)
    names = ("transaction_hash", "contract_address", "order_hash", "maker", "taker")
    numbers = ("log_index", "maker_asset_id", "taker_asset_id")
    amounts = ("maker_amount_filled", "taker_amount_filled", "fee")
    columns = dict.fromkeys(names, text)
    columns |= {name: pa.array(["1"] * rows) for name in (*numbers, *amounts)}
    columns |= {name: pa.array(blocks, pa.int64()) for name in ("block_number", "block_timestamp")}
    pq.write_table(pa.table(columns), path, row_group_size=max(rows // 20, 1))


# ---------- equal to the truth


@pytest.mark.parametrize(
    ("layouts", "v1_from_chain"),
    [
        (["logs"], True),
        (["binary_logs"], True),
        (["decoded_v1", "decoded_v2"], True),
        (["entities", "decoded_v2"], False),
    ],
)
def test_an_archive_equals_the_truth(
    filling: Run, upstream: SandboxServer, layouts: list[str], v1_from_chain: bool
) -> None:
    request = Request(archive(upstream, *layouts))
    backfill_parquet(filling, request)
    assert_equals_truth(filling, upstream.world, v1_from_chain=v1_from_chain)
    assert letters(filling) == []
    assert filling.ledger.unsettled() == []
    with make_plan(filling, request) as plan:
        assert plan.left == []


def test_reading_again_changes_nothing(filling: Run, upstream: SandboxServer) -> None:
    """Also over what the chain has brought, whose fills have the same identity."""
    backfilling.backfill(filling, backfilling.Request(NOW.replace(hour=0), None, "polygon"))
    before = {row[0]: row[3] for row in landed(filling)}
    backfill_parquet(filling, Request(archive(upstream, "decoded_v2")))
    backfill_parquet(filling, Request(archive(upstream, "decoded_v2"), again=True))
    assert {row[0]: row[3] for row in landed(filling)} == before
    assert {row[1] for row in landed(filling)} == {"parquet"}


def test_a_large_file_is_read_in_parts(
    filling: Run, upstream: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_files, "PART_ROWS", 150)
    monkeypatch.setattr(archives, "ROW_GROUP", 50)
    with SandboxServer(upstream.world) as smaller:
        request = Request(archive(smaller, "decoded_v1", "decoded_v2"))
        backfill_parquet(filling, request)
        assert_equals_truth(filling, upstream.world, v1_from_chain=True)
        with make_plan(filling, request) as plan:
            assert len(plan.slices) > len({file.name for file, _ in plan.slices}) == 6
        rows = sum(
            len(archives.TABLES[name](upstream.world)) for name in ("decoded_v1", "decoded_v2")
        )
        assert sum(row[1] for row in states(filling)) == rows


def test_parts_of_a_file_without_order_are_the_same_in_every_run(
    clickhouse_with_files: tuple[Archive, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a later run would not know again what is done."""
    asked, folder = clickhouse_with_files
    monkeypatch.setattr(archive_files, "PART_ROWS", 1_000)
    monkeypatch.setattr(archive_files, "UNORDERED_ROWS", 100_000)
    write_large(folder / "large.parquet", 400_000)
    place = Place("file", "large.parquet")
    found = [archive_files.look_at(asked, "large", place) for _ in range(5)]
    assert len({tuple(file.conditions) for file in found}) == 1
    sizes = [
        asked.query(place, found[0].reading(asked, part).count())[0][0]
        for part in found[0].conditions
    ]
    assert sum(sizes) == 400_000
    assert len(sizes) == 4 and all(90_000 < size < 110_000 for size in sizes)


def test_a_name_that_means_several_files_is_refused(
    clickhouse_with_files: tuple[Archive, Path],
) -> None:
    asked, folder = clickhouse_with_files
    for number in (1, 2):
        write_large(folder / f"fills-{number}.parquet", 10)
    with pytest.raises(ArchiveError, match="finds 2 files under this name"):
        archive_files.look_at(asked, "fills", Place("file", "fills-?.parquet"))


def test_an_insert_that_was_sent_twice_hides_no_dead_letters(
    filling: Run, upstream: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Archive.command

    def twice(self: Archive, *given: object) -> None:
        command(self, *given)
        command(self, *given)

    monkeypatch.setattr(Archive, "command", twice)
    table = f"{filling.settings.raw_database}.order_filled"
    filling.client.command(f"system stop merges {table}")  # both are counted
    try:
        backfill_parquet(filling, Request(archive(upstream, "decoded_v2", kind="bad-rows")))
    finally:
        filling.client.command(f"system start merges {table}")
    assert [row[3] for row in states(filling)] == [2, 2, 2]
    assert {row[0:3] for row in letters(filling)} == {
        ("parquet", "bad_field", "maker is missing, or is none")
    }


def test_read_wrongly_and_then_again_equals_the_truth(
    filling: Run, upstream: SandboxServer
) -> None:
    """Tokens are parts of keys of derived tables, and not of the key of a fill."""
    patterns = archive(upstream, "decoded_v1")
    backfill_parquet(
        filling, Request([*patterns, *archive(upstream, "decoded_v2")], is_little=True)
    )
    with pytest.raises(AssertionError):
        assert_equals_truth(filling, upstream.world, v1_from_chain=True)
    backfill_parquet(filling, Request(patterns, again=True))
    assert_equals_truth(filling, upstream.world, v1_from_chain=True)


def test_cuts_are_where_row_groups_meet() -> None:
    cuts = archive_files.cuts
    assert cuts([(10, 0, 5), (10, 5, 9), (10, 10, 19)], 10) == [5, 10]
    assert cuts([(10, 10, 19), (10, 0, 5), (10, 5, 9)], 20) == [10]
    assert cuts([(10, 0, 5), (10, 4, 9)], 10) is None
    assert cuts([(10, 7, 7), (10, 7, 7), (10, 7, 8)], 10) == []
    assert cuts([], 10) == []


# ---------- what archives are like


def test_a_server_without_ranges(filling: Run, upstream: SandboxServer) -> None:
    backfill_parquet(filling, Request(archive(upstream, "logs", kind="no-ranges")))
    assert_equals_truth(filling, upstream.world, v1_from_chain=True)


def test_copies_count_once(filling: Run, upstream: SandboxServer) -> None:
    patterns = archive(upstream, "decoded_v1", "decoded_v2", kind="duplicates")
    backfill_parquet(filling, Request(patterns))
    assert_equals_truth(filling, upstream.world, v1_from_chain=True)
    assert letters(filling) == []


def test_logs_of_other_events_are_counted(filling: Run, upstream: SandboxServer) -> None:
    backfill_parquet(filling, Request(archive(upstream, "logs")))
    matches = sum(row[4] for row in states(filling))
    events = list(upstream.world.chain.logs(0, upstream.world.chain.head))
    assert matches == len(events) - sum(row[3] for row in landed(filling)) > 0


def test_rows_that_are_no_fills_become_dead_letters(filling: Run, upstream: SandboxServer) -> None:
    backfill_parquet(filling, Request(archive(upstream, "decoded_v2", kind="bad-rows")))
    expected = len(archives.decoded_v2(upstream.world))
    assert sum(row[3] for row in landed(filling)) == expected - 6
    assert letters(filling) == [("parquet", "bad_field", "maker is missing, or is none")] * 6
    assert [row[3] for row in states(filling)] == [2, 2, 2]
    assert replay(filling, None, None).refused == {("parquet", "bad_field"): 6}
    filling.settings.dead_letters_max = 1
    with pytest.raises(
        LoadFailed, match=r"2 of [0-9]+ rows are no fills, more than DEAD_LETTERS_MAX"
    ):
        backfill_parquet(
            filling, Request(archive(upstream, "decoded_v2", kind="bad-rows"), again=True)
        )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "no whole Parquet file"),
        ("wrong-type", "column fee (decoded_v2) is Float64: needed is a whole number"),
        ("missing-column", "nearest is decoded_v2, decoded V2 and V3 fills, which lacks maker"),
        ("nowhere", "the server answers 404"),
    ],
)
def test_a_bad_file_is_named_and_the_others_go_on(
    filling: Run, upstream: SandboxServer, kind: str, message: str
) -> None:
    bad = f"{upstream.urls.parquet_url}/{kind}/decoded_v2/0.parquet"
    good = f"{upstream.urls.parquet_url}/plain/decoded_v2/{{1,2}}.parquet"
    with pytest.raises(LoadFailed) as failure:
        backfill_parquet(filling, Request([bad, good]))
    assert message in str(failure.value) and f"{kind}/decoded_v2/0.parquet: " in str(failure.value)
    assert "\n" not in str(failure.value)
    assert [row[0] for row in states(filling)] == ["done", "done"]
    assert filling.ledger.unsettled() == []


def test_an_address_where_nobody_answers_is_one_line(filling: Run) -> None:
    with pytest.raises(
        LoadFailed, match=r"none of 1 files can be read.*cannot be reached"
    ) as failure:
        backfill_parquet(filling, Request(["http://user:s3cret@127.0.0.1:9/x.parquet?sig=t0ken"]))
    assert "\n" not in str(failure.value)
    assert "s3cret" not in str(failure.value) and "t0ken" not in str(failure.value)


# ---------- one identity of V1 at a time


@pytest.fixture
def with_goldsky(filling: Run) -> Run:
    """The same with the V1 fills as Goldsky has them."""
    backfilling.backfill(
        filling, backfilling.Request(filling.settings.goldsky_start, None, "goldsky")
    )
    return filling


def test_v1_stands_under_one_identity(with_goldsky: Run, upstream: SandboxServer) -> None:
    before = landed(with_goldsky)
    for layout in ("decoded_v1", "logs"):
        with pytest.raises(
            SettingsError, match=r"without log index.* stand on 2026-04-28.*--replace-days"
        ):
            backfill_parquet(with_goldsky, Request(archive(upstream, layout)))
    assert landed(with_goldsky) == before
    backfill_parquet(with_goldsky, Request(archive(upstream, "entities", "decoded_v2")))
    assert_equals_truth(with_goldsky, upstream.world)


def test_days_move_over_and_back(
    with_goldsky: Run, upstream: SandboxServer, caplog: pytest.LogCaptureFixture
) -> None:
    run = with_goldsky
    with caplog.at_level(logging.WARNING):
        backfill_parquet(run, Request(archive(upstream, "logs"), replaces_days=True))
    assert_equals_truth(run, upstream.world, v1_from_chain=True)
    assert "archive lacks" not in caplog.text
    assert {(row[0], row[1]) for row in landed(run)} == {(v, "parquet") for v in ("v1", "v2", "v3")}
    with pytest.raises(SettingsError, match="counted twice: it has landed already on 2026-04-2"):
        backfilling.backfill(
            run, backfilling.Request(run.settings.goldsky_start, None, "goldsky", again=True)
        )
    with run.lock.held("test"):
        assert "unset GOLDSKY_START" in run_cycle(run).failures["goldsky"]
    backfill_parquet(run, Request(archive(upstream, "entities"), replaces_days=True))
    assert_equals_truth(run, upstream.world)


def test_fills_that_the_archive_lacks_stay(
    with_goldsky: Run, upstream: SandboxServer, caplog: pytest.LogCaptureFixture
) -> None:
    fills = sum(row[3] for row in landed(with_goldsky))
    some = [f"{upstream.urls.parquet_url}/plain/decoded_v1/1.parquet"]
    with caplog.at_level(logging.WARNING):
        backfill_parquet(with_goldsky, Request(some, replaces_days=True))
    assert (
        "V1 fills without log index (Goldsky, Parquet) stay that the archive lacks" in caplog.text
    )
    assert sum(row[3] for row in landed(with_goldsky)) == fills


@pytest.mark.parametrize("replaces_days", [False, True])
def test_one_request_has_v1_of_a_day_under_one_identity(
    filling: Run, upstream: SandboxServer, replaces_days: bool
) -> None:
    both = archive(upstream, "decoded_v1", "entities")
    with pytest.raises(SettingsError) as refusal:
        backfill_parquet(filling, Request(both, replaces_days=replaces_days))
    said = str(refusal.value)
    assert "/plain/decoded_v1/" in said and "/plain/entities/" in said and "2026-04-28" in said
    assert landed(filling) == [] and filling.ledger.unsettled() == []


@pytest.mark.parametrize("replaces_days", [False, True])
def test_a_file_of_v1_with_broken_pages_is_named_and_the_others_go_on(
    with_goldsky: Run, upstream: SandboxServer, replaces_days: bool
) -> None:
    bad, good = f"{upstream.urls.parquet_url}/broken-pages/", f"{upstream.urls.parquet_url}/plain/"
    layout, other = ("decoded_v1", "decoded_v1") if replaces_days else ("decoded_v1", "decoded_v2")
    patterns = [f"{bad}{layout}/0.parquet", f"{good}{other}/{{1,2}}.parquet"]
    with pytest.raises(LoadFailed, match=r"1 files .*broken-pages/decoded_v1/0\.parquet: "):
        backfill_parquet(with_goldsky, Request(patterns, replaces_days=replaces_days))
    assert [row[0] for row in states(with_goldsky)] == ["done", "done"]
    assert with_goldsky.ledger.unsettled() == []


# ---------- interrupted


class Crash(Exception):
    """What stands for a kill."""


def crashing(event: Event, number: int) -> Callable[[Moment], None]:
    seen = 0

    def on(moment: Moment) -> None:
        nonlocal seen
        seen += moment.event is event
        if moment.event is event and seen == number:
            raise Crash

    return on


@pytest.mark.parametrize(
    "event", [Event.LOAD_OPENED, Event.LOAD_CLOSED, Event.SLICES_LANDED, Event.STATEMENT_EXECUTED]
)
def test_interrupted_at_any_point_it_ends_equal(
    with_goldsky: Run, upstream: SandboxServer, event: Event
) -> None:
    run, request = with_goldsky, Request(archive(upstream, "logs"), replaces_days=True)
    for number in (1, 2):
        with listen(crashing(event, number), strict=True), pytest.raises(Crash):
            backfill_parquet(run, request)
    backfill_parquet(run, request)
    assert_equals_truth(run, upstream.world, v1_from_chain=True)
    assert run.ledger.unsettled() == []


@pytest.mark.parametrize("failure", [ArchiveError("no letters"), Crash()])
def test_what_fails_between_fills_and_withdrawal_leaves_no_fill_twice(
    with_goldsky: Run,
    upstream: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A successor of another kind settles such a load."""
    run, before = with_goldsky, sum(row[3] for row in landed(with_goldsky))
    command = Archive.command

    def landing(self: Archive, *given: object) -> None:
        command(self, *given)
        raise failure

    monkeypatch.setattr(Archive, "command", landing)
    with pytest.raises(LoadFailed if isinstance(failure, ArchiveError) else Crash):
        backfill_parquet(run, Request(archive(upstream, "decoded_v1"), replaces_days=True))
    monkeypatch.undo()
    assert "no fill stands twice" not in caplog.text
    with run.lock.held("test"):
        finish_earlier(run)
    assert sum(row[3] for row in landed(run)) == before
    assert run.ledger.unsettled() == []
    backfill_parquet(run, Request(archive(upstream, "logs"), replaces_days=True))
    assert_equals_truth(run, upstream.world, v1_from_chain=True)


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    unset = {name.upper() for name in Settings.model_fields}
    given = {
        "CLICKHOUSE_HOST": settings.clickhouse_host,
        "CLICKHOUSE_PORT": str(settings.clickhouse_port),
        "CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "DLT_PIPELINES_DIR": str(settings.dlt_pipelines_dir),
    }
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | given | more


def called(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_killed_again_and_again_it_ends_equal(filling: Run, upstream: SandboxServer) -> None:
    environment = environment_of(filling.settings)
    [logs] = archive(upstream, "logs")
    command = [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "backfill", "--parquet", logs]
    count = f"select count() from {filling.settings.raw_database}.order_filled"
    for delay in (0.0, 0.4):
        before = filling.client.query(count).result_rows
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while filling.client.query(count).result_rows == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = called(environment, *command[2:])
    assert done.returncode == 0, done.stderr
    assert_equals_truth(filling, upstream.world, v1_from_chain=True)
    assert filling.ledger.unsettled() == []


# ---------- the command line


def test_a_dry_run_says_what_there_is(filling: Run, upstream: SandboxServer) -> None:
    bad = f"{upstream.urls.parquet_url}/cut/entities/0.parquet"
    done = called(
        environment_of(filling.settings),
        *("backfill", "--dry-run", "--parquet", *archive(upstream, "entities"), "--parquet", bad),
        *("--parquet", bad.replace("cut", "broken-pages")),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = ["file", "layout", "rows", "from", "to", "days", "bytes", "slices", "done"]
    assert lines[0].split() == names
    first = lines[1].split()
    assert first[0].endswith("/plain/entities/0.parquet") and first[1] == "entities"
    assert first[3] == "2026-04-28" and first[-2:] == ["1", "0"]
    assert "no whole Parquet file" in lines[4] and "/broken-pages/" in lines[5]
    assert lines[-1].startswith("3 files, ") and lines[-1].endswith(
        "3 slices would be read; nothing was written"
    )
    assert landed(filling) == []


def test_local_files_of_the_embedded_clickhouse(
    tmp_path: Path, template: Settings, upstream: SandboxServer, clickhouse: Endpoint
) -> None:
    """They may lie anywhere on the same disk, under any name, and only they are to be seen meanwhile."""
    folder = tmp_path / "it's {a,b} [1] *"
    folder.mkdir()
    for name in ("decoded_v1", "decoded_v2"):
        table = archives.TABLES[name](upstream.world)
        (folder / f"{name}.parquet").write_bytes(archives.written(table))
    settings = sandbox_settings(clickhouse, "local", tmp_path, upstream).model_copy(
        update={
            "clickhouse_host": "",
            "clickhouse_local_port": 0,
            "clickhouse_local_path": tmp_path / "clickhouse",
            "clickhouse_local_files": tmp_path / "files",
        }
    )
    pattern = f"{tmp_path}/it's ?a,b? [[]1[]] ?/decoded_*.parquet"
    with prepared(settings, template) as run:
        land_gamma(run, upstream.world)
        backfill_parquet(run, Request([pattern]))
        assert_equals_truth(run, upstream.world, v1_from_chain=True)
        assert not list((tmp_path / "files").rglob("*.parquet"))
        with pytest.raises(LoadFailed, match=r"may not read url\(\): grant READ ON URL"):
            backfill_parquet(run, Request(archive(upstream, "entities")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parquet", "file:///etc/passwd"], "file: is no way to an archive"),
        (["--parquet", "FILE:/etc/passwd"], "file: is no way to an archive"),
        (["--parquet", "ftp://host/x.parquet"], "ftp: is no way to an archive"),
        (["--parquet", "/nowhere/*.parquet"], "no file matches /nowhere/*.parquet"),
        (["--parquet", "http://h/*.parquet"], "a web server cannot be asked which files match"),
        (["--parquet", "s3://b/fills-?.parquet"], "s3://b/fills- goes on with '?'"),
        (["--parquet", "http:///x.parquet"], "names no host"),
        (
            ["--parquet", "http://h/x.parquet", "--from", "2026-01-01"],
            "--parquet does not go with --from",
        ),
        (["--replace-days", "--from", "2026-01-01"], "go with --parquet only"),
        (["--parquet", "http://h/{1..999999}.parquet"], "more than 100000 files"),
        (["--parquet", __file__], "cannot see files of this machine"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    settings: Settings, arguments: list[str], message: str
) -> None:
    done = called(environment_of(settings), "backfill", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
