"""Rebuilding a range from raw: what was lost comes back, what raw does not hold goes, and nothing else changes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import (
    PATIENCE_S,
    all_fills,
    assert_equals_truth,
    copy_rows,
    land,
    land_gamma,
    rows_of,
    settle_all,
)

from pipeline.derive.cutting import cut, span_of
from pipeline.derive.rebuild import plan, rebuild
from pipeline.errors import NothingLoaded, SettingsError
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.timerange import EARLIEST, LATEST, TimeRange, parse_moment, parse_range, show
from pipeline.warehouse.loads import Load
from pipeline.warehouse.run import Run
from sandbox.world import World

NOW = datetime(
    2026, 4, 30, 12, tzinfo=UTC
)  # two days after the cutover, so that both generations meet
V1_DAY, V2_DAY = datetime(2026, 4, 27, tzinfo=UTC), datetime(2026, 4, 29, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
TIMES = ("filled_at", "bucket_at", "priced_at")  # of the stores that are derived from fills


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, now=NOW, markets=30, matches=1200, v1_days=2.4, v2_days=2)


@pytest.fixture(scope="module")
def settled_once(settled_by, world: World) -> Settings:
    def fill(run: Run) -> None:
        land_gamma(run, world)
        land(run, all_fills(world))
        settle_all(run)

    return settled_by(fill)


@pytest.fixture
def settled(run: Run, settled_once: Settings) -> Run:
    """A run whose world is landed and settled."""
    copy_rows(run, settled_once)
    return run


def in_the_end() -> datetime:
    """A moment after every raw row; markets are fetched while a test runs."""
    return datetime.now(UTC) + HOUR


def contents(run: Run) -> dict[str, tuple[int, int]]:
    """Row count and order-free hash of every store and every view, whatever the version of a row."""
    models = run.settings.clickhouse_database
    tables = run.client.query(
        "select table, max(engine), groupArray(columns.name) from system.columns"
        " inner join system.tables on tables.database = columns.database and tables.name = columns.table"
        " where columns.database = {models:String} and columns.name != 'version'"
        " and (engine = 'View' or endsWith(table, '_store')) group by table",
        parameters={"models": models},
    ).result_rows
    return {
        table: run.client.query(
            f"select count(), sum(sipHash64(toString(tuple({', '.join(columns)}))))"
            f" from {models}.{table} {'' if engine == 'View' else 'final'}"
        ).result_rows[0]
        for table, engine, columns in tables
    }


def stores(run: Run) -> dict[str, str | None]:
    """Every store, and the column that says to which time of trading a row belongs."""
    rows = run.client.query(
        "select table, groupArray(name) from system.columns"
        " where database = {models:String} and endsWith(table, '_store') group by table",
        parameters={"models": run.settings.clickhouse_database},
    ).result_rows
    return {
        table: next((time for time in TIMES if time in columns), None) for table, columns in rows
    }


def lose(run: Run, span: TimeRange) -> None:
    """Delete what every store derived from fills holds of a range; of candles those that lie in it whole."""
    lost = {table: time for table, time in stores(run).items() if time}
    assert lost.keys() >= {
        "order_fills_store", "trades_store", "ohlcv_1m_store", "ohlcv_1h_store", "ohlcv_1d_store",
        "market_latest_price_store",
    }  # fmt: skip
    lengths = {"ohlcv_1m_store": "minute", "ohlcv_1h_store": "hour", "ohlcv_1d_store": "day"}
    for table, time in lost.items():
        last = f"{time} + interval 1 {lengths.get(table, 'second')}"
        run.client.command(
            f"delete from {run.settings.clickhouse_database}.{table}"
            f" where {time} >= {{start:DateTime('UTC')}} and {last} <= {{end:DateTime('UTC')}}",
            parameters={"start": span.start, "end": span.end},
        )


# ---------- what it promises


@pytest.mark.parametrize("day", [V1_DAY, V2_DAY], ids=["v1", "v2"])
def test_a_day_lost_from_every_derived_table_comes_back(
    settled: Run, world: World, day: datetime
) -> None:
    before = contents(settled)
    lose(settled, TimeRange(day, day + DAY))
    changed = {table for table, found in contents(settled).items() if found != before[table]}
    assert changed >= {"order_fills", "trades", "ohlcv_1m", "ohlcv_1h", "ohlcv_1d", "volume_daily"}
    rebuild(settled, day, day + DAY)
    assert contents(settled) == before
    assert settled.ledger.unsettled() == []
    assert_equals_truth(settled, world)


def test_everything_lost_comes_back(settled: Run, world: World) -> None:
    before = contents(settled)
    for table in stores(settled):
        settled.client.command(f"truncate table {settled.settings.clickhouse_database}.{table}")
    assert rows_of(settled, "trades") == rows_of(settled, "markets") == 0
    rebuild(settled, None, in_the_end())
    assert contents(settled) == before
    assert_equals_truth(settled, world)


def test_doing_it_again_changes_nothing(settled: Run) -> None:
    before = contents(settled)
    for _ in range(2):
        rebuild(settled, V1_DAY, in_the_end())
        assert contents(settled) == before


def test_a_range_may_begin_and_end_anywhere(settled: Run) -> None:
    """Candles over its ends hold trades of both sides."""
    before = contents(settled)
    span = TimeRange(V2_DAY + timedelta(hours=5, seconds=2630), V2_DAY + timedelta(hours=9.51))
    lose(settled, span)
    assert contents(settled) != before
    rebuild(settled, span.start, span.end)
    assert contents(settled) == before


def test_what_lies_outside_is_left_alone(settled: Run) -> None:
    lose(settled, TimeRange(V1_DAY, V1_DAY + DAY))
    before = contents(settled)
    rebuild(settled, V2_DAY, V2_DAY + DAY)
    assert contents(settled) == before


def test_rows_that_raw_does_not_hold_go(settled: Run, world: World) -> None:
    """Fills that were landed by mistake, among others, on a day of their own, and as the newest of their token."""
    before = contents(settled)
    real = all_fills(world)[-60:]
    late = int((NOW + 3 * DAY).timestamp())
    mistaken = [
        dataclasses.replace(
            fill,
            tx_hash=f"0x{number:064x}",
            timestamp=late if number % 2 else fill.timestamp,
            shares=fill.shares + 1_000_000,
        )
        for number, fill in enumerate(real)
    ]
    load_id = land(settled, mistaken)
    settle_all(settled)
    changed = {table for table, found in contents(settled).items() if found != before[table]}
    assert changed >= {"order_fills", "trades", "ohlcv_1d", "volume_daily", "market_latest_price"}
    settled.client.command(
        f"delete from {settled.settings.raw_database}.order_filled where load_id = {load_id}"
    )
    rebuild(settled, V2_DAY, in_the_end())
    assert contents(settled) == before


def test_rows_made_up_in_a_derived_table_go(settled: Run) -> None:
    """A token that nobody trades, in every table, and buckets without a trade of one that is."""
    before = contents(settled)
    models = settled.settings.clickhouse_database
    for table, time in stores(settled).items():
        if time is None:
            continue
        for change in ("'1234' as token_id", f"{time} + interval 2 day as {time}"):
            settled.client.command(
                f"insert into {models}.{table} select * replace({change}) from {models}.{table} final"
                f" where {time} >= '2026-04-28' and {time} < '2026-04-29'"
            )
    changed = {table for table, found in contents(settled).items() if found != before[table]}
    assert changed >= {"order_fills", "trades", "ohlcv_1m", "ohlcv_1h", "ohlcv_1d"}
    rebuild(settled, V1_DAY, in_the_end())
    assert contents(settled) == before


def test_it_finishes_what_earlier_runs_have_left(run: Run, world: World) -> None:
    """A load whose rows are in though its run died before it could say so, and one that was never settled."""
    land_gamma(run, world)
    fills = all_fills(world)
    land(run, [fill for fill in fills if fill.version != "v1"])
    load_id = land(run, [fill for fill in fills if fill.version == "v1"])
    run.ledger.open(load_id, ["order_filled"])
    rebuild(run, V2_DAY, V2_DAY + HOUR)
    assert run.ledger.unsettled() == []
    assert_equals_truth(run, world)


# ---------- slices


def test_slices_hold_a_day_or_less(settled: Run, world: World) -> None:
    settled.settings = settled.settings.model_copy(update={"settle_max_rows": 500})
    slices = plan(settled, None, in_the_end())
    assert [load.table_name for load in slices[:3]] == ["markets", "events", "order_filled"]
    fills = slices[2:]
    assert sum(load.loaded_rows for load in fills) == len(all_fills(world))
    first = min(fill.timestamp for fill in all_fills(world))
    assert fills[0].from_at == datetime.fromtimestamp(first, UTC)
    for load in fills:
        span = span_of(load)
        assert load.loaded_rows <= 500 or span.end - span.start == HOUR
    assert max(load.loaded_rows for load in fills) > 100  # and no smaller than they must be
    assert settled.ledger.unsettled() == []


@st.composite
def hours_of_fills(draw: st.DrawFn) -> list[tuple[datetime, int]]:
    numbers = draw(st.sets(st.integers(0, 24 * 10 - 1), max_size=60))
    return [(V1_DAY + number * HOUR, draw(st.integers(1, 1000))) for number in sorted(numbers)]


@given(hours=hours_of_fills(), max_rows=st.integers(1, 5000), late_s=st.integers(0, 3599))
def test_slices_follow_each_other_and_stay_bounded(
    hours: list[tuple[datetime, int]], max_rows: int, late_s: int
) -> None:
    if hours:
        late_s += int((hours[0][0] - V1_DAY).total_seconds())  # begins within the first hour
    span = TimeRange(V1_DAY + timedelta(seconds=late_s), V1_DAY + 10 * DAY)
    slices = cut(span, hours, max_rows)
    assert span_of(slices[0]).start == span.start
    assert span_of(slices[-1]).end == span.end
    for one, other in pairwise(slices):
        assert span_of(one).end == span_of(other).start
    for load in slices:
        held = [
            (at, rows) for at, rows in hours if load.from_at <= max(at, span.start) <= load.to_at
        ]
        assert load.loaded_rows == sum(rows for _, rows in held)
        assert load.loaded_rows <= max_rows or len(held) == 1
        assert len({at.date() for at, _ in held}) <= 1
    days = {at.date() for at, _ in hours}
    if max_rows == 5000 or sum(rows for _, rows in hours) <= max_rows:
        assert len(slices) == max(1, len(days))


def test_slices_without_fills_are_one() -> None:
    span = TimeRange(V1_DAY, V2_DAY)
    assert cut(span, [], 10) == [Load(0, "order_filled", from_at=span.start, to_at=span.last)]


def test_nothing_loaded_is_said_so(run: Run, settings: Settings) -> None:
    with pytest.raises(NothingLoaded, match="nothing is loaded yet; run"):
        rebuild(run, V1_DAY, NOW)
    run.client.command(f"drop database {settings.raw_database}")
    with pytest.raises(NothingLoaded, match="nothing is loaded yet"):
        plan(run, None, NOW)
    assert not run.has_database(settings.raw_database)


def test_a_range_before_the_first_row_is_refused(settled: Run) -> None:
    with pytest.raises(
        NothingLoaded, match=r"the first landed row is of 2026-04-2.*--to 2020-01-01"
    ):
        rebuild(settled, None, datetime(2020, 1, 1, tzinfo=UTC))


# ---------- --from and --to


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T12:30", datetime(2026, 5, 1, 12, 30, tzinfo=UTC)),
        ("2026-05-01 12:30:05.5", datetime(2026, 5, 1, 12, 30, 5, 500_000, tzinfo=UTC)),
        ("2026-05-01T12:30:00Z", datetime(2026, 5, 1, 12, 30, tzinfo=UTC)),
        ("2026-05-01T12:30:00+02:00", datetime(2026, 5, 1, 10, 30, tzinfo=UTC)),
        ("1066-10-14", EARLIEST),
        ("9999-12-31", LATEST),
        (None, None),
    ],
)
def test_times_are_iso_and_utc(text: str | None, moment: datetime | None) -> None:
    assert parse_moment("--from", text) == moment


@pytest.mark.parametrize(
    "text", ["", " ", "yesterday", "2026-13-01", "0001-01-01T00:00+23:00", "1"]
)
def test_a_time_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(SettingsError) as failure:
        parse_range("2026-05-01", text)
    assert str(failure.value).startswith(f"--to: {text!r} is not a date or time like 2026-05-01")
    assert "\n" not in str(failure.value)
    assert failure.value.exit_code == 2


@pytest.mark.parametrize(
    ("from_text", "to_text", "message"),
    [
        (None, None, "which range"),
        ("2026-05-01", "2026-05-01", "--from 2026-05-01 is not before --to 2026-05-01"),
        ("2026-05-02", "2026-05-01T23:00", "--from 2026-05-02 is not before --to 2026-05-01T23"),
        ("2099-01-01", None, "--from 2099-01-01 is not in the past"),
    ],
)
def test_a_range_that_holds_nothing_is_one_line(
    from_text: str | None, to_text: str | None, message: str
) -> None:
    with pytest.raises(SettingsError, match=message) as failure:
        parse_range(from_text, to_text)
    assert "\n" not in str(failure.value)


def test_an_open_range_ends_now() -> None:
    start, end = parse_range("2026-05-01", None)
    assert start == datetime(2026, 5, 1, tzinfo=UTC)
    assert abs(end - datetime.now(UTC)) < timedelta(minutes=1)
    assert parse_range(None, "2026-05-01") == (None, datetime(2026, 5, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (V1_DAY, "2026-04-27"),
        (V1_DAY + timedelta(minutes=90), "2026-04-27 01:30:00"),
        (V1_DAY + timedelta(microseconds=1), "2026-04-27 00:00:00.000001"),
    ],
)
def test_moments_are_shown_short(moment: datetime, text: str) -> None:
    assert show(moment) == text
    assert parse_moment("--from", text) == moment


# ---------- processes


@pytest.fixture
def environment(settings: Settings) -> Iterator[dict[str, str]]:
    """Environment of a process on this test's databases; many slices, because each is small."""
    yield os.environ | {
        "CLICKHOUSE_HOST": settings.clickhouse_host,
        "CLICKHOUSE_PORT": str(settings.clickhouse_port),
        "CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "SETTLE_MAX_ROWS": "300",
    }


