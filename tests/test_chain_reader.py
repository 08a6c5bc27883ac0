"""An answer about the chain is believed for its content: nodes that lag, prune, split batches, leave things out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from random import Random

import pytest
from scripted_server import Answer, ScriptedServer

from ingest.contracts import V2
from ingest.errors import (
    AccessDenied,
    HistoryPruned,
    IngestError,
    MissingFills,
    NodeBehind,
    NoEndpoint,
    Unconfirmed,
)
from ingest.http import HttpClient
from ingest.retries import RetryPolicy
from ingest.sources.polygon import blooms
from ingest.sources.polygon.chain import Endpoints, fills_of
from ingest.sources.polygon.range_reader import RangeReader
from ingest.sources.polygon.rpc import Node, is_excluded
from sandbox.chain import Chain
from sandbox.clock import HORIZON, block_time
from sandbox.contracts import EXCHANGES, Fill
from sandbox.polygon import Node as SimulatedNode
from sandbox.polygon import NodeLimits
from sandbox.providers import NONE, ZERO, NodeState, Provider
from sandbox.providers import Endpoint as SimulatedEndpoint
from sandbox.refusals import Refusal
from sandbox.wire import Request

FIRST = HORIZON.block_number + 100_000
BLOCKS = 400
HEAD = FIRST + 2_000
THREE_CALLS = Refusal("Batch of more than {limit} requests are not allowed on free tier", 31, 500)
TEN_BLOCKS = Refusal(
    "up to a 10 block range. This should work: [{first:x}, {until:x}]", -32600, 400
)
LAGGING, PRUNED = NodeState(lag=12), NodeState(keeps=1_800)


def busy(share: float = 0.9, seed: int = 1) -> Chain:
    """Fills in this share of `BLOCKS` blocks, which lie well behind the head, and in the newest ones."""
    rng, fills = Random(seed), []
    for block in [*range(FIRST, FIRST + BLOCKS), *range(HEAD - 60, HEAD + 1)]:
        for index in range(rng.randint(1, 5) if rng.random() < share else 0):
            fills.append(
                Fill(
                    block_time(block),
                    f"0x{rng.getrandbits(256):064x}",
                    f"0x{rng.getrandbits(256):064x}",
                    token_id="7",
                    exchange=EXCHANGES[V2, False],
                    taker=EXCHANGES[V2, False],
                    version=V2,
                    block_number=block,
                    log_index=index,
                )
            )
    return Chain(fills, head=HEAD)


@contextmanager
def served(chain: Chain, *providers: Provider) -> Iterator[Endpoints]:
    """Endpoints of these providers over a chain."""
    with ExitStack() as stack:
        nodes = []
        for provider in providers:
            endpoint = SimulatedEndpoint(provider, chain)

            def respond(path: str, body: bytes, endpoint=endpoint) -> Answer:
                answer = endpoint.respond(Request(path, b"", body))
                return Answer(answer.body, answer.status, answer.headers, reset=answer.reset)

            url = stack.enter_context(ScriptedServer(respond)).url
            retry = RetryPolicy(attempts=3)
            client = HttpClient("polygon", retry=retry, sleep=lambda seconds: None)
            nodes.append(Node(client, url))
        yield Endpoints(nodes, sleep=lambda seconds: None, clock=lambda: 0.0)


def read(endpoints: Endpoints, first: int, last: int) -> list[tuple[int, int, int]]:
    """Block, log index and time of the fills of a range."""
    reader = RangeReader(endpoints, (V2,), HEAD)
    found, end = [], None
    while first <= last:
        tables, dead, end = reader.read(first, last, end)
        assert not dead
        for table in tables:
            rows = table.select(["block_number", "log_index", "timestamp"]).to_pylist()
            found += [
                (r["block_number"], r["log_index"], int(r["timestamp"].timestamp())) for r in rows
            ]
        first = end.number + 1
    return sorted(found)


def there(chain: Chain, first: int, last: int) -> list[tuple[int, int, int]]:
    return [
        (fill.block_number, fill.log_index, fill.timestamp)
        for fill in chain.logs(first, last)
        if isinstance(fill, Fill)
    ]


WHOLE = (FIRST, FIRST + BLOCKS - 1)
NEWEST = (HEAD - 60, HEAD)


@pytest.mark.parametrize("share", [0.9, 0.3, 0.02])
@pytest.mark.parametrize(
    "provider",
    {
        "plain": Provider(),
        "three calls": Provider(batch=3, batch_refusal=THREE_CALLS),
        "no batches, 200": Provider(batch=1, batch_refusal=Refusal("invalid request", -32600, 200)),
        "no batches, 400": Provider(batch=1, batch_refusal=Refusal("bad request", None, 400)),
        "no batches, 405": Provider(batch=1, batch_refusal=Refusal("Method Not Allowed", None, 405)),
        "ten blocks": Provider(blocks=10, blocks_refusal=TEN_BLOCKS),
        "seven blocks, no word why": Provider(blocks=7, blocks_refusal=Refusal("computer says no", -32000)),
        "few results": Provider(results=40),
        "no times": Provider(timestamps=NONE),
        "no times, three calls": Provider(timestamps=NONE, batch=3, batch_refusal=Refusal("batch too large", -32600)),
        "times of zero": Provider(timestamps=ZERO),
        "no receipts": Provider(receipts=Refusal("no such method", -32601), by_hash=Refusal("no", -32602)),
    }.values(),
    ids=lambda provider: provider.describe()[:60],
)  # fmt: skip
def test_any_provider_brings_every_fill(share: float, provider: Provider) -> None:
    chain = busy(share)
    with served(chain, provider) as endpoints:
        for first, last in (WHOLE, NEWEST):
            assert read(endpoints, first, last) == there(chain, first, last)


def test_a_gateway_that_splits_a_batch_loses_nothing() -> None:
    """Case of several public gateways: the logs come from a node twelve blocks behind, the blocks from one that is not."""
    chain = busy()
    for seed in range(8):
        gateway = Provider(seed=seed, nodes=(NodeState(), LAGGING), heals_after=None)
        with served(chain, gateway) as endpoints:
            reader = RangeReader(endpoints, (V2,), HEAD)
            found, number, end = [], NEWEST[0], None
            for _ in range(200):
                try:
                    tables, _, end = reader.read(number, HEAD, end)
                except IngestError:
                    continue  # named, and asked again
                for table in tables:
                    found += zip(
                        *(table.column(c).to_pylist() for c in ("block_number", "log_index")),
                        strict=True,
                    )
                number = end.number + 1
                if number > HEAD:
                    break
        assert sorted(found) == [row[:2] for row in there(chain, *NEWEST) if row[0] < number]
        assert number > HEAD


@pytest.mark.parametrize("share", [0.9, 0.1])
def test_a_pruned_node_is_noticed_and_another_fills_the_gap(share: float) -> None:
    chain = busy(share)
    pruned = Provider(nodes=(PRUNED,), heals_after=None)
    with (
        served(chain, pruned) as endpoints,
        pytest.raises((Unconfirmed, MissingFills, HistoryPruned)),
    ):
        read(endpoints, *WHOLE)
    with served(chain, pruned, Provider()) as endpoints:
        assert read(endpoints, *WHOLE) == there(chain, *WHOLE)
    says_so = Provider(
        nodes=(replace(PRUNED, pruned=Refusal("pruned history unavailable", 4444)),),
        heals_after=None,
    )
    with served(chain, says_so) as endpoints, pytest.raises(HistoryPruned, match="archive node"):
        read(endpoints, *WHOLE)


def test_two_pruned_nodes_are_no_evidence_for_each_other() -> None:
    chain = busy()
    both = [Provider(seed=seed, nodes=(PRUNED,), heals_after=None) for seed in (1, 2)]
    with served(chain, *both) as endpoints, pytest.raises(NoEndpoint):
        read(endpoints, *WHOLE)


def test_a_quiet_chain_needs_no_fills() -> None:
    chain = Chain(head=HEAD)
    plain = Provider()
    saturated = Provider(saturated_bloom=True)
    for provider in (plain, saturated):
        with served(chain, provider) as endpoints:
            assert read(endpoints, FIRST, FIRST + 100) == read(endpoints, *NEWEST) == []


@pytest.mark.parametrize("drops", [0.1, 0.9])
def test_holes_in_a_busy_index_are_noticed(drops: float) -> None:
    chain = Chain(
        [replace(fill, log_index=fill.log_index + 10 * turn) for fill in busy(1.0).logs(*WHOLE) for turn in range(20)],
        head=HEAD,
    )  # fmt: skip
    holes = Provider(nodes=(NodeState(drops=drops),), heals_after=None)
    with served(chain, holes) as endpoints, pytest.raises((MissingFills, Unconfirmed)):
        read(endpoints, *WHOLE)
    with served(chain, holes, Provider()) as endpoints:
        assert read(endpoints, *WHOLE) == there(chain, *WHOLE)


def test_a_node_that_is_behind_is_waited_for() -> None:
    chain = busy()
    for beyond in (None, Refusal("block range extends beyond current head block", -32602)):
        behind = Provider(nodes=(LAGGING,), heals_after=2, beyond=beyond)
        with served(chain, behind) as endpoints:
            assert read(endpoints, *NEWEST) == there(chain, *NEWEST)
        for_ever = replace(behind, heals_after=None)
        with served(chain, for_ever) as endpoints, pytest.raises(NodeBehind, match="wait"):
            read(endpoints, *NEWEST)


def test_access_that_is_denied_names_the_setting() -> None:
    refusal = Refusal("message: API key disabled, reason: tenant disabled", -32051, 401)
    denied = Provider(busy=1.0, refusals=(refusal,))
    with served(busy(), denied) as endpoints, pytest.raises(AccessDenied) as caught:
        read(endpoints, *NEWEST)
    assert "tenant disabled" in str(caught.value) and "POLYGON_RPC_URL" in str(caught.value)


def test_an_endpoint_that_failed_rests_and_is_asked_again() -> None:
    now = 0.0
    chain = busy()
    refusal = Refusal("no", None, 503)
    with served(chain, Provider(busy=1.0, refusals=(refusal,)), Provider()) as endpoints:
        endpoints = Endpoints(endpoints.all, sleep=lambda seconds: None, clock=lambda: now)
        first, second = endpoints.all
        assert endpoints.preferred is first
        assert read(endpoints, *NEWEST) == there(chain, *NEWEST)
        assert endpoints.preferred is second
        assert list(endpoints.others(second)) == []
        now = 10_000.0
        assert endpoints.preferred is first


def test_a_header_excludes_what_its_bloom_lacks() -> None:
    """The simulated node's blooms come from another implementation of keccak."""
    chain = busy(0.5)
    for saturated in (False, True):
        node = SimulatedNode(chain, NodeLimits(saturated_bloom=saturated))
        for number in range(FIRST, FIRST + 60):
            header = node.call(
                {"id": 0, "method": "eth_getBlockByNumber", "params": [hex(number), False]}
            )["result"]
            has_fills = any(isinstance(log, Fill) for log in chain.logs(number, number))
            assert not (has_fills and is_excluded(header, fills_of((V2,))))
            if not has_fills and (not saturated or header["gasUsed"] == "0x0"):
                assert is_excluded(header, fills_of((V2,)))


@pytest.mark.parametrize(
    "bloom", [None, "", "0x", "0x0", "0xzz", 7, "0x" + "f" * 512, "0x" + "0" * 510]
)
def test_a_bloom_that_is_none_excludes_nothing(bloom: object) -> None:
    assert not blooms.excludes(bloom, ["0x" + "11" * 20], ["0x" + "22" * 32])


def test_an_empty_bloom_excludes_everything() -> None:
    assert blooms.excludes("0x" + "0" * 512, [], ["0x" + "22" * 32])
    assert not blooms.excludes("0x" + "0" * 512, [], [])
