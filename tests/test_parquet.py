"""Archives of Parquet files: whatever layout and server, and however often the run is killed, the tables equal the truth."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from worlds import all_fills, assert_equals_truth, land_gamma

from pipeline.errors import LoadFailed, SettingsError
from pipeline.jobs import archive_files
from pipeline.jobs.archive_plan import Request, make_plan
from pipeline.jobs.parquet import backfill_parquet
from pipeline.warehouse.run import Run
from sandbox.server import SandboxServer
from sandbox.world import World
from test_backfill import near_world

FILES = "{0..3}.parquet"


@pytest.fixture(scope="module")
def world() -> World:
    return near_world(seed=31, matches=300)


@pytest.fixture(scope="module")
def upstream(world: World) -> Iterator[SandboxServer]:
    with SandboxServer(world) as server:
        yield server


@pytest.fixture
def filling(reading_from, upstream: SandboxServer) -> Iterator[Run]:
    """A prepared run over a world whose markets have landed, and none of its fills."""
    with reading_from(upstream) as run:
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
        f"select source, reason, detail, payload from {run.settings.raw_database}.dead_letters order by all"
    ).result_rows


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
    with make_plan(filling, request) as plan:
        assert plan.left == []
    before = landed(filling)
    backfill_parquet(filling, Request(request.patterns, again=True))
    assert landed(filling) == before
    assert_equals_truth(filling, upstream.world, v1_from_chain=v1_from_chain)
