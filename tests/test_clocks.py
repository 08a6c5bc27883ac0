"""Clocks that are ahead, behind or jump: ids and cursors only grow, and a time to come is no evidence of anything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from ingest_runs import Lake, open_lake
from scripted_server import Answer, ScriptedServer, as_json
from test_destination import counter, cursor, stored
from test_two_writers import landing  # noqa: F401

from ingest.errors import LoadError
from ingest.land.loader import NoBooks
from ingest.land.sql_client import ClickHouseHttpSqlClient
from ingest.progress import Progress
from ingest.sources.desk import NOTHING_LANDED, Desk
from ingest.sources.gamma.source import GAMMA
from pipeline.errors import LockHeld
from pipeline.jobs.freshness import Read, judge, last_reads, note_read
from pipeline.settings import Settings
from pipeline.verbs import doctor
from pipeline.warehouse.loads import now_us
from pipeline.warehouse.run import Run

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def lake(clickhouse, database_prefix: str, tmp_path: Path) -> Iterator[Lake]:
    yield open_lake(clickhouse, database_prefix, tmp_path / "dlt")


# ---------- ids of rows


def test_a_load_id_is_later_than_every_load_and_settle(landing: Run) -> None:  # noqa: F811
    ahead = now_us() + 3600 * 10**6
    landing.ledger.open(ahead, ["order_filled"])
    landing.ledger.close_loading([ahead])
    first = landing.ledger.take_id("1.5", "polymarket_polygon")
    assert first == ahead + 1
    # Taken, though nothing of it stands in the ledger yet.
    assert landing.ledger.take_id("0.5", "polymarket_backfill") == first + 1
    assert landing.ledger.next_id() == first + 2
    rows = landing.client.query(
        f"select load_id, package_id, pipeline from {landing.settings.raw_database}.load_packages order by 1"
    ).result_rows
    assert rows[0] == (first, "1.5", "polymarket_polygon")


def test_a_load_id_is_taken_under_the_lock_only(landing: Run) -> None:  # noqa: F811
    with landing.lock.held("loop"):
        landing.client.command(
            f"create table {landing.settings.raw_database}.writer_lock_99 (beat_at DateTime64(6, 'UTC'), released UInt8)"
            " engine = MergeTree order by beat_at comment 'Writer lock, taken by "
            '{"verb": "run", "host": "elsewhere", "boot_id": "", "pid": 1, "process_id": "",'
            ' "acquired_at": "2026-06-01T12:00:00+00:00"}\''
        )
        with pytest.raises(LockHeld):
            landing.ledger.take_id("1.5", "polymarket_polygon")


def load(lake: Lake, take_id) -> list:
    progress, books = Progress(), NoBooks()
    books.take_id = take_id
    return lake.loader("counter", books).run("counter", counter(progress), progress)


def test_a_package_that_is_loaded_again_keeps_its_load_id(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("no ClickHouse")

    ids = iter([77, 78])
    with monkeypatch.context() as patched:
        patched.setattr(ClickHouseHttpSqlClient, "insert_file", refuse)
        with pytest.raises(LoadError):
            load(lake, lambda package_id: next(ids))
    assert [package.load_id for package in load(lake, lambda package_id: next(ids))] == [77, 78]
    assert lake.rows("select load_id, count() from {db}.order_filled group by 1 order by 1") == [
        (77, 10),
        (78, 10),
    ]


def test_a_run_without_rows_takes_no_id(lake: Lake) -> None:
    def refuse(package_id: str) -> int:
        raise AssertionError("nothing to land")

    for _ in range(5):
        lake.load("counter", counter)
    assert load(lake, refuse) is not None


# ---------- cursors


def test_a_cursor_of_a_clock_that_was_ahead_is_not_the_last_word(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run's clock was an hour ahead, so its load id is the greatest for an hour."""
    real = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: real() + 3600)
        lake.load("counter", counter)
    ids = lake.rows("select toFloat64(load_id) from {db}._dlt_loads")
    if ids[0][0] < real() + 1800:  # dlt read another clock: say it afterwards
        for table, column in (("_dlt_loads", "load_id"), ("_dlt_pipeline_state", "_dlt_load_id")):
            lake.client.command(
                f"create or replace table {lake.database}.copied engine = MergeTree order by tuple() as"
                f" select * replace (toString(toFloat64({column}) + 3600) as {column}) from {lake.database}.{table}"
            )
            lake.client.command(f"truncate table {lake.database}.{table}")
            lake.client.command(
                f"insert into {lake.database}.{table} select * from {lake.database}.copied"
            )
    for number in (2, 3):
        shutil.rmtree(lake.folder)  # another machine
        lake.load("counter", counter)
        assert (stored(lake), cursor(lake)) == ((10 * number, 10 * number), 10 * number + 1)


