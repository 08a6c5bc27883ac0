"""Answers about the chain that are wrong without a word: every fill in the end, or a named error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import orjson
import pytest
from scripted_server import Answer, ScriptedServer

from ingest.contracts import V2
from ingest.errors import MissingFills, Unconfirmed, UpstreamError, WrongShape
from ingest.http import HttpClient
from ingest.retries import RetryPolicy
from ingest.sources.polygon.chain import Endpoints
from ingest.sources.polygon.range_reader import RangeReader
from ingest.sources.polygon.rpc import Node
from ingest.sources.sqd.portal import Portal
from sandbox.chain import Chain
from sandbox.clock import HORIZON, block_time
from sandbox.contracts import EXCHANGES, Fill
from sandbox.polygon import Node as SimulatedNode
from sandbox.polygon import NodeLimits
from sandbox.sqd import Portal as SimulatedPortal
from sandbox.wire import Request

FIRST = HORIZON.block_number + 100_000
BLOCKS = 400
HEAD = FIRST + 2_000
Twist = Callable[[dict[str, Any]], dict[str, Any] | None]


def chain_of(fewest: int, most: int, every: int = 1) -> Chain:
    """Blocks with so many fills each, or one block in `every`, well behind the head."""
    rng, exchange = Random(3), EXCHANGES[V2, False]
    fills = [
        Fill(
            block_time(block),
            f"0x{rng.getrandbits(256):064x}",
            f"0x{rng.getrandbits(256):064x}",
            token_id="7",
            exchange=exchange,
            taker=exchange,
            version=V2,
            block_number=block,
            log_index=index,
        )
        for block in [*range(FIRST, FIRST + BLOCKS, every), *range(HEAD - 60, HEAD + 1)]
        for index in range(rng.randint(fewest, most))
    ]
    return Chain(fills, head=HEAD)


def client() -> HttpClient:
    return HttpClient("polygon", retry=RetryPolicy(attempts=3), sleep=lambda seconds: None)


@contextmanager
def a_node(chain: Chain, twist: Callable[[list], list]) -> Iterator[Endpoints]:
    """A JSON-RPC node that twists the logs of each `eth_getLogs`."""
    simulated = SimulatedNode(chain, NodeLimits(saturated_bloom=True))

    def respond(path: str, body: bytes) -> Answer:
        asked, answers = orjson.loads(body), simulated.respond(body)
        for call, answer in zip(
            *(each if isinstance(each, list) else [each] for each in (asked, answers)), strict=True
        ):
            if call["method"] == "eth_getLogs" and answer.get("result"):
                answer["result"] = twist(answer["result"])
        return Answer(orjson.dumps(answers))

    with ScriptedServer(respond) as server:
        yield Endpoints([Node(client(), server.url)], sleep=lambda seconds: None)


@contextmanager
def a_portal(chain: Chain, twist: Twist) -> Iterator[Endpoints]:
    """A Portal that twists the lines of its streams, or leaves them out."""
    simulated = SimulatedPortal(chain)

    def respond(path: str, body: bytes) -> Answer:
        answer = simulated.respond(Request(path, b"", body))
        content = answer.body
        if "stream" in path and answer.status == 200 and body:
            lines = [orjson.loads(line) for line in content.splitlines() if line.strip()]
            kept = [twist(line) for line in lines]
            content = b"".join(orjson.dumps(line) + b"\n" for line in kept if line is not None)
        return Answer(content, answer.status, answer.headers)

    with ScriptedServer(respond) as server:
        yield Endpoints([Portal(client(), server.url)], sleep=lambda seconds: None)


def read(endpoints: Endpoints) -> set[tuple[int, int]]:
    """Places of the fills of all blocks, or the error that says what is missing."""
    reader = RangeReader(endpoints, (V2,), HEAD)
    found, first, end = set(), FIRST, None
    while first < FIRST + BLOCKS:
        tables, _, end = reader.read(first, FIRST + BLOCKS - 1, end)
        for table in tables:
            columns = (table.column(name).to_pylist() for name in ("block_number", "log_index"))
            found |= set(zip(*columns, strict=True))
        first = end.number + 1
    return found


def there(chain: Chain) -> set[tuple[int, int]]:
    logs = chain.logs(FIRST, FIRST + BLOCKS - 1)
    return {(fill.block_number, fill.log_index) for fill in logs if isinstance(fill, Fill)}


def test_a_log_without_a_place_does_not_excuse_what_another_answer_lacks() -> None:
    """A fill is taken back if a second reading lacks it, so a log of the first reading must not stand in for it."""
    is_second = False

    def twist(logs: list) -> list:
        return logs[:-1] if is_second else [*logs, logs[-1] | {"logIndex": None}]

    with a_node(chain_of(3, 3), twist) as endpoints:
        reader, endpoint = RangeReader(endpoints, (V2,), HEAD), endpoints.preferred
        assert reader.read(FIRST, FIRST + 9).dead
        is_second = True
        with pytest.raises(MissingFills, match="2 of at least 3"):
            reader.read_block(endpoint, endpoint.block(FIRST + 5), 3)


@pytest.mark.parametrize(("fewest", "most", "cap"), [(1, 5, 100), (1, 5, 40), (20, 60, 1000)])
def test_an_answer_that_is_cut_at_a_number_of_logs_loses_none(
    fewest: int, most: int, cap: int
) -> None:
    """The cut falls within a block, whose logs are then there in part."""
    chain = chain_of(fewest, most)
    with a_node(chain, lambda logs: logs[:cap]) as endpoints:
        assert read(endpoints) == there(chain)


def test_a_log_without_a_place_hides_no_other(  # such as one that is still pending
) -> None:
    pending = {"blockNumber": None, "blockHash": None, "logIndex": None}
    chain = chain_of(20, 60)
    with (
        a_node(chain, lambda logs: [logs[0] | pending]) as endpoints,
        pytest.raises((Unconfirmed, MissingFills)),
    ):
        read(endpoints)


def without_logs(line: dict[str, Any]) -> dict[str, Any]:
    return {"header": line["header"]}


def test_a_portal_whose_lines_have_no_logs_is_not_believed() -> None:
    with a_portal(chain_of(1, 5), without_logs) as endpoints, pytest.raises(UpstreamError):
        read(endpoints)


@pytest.mark.parametrize(("fewest", "most"), [(1, 5), (10, 30)])
def test_a_block_that_a_portal_leaves_out_is_noticed(fewest: int, most: int) -> None:
    def every_50th_left_out(line: dict[str, Any]) -> dict[str, Any] | None:
        return None if line["header"]["number"] % 50 == 17 else line

    chain = chain_of(fewest, most)
    with (
        a_portal(chain, every_50th_left_out) as endpoints,
        pytest.raises((MissingFills, WrongShape, Unconfirmed)),
    ):
        read(endpoints)


@pytest.mark.parametrize("nth", range(1, 20, 3))
def test_a_block_that_a_portal_leaves_out_of_a_quiet_chain_is_noticed(nth: int) -> None:
    """Of a long run of blocks without fills, the one that was left out has to be looked at."""
    chain, left_out = chain_of(1, 5, every=20), FIRST + 20 * nth

    def all_but_one(line: dict[str, Any]) -> dict[str, Any] | None:
        return None if line["header"]["number"] == left_out else line

    with (
        a_portal(chain, all_but_one) as endpoints,
        pytest.raises((MissingFills, Unconfirmed), match=str(left_out)),
    ):
        read(endpoints)


def test_a_busy_block_that_a_portal_says_is_empty_is_noticed() -> None:
    def every_50th_empty(line: dict[str, Any]) -> dict[str, Any]:
        # As it would where an index lacks entries: other questions about the block are answered.
        is_wanted = line.get("logs") and len(line["logs"]) > 1 and "data" in line["logs"][0]
        return line | {"logs": []} if is_wanted and line["header"]["number"] % 50 == 17 else line

    with a_portal(chain_of(10, 30), every_50th_empty) as endpoints, pytest.raises(MissingFills):
        read(endpoints)


def test_an_endpoint_of_another_chain_is_refused() -> None:
    def respond(path: str, body: bytes) -> Answer:
        calls = orjson.loads(body)
        calls = calls if isinstance(calls, list) else [calls]
        return Answer(
            orjson.dumps([{"id": each["id"], "jsonrpc": "2.0", "result": "0x1"} for each in calls])
        )

    with ScriptedServer(respond) as server:
        endpoints = Endpoints([Node(client(), server.url)], sleep=lambda seconds: None)
        with pytest.raises(WrongShape, match="chain 1 is not Polygon"):
            endpoints.ask(lambda endpoint: endpoint.head())
