"""Backfills: whatever was loaded before, goes on meanwhile or kills them, the tables end equal to the truth."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import assert_equals_truth, land_gamma, prepared, sandbox_settings, small_world

from embedded_clickhouse import Endpoint
from ingest.backlog import FIRST_PAUSE_S, Backlog
from ingest.contracts import V1_GENESIS
from ingest.fetching import FetchPool
from ingest.http import BACKGROUND_SHARE, RateLimit, RateLimiter
from ingest.sources.polygon_rpc import Block, first_since
from ingest.sources.slices import Page, Slice
from pipeline import backfill as backfilling
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
from sandbox.server import SandboxServer
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
    return Request(START, datetime.now(UTC), **values)


def books(run: Run) -> SliceBooks:
    return SliceBooks(run.client, run.settings.raw_database)


def landed(run: Run) -> tuple[int, int]:
    """Rows of the landing table, copies included, and fills in it."""
    return run.client.query(
        "select count(), uniqExact(timestamp, tx_hash, log_index, order_hash)"
        f" from {run.settings.raw_database}.order_filled"
    ).result_rows[0]


# ---------- equal to the truth


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("package_rows", [300, 250_000])
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
