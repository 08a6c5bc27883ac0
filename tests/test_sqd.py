"""Fills from the chain over an SQD Portal: the same rows as from a node, whichever of the two reads which block."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_runs import Lake, open_lake
from scripted_server import Answer, ScriptedServer, as_json

from ingest.contracts import V2, V3
from ingest.errors import (
    ChainReorganised,
    HttpStatusError,
    NodeBehind,
    RateLimited,
    Unavailable,
    Unreachable,
    WrongShape,
)
from ingest.http import HttpClient
from ingest.progress import Progress
from ingest.retries import RetryPolicy
from ingest.sources.polygon.block_search import block_since
from ingest.sources.polygon.chain import Endpoint, Endpoints, fills_of
from ingest.sources.polygon.range_reader import RangeReader
from ingest.sources.polygon.reader import Pace
from ingest.sources.polygon.reader import streams as polygon
from ingest.sources.polygon.rpc import Node
from ingest.sources.sqd.portal import Portal, dataset_url, limits_of
from sandbox.clock import HORIZON, block_time
from sandbox.server import SandboxServer
from sandbox.sqd import PortalLimits
from sandbox.world import World


def client() -> HttpClient:
    return HttpClient("polygon", retry=RetryPolicy(attempts=3), sleep=lambda seconds: None)


def together(*endpoints: Endpoint) -> Endpoints:
    return Endpoints(endpoints, sleep=lambda seconds: None)


@pytest.fixture(scope="module")
def server():
    world = World.generate(
        3, now=datetime(2026, 4, 29, tzinfo=UTC), markets=20, matches=300, v1_days=0.2, v2_days=0.4
    )
    with SandboxServer(world) as running_server:
        yield running_server


@pytest.fixture
def lake(clickhouse, database_prefix: str, tmp_path: Path) -> Lake:
    return open_lake(clickhouse, database_prefix, tmp_path / "dlt")


def load(lake: Lake, endpoints: Endpoints, *, budget: float | None = None, **options) -> Progress:
    pace = Pace(confirmations=3, stale_after=None, second_reading=None)
    options = {"start": HORIZON.block_number, "pace": pace} | options
    return lake.load(
        "polygon",
        lambda progress: polygon(
            endpoints, progress=progress, known_fills=lake.known_fills, **options
        ),
        budget=budget,
    )


def stored(lake: Lake) -> list[tuple]:
    return lake.rows(
        "select block_number, log_index, tx_hash, order_hash, maker_amount"
        " from {db}.order_filled final order by all"
    )


def on_chain(world: World, last: int) -> list[tuple]:
    legs = [leg for match in world.matches for leg in match.legs if leg.version in (V2, V3)]
    return sorted(
        (leg.block_number, leg.log_index, leg.tx_hash, leg.order_hash, leg.maker_amount)
        for leg in legs
        if leg.block_number <= last
    )


def test_the_portal_brings_the_rows_of_the_node(lake: Lake, server) -> None:
    progress = load(lake, together(Portal(client(), server.urls.sqd_url)))
    assert progress.caught_up == {"order_filled_chain": True}
    assert stored(lake) == on_chain(server.world, server.world.chain.head - 3)


def test_either_may_go_on_at_any_block(lake: Lake, server) -> None:
    """Short runs, in turn by one and the other, and a reorganisation between any two of them."""
    world, rng = server.world, random.Random(5)
    portal, node = (
        Portal(client(), server.urls.sqd_url),
        Node(client(), server.urls.polygon_url, block_range=400),
    )
    caught_up = False
    while not caught_up:
        endpoint = rng.choice([portal, node])
        progress = load(lake, together(endpoint), budget=0.0)
        caught_up = progress.caught_up["order_filled_chain"]
    assert stored(lake) == on_chain(world, world.chain.head - 3)
    for turn in range(6):
        world.advance(30)
        if turn % 2:
            world.reorg(rng.randint(4, 60))
            world.advance(5)
        load(lake, together(portal if turn % 3 else node))
        assert stored(lake) == on_chain(world, world.chain.head - 3)


def test_a_range_of_blocks_by_time_is_the_same_by_either(server) -> None:
    portal, node = Portal(client(), server.urls.sqd_url), Node(client(), server.urls.polygon_url)
    assert portal.head() == node.head()
    for moment in (HORIZON.timestamp, server.world.now - 3600, server.world.now + 10):
        found = [block_since(together(each), moment, each.head()) for each in (portal, node)]
        assert found[0] == found[1]


@settings(max_examples=20, deadline=None)
@given(blocks=st.integers(1, 90), size=st.integers(200, 20_000), finality=st.integers(0, 40))
def test_streams_may_end_anywhere(blocks: int, size: int, finality: int) -> None:
    world = small()
    limits = PortalLimits(stream_blocks=blocks, stream_bytes=size, finality_blocks=finality)
    with SandboxServer(world, portal_limits=limits) as server:
        reader = RangeReader(together(Portal(client(), server.urls.sqd_url)), (V2, V3))
        head = reader.head = world.chain.head
        number, end, found = head - 100, None, []
        while number <= head:
            tables, dead, end = reader.read(number, head, end)
            assert dead == []
            for table in tables:
                columns = (table.column("block_number"), table.column("log_index"))
                found += zip(*(column.to_pylist() for column in columns), strict=True)
            number = end.number + 1
    wanted = [row[:2] for row in on_chain(world, head) if row[0] >= head - 100]
    assert sorted(found) == wanted


WORLDS: dict[str, World] = {}


def small() -> World:
    if "small" not in WORLDS:
        WORLDS["small"] = World.generate(
            4, now=datetime(2026, 4, 29, tzinfo=UTC), markets=10, matches=200, v1_days=0.1, v2_days=0.01
        )  # fmt: skip
    return WORLDS["small"]


def line(number: int, *logs: dict, **header: object) -> bytes:
    known = {"number": number, "hash": f"0x{number:064x}", "timestamp": block_time(number)}
    return orjson.dumps({"header": known | header, "logs": list(logs)}) + b"\n"


def lines(*numbers: int) -> Answer:
    return Answer(b"".join(map(line, numbers)), headers={"Content-Type": "application/jsonl"})


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Answer(b"", status=204), NodeBehind, "does not have block 5 yet"),
        (as_json({"error": "conflict"}, status=409), ChainReorganised, "replaced"),
        (as_json({}, status=429), RateLimited, "429"),
        (as_json({}, status=503), HttpStatusError, "503"),
        (as_json({}, status=404), HttpStatusError, "SQD_PORTAL_URL"),
        (Answer(b"no available workers", status=503), HttpStatusError, "no available workers"),
        (lines(6, 7), WrongShape, "out of its place"),
        (lines(5, 7, 6), WrongShape, "out of its place"),
        (lines(5, 12), WrongShape, "out of its place"),
        (Answer(b'{"header":{"number":5}}\n'), WrongShape, "no block"),
        (Answer(b'{"header":\n{}\n'), Unavailable, "not JSON"),
        (Answer(line(5), cut=True), Unreachable, "broke"),
        (Answer(reset=True), Unreachable, "broke"),
        (Answer(line(5) + line(6, parentHash="0x1")), ChainReorganised, "replaced"),
        (Answer(line(5, parentHash="0x1")), ChainReorganised, "replaced"),
    ],
)
def test_faults_are_named(answer: Answer, error: type[Exception], words: str) -> None:
    with ScriptedServer(lambda path, body: answer) as server, pytest.raises(error) as caught:
        Portal(client(), server.url).logs(5, 9, fills_of((V2,)), follows=f"0x{4:064x}")
    assert words in str(caught.value)


def test_whole_lines_of_a_broken_stream_count() -> None:
    body = line(5) + line(6) + line(7)[:20]
    for answer in (Answer(body), Answer(body + b" " * len(body), cut=True)):
        with ScriptedServer(lambda path, body, answer=answer: answer) as server:
            found = Portal(client(), server.url).logs(5, 9, fills_of((V2,)))
        assert found.end.number == 6


def test_the_address_may_be_a_portal_or_a_data_set() -> None:
    whole = "https://portal.sqd.dev/datasets/polygon-mainnet"
    assert {
        dataset_url(x) for x in ("https://portal.sqd.dev", "https://portal.sqd.dev/", whole)
    } == {whole}
    assert (
        dataset_url("http://127.0.0.1:9/sqd") == "http://127.0.0.1:9/sqd/datasets/polygon-mainnet"
    )
    assert [limit.requests for limit in limits_of(whole)] == [20]
    assert limits_of("http://127.0.0.1:9/sqd") == ()
