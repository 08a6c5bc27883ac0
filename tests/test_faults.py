"""Faults of the upstreams, over real HTTP: what the user is told, what is kept, and that all is right once they end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from dlt.extract import DltSource
from ingest_runs import Lake, open_lake
from worlds import assert_equals_truth, prepared, sandbox_settings, small_world

from embedded_clickhouse import Endpoint
from ingest.errors import IngestError, MissingFills, NodeBehind
from ingest.http import HttpClient
from ingest.progress import Progress
from ingest.retries import RetryPolicy
from ingest.sources.clob.reader import streams as prices
from ingest.sources.gamma.reader import streams as gamma
from ingest.sources.goldsky.reader import streams as goldsky
from ingest.sources.polygon.chain import Endpoint as ChainEndpoint
from ingest.sources.polygon.chain import Endpoints
from ingest.sources.polygon.reader import Pace
from ingest.sources.polygon.reader import streams as polygon
from ingest.sources.polygon.rpc import Node
from ingest.sources.sqd.portal import Portal
from pipeline.jobs.cycle import run_cycle
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.verbs.cli import cli
from sandbox.clob import Quote, open_quotes
from sandbox.clock import HORIZON, block_at
from sandbox.contracts import V1
from sandbox.fault_acts import CLOB, FROZEN_SECONDS, PORTAL, REORG_BLOCKS, UPSTREAMS
from sandbox.faults import FAULTS, Faults, parse_fault
from sandbox.server import SandboxServer
from sandbox.wire import Answer, Request
from sandbox.world import World

DAYS = 0.2  # of fills of each generation
EVER = sys.maxsize
LATER, AT_ONCE = 4, 1  # requests at which a fault begins: with pages before it, or none
# Requests that the chain may take before its first logs: blocks without any need evidence.
EVIDENCE = {"polygon": 16, PORTAL: 6}
SOME, ALL, BUT_BAD, NEARLY = "some", "all", "all but bad rows", "all but the newest range"
NONE, AS_SAID = "none", "all, as it came"
READERS = {PORTAL: "polygon", CLOB: "prices"}  # of upstreams that are no sources by name


@dataclass(frozen=True)
class Case:
    """What a fault does that begins with a request and stays.

    Attributes:
        told: words of the line by source that fails.
        kept: how much of a source that fails is loaded all the same; of the others everything is.
        since: the request at which it begins.
        fork: so many of the newest blocks may be of another chain when the run ends.
    """

    told: dict[str, str] = field(default_factory=dict)
    kept: str = SOME
    since: int = LATER
    fork: int = 0


def every(words: str) -> dict[str, str]:
    return dict.fromkeys(UPSTREAMS, words)


CASES = {
    "rate-limited": Case(every(r"rate limited \(429: slow down\); wait, or raise your quota")),
    "retry-after-seconds": Case(),
    "retry-after-date": Case(),
    "error-500": Case(every("HTTP 500: oops")),
    "error-502": Case(every("HTTP 502: bad gateway")),
    "error-503": Case(every("HTTP 503: overloaded")),
    "reset": Case(every(r"the connection broke \(.*reset.*\); try again")),
    "stalled-body": Case(every("no answer in time: it stopped in mid-answer; try again")),
    "truncated-body": Case(every("the connection broke in mid-answer; try again")),
    "broken-gzip": Case(every("the body's compression is broken; try again")),
    "html": Case(every("answered 200 with an HTML or XML page instead of JSON")),
    "wrong-shape": Case(
        {
            "gamma": "no list `(markets|events)` in the answer",
            "goldsky": "no list `data.orderFilledEvents` in the answer",
            "polygon": "the answer to a JSON-RPC batch does not match it",
            "sqd": "a line of the stream is no block",
            "clob": "an answer about 'status', which was not asked for",
        }
    ),
    "graphql-timeout": Case(since=AT_ONCE),
    "graphql-allowance": Case({"goldsky": "rate limited .*surpassed your query allowance"}),
    "graphql-error": Case({"goldsky": "the archive cannot answer for now: store error"}),
    "short-page": Case(since=AT_ONCE),
    "empty-page": Case(since=AT_ONCE),
    "repeated-page": Case(
        {
            "gamma": "the same page came again",
            "goldsky": "returned rows again that it was told to skip",
            "polygon": "a log of block [0-9]+, which was not asked for",
        },
        since=AT_ONCE,
    ),
    "repeated-cursor": Case({"gamma": "a cursor came again"}, since=AT_ONCE),
    "cursor-ignored": Case(
        {"gamma": "the same page came again", "goldsky": "returned rows again"}, since=AT_ONCE
    ),
    "order-ignored": Case(
        {"gamma": "the listing is not newest first although order="}, ALL, AT_ONCE
    ),
    "order-refused": Case({"gamma": "HTTP 422: .*order fields are not valid"}, ALL, AT_ONCE),
    "stale-page": Case(since=AT_ONCE),
    "frozen": Case(
        {
            "goldsky": "the archive ends at .* before .* where it should end",
            "polygon": "the newest block .* the node does not follow the chain",
        },
        since=AT_ONCE,
    ),
    "clock-ahead": Case({"polygon": "ahead of this machine's clock; set the clock"}, ALL, AT_ONCE),
    "clock-behind": Case({"polygon": "the node does not follow the chain"}, ALL, AT_ONCE),
    "reorg": Case(since=AT_ONCE),
    "too-many-results": Case(since=AT_ONCE),
    "small-ranges": Case(since=AT_ONCE),
    "small-batches": Case(since=AT_ONCE),
    "no-batches": Case(since=AT_ONCE),
    "zero-times": Case(since=AT_ONCE),
    "lagging-node": Case(kept=NEARLY, since=AT_ONCE),
    "late-logs": Case({"polygon": "left out fills of block .*use another endpoint"}, since=AT_ONCE),
    "pruned-node": Case({"polygon": "no fills.*use another endpoint"}),
    "pruned-history": Case(
        {"polygon": "the node does not keep blocks that old: .*add an archive node"}
    ),
    "early-end": Case(since=AT_ONCE),
    "lagging-portal": Case(kept=NEARLY, since=AT_ONCE),
    "forked-portal": Case(kept=NEARLY, since=AT_ONCE, fork=20),
    "missing-blocks": Case({"sqd": "left out fills of block .*use another endpoint"}),
    "nulls": Case(kept=BUT_BAD, since=AT_ONCE),
    "odd-integers": Case(kept=BUT_BAD, since=AT_ONCE),
    "odd-times": Case(since=AT_ONCE),
    "unknown-contract": Case(kept=BUT_BAD, since=AT_ONCE),
    "duplicate-ids": Case(
        {"goldsky": "rows are not in order", "polygon": "two different logs in one place"}
    ),
    "refused-token": Case(kept=BUT_BAD, since=AT_ONCE),
    "no-prices": Case({"clob": "no prices of any of [0-9]+ tokens"}, NONE, AT_ONCE),
    "stale-prices": Case(since=AT_ONCE),
    "number-prices": Case(since=AT_ONCE),
    "odd-prices": Case(kept=BUT_BAD, since=AT_ONCE),
    "crossed-book": Case(kept=AS_SAID, since=AT_ONCE),
    "one-sided-book": Case(kept=AS_SAID, since=AT_ONCE),
}
PAIRS = [(name, source) for name, fault in FAULTS.items() for source in fault.sources]


def test_every_fault_has_its_case() -> None:
    assert CASES.keys() == FAULTS.keys()
    for name, case in CASES.items():
        assert case.told.keys() <= set(FAULTS[name].sources), name


@pytest.fixture(scope="module")
def upstream() -> Iterator[SandboxServer]:
    """A simulated Polymarket whose clock is the real one, because ages are told by it."""
    world = World.generate(
        5, now=datetime.now(UTC), markets=120, matches=400, v1_days=DAYS, v2_days=DAYS
    )
    with SandboxServer(world) as server:
        yield server


@pytest.fixture
def lake(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, upstream: SandboxServer
) -> Iterator[Lake]:
    yield open_lake(clickhouse, database_prefix, tmp_path / "dlt")
    upstream.app.faults.clear()


def load(
    lake: Lake,
    server: SandboxServer,
    source: str,
    *,
    timeout: float = 5.0,
    block_range: int = 1000,
    stale_after: float | None = FROZEN_SECONDS / 2,
) -> Progress:
    """Read a source to its end, by small pages and a client that asks again soon."""
    retry = RetryPolicy(attempts=4, first_wait=0.01, longest_wait=0.02, max_wait=10)
    client = HttpClient(name_of(source), timeout=(5, timeout), retry=retry)
    makers = {
        "gamma": lambda progress: gamma(
            server.urls.gamma_url,
            progress=progress,
            client=client,
            known_versions=lake.known_versions,
            open_cadence=0,
            closed_cadence=0,
        ),
        "goldsky": lambda progress: goldsky(
            server.urls.goldsky_url,
            progress=progress,
            client=client,
            start=int(HORIZON.timestamp - DAYS * 86_400) - 60,
            page_size=150,
        ),
        "polygon": lambda progress: follow(
            Node(client, server.urls.polygon_url, block_range=block_range), progress
        ),
        PORTAL: lambda progress: follow(Portal(client, server.urls.sqd_url), progress),
        CLOB: lambda progress: prices(
            server.urls.clob_url,
            progress=progress,
            client=client,
            tokens=sorted(open_quotes(server.world)),
            batch=20,
        ),
    }

    def follow(endpoint: ChainEndpoint, progress: Progress) -> DltSource:
        return polygon(
            Endpoints([endpoint], sleep=lambda seconds: None),
            progress=progress,
            known_fills=lake.known_fills,
            start=block_at(server.world.now - DAYS * 86_400) - 60,
            pace=Pace(confirmations=0, stale_after=stale_after),
        )

    return lake.load(name_of(source), makers[source])


def name_of(upstream: str) -> str:
    """The source that reads an upstream."""
    return READERS.get(upstream, upstream)


def loaded(lake: Lake, source: str) -> dict:
    """What stands of a source: the amounts of each fill by its key, some of each market by its id."""
    if source == "gamma":
        query = "select market_id, argMax(payload, fetched_at) from {db}.markets group by 1"
        return {key: _shown(orjson.loads(payload)) for key, payload in lake.rows(query)}
    if source == "prices":
        query = "select token_id, argMax((bid, ask, mid, spread), observed_at) from {db}.market_prices group by 1"
        return {token: Quote(token, *values) for token, values in lake.rows(query)}
    rows = lake.rows(
        "select block_number, log_index, tx_hash, order_hash, maker_amount, taker_amount"
        f" from {{db}}.order_filled final where source = '{source}'"
    )
    return {row[:4]: row[4:] for row in rows}


def there_is(world: World, source: str) -> dict:
    """The same of the world."""
    if source == "gamma":
        listed = world.gamma.markets.keys() - world.gamma.unlisted
        return {key: _shown(world.gamma.markets[key]) for key in listed}
    if source == "prices":
        return open_quotes(world)
    fills = [fill for match in world.matches for fill in match.legs]
    return {
        (
            *((0, 0) if source == "goldsky" else (fill.block_number, fill.log_index)),
            fill.tx_hash,
            fill.order_hash,
        ): (fill.maker_amount, fill.taker_amount)
        for fill in fills
        if (fill.version == V1) == (source == "goldsky")
    }


def _shown(payload: dict) -> tuple:
    return tuple(payload.get(name) for name in ("slug", "question", "volume", "closed"))


def dead_letters(lake: Lake, source: str) -> int:
    """Sightings that become dead letters, those of Gamma's markets."""
    name = "gamma_markets" if source == "gamma" else source
    return lake.rows(f"select count() from {{db}}.dead_letters where source = '{name}'")[0][0]


