"""Fills from the chain: decoding, ranges that adapt, reorganisations, faults with names."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_runs import Lake, open_lake
from scripted_server import HTML, Answer, ScriptedServer, as_json

from chaos.story_chain import BASE, chain_of
from ingest.contracts import EXCHANGES as KNOWN_EXCHANGES
from ingest.contracts import ORDER_FILLED_TOPICS, V1, V2, V3, exchanges_of, topics_of
from ingest.errors import (
    IngestError,
    NodeBehind,
    NotJson,
    RangeTooLarge,
    RateLimited,
    RpcError,
    SourceFrozen,
    Unconfirmed,
    WrongShape,
)
from ingest.http import HttpClient
from ingest.progress import Progress
from ingest.retries import RetryPolicy
from ingest.sources.polygon.block_search import first_since
from ingest.sources.polygon.chain import Endpoints
from ingest.sources.polygon.logs import decode_logs
from ingest.sources.polygon.range_reader import RangeReader
from ingest.sources.polygon.reader import Pace
from ingest.sources.polygon.reader import streams as polygon
from ingest.sources.polygon.rpc import Node
from sandbox import contracts as simulated_contracts
from sandbox.chain import Chain
from sandbox.clock import HORIZON, block_time
from sandbox.contracts import EXCHANGES, Fill
from sandbox.polygon import NodeLimits, polygon_app
from sandbox.providers import Endpoint as ProviderEndpoint
from sandbox.providers import Provider
from sandbox.server import AppServer, SandboxServer
from sandbox.views import UpTo
from sandbox.wire import Request
from sandbox.world import World

START = HORIZON.block_number + 5_000


def client() -> HttpClient:
    return HttpClient("polygon", retry=RetryPolicy(attempts=3), sleep=lambda seconds: None)


def endpoints(*urls: str, block_range: int = 64) -> Endpoints:
    nodes = [Node(client(), url, block_range=block_range) for url in urls]
    return Endpoints(nodes, are_polygon=True, sleep=lambda seconds: None)


def fills_in(*blocks: int, seed: int = 0) -> list[Fill]:
    """A few V2 fills in each of these blocks, up to four of them in one transaction."""
    rng = random.Random(seed)
    fills = []
    for block in blocks:
        tx = f"0x{rng.getrandbits(256):064x}"
        for log_index in range(rng.randint(1, 4)):
            fills.append(
                Fill(
                    block_time(block),
                    tx,
                    f"0x{rng.getrandbits(256):064x}",
                    token_id=str(rng.getrandbits(256)),
                    side=rng.choice(["BUY", "SELL"]),
                    exchange=EXCHANGES[V2, rng.random() < 0.5],
                    version=V2,
                    block_number=block,
                    log_index=log_index + 10 * (block - START),
                )
            )
    return fills


def keys(fills: list[Fill]) -> list[tuple[int, int]]:
    return sorted((fill.block_number, fill.log_index) for fill in fills)


# -- decoding ---


def word(value: int) -> str:
    return f"{value:064x}"


def v2_log(**changes: object) -> dict:
    """A hand-made V2 log: a SELL of 0.26 shares for 0.25 usd, fee 0.001."""
    token = 2**255 + 12345
    words = [1, token, 260_000, 250_000, 1_000, 0xB17D, 0]
    log = {
        "address": "0xE111180000d2663C0091e4f400237545B87B996B",
        "topics": [
            ORDER_FILLED_TOPICS[V2],
            "0x" + "BF" * 32,
            "0x" + "0" * 24 + "a2" * 20,
            "0x" + "0" * 24 + "92" * 20,
        ],
        "data": "0x" + "".join(word(value) for value in words),
        "blockNumber": "0x56a1d06",
        "transactionHash": "0x" + "21" * 32,
        "blockTimestamp": "0x6a64696e",
        "logIndex": "0x215",
    }
    return log | changes


def test_a_v2_log_becomes_a_row() -> None:
    [rows], dead = decode_logs([v2_log()], source="polygon")
    assert dead == []
    assert rows.to_pylist() == [
        {
            "timestamp": datetime.fromtimestamp(0x6A64696E, UTC),
            "block_number": 0x56A1D06,
            "log_index": 0x215,
            "tx_hash": "0x" + "21" * 32,
            "order_hash": "0x" + "bf" * 32,
            "contract_version": "v2",
            "exchange": "0xe111180000d2663c0091e4f400237545b87b996b",
            "maker": "0x" + "a2" * 20,
            "taker": "0x" + "92" * 20,
            "maker_asset_id": "",
            "taker_asset_id": "",
            "side": "SELL",
            "token_id": str(2**255 + 12345),
            "maker_amount": 260_000,
            "taker_amount": 250_000,
            "fee": 1_000,
            "builder": "0x" + word(0xB17D),
            "source": "polygon",
            "is_deleted": 0,
            "load_id": 0,
        }
    ]


def test_a_v1_log_becomes_a_row() -> None:
    token = 2**254 + 1
    log = v2_log(
        address="0x4bFb41d5B3570DeFd03C39a9A4D8dE6Bd8B8982E",
        data="0x" + "".join(word(value) for value in [0, token, 7_434_000, 17_700_000, 1_770_000]),
    )
    log["topics"] = [ORDER_FILLED_TOPICS[V1], *log["topics"][1:]]
    [rows], _ = decode_logs([log], source="polygon")
    [row] = rows.to_pylist()
    assert (row["contract_version"], row["maker_asset_id"], row["taker_asset_id"]) == (
        "v1",
        "0",
        str(token),
    )
    assert (row["maker_amount"], row["taker_amount"], row["fee"]) == (
        7_434_000,
        17_700_000,
        1_770_000,
    )
    assert (row["side"], row["token_id"], row["builder"]) == ("", "", "")


V3_EXCHANGE = "0xe3333700cA9d93003F00f0F71f8515005F6c00Aa"


def test_a_v3_log_becomes_a_row_of_its_own_generation() -> None:
    """ExchangeV3 kept the event of V2, so its address alone names the generation."""
    [v2], _ = decode_logs([v2_log()], source="polygon")
    [v3], dead = decode_logs([v2_log(address=V3_EXCHANGE)], source="polygon")
    changed = {"contract_version": "v3", "exchange": V3_EXCHANGE.lower()}
    assert dead == []
    assert v3.to_pylist() == [v2.to_pylist()[0] | changed]


def test_a_range_of_all_generations_is_asked_for_by_each_address_and_topic_once() -> None:
    assert exchanges_of((V2, V3)) == [a for a, version in KNOWN_EXCHANGES.items() if version != V1]
    assert topics_of((V2, V3)) == topics_of((V2,)) == topics_of((V3,)) == [ORDER_FILLED_TOPICS[V2]]
    assert topics_of((V1, V2, V3)) == [ORDER_FILLED_TOPICS[V1], ORDER_FILLED_TOPICS[V2]]


@given(
    block=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**32 - 1),
    time=st.integers(0, 2**32 - 1),
)
def test_numbers_may_be_quantities_or_integers(block: int, index: int, time: int) -> None:
    """JSON-RPC sends 0x and hex digits, SQD sends integers."""
    numbers = {"blockNumber": block, "logIndex": index, "blockTimestamp": time}
    quantities = {name: hex(number) for name, number in numbers.items()}
    tables, dead = decode_logs([v2_log(**numbers), v2_log(**quantities)], source="polygon")
    assert dead == []
    one, other = (row for table in tables for row in table.to_pylist())
    assert one == other
    assert (one["block_number"], one["log_index"]) == (block, index)
    assert one["timestamp"].timestamp() == time


def test_no_builder_is_empty() -> None:
    words = [0, 5, 1, 1, 0, 0, 0]
    log = v2_log(data="0x" + "".join(word(value) for value in words))
    [rows], _ = decode_logs([log], source="polygon")
    assert rows.column("builder").to_pylist() == [""]
    assert rows.column("side").to_pylist() == ["BUY"]


def data(**at: int) -> str:
    words = [1, 5, 260_000, 250_000, 1_000, 0, 0]
    for name, value in at.items():
        words[int(name[1:])] = value
    return "0x" + "".join(word(value) for value in words)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (v2_log(data=data(_2=2**64)), "amount_out_of_range"),
        (v2_log(logIndex=hex(2**32)), "amount_out_of_range"),
        (v2_log(data=data(_0=2)), "bad_field"),
        (v2_log(data="0x1234"), "bad_field"),
        (v2_log(data=data()[:-1] + "g"), "bad_field"),
        (v2_log(data="0x_" + data()[3:]), "bad_field"),  # int() takes underscores
        (v2_log(logIndex="5"), "bad_field"),
        (v2_log(blockNumber=" 0x5"), "bad_field"),
        (v2_log(data="0x" + "zz" * 32 + data()[66:]), "bad_field"),
        (v2_log(transactionHash="0x12"), "bad_field"),
        (v2_log(blockNumber=None), "bad_field"),
        (v2_log(blockNumber=-1), "amount_out_of_range"),
        (v2_log(blockNumber=2**64 - 1, logIndex=2**32), "amount_out_of_range"),
        (v2_log(blockTimestamp=2**32), "amount_out_of_range"),
        (v2_log(blockNumber=5.0), "bad_field"),
        (v2_log(logIndex=True), "bad_field"),
        ({k: v for k, v in v2_log().items() if k != "logIndex"}, "missing_field"),
        (v2_log(topics=[ORDER_FILLED_TOPICS[V2]]), "bad_field"),
        (v2_log(topics=[ORDER_FILLED_TOPICS[V1], *v2_log()["topics"][1:]]), "unknown_contract"),
        (v2_log(address="0x" + "11" * 20), "unknown_contract"),
        (v2_log(address=V3_EXCHANGE, topics=[ORDER_FILLED_TOPICS[V1]]), "unknown_contract"),
        (v2_log(address=None), "unknown_contract"),
        (v2_log(topics=None), "unknown_contract"),
        ("a string", "not_an_object"),
        (None, "not_an_object"),
    ],
)
def test_a_bad_log_is_a_dead_letter_and_its_neighbours_are_rows(log, reason: str | None) -> None:
    tables, dead = decode_logs([v2_log(), log, v2_log()], source="polygon")
    assert [letter.reason for letter in dead] == ([reason] if reason else [])
    assert sum(map(len, tables)) == 3 - len(dead)
    for letter in dead:
        assert orjson.loads(letter.payload) == log
        assert letter.detail


def test_addresses_and_topics_agree_with_the_simulated_contracts() -> None:
    """Two lists written from the same facts; a slip in one would lose fills in silence."""
    for (version, _), address in EXCHANGES.items():
        assert KNOWN_EXCHANGES[address] == version
    assert ORDER_FILLED_TOPICS == simulated_contracts.ORDER_FILLED_TOPICS


# -- ranges ---


def calls_in(body: bytes) -> list[dict]:
    request = orjson.loads(body)
    return request if isinstance(request, list) else [request]


def blocks_of(call: dict) -> int:
    """Blocks that a call asks for the logs of."""
    query = call["params"][0] if call["method"] == "eth_getLogs" else {}
    if "fromBlock" not in query:
        return 0
    return int(query["toBlock"], 16) - int(query["fromBlock"], 16) + 1


def read_blocks(url: str, first: int, last: int, *, versions=(V2,), block_range: int = 64):
    reader = RangeReader(endpoints(url, block_range=block_range), versions, head=last + 5)
    found, dead, block = [], [], None
    while first <= last:
        tables, letters, block = reader.read(first, last, block)
        dead += letters
        for table in tables:
            columns = (table.column("block_number"), table.column("log_index"))
            found += zip(*(column.to_pylist() for column in columns), strict=True)
        first = block.number + 1
    assert dead == []
    return sorted(found)


@settings(max_examples=15, deadline=None)
@given(
    blocks=st.lists(st.integers(START, START + 60), min_size=1, max_size=40, unique=True),
    result_cap=st.integers(4, 30),  # a block has up to four logs
    block_range_cap=st.integers(1, 40),
    block_range=st.integers(1, 100),
    with_timestamp=st.booleans(),
    bounds=st.tuples(st.integers(START - 3, START + 65), st.integers(START - 3, START + 65)),
)
def test_fetched_is_true_set(
    blocks, result_cap, block_range_cap, block_range, with_timestamp, bounds
) -> None:
    fills = fills_in(*sorted(blocks))
    first, last = sorted(bounds)
    limits = NodeLimits(result_cap, block_range_cap, with_timestamp)
    with AppServer(polygon_app(Chain(fills, head=START + 70), limits)) as server:
        found = read_blocks(server.base_url, first, last, block_range=block_range)
    assert found == keys([fill for fill in fills if first <= fill.block_number <= last])


def test_a_block_that_is_too_large_alone_is_an_error() -> None:
    fills = [fill for seed in range(9) for fill in fills_in(START, seed=seed)]
    app = polygon_app(Chain(fills, head=START + 5), NodeLimits(result_cap=2))
    too_large = pytest.raises(RangeTooLarge, match="more than 2 results")
    with AppServer(app) as server, too_large:
        read_blocks(server.base_url, START, START + 3)


@pytest.mark.parametrize(
    "message",
    [
        "query returned more than 10000 results",
        "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range",
        "eth_getLogs is limited to a 10,000 range",
        "block range is too wide",
        "exceed maximum block range: 5000",
        "Block range limit exceeded. See more details at",
        "too many results, please reduce the range",
        "eth_getLogs and eth_newFilter are limited to a 10,000 blocks range",
        "query timeout exceeded",
        "backend response too large",
        "You can make eth_getLogs requests with up to a 10 block range on the free tier",
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_every_wording_of_too_much_shrinks_the_range(message: str, status: int) -> None:
    chain = Chain(fills_in(*range(START, START + 20)), head=START + 30)
    inner = AppServer(polygon_app(chain))

    def respond(path: str, body: bytes):
        if any(blocks_of(call) > 5 for call in calls_in(body)):
            error = {"jsonrpc": "2.0", "id": 0, "error": {"code": -32005, "message": message}}
            return as_json(error, status=status)
        return as_json(client().post_json(inner.base_url, orjson.loads(body)))

    with inner, ScriptedServer(respond) as server:
        found = read_blocks(server.url, START, START + 29)
    assert len(found) == len(list(chain.logs(START, START + 29)))


BLOCK_9 = {"number": "0x9", "timestamp": "0x6a64696e", "hash": "0x9"}
BLOCK_1 = {"id": 0, "result": BLOCK_9 | {"number": "0x1"}}
LOGS = {"id": 1, "result": []}


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (as_json({"error": {"code": -32000, "message": "no state"}}), RpcError, "no state"),
        (
            as_json([{"id": 0, "error": {"code": -32005, "message": "request count exceeded"}}]),
            RateLimited,
            "rate limited",
        ),
        (HTML, NotJson, "HTML"),
        (as_json([{"id": 0, "result": []}]), WrongShape, "no block"),
        (as_json([{"id": 0, "result": None}, {"id": 1, "result": []}]), NodeBehind, "that block"),
        (as_json([{"id": 0}, {"id": 1, "result": {}}]), WrongShape, "list"),
        (as_json([{"id": [0]}, {"id": 1}]), WrongShape, "does not match"),
        (as_json([{"id": 0}, {"id": 1}, 7]), WrongShape, "does not match"),
        (as_json([BLOCK_1 | {"result": BLOCK_9}, LOGS]), WrongShape, "answered with block 9"),
        (as_json([BLOCK_1, LOGS | {"result": [v2_log()]}]), WrongShape, "not asked for"),
    ],
)
def test_faults_are_named(answer, error: type[IngestError], words: str) -> None:
    with ScriptedServer(lambda path, body: answer) as server, pytest.raises(error) as caught:
        read_blocks(server.url, 1, 9, block_range=1)
    assert words in str(caught.value)


def test_removed_logs_are_left_out() -> None:
    logs = [v2_log(removed=removed, blockNumber="0x9") for removed in (True, False)]
    answer = [{"id": 0, "result": BLOCK_9}, {"id": 1, "result": logs}]
    with ScriptedServer(lambda path, body: as_json(answer)) as server:
        assert len(read_blocks(server.url, 9, 9)) == 1


def test_a_log_that_comes_twice_counts_once() -> None:
    answer = [{"id": 0, "result": BLOCK_9}, {"id": 1, "result": [v2_log(blockNumber="0x9")] * 2}]
    with ScriptedServer(lambda path, body: as_json(answer)) as server:
        assert len(read_blocks(server.url, 9, 9)) == 1


def test_block_by_time() -> None:
    with AppServer(polygon_app(Chain(head=1000))) as server:
        node = Node(client(), server.base_url)
        moments = [block_time(500), block_time(500) - 1, 0, block_time(1000) + 1]
        found = [first_since(moment, node.head(), node.block, {}) for moment in moments]
        assert found == [500, 500, 0, 1001]


# -- into ClickHouse ---


@pytest.fixture
def lake(clickhouse, database_prefix: str, tmp_path: Path) -> Lake:
    return open_lake(clickhouse, database_prefix, tmp_path / "dlt")


@pytest.fixture(scope="module")
def server():
    world = World.generate(
        3, now=datetime(2026, 4, 29, tzinfo=UTC), markets=20, matches=300, v1_days=0.2, v2_days=0.4
    )
    with SandboxServer(world) as running_server:
        yield running_server


def load(
    lake: Lake, server, *, budget: float | None = None, block_range: int = 64, **options
) -> Progress:
    pace = Pace(confirmations=3, stale_after=None, second_reading=None)
    options = {"start": HORIZON.block_number, "pace": pace} | options
    return lake.load(
        "polygon",
        lambda progress: polygon(
            endpoints(server.urls.polygon_url, block_range=block_range),
            progress=progress,
            known_fills=lake.known_fills,
            **options,
        ),
        budget=budget,
    )


def stored(lake: Lake) -> list[tuple]:
    return lake.rows(
        "select block_number, log_index, tx_hash, order_hash, maker_amount"
        " from {db}.order_filled final order by all"
    )


def on_chain(world: World, last: int, *, versions: tuple[str, ...] = (V2, V3)) -> list[tuple]:
    legs = [leg for match in world.matches for leg in match.legs if leg.version in versions]
    return sorted(
        (leg.block_number, leg.log_index, leg.tx_hash, leg.order_hash, leg.maker_amount)
        for leg in legs
        if leg.block_number <= last
    )


def test_the_chain_lands_once_and_follows_reorganisations(lake: Lake, server) -> None:
    world = server.world
    progress = load(lake, server)
    assert progress.caught_up == {"order_filled_chain": True}
    assert progress.watermark == {"order_filled_chain": block_time(world.chain.head - 3)}
    assert stored(lake) == on_chain(world, world.chain.head - 3)

    loads = lake.count("_dlt_loads")
    load(lake, server)
    assert lake.count("_dlt_loads") == loads, "nothing new is no load at all"

    for depth in (40, 90):
        world.advance(100)
        load(lake, server)
        rows = lake.count("order_filled")
        world.reorg(depth)  # deeper than the confirmations: stored fills are gone
        world.advance(4)
        load(lake, server)
        assert stored(lake) == on_chain(world, world.chain.head - 3)
        assert lake.count("order_filled") > rows
    assert lake.rows("select count() from {db}.order_filled where is_deleted")[0][0] > 0


def test_what_a_run_has_just_read_is_not_late(lake: Lake, server) -> None:
    """Its rows land after it, so a second reading in the same run would miss all of them."""
    pace = Pace(confirmations=3, stale_after=None, second_reading=60)
    first = on_chain(server.world, server.world.chain.head)[0][0]
    for _ in range(2):
        load(lake, server, pace=pace, start=first)
        assert lake.count("late_fills") == 0
    assert stored(lake) == on_chain(server.world, server.world.chain.head - 3)
    assert lake.state("polygon")["order_filled_chain"]["head"]["second_next"] > first


def test_a_second_reading_that_nobody_answers_is_a_failure_in_the_end(
    lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then it is a warning: most providers have an hour in which they are back."""
    view = UpTo(chain_of("thin"), BASE + 100)
    provider = ProviderEndpoint(Provider(), view)
    takers = b"null,null"  # only the second reading asks by takers

    def respond(path: str, body: bytes) -> Answer:
        if takers in body:
            return as_json({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no"}})
        answer = provider.respond(Request(path, b"", body))
        return Answer(answer.body, answer.status, answer.headers)

    pace = Pace(confirmations=0, stale_after=None, second_reading=60)
    with ScriptedServer(respond) as server:
        urls = SimpleNamespace(urls=SimpleNamespace(polygon_url=server.url))
        load(lake, urls, pace=pace, start=BASE)
        view.head += 1000
        load(lake, urls, pace=pace)
        assert "second reading of blocks" in caplog.text
        view.head += 1000
        load(lake, urls, pace=pace)
        with pytest.raises(Unconfirmed, match=f"second time since block {BASE}"):
            load(lake, urls, pace=pace)
        takers = b"nothing"
        assert load(lake, urls, pace=pace).failures == []


def test_a_second_reading_that_cannot_be_parsed_takes_nothing_back(
    lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    view = UpTo(chain_of("thin"), BASE + 100)
    provider, is_sick = ProviderEndpoint(Provider(), view), False

    def respond(path: str, body: bytes) -> Answer:
        answer = provider.respond(Request(path, b"", body))
        content = answer.body
        if is_sick:
            content = content.replace(b'"transactionHash":"0x', b'"transactionHash":null,"was":"0x')
        return Answer(content, answer.status, answer.headers)

    pace = Pace(confirmations=0, stale_after=None, second_reading=60)
    with ScriptedServer(respond) as server:
        urls = SimpleNamespace(urls=SimpleNamespace(polygon_url=server.url))
        load(lake, urls, pace=pace, start=BASE)
        before = stored(lake)
        assert len(before) > 50
        is_sick = True
        load(lake, urls, pace=pace)
        assert "no fill of them is taken back" in caplog.text
        assert stored(lake) == before
        assert lake.count("late_fills") == 0


def test_blocks_to_read_again_that_were_not_seen_yet_are_a_failure(lake: Lake, server) -> None:
    head = server.world.chain.head
    with pytest.raises(NodeBehind, match=f"the newest block is {head}"):
        load(lake, server, recheck=[(head - 5, head + 1)])
    assert stored(lake) == on_chain(server.world, head - 3)
    load(lake, server, recheck=[(head - 5, head)])
    assert stored(lake) == on_chain(server.world, head)


def test_runs_with_a_budget_add_up(lake: Lake, server) -> None:
    runs = 0
    while not load(lake, server, budget=0.0, block_range=2500).caught_up["order_filled_chain"]:
        runs += 1
    assert runs >= 5
    assert stored(lake) == on_chain(server.world, server.world.chain.head - 3)


def test_the_first_run_reads_the_last_hour(lake: Lake, server) -> None:
    load(lake, server, start=None, lookback=3600)
    since = block_time(server.world.chain.head) - 3600
    wanted = [
        row
        for row in on_chain(server.world, server.world.chain.head - 3)
        if block_time(row[0]) >= since
    ]
    assert stored(lake) == wanted


def test_a_head_that_stands_still_is_an_error_after_what_there_is(lake: Lake, server) -> None:
    clock = block_time(server.world.chain.head) + 601
    with pytest.raises(SourceFrozen, match="POLYGON_RPC_URL"):
        load(lake, server, pace=Pace(3, stale_after=600), now=lambda: clock)
    assert stored(lake) == on_chain(server.world, server.world.chain.head - 3)
    load(lake, server, pace=Pace(3, stale_after=602), now=lambda: clock)


def test_a_node_that_lags_behind_the_cursor_is_no_reorganisation(lake: Lake, server) -> None:
    load(lake, server)
    rows = lake.count("order_filled")
    lagging = AppServer(polygon_app(Chain(head=server.world.chain.head - 50)))
    with lagging:
        progress = lake.load(
            "polygon",
            lambda progress: polygon(
                endpoints(lagging.base_url),
                progress=progress,
                known_fills=lake.known_fills,
                pace=Pace(stale_after=None, second_reading=None),
            ),
        )
    assert progress.failures == []
    assert lake.count("order_filled") == rows


# -- contracts that are not known ---


@pytest.mark.parametrize("with_timestamp", [True, False])
def test_logs_of_an_unknown_contract_are_letters_that_can_be_read_once_it_is_known(
    lake: Lake,
    with_timestamp: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They have the topic of a fill, and are found by a query without addresses."""
    world = World.generate(
        4, now=datetime(2026, 4, 29, tzinfo=UTC), markets=20, matches=60, v1_days=0, v2_days=0.02
    )
    stranger = "0x" + "e" * 40
    strays = [
        Fill(0, f"0x{n:064x}", f"0x{n:064x}", str(2**200 + n), exchange=stranger, version=V2)
        for n in (1, 2)
    ]
    world.stray(*strays)
    world.advance(2)
    limits = NodeLimits(with_timestamp=with_timestamp)
    with AppServer(polygon_app(world.chain, limits)) as server, caplog.at_level("WARNING"):
        urls = SimpleNamespace(polygon_url=server.base_url)
        load(lake, SimpleNamespace(urls=urls), pace=Pace(0, stale_after=None, second_reading=None))
    assert re.search(f"2 OrderFilled logs of unknown contracts .*{stranger}", caplog.text)
    assert stored(lake) == on_chain(world, world.chain.head)
    rows = lake.rows("select reason, payload from {db}.dead_letter_sightings")
    assert [reason for reason, _ in rows] == ["unknown_contract"] * 2

    monkeypatch.setitem(KNOWN_EXCHANGES, stranger, V2)
    [table], dead = decode_logs([orjson.loads(payload) for _, payload in rows], source="polygon")
    assert dead == []
    assert sorted(table.column("tx_hash").to_pylist()) == [fill.tx_hash for fill in strays]
    assert {time.timestamp() for time in table.column("timestamp").to_pylist()} == {
        block_time(world.chain.head - 1)
    }
