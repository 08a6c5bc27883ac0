"""The chain source against random providers: every fill in the end, or a named error; never a silent loss.

`python -m chaos.providers --count 2000` is the full run, over other seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ingest_runs import Lake, open_lake

from chaos.stories import WHOLE, run_story
from chaos.story_landing import MakeStreams, Tables, cursor_in
from embedded_clickhouse import Endpoint
from ingest.progress import Progress
from ingest.sources.polygon.chain import SOURCE
from sandbox import refusals
from sandbox.farm import Farm
from sandbox.portals import PortalState
from sandbox.providers import NONE, OLD, ZERO, NodeState, Provider

SEED = 7_000


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with Farm() as running:
        yield running
        assert running.errors == []


@pytest.mark.parametrize("first", range(SEED, SEED + 40, 8))
def test_no_fill_is_lost_in_silence(farm: Farm, first: int) -> None:
    stories = [run_story(seed, farm, direct=True) for seed in range(first, first + 8)]
    assert [str(story) for story in stories if story.failed] == []
    assert any(story.outcome == WHOLE for story in stories)


def test_no_fill_is_lost_in_silence_over_http(farm: Farm) -> None:
    stories = [run_story(seed, farm) for seed in range(SEED + 101, SEED + 104)]
    assert [str(story) for story in stories if story.failed] == []


# Drawn once, and failed before something was mended: forks in one of a gateway's nodes, with other transactions in the
# same places; a head that goes back; a slice whose end lags; a node on a fork for longer than `reorg_depth`;
# a second reading by a forked node, which replaced what was right.
FAILED_ONCE = (20063, 20171, 20324, 30157, 30481, 71168, 71869)


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_what_failed_once_does_not_fail_again(farm: Farm, seed: int) -> None:
    assert run_story(seed, farm, direct=True).outcome == WHOLE


# As reported, see the comments; each is at the head, and heals after a while.
REPORTED = {
    # A gateway splits a batch over nodes, of which one is 12 blocks behind (geth#24078, subql#1999).
    "split batch": Provider(nodes=(NodeState(), NodeState(lag=12)), heals_after=60),
    # Blocks are announced before their logs can be had (op-geth#667, boba_legacy#239).
    "logs come late": Provider(nodes=(NodeState(log_lag=5),), heals_after=60),
    # Old headers are there, old logs are [] (erigon PR 16042, reth PR 27002).
    "pruned": Provider(nodes=(NodeState(keeps=100),), heals_after=60),
    # `blockTimestamp` is 0x0 (geth#32334, erigon#5216), or of another day.
    "no time": Provider(timestamps=ZERO),
    "old time": Provider(timestamps=OLD),
    # At most three calls a batch, none has a time (dRPC, 1RPC).
    "small batches": Provider(batch=3, batch_refusal=refusals.BATCH[0], timestamps=NONE),
    # No batches at all, in all the ways to say so (hyperindex#1564); one hangs up (erigon#18074).
    **{
        f"no batches, {at}": Provider(batch=1, batch_refusal=refusal)
        for at, refusal in enumerate(refusals.NO_BATCH)
    },
    "batches break off": Provider(batch=20, batch_refusal=refusals.BATCH[-1], timestamps=NONE),
    # Ten blocks a request (Alchemy's free tier).
    "small ranges": Provider(blocks=10, blocks_refusal=refusals.RANGE[1]),
    # Portals: streams end early and break, the head lags, a fork.
    "portal ends early": PortalState(cuts=0.3, busy=0.2, kinds=("529-after", "no-workers")),
    "portal lags": PortalState(lags=(0, 40), heals_after=30),
    "portal forks": PortalState(fork=20, heals_after=10, bare=True, ascending=True),
}


@pytest.mark.parametrize("name", REPORTED)
def test_what_was_reported_of_real_providers_costs_no_fill(farm: Farm, name: str) -> None:
    story = run_story(SEED, farm, direct=True, drawn=[REPORTED[name]])
    assert story.outcome == WHOLE, str(story)


def test_another_endpoint_takes_over_from_one_that_never_heals(farm: Farm) -> None:
    """Also where the first one is in an error that it does not name."""
    pruned = Provider(nodes=(NodeState(keeps=50),), heals_after=None)
    for other in (Provider(seed=1), PortalState(seed=1)):
        story = run_story(SEED + 1, farm, direct=True, drawn=[pruned, other])
        assert story.outcome == WHOLE, str(story)


class Leaky(Tables):
    """Loses a fill of every table."""

    def add(self, table: pa.Table) -> None:
        super().add(table.slice(1))


def test_a_loss_would_be_seen(farm: Farm) -> None:
    story = run_story(SEED, farm, direct=True, drawn=[Provider()], landing=Leaky())
    assert story.failed
    assert "LOST" in story.outcome


class LakeTables:
    """The landing tables of a ClickHouse, filled by dlt."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self.known = lake, lake.known_fills

    def load(self, make_streams: MakeStreams) -> Progress:
        return self._lake.load(SOURCE, make_streams)

    def keys(self, first: int, last: int) -> set[tuple]:
        return set(
            self._lake.rows(
                "select toUnixTimestamp(timestamp), tx_hash, log_index, order_hash"
                f" from {{db}}.order_filled final where block_number between {first} and {last}"
            )
        )

    def cursor(self) -> dict[str, Any]:
        return cursor_in(self._lake.state(SOURCE))


@pytest.mark.parametrize("name", ["split batch", "portal forks"])
def test_the_same_through_dlt_and_clickhouse(
    farm: Farm, clickhouse: Endpoint, database_prefix: str, tmp_path: Path, name: str
) -> None:
    lake = open_lake(clickhouse, database_prefix, tmp_path / "dlt")
    story = run_story(SEED, farm, drawn=[REPORTED[name]], landing=LakeTables(lake))
    assert story.outcome == WHOLE, str(story)