def test_a_package_of_the_past_is_given_up(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine was stopped in front of a load; another one has read on from the same place."""

    def refuse(*_: object) -> None:
        raise ConnectionError("no ClickHouse")

    lake.load("counter", counter)
    shutil.copytree(lake.folder, tmp_path / "other")
    with monkeypatch.context() as patched:
        patched.setattr(ClickHouseHttpSqlClient, "insert_file", refuse)
        with pytest.raises(LoadError):
            lake.load("counter", lambda progress: counter(progress, rows=7))
    here, lake.folder = lake.folder, tmp_path / "other"
    lake.load("counter", counter)  # the same version of the state, with another cursor
    lake.folder = here
    lake.events.clear()
    lake.load("counter", counter)
    assert [package.rows for when, package in lake.events if when == "before"] == [
        {"order_filled": 10}
    ]
    assert (stored(lake), cursor(lake)) == ((30, 30), 31)


# ---------- freshness


def test_a_time_to_come_is_no_evidence_of_freshness() -> None:
    settings = Settings(_env_file=None, goldsky_start="2026-04-01")
    ahead = NOW + HOUR
    reads = {
        "gamma": Read(ahead, ahead, True),
        "polygon": Read(NOW, ahead, True),
        "goldsky": Read(ahead, NOW, False),
        "prices": Read(ahead, ahead, True),
    }
    for each in judge(settings, reads, ahead, NOW):
        assert (each.state, each.is_stale) == ("in the future", True), each


def test_the_last_reading_counts_whatever_the_clock_said_before(landing: Run) -> None:  # noqa: F811
    raw = landing.settings.raw_database
    landing.client.command(
        f"insert into {raw}.source_readings (source, read_at, read_to, caught_up, reading)"
        " values ('gamma', now64(6) + 3600, now64(6) + 3600, 1, 7)"
    )
    note_read(landing.client, raw, "gamma", 0, False)
    read = last_reads(landing.client, raw)["gamma"]
    assert abs(read.read_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert not read.caught_up


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [(0, "within"), (3600, "3,600 s ahead of"), (-3600, "3,600 s behind")],
)
def test_doctor_compares_the_clocks(
    landing: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
    words: str,
) -> None:
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() + ahead_s)
    finding = doctor._clock(landing)
    assert words[:-3] in finding.detail and finding.failed == bool(ahead_s)


@pytest.mark.parametrize(
    ("behind_s", "age_s", "words"),
    [
        (0, 0, "1 market read ("),
        (3600, 3600, "1 market read ("),  # out of a cache
        (3600, 0, "this machine's clock is 3,"),  # 3,599 or 3,600, by the fraction of the second
        (-3600, 0, "behind its clock"),
    ],
)
def test_doctor_compares_the_clock_with_those_of_the_upstreams(
    behind_s: float, age_s: int, words: str
) -> None:
    """An embedded ClickHouse has the clock of this machine, so it cannot tell."""

    def respond(path: str, body: bytes) -> Answer:
        headers = {"Date": formatdate(time.time() - behind_s, usegmt=True), "Age": str(age_s)}
        return as_json({"markets": [{}]}, headers=headers)

    with ScriptedServer(respond) as server:
        settings = Settings(polymarket_gamma_url=server.url, _env_file=None)
        [finding] = GAMMA.probe(Desk(settings, NOTHING_LANDED))
    assert words in finding.detail
    assert finding.failed == ("clock" in words)
