"""The simulated Polygon node and the server around it: log encoding, caps, and steering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from worlds import PATIENCE_S

from sandbox.blocks import EMPTY_ROOT, FULL_BLOOM
from sandbox.chain import Chain
from sandbox.contracts import (
    EXCHANGES,
    ORDER_FILLED_TOPICS,
    ORDERS_MATCHED_TOPICS,
    SELL,
    TRANSFER_TOPIC,
    V1,
    V2,
    Fill,
    log_of,
)
from sandbox.keccak import bloom_bits, keccak256
from sandbox.polygon import NodeLimits, polygon_app
from sandbox.server import AppServer, SandboxServer
from sandbox.truth import Truth
from sandbox.world import World

NOW = datetime(2026, 7, 1, tzinfo=UTC)
Call = Callable[..., Any]


def caller(url: str) -> Call:
    """A JSON-RPC call; returns the result, or the error object."""

    def call(method: str, *params: object) -> Any:
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        answer = requests.post(url, json=request, timeout=PATIENCE_S, allow_redirects=False).json()
        assert answer["id"] == 7
        return answer["result"] if "result" in answer else answer["error"]

    return call


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    world = World.generate(2, now=NOW, markets=60, matches=2_000)
    with SandboxServer(world, limits=NodeLimits(result_cap=500, block_range_cap=50_000)) as running:
        yield running


@pytest.fixture(scope="module")
def call(server: SandboxServer) -> Call:
    return caller(server.urls.polygon_url)


def words(data: str) -> list[int]:
    return [int(data[start : start + 64], 16) for start in range(2, len(data), 64)]


# -- encoding --------------------------------------------------------------------------------------


def test_a_v1_log_carries_asset_ids_amounts_and_fee():
    fill = Fill(
        timestamp=1_767_808_829,
        tx_hash="0x" + "a" * 64,
        order_hash="0x" + "b" * 64,
        token_id=str(2**255 + 1),
        shares=17_700_000,
        usd=7_434_000,
        fee=1_770_000,
        block_number=81_344_785,
        log_index=1357,
        tx_index=3,
    )
    log = log_of(fill, "0x" + "c" * 64, with_timestamp=True)
    assert log == {
        "address": EXCHANGES[V1, False],
        "topics": [
            ORDER_FILLED_TOPICS[V1],
            "0x" + "b" * 64,
            "0x" + "0" * 24 + "1" * 40,
            "0x" + "0" * 24 + "2" * 40,
        ],
        "data": log["data"],
        "blockNumber": "0x4d93911",
        "blockHash": "0x" + "c" * 64,
        "transactionHash": "0x" + "a" * 64,
        "transactionIndex": "0x3",
        "logIndex": "0x54d",
        "removed": False,
        "blockTimestamp": "0x695e9f3d",
    }
    assert words(log["data"]) == [0, 2**255 + 1, 7_434_000, 17_700_000, 1_770_000]
    assert log["data"] == log["data"].lower()


def test_a_v2_log_carries_side_token_amounts_fee_builder_and_metadata():
    fill = Fill(
        timestamp=1,
        tx_hash="0x1",
        order_hash="0x2",
        token_id="99",
        side=SELL,
        shares=4_180_000,
        usd=3_929_200,
        fee=10,
        version=V2,
        exchange=EXCHANGES[V2, True],
        builder="0x" + "0" * 63 + "5",
    )
    log = log_of(fill, "0x", with_timestamp=False)
    assert words(log["data"]) == [1, 99, 4_180_000, 3_929_200, 10, 5, 0]
    assert log["topics"][0] == ORDER_FILLED_TOPICS[V2]
    assert "blockTimestamp" not in log


# -- node ------------------------------------------------------------------------------------------


def test_the_chain_and_its_head(server, call):
    head = server.world.chain.head
    assert call("eth_chainId") == "0x89"
    assert call("eth_blockNumber") == hex(head)
    latest = call("eth_getBlockByNumber", "latest", False)
    assert latest == call("eth_getBlockByNumber", hex(head), False)
    assert int(latest["timestamp"], 16) == int(NOW.timestamp())
    assert latest["parentHash"] == call("eth_getBlockByNumber", hex(head - 1), False)["hash"]
    finalized = call("eth_getBlockByNumber", "finalized", False)
    assert int(finalized["number"], 16) < head
    assert call("eth_getBlockByNumber", hex(head + 1), False) is None


def test_logs_by_address_and_topic(server, call):
    head = server.world.chain.head
    span = {"fromBlock": hex(head - 8_000), "toBlock": "latest"}
    legs = [
        leg
        for match in server.world.matches
        for leg in match.legs
        if leg.block_number >= head - 8_000
    ]
    topic = {"topics": [[ORDER_FILLED_TOPICS[V1], ORDER_FILLED_TOPICS[V2]]]}
    logs = call("eth_getLogs", span | topic)
    found = [(log["transactionHash"], int(log["logIndex"], 16)) for log in logs]
    assert found == [(leg.tx_hash, leg.log_index) for leg in legs]
    neg_risk = EXCHANGES[V2, True]
    logs = call("eth_getLogs", span | topic | {"address": neg_risk.upper().replace("X", "x")})
    assert len(logs) == sum(leg.exchange == neg_risk for leg in legs)
    every = {"address": list(EXCHANGES.values())}
    assert len(call("eth_getLogs", span | topic | every)) == len(legs)
    maker = "0x" + "0" * 24 + legs[0].maker[2:]
    logs = call("eth_getLogs", span | {"topics": [ORDER_FILLED_TOPICS[V2], None, maker]})
    assert len(logs) == sum(leg.maker == legs[0].maker for leg in legs)


def test_without_a_topic_other_events_come_too(server, call):
    head = server.world.chain.head
    logs = call("eth_getLogs", {"fromBlock": hex(head - 200), "toBlock": hex(head)})
    topics = [log["topics"][0] for log in logs]
    assert topics.count(ORDERS_MATCHED_TOPICS[V2]) > 0
    assert set(topics) == {ORDERS_MATCHED_TOPICS[V2], ORDER_FILLED_TOPICS[V2], TRANSFER_TOPIC}
    places = [(int(log["blockNumber"], 16), int(log["logIndex"], 16)) for log in logs]
    assert places == sorted(set(places))


def test_logs_of_one_block_by_its_hash(server, call):
    chain = server.world.chain
    last = server.world.matches[-1].taker_leg
    name = call("eth_getBlockByNumber", hex(last.block_number), False)["hash"]
    number = hex(last.block_number)
    for filters in ({}, {"address": last.exchange}):
        by_number = call("eth_getLogs", {"fromBlock": number, "toBlock": number} | filters)
        assert by_number == call("eth_getLogs", {"blockHash": name} | filters)
        assert last.tx_hash in {log["transactionHash"] for log in by_number}
    unknown = {"code": -32000, "message": "unknown block"}
    assert call("eth_getLogs", {"blockHash": "0x" + "5" * 64}) == unknown
    beyond = chain.block_hash(chain.head + 1)
    assert call("eth_getLogs", {"blockHash": beyond}) == unknown
    both = call("eth_getLogs", {"blockHash": name, "fromBlock": number})
    assert both["code"] == -32602


def test_a_replaced_block_is_unknown_by_its_hash():
    chain = Chain(head=50)
    gone = chain.block_hash(45)
    chain.rewind(10)
    chain.append([], 50)
    with AppServer(polygon_app(chain)) as server:
        call = caller(server.base_url)
        assert call("eth_getLogs", {"blockHash": gone})["message"] == "unknown block"
        assert call("eth_getBlockByHash", gone, False) is None
        assert call("eth_getBlockReceipts", gone) is None
        assert call("eth_getLogs", {"blockHash": chain.block_hash(45)}) is not None


def test_receipts_hold_all_logs_of_their_block_and_the_header_fits(server, call):
    """Whatever a reader may check an answer with agrees with the answer."""
    chain = server.world.chain
    empty = busy = 0
    for number in range(chain.head - 60, chain.head + 1):
        tag = hex(number)
        header = call("eth_getBlockByNumber", tag, False)
        receipts = call("eth_getBlockReceipts", tag)
        logs = call("eth_getLogs", {"fromBlock": tag, "toBlock": tag})
        assert [log for receipt in receipts for log in receipt["logs"]] == logs
        assert [receipt["transactionHash"] for receipt in receipts] == header["transactions"]
        assert call("eth_getBlockReceipts", header["hash"]) == receipts
        assert (header["gasUsed"] == "0x0") == (not receipts)
        assert (header["receiptsRoot"] == EMPTY_ROOT) == (not receipts)
        bits = int(header["logsBloom"], 16)
        for log in logs:
            for item in (log["address"], log["topics"][0]):
                assert bits & bloom_bits(item) == bloom_bits(item)
        for receipt in receipts[:2]:
            name = receipt["transactionHash"]
            assert call("eth_getTransactionReceipt", name) == receipt
        empty += not receipts
        busy += bool(logs)
    assert empty and busy
    assert call("eth_getBlockReceipts", hex(chain.head + 1)) is None
    assert call("eth_getTransactionReceipt", "0x" + "9" * 64) is None


def test_transactions_stand_at_their_index(server, call):
    leg = server.world.matches[-1].taker_leg
    header = call("eth_getBlockByNumber", hex(leg.block_number), False)
    assert header["transactions"][leg.tx_index] == leg.tx_hash


def test_blooms_of_busy_blocks_may_exclude_nothing():
    fill = Fill(
        timestamp=1, tx_hash="0x1", order_hash="0x" + "1" * 64, token_id="1", block_number=9
    )
    limits = NodeLimits(saturated_bloom=True)
    with AppServer(polygon_app(Chain([fill]), limits)) as server:
        call = caller(server.base_url)
        assert call("eth_getBlockByNumber", "0x9", False)["logsBloom"] == FULL_BLOOM


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (b"Transfer(address,address,uint256)", TRANSFER_TOPIC[2:]),
        (b"a" * 135, "34367dc248bbd832f4e3e69dfaac2f92638bd0bbd18f2912ba4ef454919cf446"),
        (b"a" * 136, "a6c4d403279fe3e0af03729caada8374b5ca54d8065329a3ebcaeb4b60aa386e"),
    ],
)
def test_keccak(data, digest):
    assert keccak256(data).hex() == digest


def test_v1_logs_are_on_the_chain_as_well(server, call):
    leg = server.world.matches[0].taker_leg
    assert leg.version == V1
    number = hex(leg.block_number)
    logs = call("eth_getLogs", {"fromBlock": number, "toBlock": number, "address": leg.exchange})
    assert leg.order_hash in {log["topics"][1] for log in logs}


def test_more_results_than_the_cap_are_an_error(server, call):
    head = server.world.chain.head
    answer = call("eth_getLogs", {"fromBlock": hex(head - 49_000), "toBlock": hex(head)})
    assert answer == {"code": -32005, "message": "query returned more than 500 results"}


def test_a_range_beyond_the_cap_is_an_error(server, call):
    head = server.world.chain.head
    answer = call("eth_getLogs", {"fromBlock": hex(head - 50_000), "toBlock": hex(head)})
    assert answer == {"code": -32602, "message": "exceed maximum block range: 50000"}


def test_exactly_the_caps_are_allowed():
    fills = [
        Fill(timestamp=1, tx_hash=f"0x{n}", order_hash="0x1", token_id="1", block_number=n)
        for n in range(10)
    ]
    limits = NodeLimits(result_cap=10, block_range_cap=10, with_timestamp=False)
    with AppServer(polygon_app(Chain(fills), limits)) as server:
        call = caller(server.base_url)
        span = {"fromBlock": "0x0", "toBlock": "0x9", "address": EXCHANGES[V1, False]}
        logs = call("eth_getLogs", span)
        assert [log["transactionHash"] for log in logs] == [f"0x{n}" for n in range(10)]
        assert not any("blockTimestamp" in log for log in logs)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("eth_gasPrice", [], -32601),
        ("eth_getBlockByNumber", [], -32602),
        ("eth_getBlockByNumber", ["123", False], -32602),
        ("eth_getLogs", [{"fromBlock": "0x5", "toBlock": "0x4"}], -32602),
        ("eth_getLogs", [{"blockHash": "0x5"}], -32602),
    ],
)
def test_errors_have_the_codes_of_json_rpc(call, method, params, code):
    assert call(method, *params)["code"] == code


def test_a_batch_is_answered_in_order(server):
    batch = [
        {"jsonrpc": "2.0", "id": number, "method": "eth_getBlockByNumber", "params": [tag, False]}
        for number, tag in enumerate(["0x53b0000", "latest", "0x7fffffff"])
    ]
    answers = requests.post(server.urls.polygon_url, json=batch, timeout=PATIENCE_S).json()
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert answers[0]["result"]["number"] == "0x53b0000"
    assert answers[2]["result"] is None
    broken = requests.post(server.urls.polygon_url, data="{", timeout=PATIENCE_S).json()
    assert broken["error"]["code"] == -32700


# -- server ----------------------------------------------------------------------------------------


def test_blocks_can_be_mined_and_counted_over_http():
    world = World.generate(2, now=NOW, markets=20, matches=200)
    with SandboxServer(world) as server:
        head = world.chain.head
        call = caller(server.urls.polygon_url)
        old = call("eth_getBlockByNumber", hex(head), False)
        url = f"{server.base_url}/sandbox"
        advanced = requests.post(f"{url}/advance", json={"blocks": 30}, timeout=PATIENCE_S).json()
        assert advanced["head"] == head + 30
        assert call("eth_blockNumber") == hex(head + 30)
        assert requests.get(f"{url}/truth", timeout=PATIENCE_S).json() == Truth(world).totals()
        assert requests.get(f"{url}/stats", timeout=PATIENCE_S).json()["/polygon"] == 2
        world.reorg(31)
        assert call("eth_getBlockByNumber", hex(head), False)["hash"] != old["hash"]


def test_a_taken_port_is_named():
    app = polygon_app(Chain())
    with AppServer(app) as server, pytest.raises(OSError, match=f"port {server.port} is taken"):
        AppServer(app, server.port)