def call(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "rebuild", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_the_verb_rebuilds_a_day(settled: Run, environment: dict[str, str]) -> None:
    before = contents(settled)
    lose(settled, TimeRange(V2_DAY, V2_DAY + DAY))
    answer = call(environment, "--from", "2026-04-29", "--to", "2026-04-30")
    assert answer.returncode == 0, answer.stderr
    lines = answer.stderr.splitlines()
    slices = len(lines) - 1
    assert f"rebuild: 1 of {slices}, markets 2026-04-29 to 2026-04-30, 0 rows" in lines[0]
    assert f"rebuild: {slices} of {slices}, order_filled 2026-04-29 " in lines[-2]
    assert f"rebuild: done, {slices} slices, " in lines[-1] and lines[-1].endswith(" s")
    assert contents(settled) == before


def test_a_dry_run_writes_nothing(settled: Run, environment: dict[str, str]) -> None:
    lose(settled, TimeRange(V2_DAY, V2_DAY + DAY))
    before = contents(settled)
    answer = call(environment, "--from", "2026-04-29", "--dry-run")
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0].split() == ["raw", "table", "from", "to", "rows"]
    assert lines[1].split()[:2] == ["markets", "2026-04-29"]
    assert lines[-1] == f"{len(lines) - 2} slices, {_rows(lines[1:-1])} rows; nothing was written"
    assert contents(settled) == before
    assert settled.ledger.unsettled() == []
    assert settled.client.query(
        f"select count() from {settled.settings.raw_database}.loads where is_rebuild"
    ).result_rows == [(0,)]


