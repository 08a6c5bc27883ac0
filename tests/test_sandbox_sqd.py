"""The simulated SQD Portal: what a stream covers, its filters, its ends, forks, limits and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from worlds import PATIENCE_S

from sandbox.blocks import Block
from sandbox.chain import Chain
from sandbox.clock import block_time
from sandbox.contracts import EXCHANGES, ORDER_FILLED_TOPICS, TRANSFER_TOPIC, V2, Fill
from sandbox.server import SandboxServer
from sandbox.sqd import CONFLICT_BLOCKS, FINALITY_BLOCKS, Portal, PortalLimits
from sandbox.wire import Answer, Request
from sandbox.world import World

NOW = datetime(2026, 7, 1, tzinfo=UTC)
BASE = "/datasets/polygon-mainnet"
FIELDS = {
    "block": {"number": True, "hash": True, "timestamp": True},
    "log": {
        "address": True,
        "topics": True,
        "data": True,
        "transactionHash": True,
        "logIndex": True,
    },
}
FILLS = [{"address": sorted(EXCHANGES.values()), "topic0": sorted(ORDER_FILLED_TOPICS.values())}]


def fill(block: int, index: int = 0, **values: Any) -> Fill:
    values = {"version": V2, "exchange": EXCHANGES[V2, False]} | values
    return Fill(
        timestamp=block_time(block),
        tx_hash="0x" + f"{block:064x}",
        order_hash="0x" + f"{index:064x}",
        token_id="7",
        block_number=block,
        log_index=index,
        **values,
    )


def chain() -> Chain:
    """Blocks 0 to 100, with fills in 10, 20 (two of them) and 50."""
    return Chain([fill(10), fill(20, 3), fill(20, 5), fill(50)], head=100)


def ask(portal: Portal, path: str, **query: Any) -> Answer:
    body = json.dumps({"type": "evm", "fields": FIELDS} | query).encode()
    return portal.respond(Request(BASE + path, b"", body))


def lines(answer: Answer) -> list[dict]:
    assert answer.status == 200
    assert answer.body.endswith(b"\n")
    return [json.loads(line) for line in answer.body.splitlines()]


def numbers(answer: Answer) -> list[int]:
    return [line["header"]["number"] for line in lines(answer)]


def error(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


# -- what is sent ----------------------------------------------------------------------------------


def test_first_and_last_block_are_sent_and_those_with_matches_between():
    answer = ask(Portal(chain()), "/stream", fromBlock=5, toBlock=30, logs=FILLS)
    assert numbers(answer) == [5, 10, 20, 30]
    assert ["logs" in line for line in lines(answer)] == [False, True, True, False]
    assert [log["logIndex"] for log in lines(answer)[2]["logs"]] == [3, 5]


def test_all_blocks_are_sent_when_asked_for():
    answer = ask(Portal(chain()), "/stream", fromBlock=8, toBlock=12, includeAllBlocks=True)
    assert numbers(answer) == [8, 9, 10, 11, 12]
    assert not any("logs" in line for line in lines(answer))


def test_only_the_fields_asked_for_are_sent_integers_as_numbers():
    world = chain()
    fields = {"block": {"timestamp": True, "hash": True}, "log": {"transactionIndex": True}}
    answer = ask(Portal(world), "/stream", fromBlock=10, toBlock=10, logs=FILLS, fields=fields)
    header = {"timestamp": block_time(10), "hash": world.block_hash(10)}
    assert lines(answer) == [{"header": header, "logs": [{"transactionIndex": 0}]}]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([{"topic0": [ORDER_FILLED_TOPICS[V2]]}], [10, 20, 50]),
        ([{"address": [EXCHANGES[V2, False]]}], [10, 20, 50]),
        ([{"address": [EXCHANGES[V2, True]]}], []),
        ([{"address": [EXCHANGES[V2, False].upper()]}], []),
        ([{"address": []}], []),
        ([{"topic0": [ORDER_FILLED_TOPICS[V2]], "topic1": ["0x" + f"{5:064x}"]}], [20]),
        ([{"topic1": ["0x" + f"{3:064x}"]}, {"topic3": ["0x0"]}], [20]),
        ([], []),
    ],
)
def test_a_log_must_pass_every_part_of_one_filter(filters, found):
    answer = ask(Portal(chain()), "/stream", fromBlock=1, toBlock=60, logs=filters)
    assert [line["header"]["number"] for line in lines(answer) if "logs" in line] == found


def test_without_a_filter_other_contracts_logs_come_too():
    answer = ask(Portal(chain()), "/stream", fromBlock=1, toBlock=60, logs=[{}])
    logs = [log for line in lines(answer) for log in line.get("logs", [])]
    assert {log["topics"][0] for log in logs} == {ORDER_FILLED_TOPICS[V2], TRANSFER_TOPIC}
    assert sum(log["topics"][0] == ORDER_FILLED_TOPICS[V2] for log in logs) == 4


def test_header_fields_are_those_of_the_node():
    world = chain()
    names = ["parentHash", "gasUsed", "logsBloom", "transactionsRoot", "receiptsRoot"]
    fields = {"block": dict.fromkeys(names, True)}
    answer = ask(Portal(world), "/stream", fromBlock=20, toBlock=20, fields=fields)
    header = Block(world, 20).header()
    assert lines(answer) == [{"header": {name: header[name] for name in names}}]


def test_a_stream_ends_at_the_head_and_beyond_it_there_is_no_content():
    portal = Portal(chain())
    assert numbers(ask(portal, "/stream", fromBlock=90, toBlock=500, logs=FILLS)) == [90, 100]
    assert numbers(ask(portal, "/stream", fromBlock=100, logs=FILLS)) == [100]
    beyond = ask(portal, "/stream", fromBlock=101, logs=FILLS)
    assert (beyond.status, beyond.body) == (204, b"")
    assert beyond.headers["X-Sqd-Head-Number"] == "100"
    assert beyond.headers["X-Sqd-Finalized-Head-Number"] == str(100 - FINALITY_BLOCKS)


def test_the_finalized_stream_ends_at_the_finalized_head():
    portal = Portal(chain(), PortalLimits(finality_blocks=40))
    assert numbers(ask(portal, "/finalized-stream", fromBlock=45, logs=FILLS)) == [45, 50, 60]
    assert ask(portal, "/finalized-stream", fromBlock=61).status == 204


def test_a_stream_may_end_early_and_goes_on_behind_its_last_block():
    portal = Portal(chain(), PortalLimits(stream_blocks=11))
    assert numbers(ask(portal, "/stream", fromBlock=5, toBlock=60, logs=FILLS)) == [5, 10, 15]
    portal = Portal(chain(), PortalLimits(stream_bytes=1))
    first, found = 5, []
    while first <= 60:
        answer = ask(portal, "/stream", fromBlock=first, toBlock=60, logs=FILLS)
        found += [line["header"]["number"] for line in lines(answer) if "logs" in line]
        first = numbers(answer)[-1] + 1
    assert found == [10, 20, 50]


def test_boundaries_of_stored_chunks_come_without_logs():
    portal = Portal(chain(), PortalLimits(boundary_every=10))
    answer = ask(portal, "/stream", fromBlock=1, toBlock=25, logs=FILLS)
    assert numbers(answer) == [1, 10, 20, 25]
    assert numbers(ask(portal, "/stream", fromBlock=31, toBlock=45)) == [31, 40, 45]


# -- forks -----------------------------------------------------------------------------------------


def test_a_parent_of_another_chain_is_a_conflict_that_names_this_one():
    world = chain()
    known = world.block_hash(100)
    world.rewind(10)
    world.append([], 100)
    portal = Portal(world)
    answer = ask(portal, "/stream", fromBlock=101, parentBlockHash=known)
    assert error(answer) == (409, "base_block_mismatch")
    previous = json.loads(answer.body)["previousBlocks"]
    expected = [
        {"number": number, "hash": world.block_hash(number)}
        for number in range(100, 100 - CONFLICT_BLOCKS, -1)
    ]
    assert previous == expected
    assert ask(portal, "/stream", fromBlock=91, parentBlockHash=world.block_hash(90)).status == 200
    assert ask(portal, "/finalized-stream", fromBlock=51, parentBlockHash=known).status == 200


# -- errors and limits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {"type": "solana"},
        {"fromBlock": "5"},
        {"fromBlock": -1},
        {"fromBlock": 7, "toBlock": 6},
        {"from": 5},
        {"fields": {"log": {"blockNumber": True}}},
        {"logs": [{"topics": []}]},
        {"logs": [{"address": "0xe1"}]},
        {"transactions": [{}]},
    ],
)
def test_a_malformed_query_is_refused(query):
    assert error(ask(Portal(chain()), "/stream", **query)) == (400, "malformed_request")


def test_unknown_paths_and_datasets_are_not_found():
    portal = Portal(chain())
    assert error(portal.respond(Request("/datasets/ethereum/stream", b"", b"{}"))) == (
        404,
        "unknown_dataset",
    )
    assert error(portal.respond(Request(f"{BASE}/height", b"", b""))) == (404, "not_found")


def test_more_requests_than_allowed_are_told_when_to_come_back():
    now = 0.0
    portal = Portal(chain(), PortalLimits(requests=2, seconds=10.0), clock=lambda: now)
    assert [ask(portal, "/stream", fromBlock=1).status for _ in range(3)] == [200, 200, 429]
    now = 3.5
    refused = ask(portal, "/stream", fromBlock=1)
    assert error(refused) == (429, "overloaded")
    assert refused.headers["Retry-After"] == "7"
    now = 10.0
    assert ask(portal, "/stream", fromBlock=1).status == 200


# -- over HTTP -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(World.generate(2, now=NOW, markets=30, matches=300)) as running:
        yield running


def test_the_portal_and_the_node_tell_the_same(server):
    """The rows of both transports must have one identity."""
    head = server.world.chain.head
    span = {"fromBlock": head - 9_000, "toBlock": head}
    query = {"type": "evm", "fields": FIELDS, "logs": FILLS} | span
    url = server.urls.sqd_url + BASE
    response = requests.post(f"{url}/stream", json=query, timeout=PATIENCE_S)
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Content-Type"] == "application/jsonl"
    streamed = [json.loads(line) for line in response.text.splitlines()]
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "eth_getLogs",
        "params": [{name: hex(block) for name, block in span.items()} | _rpc_filter()],
    }
    logs = requests.post(server.urls.polygon_url, json=call, timeout=PATIENCE_S).json()["result"]
    assert logs
    assert [
        (block["header"]["hash"], hex(block["header"]["timestamp"]), log["topics"], log["data"])
        for block in streamed
        for log in block.get("logs", [])
    ] == [(log["blockHash"], log["blockTimestamp"], log["topics"], log["data"]) for log in logs]


def _rpc_filter() -> dict:
    return {"address": FILLS[0]["address"], "topics": [FILLS[0]["topic0"]]}


def test_heads_metadata_and_times(server):
    chain = server.world.chain
    url = server.urls.sqd_url + BASE

    def get(path: str) -> Any:
        return requests.get(f"{url}/{path}", timeout=PATIENCE_S).json()

    assert get("head") == {"number": chain.head, "hash": chain.block_hash(chain.head)}
    assert get("finalized-head")["number"] == chain.head - FINALITY_BLOCKS
    assert get("metadata")["dataset"] == "polygon-mainnet"
    at = block_time(chain.head - 5)
    assert get(f"timestamps/{at}/block") == {"block_number": chain.head - 5}
    assert get(f"timestamps/{at - 1}/block") == {"block_number": chain.head - 5}
    missing = requests.get(f"{url}/timestamps/{at + 100}/block", timeout=PATIENCE_S)
    assert missing.status_code == 404


def test_the_settings_name_the_portal(server):
    assert server.urls.environment()["SQD_PORTAL_URL"] == server.urls.sqd_url


def test_an_uncompressed_stream_for_a_client_that_cannot(server):
    query = {"type": "evm", "fromBlock": 5, "toBlock": 6, "fields": FIELDS}
    headers = {"Accept-Encoding": "identity"}
    url = f"{server.urls.sqd_url}{BASE}/stream"
    response = requests.post(url, json=query, headers=headers, timeout=PATIENCE_S)
    assert "Content-Encoding" not in response.headers
    assert [json.loads(line)["header"]["number"] for line in response.text.splitlines()] == [5, 6]
