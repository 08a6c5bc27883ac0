"""Faults of the upstreams, over real HTTP: what the user is told, what is kept, and that all of it is right once they end."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from worlds import assert_equals_truth, prepared, sandbox_settings, small_world

from embedded_clickhouse import Endpoint
from ingest.http import HttpClient, RetryPolicy
from pipeline.cycle import CycleReport, run_cycle
from pipeline.patience import Patience
from pipeline.run import Run
from pipeline.settings import PROJECT_DIR, Settings
from sandbox.contracts import V1
from sandbox.faults import FAULTS, SOURCES, parse_fault
from sandbox.server import SandboxServer
from sandbox.world import World

EVER = sys.maxsize
# The request of each source at which a fault begins, so that there are pages before it.
SECOND_PAGES = {"gamma": 6, "goldsky": 3, "polygon": 40}
FIRST = dict.fromkeys(SOURCES, 1)
NOTHING, SOME, ALL, ALL_BUT_BAD = "nothing", "some", "all", "all but bad rows"


@dataclass(frozen=True)
class Case:
    """What a fault that lasts for a cycle does.

    Attributes:
        told: words of the line by source that fails.
        kept: how much of those sources is in ClickHouse after it.
        since: at which request of a source it begins.
        at_once: whether the sources that do not fail are complete in the same cycle.
        live: whether the simulated clock is the real one.
    """

    told: dict[str, str] = field(default_factory=dict)
    kept: str = SOME
    since: dict[str, int] = field(default_factory=lambda: SECOND_PAGES)
    live: bool = False


def every(words: str) -> dict[str, str]:
    return dict.fromkeys(SOURCES, words)


BROKE = "the connection broke .*try again"
CASES = {
    "rate-limited": Case(every(r"rate limited \(429: slow down\); wait, or raise your quota")),
    "retry-after-seconds": Case(),
    "retry-after-date": Case(),
    "error-500": Case(every("HTTP 500: oops")),
    "error-502": Case(every("HTTP 502: bad gateway")),
    "error-503": Case(every("HTTP 503: overloaded")),
    "reset": Case(every(BROKE)),
    "stalled-body": Case(every("no answer in time"), kept=NOTHING, since=FIRST),
    "truncated-body": Case(every(BROKE)),
    "broken-gzip": Case(every("the body's compression is broken; try again")),
    "html": Case(every("answered 200 with an HTML or XML page instead of JSON")),
    "wrong-shape": Case(
        {
            "gamma": "no list `markets` in the answer",
            "goldsky": "no list `data.orderFilledEvents` in the answer",
            "polygon": "the answer to a JSON-RPC batch does not match it",
        }
    ),
    "graphql-timeout": Case(),
    "graphql-allowance": Case({"goldsky": "rate limited .*surpassed your query allowance"}),
    "graphql-error": Case({"goldsky": "the archive refused the query: store error"}),
    "short-page": Case(since=FIRST),
    "empty-page": Case(since=FIRST),
    "repeated-page": Case(
        {
            "gamma": "the same page came again",
            "goldsky": "returned rows again that it was told to skip",
            "polygon": "answered with block [0-9]+ when asked for block [0-9]+",
        },
        since=FIRST,
    ),
    "repeated-cursor": Case({"gamma": "a cursor came again"}, since=FIRST),
    "cursor-ignored": Case(
        {"gamma": "the same page came again", "goldsky": "returned rows again"}, since=FIRST
    ),
    "frozen": Case(
        {
            "goldsky": "the archive ends at .* before .* where it should end",
            "polygon": "the newest block .* the node does not follow the chain",
        },
        since=FIRST,
        live=True,
    ),
    "clock-ahead": Case({"polygon": "ahead of this machine's clock"}, ALL, FIRST, live=True),
    "clock-behind": Case({"polygon": "the node does not follow"}, ALL, FIRST, live=True),
    "reorg": Case(since=FIRST),
    "too-many-results": Case(since=FIRST),
    "nulls": Case(kept=ALL_BUT_BAD, since=FIRST),
    "odd-integers": Case(kept=ALL_BUT_BAD, since=FIRST),
    "unknown-contract": Case(kept=ALL_BUT_BAD, since=FIRST),
    "duplicate-ids": Case(
        {"goldsky": "rows are not in order", "polygon": "two different logs in one place"}
    ),
}


def test_every_fault_has_its_case() -> None:
    assert CASES.keys() == FAULTS.keys()
    for name, case in CASES.items():
        assert case.told.keys() <= set(FAULTS[name].sources), name


@contextmanager
def loading(
    endpoint: Endpoint, prefix: str, folder: Path, template: Settings, world: World, **more: object
) -> Iterator[tuple[Run, SandboxServer]]:
    """A prepared run over all of a world, by small pages and clients that do not wait long."""
    with SandboxServer(world) as upstream:
        settings = sandbox_settings(
            endpoint,
            prefix,
            folder,
            upstream,
            **{"goldsky_page_size": 60, "gamma_closed_every_s": 0.001} | more,
        )
        with prepared(settings, template) as run:
            retry = RetryPolicy(attempts=4, first_wait=0.01, longest_wait=0.02, max_wait=10)
            for name in SOURCES:
                run.http_clients[name] = HttpClient(name, timeout=(5, 1.5), retry=retry)
            yield run, upstream


def cycle(run: Run) -> CycleReport:
    with run.lock.held("test") as lock:
        return run_cycle(run, lock, Patience(run.settings.poll_interval_s))


def good_cycle(run: Run) -> CycleReport:
    report = cycle(run)
    report.raise_failures()
    return report


def live_world() -> World:
    return World.generate(
        5, now=datetime.now(UTC), markets=40, matches=150, v1_days=0.25, v2_days=0.25
    )


def there_is(world: World) -> dict[str, int]:
    """Rows that each source has to give: fills, and markets that are listed."""
    fills = [leg for match in world.matches for leg in match.legs]
    archive = {fill.archive_id for fill in fills if fill.version == V1}
    return {
        "gamma": len(world.gamma.markets.keys() - world.gamma.unlisted),
        "goldsky": len(archive),
        "polygon": sum(fill.version != V1 for fill in fills),
    }


def there_is_loaded(run: Run, source: str) -> int:
    raw = run.settings.raw_database
    query = (
        f"select uniqExact(market_id) from {raw}.markets"
        if source == "gamma"
        else f"select count() from {raw}.order_filled final where source = '{source}'"
    )
    return run.client.query(query).result_rows[0][0]


def dead_letters(run: Run, source: str) -> int:
    """Records of a source that became dead letters, markets for Gamma; copies of one record count once each."""
    name = "gamma_markets" if source == "gamma" else source
    query = f"select count() from {run.settings.raw_database}.dead_letters where source = '{name}'"
    return run.client.query(query).result_rows[0][0]


def forget_cursors(run: Run) -> None:
    """Let everything be read again, as a backfill of the whole range would."""
    shutil.rmtree(run.settings.dlt_pipelines_dir)
    for table in ("_dlt_pipeline_state", "_dlt_loads", "_dlt_version"):
        run.client.command(f"drop table {run.settings.raw_database}.{table}")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_costs_nothing_and_passes(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings, name: str
) -> None:
    case = CASES[name]
    world = live_world() if case.live else small_world(seed=5, matches=150)
    more = {"polygon_stale_after_s": 300} if case.live else {}
    with loading(clickhouse, database_prefix, tmp_path, template, world, **more) as (run, upstream):
        faults = upstream.app.faults
        if "gamma" in FAULTS[name].sources and name != "short-page":
            faults.add("short-page", sources=["gamma"])  # there is a second page
        for source in FAULTS[name].sources:
            faults.add(name, sources=[source], requests=_since(name, case.since[source]))

        report = cycle(run)
        assert faults.hits[name] > 0
        assert report.failures.keys() == case.told.keys(), report.failures
        for source, words in case.told.items():
            line = report.failures[source]
            assert line.startswith(f"{source}: ") and "\n" not in line
            assert re.search(words, line), line
        wanted = there_is(world)
        for source in SOURCES:
            kept = case.kept if source in (case.told or FAULTS[name].sources) else ALL
            _check_kept(run, source, wanted[source], kept if name in _SPOIL or case.told else ALL)

        faults.clear()
        if name in _SPOIL:
            forget_cursors(run)
        for _ in range(2):  # the second asks Gamma for tokens that the first did not know
            good_cycle(run)
        assert_equals_truth(run, world)


_SPOIL = ("nulls", "odd-integers", "unknown-contract")


def _since(name: str, first: int) -> range:
    return range(first, first + 1 if name == "reorg" else EVER)


def _check_kept(run: Run, source: str, wanted: int, kept: str) -> None:
    rows = there_is_loaded(run, source)
    if kept == ALL_BUT_BAD:
        bad = dead_letters(run, source)
        assert rows + bad >= wanted and rows < wanted or source == "gamma", (source, rows, bad)
        assert bad or source == "gamma", source
    else:
        low, high = {NOTHING: (0, 0), SOME: (1, wanted - 1), ALL: (wanted, wanted)}[kept]
        assert low <= rows <= high, (source, rows, wanted)