def _rows(lines: list[str]) -> str:
    return f"{sum(int(line.split()[-1].replace(',', '')) for line in lines):,}"


def test_a_rebuild_that_was_killed_is_finished_by_whoever_settles_next(
    settled: Run, world: World, environment: dict[str, str]
) -> None:
    before = contents(settled)
    lose(settled, TimeRange(V1_DAY, V2_DAY + DAY))
    program = [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), "rebuild"]
    with subprocess.Popen(
        [*program, "--from", "2026-04-27", "--to", "2026-04-30"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            if "rebuild: 6 of " in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    left = settled.ledger.unsettled()
    assert left and all(load.is_rebuild for load in left)
    settle_all(settled)  # as the next cycle does
    assert settled.ledger.unsettled() == []
    assert contents(settled) == before
    assert_equals_truth(settled, world)


def test_a_writer_is_not_disturbed(settled: Run, environment: dict[str, str]) -> None:
    with settled.lock.held("loop"):
        answer = call(environment, "--from", "2026-04-29")
        assert answer.returncode == 3
        assert answer.stderr.startswith(f"`loop` (pid {os.getpid()} on ")
        assert answer.stderr.count("\n") == 1
        assert call(environment, "--from", "2026-04-29", "--dry-run").returncode == 0


@pytest.mark.parametrize(
    "arguments", [[], ["--from", "soon"], ["--from", "2026-06-01", "--to", "2026-05-01"]]
)
def test_a_bad_range_is_exit_code_2(environment: dict[str, str], arguments: list[str]) -> None:
    answer = call(environment, *arguments)
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)