@pytest.mark.timeout(900)  # without batches every header is a request of its own
@pytest.mark.parametrize(("name", "source"), PAIRS)
def test_what_a_fault_does(lake: Lake, upstream: SandboxServer, name: str, source: str) -> None:
    case, faults = CASES[name], upstream.app.faults
    reader = name_of(source)
    if source == "gamma":
        faults.add("short-page", sources=["gamma"])  # so that there are several pages
    since = case.since + (EVIDENCE.get(source, 0) if case.since == LATER else 0)
    last = since + 1 if name == "reorg" else EVER
    faults.add(name, sources=[source], requests=range(since, last))

    told = ""
    try:
        load(lake, upstream, source, timeout=0.8 if name == "stalled-body" else 5)
    except IngestError as failure:
        told = str(failure)
    assert faults.hits[name] > 0
    assert bool(told) == (source in case.told), told
    assert re.search(f"^{reader}: .*{case.told.get(source, '')}", told or f"{reader}: "), told

    wanted = there_is(upstream.world, reader)
    rows, bad = loaded(lake, reader), dead_letters(lake, reader)
    kept = case.kept if told or case.kept in (BUT_BAD, NEARLY, AS_SAID) else ALL
    if kept == BUT_BAD:
        _check_bad_rows(rows, bad, wanted, name, source)
    else:
        assert bad == 0
        every_row = len(wanted)
        low, high = {
            SOME: (1, every_row - 1),
            ALL: (every_row, every_row),
            NEARLY: (0.7 * every_row, every_row),
            NONE: (0, 0),
            AS_SAID: (every_row, every_row),
        }[kept]
        assert low <= len(rows) <= high
        settled = upstream.world.chain.head - case.fork
        sure = {key: row for key, row in rows.items() if not case.fork or key[0] <= settled}
        if kept == AS_SAID:
            assert sure.keys() == wanted.keys() and sure != wanted
        else:
            assert sure.items() <= wanted.items()  # nothing else, and with the right content
        if source == "gamma" and name != "odd-times":  # another row of a page in every pass
            assert lake.count("markets", final=True) == len(rows), "one version of each"

    faults.clear()
    if kept == BUT_BAD:
        forget_cursor(lake)
    load(lake, upstream, source)
    assert loaded(lake, reader) == there_is(upstream.world, reader)


