"""Backfills: whatever was loaded before, goes on meanwhile or kills them, the tables end equal to the truth."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from worlds import (
    PATIENCE_S,
    all_fills,
    assert_equals_truth,
    land_gamma,
    prepared,
    sandbox_settings,
)

from embedded_clickhouse import Endpoint
from ingest.queue.slices import SlicePage
from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.errors import LoadFailed, NothingLoaded, SettingsError
from pipeline.jobs.backfill import Request, backfill, cancel, parse_request, plan
from pipeline.jobs.coverage import loaded_spans, not_loaded
from pipeline.jobs.cycle import run_cycle
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.verbs.status import read_status
from pipeline.warehouse.run import Run
from pipeline.warehouse.slices import SliceBooks
from sandbox.reconcile import reconcile
from sandbox.server import SandboxServer
from sandbox.truth import Truth
from sandbox.world import World

HOUR = 3600
NOW = datetime(2026, 4, 28, 19, tzinfo=UTC)  # so that both generations are hours apart
START = ARCHIVE_END - timedelta(hours=7)


def near_world(seed: int = 21, matches: int = 400) -> World:
    """A world of which all generations fit into a few hours, V2 before the cutover included."""
    return World.generate(
        seed, now=NOW, markets=40, matches=matches, v1_days=0.25, v2_days=0.25, v2_trial=True
    )


@pytest.fixture(scope="module")
def polymarket() -> Iterator[SandboxServer]:
    with SandboxServer(near_world()) as upstream:
        yield upstream


SMALL = {"http_give_up_s": 0.2, "goldsky_page_size": 50}


def settings_of(
    clickhouse: Endpoint, prefix: str, folder: Path, upstream: SandboxServer, **more: object
) -> Settings:
    return sandbox_settings(clickhouse, prefix, folder, upstream, **(SMALL | more))


@pytest.fixture
def filling(reading_from, polymarket: SandboxServer) -> Iterator[Run]:
    """A prepared run over a world whose markets have landed, and none of its fills."""
    with reading_from(polymarket, **SMALL) as run:
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


def versions_landed(run: Run) -> dict[str, int]:
    """Fills of the landing table by generation."""
    rows = run.client.query(
        "select contract_version, uniqExact(timestamp, tx_hash, log_index, order_hash)"
        f" from {run.settings.raw_database}.order_filled group by 1"
    ).result_rows
    return dict(rows)


def on_chain(world: World, *versions: str) -> dict[str, int]:
    """Fills of a world by generation, for those of `versions` that have any."""
    fills = Counter(fill.version for fill in all_fills(world))
    return {version: fills[version] for version in versions if fills[version]}


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
    assert 0 < plan(filling, everything()).done < len(plan(filling, everything()).slices)
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
    with filling.lock.held("test"):
        run_cycle(filling).raise_failures()
    assert landed(filling)[1] > 1000
    loaded = len(all_fills(polymarket.world))  # cycles do not look back to V2 before the cutover
    for _ in range(2):
        backfill(filling, everything(again=True))
        assert landed(filling)[1] == loaded
        assert_equals_truth(filling, polymarket.world)


@pytest.mark.parametrize("source", ["goldsky", "polygon"])
def test_one_source_brings_its_own(filling: Run, polymarket: SandboxServer, source: str) -> None:
    backfill(filling, everything(source=source))
    versions = {"goldsky": ("v1",), "polygon": ("v2", "v3")}[source]
    assert versions_landed(filling) == on_chain(polymarket.world, *versions)


def test_v2_before_the_cutover_is_read_beside_the_archive(
    filling: Run, polymarket: SandboxServer
) -> None:
    """A default backfill of those days used to be done with the V1 fills alone."""
    backfill(filling, Request(START, ARCHIVE_END))
    horizon = ARCHIVE_END.timestamp()
    fills = [fill for fill in all_fills(polymarket.world) if fill.timestamp < horizon]
    assert versions_landed(filling) == Counter(fill.version for fill in fills)
    assert versions_landed(filling).keys() == {"v1", "v2"}


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


def test_a_generation_that_came_later_is_read_where_the_others_were(
    filling: Run, polymarket: SandboxServer
) -> None:
    """Slices of an earlier version name no generation: they hold V2, and a backfill reads only V3 of them."""
    asked = everything(source="polygon")
    filling.settings.polygon_versions = "v2"
    wanted = plan(filling, asked).left
    earlier = [replace(part, versions="") for part in wanted]
    books(filling).request(earlier)
    books(filling).finish([SlicePage(part, is_last=True) for part in earlier], 1)
    assert plan(filling, asked).left == []
    filling.settings.polygon_versions = "v2,v3"
    assert plan(filling, asked).left == [replace(part, versions="v3") for part in wanted]
    backfill(filling, asked)
    assert plan(filling, asked).left == []
    assert versions_landed(filling) == on_chain(polymarket.world, "v3")
    backfill(filling, everything(again=True))
    assert_equals_truth(filling, polymarket.world)


def test_a_backfill_that_finds_nothing_says_so(
    filling: Run, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = ARCHIVE_END + timedelta(seconds=10)
    with caplog.at_level(logging.INFO):
        backfill(filling, Request(quiet, quiet + timedelta(minutes=50)))
    assert "these 1 slices hold no fill at all" in caplog.text


# ---------- failures


def test_a_source_that_is_down_leaves_its_slices_and_holds_up_no_other(
    clickhouse: Endpoint,
    database_prefix: str,
    tmp_path: Path,
    template: Settings,
    polymarket: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ingest.queue.backlog.FIRST_PAUSE_S", 0.05)
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
        del run.desk  # the next one is of these settings
        backfill(run, everything())
        assert_equals_truth(run, polymarket.world)
        assert [each["problem"] for each in read_status(run).backfills] == ["", ""]


def test_gaps_between_backfills_are_shown_and_count_as_not_loaded(filling: Run) -> None:
    hours = [int((START + timedelta(hours=number)).timestamp()) for number in range(5)]
    for first in (0, 1, 3):  # the first two are one span
        bounds = [START + timedelta(hours=first + each) for each in (0, 1)]
        backfill(filling, Request(*bounds))
    spans = [(hours[0], hours[2]), (hours[3], hours[4])]
    shown = [
        (each["source"], each["from_at"], each["to_at"]) for each in read_status(filling).backfills
    ]
    assert shown == [
        (source, *(datetime.fromtimestamp(each, UTC).isoformat() for each in span))
        for source in ("goldsky", "polygon")
        for span in spans
    ]
    gaps = not_loaded((hours[0], hours[4]), loaded_spans(filling), filling.settings)
    assert gaps == [(hours[2], hours[3])]


def test_what_cycles_have_read_counts_as_loaded(reading_from, polymarket: SandboxServer) -> None:
    with reading_from(polymarket, **SMALL) as run:
        with run.lock.held("run"):
            run_cycle(run).raise_failures()
        seconds = [fill.timestamp for fill in all_fills(polymarket.world)]
        loaded = loaded_spans(run)
    assert {version: len(spans) for version, spans in loaded.items()} == {"v1": 1, "v2": 1, "v3": 1}
    assert loaded["v2"][0][1] == max(seconds) + 1
    assert loaded["v1"][0][0] == min(seconds)


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
        (
            "2020-01-01",
            "2020-02-01",
            None,
            "goldsky begins at 2022-11-21.*polygon begins at 2026-03",
        ),
        ("2026-03-01", "2026-03-02", "polygon", "polygon begins at 2026-03-30"),
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


# ---------- processes


def environment_of(settings: Settings, upstream: SandboxServer, **more: str) -> dict[str, str]:
    unset = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in unset} | {
        "CLICKHOUSE_HOST": settings.clickhouse_host,
        "CLICKHOUSE_PORT": str(settings.clickhouse_port),
        "CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
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
        output, errors = process.communicate(timeout=PATIENCE_S)
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
            deadline = time.monotonic() + PATIENCE_S
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


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
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
    assert (code, errors) == (0, "")
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
            errors = watching.communicate(timeout=PATIENCE_S)[1]
            assert watching.returncode == 130
            assert "`backfill --cancel` takes it back" in errors
        requested = len(books(filling).in_state("requested"))
        with started(environment, *FROM) as watching:
            wait_for_line(watching, "does the work")
            code, output, _ = call(environment, "backfill", "--cancel")
            assert (code, output) == (0, f"{requested} slices cancelled\n")
            errors = watching.communicate(timeout=PATIENCE_S)[1]
            assert watching.returncode == 1
            assert errors.endswith(f"backfill: {requested} slices were cancelled\n")
    assert landed(filling) == (0, 0)


def test_another_verb_is_waited_for(filling: Run, polymarket: SandboxServer) -> None:
    environment = environment_of(filling.settings, polymarket)
    with ExitStack() as until_it_ends:
        with filling.lock.held("rebuild"):
            process = until_it_ends.enter_context(started(environment, *FROM))
            wait_for_line(process, "waiting for `rebuild` (pid")
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    assert_equals_truth(filling, polymarket.world)


def wait_for_line(process: subprocess.Popen, text: str) -> None:
    """Read standard error until a line holds the text."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")
