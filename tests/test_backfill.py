"""Backfills: whatever was loaded before, goes on meanwhile or kills them, the tables end equal to the truth."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import assert_equals_truth, land_gamma, prepared, sandbox_settings

from embedded_clickhouse import Endpoint
from ingest.backlog import FIRST_PAUSE_S, Backlog
from ingest.contracts import V1_GENESIS
from ingest.fetching import FetchPool
from ingest.http import BACKGROUND_SHARE, RateLimit, RateLimiter
from ingest.records import fills_table
from ingest.sources.polygon_rpc import Block, first_since
from ingest.sources.slices import Page, Slice
from pipeline.backfill import Request, backfill, cancel, parse_request, plan
from pipeline.cycle import run_cycle
from pipeline.errors import LoadFailed, NothingLoaded, SettingsError
from pipeline.patience import Patience
from pipeline.run import Run
from pipeline.settings import ARCHIVE_END, PROJECT_DIR, Settings
from pipeline.slice_books import SliceBooks
from pipeline.slicing import covered, cut, ranges
from pipeline.status import read_status
from sandbox.clock import HORIZON
from sandbox.reconcile import reconcile
from sandbox.server import SandboxServer
from sandbox.truth import Truth
from sandbox.world import World

HOUR = 3600
NOW = datetime(2026, 4, 28, 19, tzinfo=UTC)  # so that both generations are hours apart
START = ARCHIVE_END - timedelta(hours=7)


def near_world(seed: int = 21, matches: int = 400) -> World:
    """A world of which both generations fit into a few hours."""
    return World.generate(seed, now=NOW, markets=40, matches=matches, v1_days=0.25, v2_days=0.25)


@pytest.fixture(scope="module")
def polymarket() -> Iterator[SandboxServer]:
    with SandboxServer(near_world()) as upstream:
        yield upstream


def settings_of(
    clickhouse: Endpoint, prefix: str, folder: Path, upstream: SandboxServer, **more: object
) -> Settings:
    values = {"http_give_up_s": 0.2, "goldsky_page_size": 50} | more
    return sandbox_settings(clickhouse, prefix, folder, upstream, **values)


@pytest.fixture
def filling(
    clickhouse: Endpoint,
    database_prefix: str,
    tmp_path: Path,
    template: Settings,
    polymarket: SandboxServer,
) -> Iterator[Run]:
    """A prepared run over a world whose markets have landed, and none of its fills."""
    settings = settings_of(clickhouse, database_prefix, tmp_path, polymarket)
    with prepared(settings, template) as run:
        land_gamma(run, polymarket.world)
        yield run


def everything(**values: object) -> Request:
    return Request(START, None, **values)


def books(run: Run) -> SliceBooks:
    return SliceBooks(run.client, run.settings.raw_database)


def landed(run: Run) -> tuple[int, int]:
    """Rows of the landing table, copies included, and fills in it."""
    return run.client.query(
        "select count(), uniqExact(timestamp, tx_hash, log_index, order_hash)"
        f" from {run.settings.raw_database}.order_filled"
    ).result_rows[0]


# ---------- equal to the truth


@pytest.mark.parametrize(("workers", "package_rows"), [(1, 250_000), (4, 300)])
def test_a_backfill_of_both_sources_equals_the_truth(
    filling: Run, polymarket: SandboxServer, workers: int, package_rows: int
) -> None:
    filling.settings.backfill_workers = workers
    filling.settings.backfill_package_rows = package_rows
    backfill(filling, everything())
    assert_equals_truth(filling, polymarket.world)
    slices = plan(filling, everything())
    assert slices.left == []
    assert {part.source for part in slices.slices} == {"goldsky", "polygon"}
    assert books(filling).in_state("requested") == []
    assert filling.lock.holder() is None


def test_what_is_done_is_not_read_again(filling: Run, polymarket: SandboxServer) -> None:
    half = Request(START, START + timedelta(hours=3.5))
    backfill(filling, half)
    assert 0 < len(plan(filling, everything()).done) < len(plan(filling, everything()).slices)
    backfill(filling, everything())
    assert_equals_truth(filling, polymarket.world)
    before, requests = landed(filling), polymarket.app.counts.total()
    backfill(filling, everything())
    assert polymarket.app.counts.total() - requests <= 2  # for the head of the chain
    assert landed(filling) == before


def test_reading_again_what_is_loaded_changes_no_number(
    filling: Run, polymarket: SandboxServer
) -> None:
    """Over fills that live cycles have brought, and over its own."""
    with filling.lock.held("test") as lock:
        run_cycle(filling, lock, Patience(1)).raise_failures()
    loaded = landed(filling)[1]
    assert loaded > 1000
    for _ in range(2):
        backfill(filling, everything(again=True))
        assert landed(filling)[1] == loaded
        assert_equals_truth(filling, polymarket.world)


@pytest.mark.parametrize("source", ["goldsky", "polygon"])
def test_one_source_brings_its_own(filling: Run, polymarket: SandboxServer, source: str) -> None:
    backfill(filling, everything(source=source))
    version = {"goldsky": "v1", "polygon": "v2"}[source]
    fills = [leg for match in polymarket.world.matches for leg in match.legs]
    assert landed(filling)[1] == sum(fill.version == version for fill in fills)


def test_a_range_is_half_open(filling: Run, polymarket: SandboxServer) -> None:
    """Cut at seconds that hold fills, and in slices of odd length."""
    filling.settings.backfill_slice_s = 1234
    times = sorted({leg.timestamp for match in polymarket.world.matches for leg in match.legs})
    for first, last in ((times[10], times[60]), (times[-60], times[-10])):
        backfill(filling, Request(*(datetime.fromtimestamp(bound, UTC) for bound in (first, last))))
        found = filling.client.query(
            "select distinct toUnixTimestamp(timestamp) as second"
            f" from {filling.settings.raw_database}.order_filled"
            f" where second between {first - HOUR} and {last + HOUR} order by second"
        ).result_columns[0]
        assert found == [second for second in times if first <= second < last]


def test_a_range_without_fills_is_done_at_once(filling: Run) -> None:
    quiet = ARCHIVE_END + timedelta(seconds=10)  # nothing happens for an hour
    backfill(filling, Request(quiet, quiet + timedelta(minutes=90)))
    assert landed(filling) == (0, 0)
    assert len(books(filling).in_state("done")) == 2
    assert filling.ledger.unsettled() == []


# ---------- failures


def test_a_source_that_is_down_leaves_its_slices_and_holds_up_no_other(
    clickhouse: Endpoint,
    database_prefix: str,
    tmp_path: Path,
    template: Settings,
    polymarket: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ingest.backlog.FIRST_PAUSE_S", 0.05)
    settings = settings_of(clickhouse, database_prefix, tmp_path, polymarket)
    dead = settings.model_copy(update={"goldsky_url": "http://127.0.0.1:9"})
    with prepared(dead, template) as run:
        land_gamma(run, polymarket.world)
        with pytest.raises(
            LoadFailed, match=r"first goldsky 2026-04-28.*cannot connect"
        ) as failure:
            backfill(run, everything())
        assert "\n" not in str(failure.value)
        left = books(run).in_state("requested")
        assert {part.source for part in left} == {"goldsky"}
        assert {part.source for part in books(run).in_state("done")} == {"polygon"}
        [_, *_] = status = read_status(run).backfills
        assert "cannot connect" in status[0]["problem"]
        assert (status[0]["source"], status[0]["requested"]) == ("goldsky", len(left))
        run.settings = settings
        run.http_clients.clear()
        backfill(run, everything())
        assert_equals_truth(run, polymarket.world)
        assert [each["problem"] for each in read_status(run).backfills] == ["", ""]


def test_a_chain_that_is_not_confirmed_so_far_is_read_up_to_there(
    filling: Run, polymarket: SandboxServer
) -> None:
    filling.settings.polygon_confirmations = 100
    slices = plan(filling, everything(source="polygon")).slices
    assert slices[-1].end == polymarket.world.now - 200 + 1
    backfill(filling, everything(source="polygon"))
    newest = filling.client.query(
        f"select toUnixTimestamp(max(timestamp)) from {filling.settings.raw_database}.order_filled"
    ).result_rows[0][0]
    fills = [leg.timestamp for match in polymarket.world.matches for leg in match.legs]
    assert newest == max(second for second in fills if second < slices[-1].end)


def test_cancelled_slices_are_left_alone(filling: Run) -> None:
    slices = plan(filling, everything()).slices
    books(filling).request(slices)
    assert cancel(filling, "goldsky") > 0
    assert {part.source for part in books(filling).in_state("requested")} == {"polygon"}
    assert cancel(filling, None) + len(books(filling).in_state("cancelled")) > len(slices)
    assert books(filling).in_state("requested") == []
    assert cancel(filling, None) == 0
    books(filling).note(slices[0], "too late")
    assert books(filling).in_state("requested") == []


def test_v1_never_lands_from_both_sources(filling: Run) -> None:
    backfill(filling, everything(source="goldsky"))
    filling.settings.polygon_versions = "v1,v2"
    with pytest.raises(SettingsError, match="counted twice: it has landed already"):
        backfill(filling, everything())
    with pytest.raises(SettingsError, match="--source goldsky: with POLYGON_VERSIONS=v1,v2"):
        backfill(filling, everything(source="goldsky"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, None, None), "where does it begin"),
        ((None, "2026-05-01", None), "where does it begin"),
        (("soon", None, None), "--from: 'soon' is not a date"),
        (("2026-05-01", "2026-04-01", None), "is not before --to"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line(options: tuple, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as failure:
        parse_request(*options, False)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("first", "last", "source", "why"),
    [
        ("2020-01-01", "2020-02-01", None, "the first fill is of 2022-11-21"),
        ("2026-04-28T12:00", "2026-04-29", "goldsky", "goldsky ends at 2026-04-28 11:00:41"),
        ("2026-05-28", "2026-05-29", None, "polygon ends at 2026-04-28 19:00:01"),
    ],
)
def test_a_range_of_which_nothing_is_left_is_one_line(
    filling: Run, first: str, last: str, source: str | None, why: str
) -> None:
    with pytest.raises(NothingLoaded, match=f"nothing to backfill from 20.*{why}") as failure:
        plan(filling, parse_request(first, last, source, False))
    assert "\n" not in str(failure.value)


# ---------- slices


spans = st.tuples(st.integers(V1_GENESIS, 1_900_000_000), st.integers(1, 10**6)).map(
    lambda pair: Slice("polygon", pair[0], sum(pair))
)


@given(whole=spans, seconds=st.integers(100, 10**6))
def test_slices_cover_a_range_exactly(whole: Slice, seconds: int) -> None:
    slices = cut(whole, seconds)
    assert (slices[0].start, slices[-1].end) == (whole.start, whole.end)
    assert all(one.end == other.start for one, other in pairwise(slices))
    assert all(0 < part.end - part.start <= seconds for part in slices)
    assert all(part.start % seconds == 0 for part in slices[1:])


@given(start=st.integers(0, 2**32 - 2), length=st.integers(1, 2**31), end=st.integers(0, 2**32))
def test_sources_share_a_range_without_gap_or_overlap(start: int, length: int, end: int) -> None:
    archive_end = HORIZON.timestamp + 1
    both = ranges(
        ["goldsky", "polygon"], start, start + length, archive_end=archive_end, confirmed_end=end
    )
    for second in {start, start + length - 1, start + length, archive_end - 1, archive_end, end}:
        wanted = V1_GENESIS <= second < start + length and start <= second
        wanted = wanted and (second < archive_end or second < end)
        holding = [part.source for part in both if part.start <= second < part.end]
        expected = ["goldsky" if second < archive_end else "polygon"] if wanted else []
        assert holding == expected


@given(
    slices=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=20),
    done=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=20),
)
def test_a_slice_is_done_when_all_of_its_seconds_are(slices: list, done: list) -> None:
    wanted = {Slice("goldsky", start, start + length) for start, length in slices}
    read = {Slice("goldsky", start, start + length) for start, length in done}
    read |= {Slice("polygon", 0, 100)}
    seconds = {
        second
        for part in read
        if part.source == "goldsky"
        for second in range(part.start, part.end)
    }
    assert covered(wanted, read) == {
        part for part in wanted if seconds.issuperset(range(part.start, part.end))
    }


# ---------- reading ahead


ROWS = fills_table(
    {"tx_hash": ["0x" + "ab" * 32] * 100, "timestamp": [1] * 100}
    | {
        name: ["x"] * 100
        for name in ("order_hash", "contract_version", "exchange", "maker", "taker")
    }
    | {name: [1] * 100 for name in ("maker_amount", "taker_amount", "fee")},
    source="polygon",
    load_id=0,
)


class Long:
    """A reader of slices that hold as many pages as they are seconds long."""

    def pages(self, part: Slice) -> Iterator[Page]:
        for _ in range(part.start, part.end):
            yield Page(part, [ROWS])


def soon() -> float:
    return time.monotonic() + 5


def test_memory_stays_bounded_whatever_a_slice_holds() -> None:
    bound = 10 * ROWS.nbytes
    slices = [Slice("polygon", 0, 500), Slice("polygon", 500, 700)]
    with FetchPool(lambda: {"polygon": Long()}, 4, Backlog(), bound) as pool:
        pool.want(slices)
        taken = dict.fromkeys(slices, 0)
        ended = []
        while (page := pool.take(soon())) is not None:
            assert pool._bytes <= bound
            taken[page.slice] += len(page.tables)
            if page.is_last:
                ended.append((page.slice, page.fills, taken[page.slice]))
        assert sorted(ended) == [(slices[0], 50_000, 500), (slices[1], 20_000, 200)]
        assert not pool.has_hope


def test_starting_over_reads_everything_again() -> None:
    part = Slice("polygon", 0, 50)
    with FetchPool(lambda: {"polygon": Long()}, 2, Backlog(), 5 * ROWS.nbytes) as pool:
        pool.want([part])
        for _ in range(20):
            assert pool.take(soon()) is not None
        pool.start_over()
        pool.want([part])
        pages = list(iter(lambda: pool.take(soon()), None))
        assert len(pages) == 51 and pages[-1].is_last and pages[-1].fills == 5000


def test_a_defect_in_a_thread_surfaces() -> None:
    with FetchPool(lambda: {}, 1, Backlog()) as pool:
        pool.want([Slice("polygon", 0, 1)])
        with pytest.raises(KeyError, match="polygon"):
            pool.take(soon())


def test_a_source_that_fails_pauses_longer_each_time_and_is_given_up() -> None:
    now = 0.0
    backlog = Backlog(3, lambda: now)
    down, fine = Slice("goldsky", 0, 1), Slice("polygon", 0, 1)
    backlog.want([down, fine])
    for pause in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S):
        assert backlog.take() == down
        backlog.failed(down)
        assert backlog.take() == fine  # which waits for nobody
        backlog.done(fine)
        assert backlog.take() is None and backlog.has_hope
        now += pause * 0.99
        assert backlog.take() is None
        now += pause * 0.02
        backlog.want([down, fine])
    assert (backlog.take(), backlog.take()) == (down, fine)
    backlog.failed(down)
    backlog.done(fine)
    now += 1e9
    assert backlog.take() is None and not backlog.has_hope


def test_what_fails_alone_comes_last() -> None:
    now = 0.0
    backlog = Backlog(3, lambda: now)
    bad, *others = slices = [Slice("polygon", hour, hour + 1) for hour in range(4)]
    backlog.want(slices)
    backlog.failed(backlog.take())
    now += 10
    assert [backlog.take() for _ in slices] == [*others, bad]


def test_the_background_leaves_a_part_of_every_limit() -> None:
    now = 0.0
    slept = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    limiter = RateLimiter([RateLimit(100)], clock=lambda: now, sleep=sleep)
    for _ in range(int(100 * BACKGROUND_SHARE)):
        limiter.wait("/", BACKGROUND_SHARE)
    for _ in range(100 - int(100 * BACKGROUND_SHARE)):
        limiter.wait("/")
    assert slept == []
    limiter.wait("/", BACKGROUND_SHARE)
    assert slept == [10.0]


@given(
    gaps=st.lists(st.integers(1, 1000), min_size=1, max_size=300),
    first=st.integers(0, 10**6),
    data=st.data(),
)
def test_the_first_block_since_a_moment(gaps: list[int], first: int, data: st.DataObject) -> None:
    times = [first]
    for gap in gaps:
        times.append(times[-1] + gap)
    asked: list[int] = []

    def block(number: int) -> Block:
        asked.append(number)
        return Block(number, times[number], "")

    moment = data.draw(st.integers(0, times[-1] + 10))
    found = first_since(moment, Block(len(gaps), times[-1], ""), block)
    assert found == sum(each < moment for each in times)
    assert len(asked) == len(set(asked)) <= 3 * len(gaps).bit_length() + 3
    if set(gaps) == {2} and moment >= first:
        assert len(asked) <= 3


# ---------- processes


def environment_of(settings: Settings, upstream: SandboxServer, **more: str) -> dict[str, str]:
    unset = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in unset} | {
        "CLICKHOUSE_HOST": settings.clickhouse_host,
        "CLICKHOUSE_PORT": str(settings.clickhouse_port),
        "CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "DLT_PIPELINES_DIR": str(settings.dlt_pipelines_dir),
        "GOLDSKY_PAGE_SIZE": "50",
        "POLYGON_CONFIRMATIONS": "0",
        "POLYGON_STALE_AFTER_S": "1000000000",
        "BACKFILL_PACKAGE_ROWS": "250",
        "BACKFILL_SLICE_S": "1800",
        **upstream.urls.environment(),
        **more,
    }


@contextmanager
def started(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, str(PROJECT_DIR / "run_pipeline.py"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def call(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    with started(environment, *arguments) as process:
        output, errors = process.communicate(timeout=180)
        assert "Traceback" not in errors, errors
        return process.returncode, output, errors


FROM = ("backfill", "--from", START.isoformat())


def test_killed_again_and_again_it_ends_equal(filling: Run, polymarket: SandboxServer) -> None:
    environment = environment_of(filling.settings, polymarket)
    moments = random.Random(8)
    total = len(plan(filling, everything()).slices)
    for _ in range(3):
        before = landed(filling)[0]
        with started(environment, *FROM) as process:
            deadline = time.monotonic() + 60
            while landed(filling)[0] == before and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 0.8))
            process.send_signal(signal.SIGKILL)
    code, _, errors = call(environment, *FROM)
    assert code == 0, errors
    assert f"; {total} more" not in errors
    assert_equals_truth(filling, polymarket.world)
    assert plan(filling, everything()).left == []


def test_beside_a_live_loop(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings
) -> None:
    """The loop works the slices between its cycles, which go on: new blocks land while old ones do."""
    world = near_world(seed=22)
    with SandboxServer(world) as upstream:
        settings = settings_of(clickhouse, database_prefix, tmp_path, upstream)
        live = {
            "POLL_INTERVAL_S": "0.5",
            "FILLS_LOOKBACK_S": "60",
            "GAMMA_OPEN_EVERY_S": "0.1",
            "SOURCES": "gamma,polygon",
            "BACKFILL_PACKAGE_ROWS": "400",
        }
        environment = environment_of(settings, upstream, **live)
        with prepared(settings, template) as run, started(environment, "loop") as loop:
            wait_for(lambda: run.lock.holder() is not None)
            mining = threading.Event()
            miner = threading.Thread(target=mine, args=(world, mining), daemon=True)
            miner.start()
            code, _, errors = call(environment, *FROM)
            mining.set()
            miner.join()
            assert code == 0, errors
            assert f"`loop` (pid {loop.pid}" in errors and "does the work" in errors
            loads = run.client.query(
                f"select load_id in (select load_id from {settings.raw_database}.backfill_slices final) as filled"
                f" from {settings.raw_database}.loads final where table_name = 'order_filled' and loaded_rows > 0"
                " order by load_id"
            ).result_columns[0]
            turns = [one for one, other in pairwise(loads) if one != other]
            assert len(turns) >= 3, loads  # live loads between packages, and the other way round
            newest = f"select max(block_number) from {settings.raw_database}.order_filled"
            last = max(leg.block_number for match in world.matches for leg in match.legs)
            wait_for(lambda: run.client.query(newest).result_rows[0][0] == last)
            wait_for(lambda: not reconciled(run, world))


def mine(world: World, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        world.advance(2)


def reconciled(run: Run, world: World) -> list[str]:
    """Tables that differ from the truth."""
    checks = reconcile(run.client, run.settings.clickhouse_database, Truth(world))
    return [check.name for check in checks if not check.equal]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_dry_run_writes_nothing(filling: Run, polymarket: SandboxServer) -> None:
    environment = environment_of(filling.settings, polymarket)
    backfill(filling, Request(START, START + timedelta(hours=2)))
    before = filling.client.query(
        f"select sum(total_rows) from system.tables where database = '{filling.settings.raw_database}'"
    ).result_rows
    code, output, errors = call(environment, *FROM, "--dry-run")
    assert code == 0, errors
    lines = output.splitlines()
    assert lines[0].split() == ["source", "from", "to", "slices", "done"]
    assert lines[1].split() == [
        "goldsky",
        "2026-04-28",
        "04:00:40",
        "2026-04-28",
        "11:00:41",
        "15",
        "4",
    ]
    assert lines[2].split()[0] == "polygon"
    assert lines[3].endswith(" slices would be read; nothing was written")
    assert (
        before
        == filling.client.query(
            f"select sum(total_rows) from system.tables where database = '{filling.settings.raw_database}'"
        ).result_rows
    )


def test_a_dry_run_needs_no_database(settings: Settings, polymarket: SandboxServer) -> None:
    code, output, errors = call(environment_of(settings, polymarket), *FROM, "--dry-run")
    assert (code, errors.count("\n")) == (0, 1), errors
    assert output.splitlines()[1].split()[-1] == "0"


def test_watching_ends_by_a_signal_or_a_cancellation(
    filling: Run, polymarket: SandboxServer
) -> None:
    """Another run holds the lock, and is one that never gets to the slices."""
    environment = environment_of(filling.settings, polymarket)
    with filling.lock.held("loop"):
        with started(environment, *FROM) as watching:
            wait_for(lambda: bool(books(filling).in_state("requested")))
            wait_for_line(watching, "does the work")
            watching.send_signal(signal.SIGINT)
            errors = watching.communicate(timeout=20)[1]
            assert watching.returncode == 130
            assert "`backfill --cancel` takes it back" in errors
        requested = len(books(filling).in_state("requested"))
        with started(environment, *FROM) as watching:
            wait_for_line(watching, "does the work")
            code, output, _ = call(environment, "backfill", "--cancel")
            assert (code, output) == (0, f"{requested} slices cancelled\n")
            errors = watching.communicate(timeout=20)[1]
            assert watching.returncode == 1
            assert errors.endswith(f"backfill: {requested} slices were cancelled\n")
    assert landed(filling) == (0, 0)


def test_another_verb_is_waited_for(filling: Run, polymarket: SandboxServer) -> None:
    environment = environment_of(filling.settings, polymarket)
    with ExitStack() as until_it_ends:
        with filling.lock.held("rebuild"):
            process = until_it_ends.enter_context(started(environment, *FROM))
            wait_for_line(process, "waiting for `rebuild` (pid")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert_equals_truth(filling, polymarket.world)


def wait_for_line(process: subprocess.Popen, text: str) -> None:
    """Read standard error until a line holds the text."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")