def _check_bad_rows(rows: dict, bad: int, wanted: dict, name: str, source: str) -> None:
    """Bad rows are dead letters, and every other row is there; Gamma's need no more than an id."""
    if source == "gamma" and name == "odd-integers":
        assert (bad, rows.keys()) == (0, wanted.keys())
        return
    assert bad > 0
    if source != "gamma" and name != "nulls":  # equal records are one dead letter
        # Of the chain, a block may be read twice, and its records be spoilt in two ways.
        assert (
            len(rows) + bad >= len(wanted)
            if source == "polygon"
            else len(rows) + bad == len(wanted)
        )
    good = rows.items() & wanted.items()
    assert len(good) >= len(wanted) // 2


def forget_cursor(lake: Lake) -> None:
    """Let a source be read again, as a backfill would."""
    for table in ("_dlt_pipeline_state", "_dlt_loads", "_dlt_version"):
        lake.client.command(f"drop table {lake.database}.{table}")


# -- over time ---


def test_a_reorganisation_in_the_middle_of_a_read_is_followed(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path
) -> None:
    """At any request of a run, over blocks that were read by the run before, by this one, or not yet."""
    lake = open_lake(clickhouse, database_prefix, tmp_path / "dlt")
    with SandboxServer(small_world(seed=3, matches=60, days=0.02)) as server:
        load(lake, server, "polygon", stale_after=None)
        for blocks in (REORG_BLOCKS - 20, REORG_BLOCKS + 20):
            for request in (1, 2, 3, 4):
                server.world.advance(blocks)
                server.app.faults.add("reorg", requests={request})
                # Where evidence came from the other fork, that is named, and read again.
                with contextlib.suppress(MissingFills, NodeBehind):
                    load(lake, server, "polygon", block_range=REORG_BLOCKS - 10, stale_after=None)
                server.app.faults.clear()
                load(lake, server, "polygon", stale_after=None)
                there = there_is(server.world, "polygon")
                assert loaded(lake, "polygon") == there, (blocks, request)
        assert server.app.faults.hits["reorg"] >= 6
    taken_back = lake.rows("select count() from {db}.order_filled where is_deleted")[0][0]
    assert taken_back > 0


