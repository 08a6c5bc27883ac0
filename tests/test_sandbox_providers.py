"""The simulated providers and portals: each limit, refusal and state on its own, then any mix of them over HTTP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import requests
from worlds import PATIENCE_S

from sandbox import refusals
from sandbox.chain import Chain
from sandbox.clock import block_time
from sandbox.contracts import EXCHANGES, V2, Fill
from sandbox.farm import Farm
from sandbox.portals import BUSY, PortalEndpoint, PortalState, random_portal
from sandbox.providers import (
    FUTURE,
    NONE,
    OLD,
    ZERO,
    Endpoint,
    NodeState,
    Provider,
)
from sandbox.random_providers import random_provider
from sandbox.refusals import Refusal
from sandbox.sqd import PortalLimits
from sandbox.views import Forked, UpTo
from sandbox.wire import Answer, Request

HEAD = 100
STREAM = "/datasets/polygon-mainnet/stream"


def chain() -> Chain:
    """A fill in each of the blocks 0 to 100."""
    return Chain(
        [
            Fill(
                timestamp=block_time(number),
                tx_hash="0x" + f"{number * 0x123456789ABCD:064x}",
                order_hash="0x" + f"{number:064x}",
                token_id="7",
                version=V2,
                exchange=EXCHANGES[V2, False],
                block_number=number,
                log_index=3,
            )
            for number in range(HEAD + 1)
        ]
    )


def post(endpoint: Endpoint, *calls: tuple[str, list]) -> Answer:
    """Send calls as a batch, or a single one as itself."""
    body = [
        {"jsonrpc": "2.0", "id": at, "method": method, "params": params}
        for at, (method, params) in enumerate(calls)
    ]
    content = json.dumps(body if len(body) > 1 else body[0]).encode()
    return endpoint.respond(Request("/", b"", content))


def logs_call(first: int, last: int) -> tuple[str, list]:
    address = EXCHANGES[V2, False]
    return "eth_getLogs", [{"fromBlock": hex(first), "toBlock": hex(last), "address": address}]


def result(answer: Answer) -> Any:
    assert answer.status == 200
    return json.loads(answer.body)["result"]


def error(answer: Answer) -> dict:
    return json.loads(answer.body)["error"]


def blocks(logs: list[dict]) -> list[int]:
    return [int(log["blockNumber"], 16) for log in logs]


# -- limits and refusals ---------------------------------------------------------------------------


def test_a_range_that_is_too_large_is_refused_with_one_that_would_do():
    refusal = Refusal("only {limit}; try [{first:#x}, {until:#x}]", -32600, 400)
    endpoint = Endpoint(Provider(blocks=10, blocks_refusal=refusal), chain())
    answer = post(endpoint, logs_call(16, 26))
    assert answer.status == 400
    assert error(answer) == {"code": -32600, "message": "only 10; try [0x10, 0x19]"}
    assert blocks(result(post(endpoint, logs_call(16, 25)))) == list(range(16, 26))


def test_more_results_than_the_limit_are_refused_but_never_one_block():
    endpoint = Endpoint(Provider(results=5), chain())
    assert error(post(endpoint, logs_call(10, 15)))["code"] == -32005
    assert len(result(post(endpoint, logs_call(10, 14)))) == 5


@pytest.mark.parametrize("refusal", [*refusals.BATCH, *refusals.NO_BATCH])
def test_batches_that_are_too_large_are_refused_in_many_ways(refusal):
    endpoint = Endpoint(Provider(batch=2, batch_refusal=refusal), chain())
    calls = [("eth_chainId", [])] * 3
    answer = post(endpoint, *calls)
    if refusal.reset:
        assert answer.reset
    elif refusal.code is None:
        assert answer.status == refusal.status
    elif refusal.whole:
        assert answer.status == refusal.status
        assert error(answer)["code"] == refusal.code
    else:
        assert [each["error"]["code"] for each in json.loads(answer.body)] == [refusal.code] * 3
    assert [each["result"] for each in json.loads(post(endpoint, *calls[:2]).body)] == ["0x89"] * 2


def test_without_batches_even_a_batch_of_one_is_refused():
    endpoint = Endpoint(Provider(batch=1), chain())
    body = json.dumps([{"jsonrpc": "2.0", "id": 0, "method": "eth_chainId", "params": []}])
    assert endpoint.respond(Request("/", b"", body.encode())).status == 500
    assert result(post(endpoint, ("eth_chainId", []))) == "0x89"


def test_load_refuses_requests_or_one_call_of_a_batch():
    busy = Endpoint(Provider(busy=1.0, refusals=refusals.RATE[:1]), chain())
    assert post(busy, ("eth_chainId", [])).status == 429
    one = Endpoint(Provider(busy_call=1.0, refusals=(Refusal("later", -32000),)), chain())
    replies = json.loads(post(one, *[("eth_chainId", [])] * 5).body)
    assert sorted("error" in reply for reply in replies) == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [(ZERO, None), (OLD, -400 * 86_400), (FUTURE, 400 * 86_400), (NONE, None)],
)
def test_timestamps_of_logs(kind, seconds):
    (log,) = result(post(Endpoint(Provider(timestamps=kind), chain()), logs_call(9, 9)))
    if kind == NONE:
        assert "blockTimestamp" not in log
    else:
        expected = 0 if seconds is None else block_time(9) + seconds
        assert log["blockTimestamp"] == hex(expected)


def test_removed_logs_are_marked():
    logs = result(post(Endpoint(Provider(removed=True), chain()), logs_call(9, 10)))
    assert [log["removed"] for log in logs] == [True, False, False]


def test_logs_by_hash_and_receipts_may_not_be_served():
    world = chain()
    plain = Endpoint(Provider(), world)
    name = result(post(plain, ("eth_getBlockByNumber", ["0x9", False])))["hash"]
    by_hash = ("eth_getLogs", [{"blockHash": name, "address": EXCHANGES[V2, False]}])
    assert blocks(result(post(plain, by_hash))) == [9]
    poor = Endpoint(Provider(by_hash=refusals.NO_BLOCK_HASH[0], receipts="null"), world)
    assert error(post(poor, by_hash))["code"] == -32602
    assert result(post(poor, ("eth_getBlockReceipts", ["0x9"]))) is None
    none = Endpoint(Provider(receipts=refusals.UNSUPPORTED[0]), world)
    assert error(post(none, ("eth_getBlockReceipts", ["0x9"])))["code"] == -32601


# -- states of nodes -------------------------------------------------------------------------------


def test_a_lagging_node_answers_short_or_says_that_it_is_behind():
    sick = Provider(nodes=(NodeState(lag=10),), heals_after=3)
    endpoint = Endpoint(sick, chain())
    assert result(post(endpoint, ("eth_blockNumber", []))) == hex(90)
    assert blocks(result(post(endpoint, logs_call(85, 95)))) == list(range(85, 91))
    assert result(post(endpoint, ("eth_getBlockByNumber", [hex(95), False]))) is None
    assert blocks(result(post(endpoint, logs_call(85, 95)))) == list(range(85, 96))  # healed
    refusing = Endpoint(replace(sick, beyond=refusals.BEYOND_HEAD[0]), chain())
    assert "requested 95, head 90" in error(post(refusing, logs_call(85, 95)))["message"]


def test_a_block_may_be_there_before_its_logs_are():
    endpoint = Endpoint(Provider(nodes=(NodeState(log_lag=3),), heals_after=None), chain())
    assert result(post(endpoint, ("eth_blockNumber", []))) == hex(HEAD)
    assert blocks(result(post(endpoint, logs_call(95, HEAD)))) == [95, 96, 97]
    assert result(post(endpoint, ("eth_getBlockReceipts", [hex(HEAD)])))[0]["logs"]
    endpoint.heal()
    assert blocks(result(post(endpoint, logs_call(99, HEAD)))) == [99, 100]


def test_a_pruned_node_has_headers_but_no_old_logs_and_receipts():
    state = NodeState(keeps=10)
    endpoint = Endpoint(Provider(nodes=(state,), heals_after=None), chain())
    assert result(post(endpoint, logs_call(5, 8))) == []
    assert blocks(result(post(endpoint, logs_call(89, 92)))) == [91, 92]
    assert result(post(endpoint, ("eth_getBlockReceipts", ["0x5"]))) is None
    header = result(post(endpoint, ("eth_getBlockByNumber", ["0x5", False])))
    assert header["gasUsed"] != "0x0"
    saying = replace(state, pruned=refusals.PRUNED[0])
    endpoint = Endpoint(Provider(nodes=(saying,), heals_after=None), chain())
    assert error(post(endpoint, logs_call(5, 8)))["code"] == 4444


def test_a_batch_may_be_split_over_nodes_in_different_states():
    nodes = (NodeState(), NodeState(lag=50))
    endpoint = Endpoint(Provider(nodes=nodes, heals_after=None), chain())
    calls = [("eth_blockNumber", [])] * 8
    heads = {each["result"] for each in json.loads(post(endpoint, *calls).body)}
    assert heads == {hex(HEAD), hex(50)}
    whole = Endpoint(Provider(nodes=nodes, heals_after=None, splits=False), chain())
    answers = [json.loads(post(whole, *calls).body) for _ in range(8)]
    heads = [{each["result"] for each in answer} for answer in answers]
    assert {frozenset(each) for each in heads} == {frozenset([hex(HEAD)]), frozenset([hex(50)])}


def test_a_node_may_be_on_a_fork_which_ends():
    world = chain()
    endpoint = Endpoint(Provider(nodes=(NodeState(fork=5),), heals_after=None), world)
    tags = [hex(95), hex(96)]
    forked = [result(post(endpoint, ("eth_getBlockByNumber", [tag, False]))) for tag in tags]
    assert forked[0]["hash"] == world.block_hash(95)
    assert forked[1]["parentHash"] == forked[0]["hash"]
    assert forked[1]["hash"] != world.block_hash(96)
    endpoint.heal()
    after = result(post(endpoint, ("eth_getBlockByNumber", [tags[1], False])))
    assert after["hash"] == world.block_hash(96)
    assert after["parentHash"] == forked[1]["parentHash"]


def test_a_fork_keeps_loses_and_replaces_fills():
    world = chain()
    fork = Forked(world, 50)
    right = {log.block_number: log for log in world.logs(0, HEAD)}
    other = {log.block_number: log for log in fork.logs(0, HEAD)}
    assert all(other[number] == right[number] for number in range(50))
    later = range(50, HEAD + 1)
    assert any(number not in other for number in later)
    assert any(other.get(number) == right[number] for number in later)
    replaced = [number for number in later if number in other and other[number] != right[number]]
    assert replaced
    tx_hash = other[replaced[0]].tx_hash
    assert fork.block_with(tx_hash) == replaced[0]
    name = fork.block_hash(60)
    assert fork.number_of(name) == 60
    assert world.number_of(name) is None
    assert fork.number_of(world.block_hash(60)) is None


def test_a_view_ends_at_its_head_and_unfolds():
    world = chain()
    view = UpTo(world, 40)
    assert [log.block_number for log in view.logs(38, 60)] == [38, 39, 40]
    assert view.number_of(world.block_hash(41)) is None
    view.head = 41
    assert view.number_of(world.block_hash(41)) == 41


# -- portals ---------------------------------------------------------------------------------------


def stream(endpoint: PortalEndpoint, first: int, last: int, **query: Any) -> Answer:
    fields = {"block": {"number": True, "hash": True}, "log": {"logIndex": True}}
    filters = [{"address": [EXCHANGES[V2, False]]}]
    body = {"type": "evm", "fromBlock": first, "toBlock": last, "fields": fields, "logs": filters}
    return endpoint.respond(Request(STREAM, b"", json.dumps(body | query).encode()))


def streamed(answer: Answer) -> list[int]:
    assert answer.status == 200
    return [json.loads(line)["header"]["number"] for line in answer.body.splitlines()]


def test_a_portal_may_lag_and_heal():
    state = PortalState(lags=(10,), heals_after=2)
    endpoint = PortalEndpoint(state, chain())
    assert stream(endpoint, 91, 95).status == 204
    assert streamed(stream(endpoint, 89, 95)) == [89, 90]
    assert streamed(stream(endpoint, 93, 95)) == [93, 94, 95]


def test_a_fork_that_ended_is_a_conflict_told_in_either_order():
    world = chain()
    for ascending in (False, True):
        state = PortalState(fork=5, heals_after=1, ascending=ascending, bare=ascending)
        endpoint = PortalEndpoint(state, world)
        last = json.loads(stream(endpoint, 90, HEAD).body.splitlines()[-1])["header"]
        assert last["hash"] != world.block_hash(HEAD)
        conflict = stream(endpoint, HEAD + 1, HEAD + 9, parentBlockHash=last["hash"])
        assert conflict.status == 409
        body = json.loads(conflict.body)
        numbers = [block["number"] for block in body["previousBlocks"]]
        assert numbers == sorted(numbers, reverse=not ascending)
        assert max(numbers) == HEAD
        assert ("error" in body) != ascending


def test_a_stream_may_leave_blocks_out_but_not_its_ends():
    endpoint = PortalEndpoint(PortalState(missing=0.3, heals_after=None), chain())
    found = streamed(stream(endpoint, 0, HEAD))
    assert {0, HEAD} <= set(found)
    assert 40 < len(found) < HEAD
    assert found == streamed(stream(endpoint, 0, HEAD))
    endpoint.heal()
    assert streamed(stream(endpoint, 0, HEAD)) == list(range(HEAD + 1))


def test_a_stream_may_break_anywhere():
    endpoint = PortalEndpoint(PortalState(cuts=1.0), chain())
    answers = [stream(endpoint, 0, HEAD) for _ in range(30)]
    assert any(answer.cut for answer in answers)
    bodies = [answer.body for answer in answers if not answer.cut]
    assert any(body.endswith(b"\n") for body in bodies)
    assert any(not body.endswith(b"\n") for body in bodies)


@pytest.mark.parametrize("kind", sorted(BUSY))
def test_load_of_a_portal_is_told_in_many_ways(kind):
    endpoint = PortalEndpoint(PortalState(busy=1.0, kinds=(kind,)), chain())
    answer = stream(endpoint, 0, HEAD)
    assert answer.reset or answer.status in (429, 502, 503, 529)


# -- any mix, over HTTP ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with Farm() as running:
        yield running
        assert running.errors == []


def test_random_providers_are_what_they_say_and_differ(farm):
    """Each is asked what a client asks; none of them fails by a mistake of its own."""
    world = chain()
    said, statuses = set(), Counter()
    for seed in range(150):
        provider = random_provider(Random(seed), lies=True)
        assert provider == random_provider(Random(seed), lies=True)
        said.add(provider.describe())
        assert "\n" not in provider.describe()
        url = farm.add(Endpoint(provider, world))
        name = world.block_hash(90)
        calls = [
            ("eth_getBlockByNumber", ["latest", False]),
            logs_call(60, 90),
            ("eth_getLogs", [{"blockHash": name}]),
            ("eth_getBlockReceipts", [hex(80)]),
        ]
        body = [
            {"jsonrpc": "2.0", "id": at, "method": method, "params": params}
            for at, (method, params) in enumerate(calls)
        ]
        for content in (body, *body):
            statuses[ask(url, content)] += 1
        farm.remove(url)
    assert len(said) == 150
    assert statuses[200] > sum(statuses.values()) / 2


def test_random_portals_are_what_they_say_and_differ(farm):
    world = chain()
    said, statuses = set(), Counter()
    for seed in range(100):
        state = random_portal(Random(seed), lies=True)
        assert state == random_portal(Random(seed), lies=True)
        said.add(state.describe())
        url = farm.add(PortalEndpoint(state, world))
        query = {"type": "evm", "fromBlock": 50, "fields": {"block": {"number": True}}}
        for _ in range(3):
            statuses[ask(url + STREAM, query | {"logs": [{}]})] += 1
        farm.remove(url)
    assert len(said) == 100
    assert statuses[200] > sum(statuses.values()) / 2


def ask(url: str, content: Any) -> int:
    """The status of the answer, 0 if the connection was closed in place of one."""
    try:
        return requests.post(url, json=content, timeout=PATIENCE_S).status_code
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        return 0


def test_unknown_endpoints_are_not_found(farm):
    assert (
        requests.post(f"{farm.base_url}/provider/none", json={}, timeout=PATIENCE_S).status_code
        == 404
    )
    assert PortalLimits() == PortalState().limits
