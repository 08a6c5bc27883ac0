"""How much a node is asked for at once: found out by refusals, remembered, and tried again where it may pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from scripted_server import Answer, ScriptedServer

from ingest.contracts import V2
from ingest.http import HttpClient
from ingest.retries import RetryPolicy
from ingest.sources.polygon.chain import Endpoints, fills_of
from ingest.sources.polygon.range_reader import RangeReader
from ingest.sources.polygon.rpc import Node
from sandbox.chain import Chain
from sandbox.clock import HORIZON
from sandbox.polygon import Node as SimulatedNode

FIRST = HORIZON.block_number + 100_000


class Refusing:
    """A node that refuses some requests.

    Attributes:
        refusal: the answer to what `refuses` says, as long as it is one.
        sizes: calls of each request, in order.
        ranges: blocks of each `eth_getLogs`, in order.
    """

    def __init__(self) -> None:
        self._node = SimulatedNode(Chain([], head=FIRST + 100_000))
        self.refusal: Answer | dict[str, Any] | None = None
        self.sizes: list[int] = []
        self.ranges: list[int] = []

    def respond(self, path: str, body: bytes) -> Answer:
        """Answer a request, unless it is refused as a whole or for its range."""
        asked = orjson.loads(body)
        calls = asked if isinstance(asked, list) else [asked]
        self.sizes.append(len(calls))
        queries = [call["params"][0] for call in calls if call["method"] == "eth_getLogs"]
        self.ranges += [
            int(each["toBlock"], 16) - int(each["fromBlock"], 16) + 1 for each in queries
        ]
        if isinstance(self.refusal, Answer) and len(calls) > 1:
            return self.refusal
        if isinstance(self.refusal, dict) and queries and self.ranges[-1] > 10:
            refused = [
                {"jsonrpc": "2.0", "id": call["id"], "error": self.refusal} for call in calls
            ]
            return Answer(orjson.dumps(refused if isinstance(asked, list) else refused[0]))
        return Answer(orjson.dumps(self._node.respond(body)))


@contextmanager
def served(refusing: Refusing) -> Iterator[Node]:
    client = HttpClient("polygon", retry=RetryPolicy(attempts=2), sleep=lambda seconds: None)
    with ScriptedServer(refusing.respond) as server:
        yield Node(client, server.url, block_range=64)


def ask_for_times(node: Node, times: int) -> None:
    for _ in range(times):
        node.times([FIRST, FIRST + 1, FIRST + 2])


def test_one_failed_batch_does_not_mean_single_calls_for_good() -> None:
    refusing = Refusing()
    with served(refusing) as node:
        refusing.refusal = Answer(b"oops", 500)
        ask_for_times(node, 1)
        assert refusing.sizes[-3:] == [1, 1, 1]
        refusing.refusal = None
        ask_for_times(node, 40)
        assert refusing.sizes[-1] == 3


def test_a_node_without_batches_is_hardly_ever_asked_for_one() -> None:
    refusing = Refusing()
    with served(refusing) as node:
        refusing.refusal = Answer(b"oops", 500)
        ask_for_times(node, 100)
        assert sum(size > 1 for size in refusing.sizes) <= 2 * 2  # twice, with its retries


@pytest.mark.parametrize(
    ("words", "recovers"),
    [
        (
            "query returned more than 10000 results. Try with this block range [0x{:x}, 0x{:x}].",
            True,
        ),
        ("You can make requests with up to a 10 block range, such as [0x{:x}, 0x{:x}]", False),
    ],
)
def test_a_range_that_was_too_large_once_is_tried_again(words: str, recovers: bool) -> None:
    refusing = Refusing()
    with served(refusing) as node:
        reader = RangeReader(Endpoints([node], are_polygon=True), (V2,), FIRST)
        wanted = fills_of((V2,))
        refusing.refusal = {"code": -32005, "message": words.format(FIRST, FIRST + 9)}
        reader.ask(node, FIRST, FIRST + 63, wanted)
        assert refusing.ranges in ([64, 9], [64, 10])
        refusing.refusal = None
        for _ in range(100):
            reader.ask(node, FIRST, FIRST + 63, wanted)
            node.sizes.succeeded()
        assert refusing.ranges[-1] == (64 if recovers else 10)