PASSING = [
    "rate-limited", "error-500", "error-502", "error-503", "reset", "truncated-body", "broken-gzip", "html",
    "graphql-allowance", "short-page", "empty-page", "too-many-results",
]  # fmt: skip


def test_an_upstream_that_often_fails_is_not_even_noticed(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings
) -> None:
    """All that asking again can mend, each at one request in fifty, seeded; and everything derived is right."""
    world = small_world(seed=5, matches=150, days=0.02)
    with SandboxServer(world) as server:
        settings = sandbox_settings(
            clickhouse, database_prefix, tmp_path, server, goldsky_page_size=20
        )
        with prepared(settings, template) as run:
            retry = RetryPolicy(attempts=20, first_wait=0.001, longest_wait=0.01)
            run.desk.retry = retry
            for name in PASSING:
                server.app.faults.add(name, probability=0.02)
            for blocks in (0, 30, 0):
                world.advance(blocks)
                with run.lock.held("test"):
                    run_cycle(run).raise_failures()
            assert_equals_truth(run, world)
        assert len(server.app.faults.hits) > len(PASSING) // 2


# -- for users ---


def test_docs_tell_of_every_fault() -> None:
    text = (PROJECT_DIR / "docs" / "faults.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)
    assert rows == list(FAULTS)


def test_a_fault_is_named_with_its_probability() -> None:
    assert parse_fault("html") == ("html", 1.0)
    assert parse_fault("html:0.25") == ("html", 0.25)


@pytest.mark.parametrize("text", ["", "htm", "html:2", "html:0", "html:nan", "html:often"])
def test_a_fault_that_makes_no_sense_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"there is no fault|is no probability") as refusal:
        parse_fault(text)
    assert "\n" not in str(refusal.value)


def test_probabilities_follow_from_the_seed(upstream: SandboxServer) -> None:
    def pattern(seed: int) -> list[bool]:
        faults = Faults(upstream.world, seed)
        faults.add("html", probability=0.3)
        met = []
        for _ in range(50):
            before = faults.hits.get("html", 0)
            asyncio.run(faults.answer(Request("/gamma/markets", b"", b""), _no_answer))
            met.append(faults.hits.get("html", 0) > before)
        return met

    assert pattern(1) == pattern(1) != pattern(2)
    assert 5 < sum(pattern(1)) < 30


async def _no_answer(request: Request) -> Answer:
    return Answer()


def test_help_lists_every_fault() -> None:
    text = " ".join(CliRunner().invoke(cli, ["sandbox", "--help"]).output.split())
    for name, fault in FAULTS.items():
        assert f"{name} {fault.what}" in text
