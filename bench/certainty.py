"""What certainty costs: requests and bytes for 1,000 blocks of the chain, before it was asked for and now.

`python -m bench.certainty` serves a chain as busy as Polygon's exchanges (135 logs a block) on loopback and counts what
is asked of it: as version 0.1.0 did at its first release (917eaed), which believed every answer, and as it is read
now. Counts, not times: they are the same on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import click
import pyarrow as pa
import requests
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest.contracts import V2
from ingest.http import HttpClient
from ingest.page import Page
from ingest.progress import Progress
from ingest.sources.polygon.chain import SOURCE, Endpoint, Endpoints, fills_of
from ingest.sources.polygon.range_reader import RangeReader
from ingest.sources.polygon.reader import Pace, streams
from ingest.sources.polygon.rpc import Node
from ingest.sources.sqd.portal import Portal
from ingest.tables import ORDER_FILLED
from sandbox.chain import Chain
from sandbox.clock import HORIZON, block_time
from sandbox.contracts import EXCHANGES, Fill
from sandbox.polygon import polygon_app
from sandbox.server import AppServer
from sandbox.sqd import portal_app

# The live exchanges emit about 136 logs a block, and 2.2 maker orders to a taker's (docs/sources.md, semantics.md).
LOGS_A_BLOCK, LEGS_A_MATCH = 135, 3
BLOCKS_A_POLL = 5  # of 2 s, at a poll every 10 s
SECOND_READING_S = 300.0
WARM_UP = 256  # blocks before counting begins, so that second readings are under way
RANGE = 64
FIRST = HORIZON.block_number + 100_000


@dataclass
class Asked:
    """What an endpoint was asked for: HTTP requests, JSON-RPC calls, bytes of all answers."""

    requests: int = 0
    calls: int = 0
    bytes: int = 0

    def per_1000(self, blocks: int) -> Asked:
        """The same for 1,000 blocks."""
        return Asked(*(round(each * 1000 / blocks) for each in vars(self).values()))


class Counting:
    """Counts what passes to an app; compression is left out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.asked = Asked()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request and its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        plain = scope | {"headers": [x for x in scope["headers"] if x[0] != b"accept-encoding"]}
        self.asked.requests += 1

        async def counted_receive() -> Message:
            message = await receive()
            self.asked.calls += message.get("body", b"").count(b'"method"')
            return message

        async def counted_send(message: Message) -> None:
            self.asked.bytes += len(message.get("body", b""))
            await send(message)

        await self._app(plain, counted_receive, counted_send)


@dataclass
class Landed:
    """In place of the landing tables."""

    tables: list[pa.Table] = field(default_factory=list)

    def add(self, page: Page) -> None:
        """Keep the fills of a page."""
        if page.table is ORDER_FILLED:
            self.tables += page.rows

    def known(self, first: int, last: int) -> pa.Table:
        """Rows of these blocks."""
        rows = pa.concat_tables([ORDER_FILLED.schema.empty_table(), *self.tables])
        blocks = rows.column("block_number").to_pylist()
        return rows.filter(pa.array([first <= block <= last for block in blocks], pa.bool_()))


def busy_blocks(first: int, count: int) -> list[Fill]:
    """`LOGS_A_BLOCK` fills in each of these blocks."""
    rng, fills, exchange = Random(first), [], EXCHANGES[V2, False]
    for block in range(first, first + count):
        for match in range(LOGS_A_BLOCK // LEGS_A_MATCH):
            tx = f"0x{rng.getrandbits(256):064x}"
            owner = f"0x{rng.getrandbits(160):040x}"
            for leg in range(LEGS_A_MATCH):
                is_taker = leg == LEGS_A_MATCH - 1
                fills.append(
                    Fill(
                        block_time(block),
                        tx,
                        f"0x{rng.getrandbits(256):064x}",
                        str(rng.getrandbits(255)),
                        maker=owner if is_taker else f"0x{rng.getrandbits(160):040x}",
                        taker=exchange if is_taker else owner,
                        exchange=exchange,
                        version=V2,
                        block_number=block,
                        log_index=match * LEGS_A_MATCH + leg,
                        tx_index=match,
                    )
                )
    return fills


def _believing(url: str, batch: list[tuple[str, list]]) -> None:
    calls = [
        {"jsonrpc": "2.0", "id": at, "method": method, "params": params}
        for at, (method, params) in enumerate(batch)
    ]
    requests.post(url, json=calls, timeout=60).raise_for_status()


def _block(number: int | str) -> tuple[str, list]:
    return "eth_getBlockByNumber", [hex(number) if isinstance(number, int) else number, False]


def _logs(first: int, last: int) -> tuple[str, list]:
    wanted = fills_of((V2,))
    query = {"fromBlock": hex(first), "toBlock": hex(last)}
    return "eth_getLogs", [
        query | {"address": list(wanted.addresses), "topics": [list(wanted.topics)]}
    ]


def head_before(app: Counting, url: str, chain: Chain, blocks: int) -> None:
    """The head as 917eaed read it: the newest block, the last block read, then a range with both its ends."""
    for last in _polls(app, chain, blocks):
        first = last - BLOCKS_A_POLL + 1
        _believing(url, [_block("latest")])
        _believing(url, [_block(first - 1)])
        _believing(url, [_block(last), _logs(first, last), _block(first - 1)])


def backfill_before(url: str, first: int, last: int) -> None:
    """A slice as 917eaed read it: ranges with both their ends."""
    for start in range(first, last + 1, RANGE):
        end = min(start + RANGE - 1, last)
        before = [_block(start - 1)] if start > first else []
        _believing(url, [_block(end), _logs(start, end), *before])


def head_now(app: Counting, endpoint: Endpoint, chain: Chain, blocks: int) -> int:
    """The head as it is read now, second reading and search for unknown contracts included; returns the fills."""
    endpoints, landed, progress = Endpoints([endpoint]), Landed(), Progress()
    pace = Pace(confirmations=0, stale_after=None, second_reading=SECOND_READING_S)
    options = {"known_fills": landed.known, "versions": (V2,), "pace": pace}
    (stream,) = streams(endpoints, progress=progress, **options)
    state: dict[str, Any] = {"next_block": FIRST, "second_next": FIRST, "strangers_at": 0}
    for _ in _polls(app, chain, blocks):
        for page in stream.read({"head": state}):
            landed.add(page)
        if progress.failures:
            raise progress.failures[0]
    return sum(map(len, landed.tables))


def backfill_now(endpoint: Endpoint, first: int, last: int, head: int) -> int:
    """A slice as it is read now; returns the fills."""
    reader = RangeReader(Endpoints([endpoint]), (V2,), head)
    fills, number, end = 0, first, None
    while number <= last:
        tables, _, end = reader.read(number, last, end)
        fills += sum(map(len, tables))
        number = end.number + 1
    return fills


def _polls(app: Counting, chain: Chain, blocks: int) -> Iterator[int]:
    """Let the chain grow poll by poll, and count from the end of the warm-up on; gives its head."""
    counted_from = FIRST + WARM_UP // BLOCKS_A_POLL * BLOCKS_A_POLL
    for first in range(FIRST, counted_from + blocks, BLOCKS_A_POLL):
        if first == counted_from:
            app.asked = Asked()
        last = first + BLOCKS_A_POLL - 1
        chain.append(busy_blocks(first, BLOCKS_A_POLL), last)
        yield last


def measure(blocks: int) -> dict[str, Asked]:
    """What is asked for 1,000 blocks, by way of reading; from a run over `blocks` of them.

    Raises:
        ValueError: not every fill was read.
    """
    found: dict[str, Asked] = {}
    client = HttpClient(SOURCE)

    def count(name: str, app: Counting, chain: Chain, fills: int | None) -> None:
        there = sum(1 for _ in chain.logs(FIRST, chain.head))
        if fills not in (None, there):
            raise ValueError(f"{name}: {fills} of {there} fills were read")
        found[name] = app.asked.per_1000(blocks)

    for name in ("head, JSON-RPC, before", "head, JSON-RPC, now", "head, SQD Portal, now"):
        chain = Chain(head=FIRST - 1)
        app = Counting(portal_app(chain) if "SQD" in name else polygon_app(chain))
        with AppServer(app) as server:
            if name.endswith("before"):
                count(name, app, chain, head_before(app, server.base_url, chain, blocks))
            else:
                make = Portal if "SQD" in name else Node
                endpoint = make(client, server.base_url)
                count(name, app, chain, head_now(app, endpoint, chain, blocks))
    chain = Chain(busy_blocks(FIRST, blocks), head=FIRST + blocks + 1000)
    last = FIRST + blocks - 1
    for name in (
        "backfill, JSON-RPC, before",
        "backfill, JSON-RPC, now",
        "backfill, SQD Portal, now",
    ):
        app = Counting(portal_app(chain) if "SQD" in name else polygon_app(chain))
        with AppServer(app) as server:
            if name.endswith("before"):
                count(name, app, chain, backfill_before(server.base_url, FIRST, last))
            else:
                make = Portal if "SQD" in name else Node
                endpoint = make(client, server.base_url)
                count(name, app, chain, backfill_now(endpoint, FIRST, last, chain.head))
    return found


def ratios(found: dict[str, Asked]) -> dict[str, dict[str, float]]:
    """Now to before, of JSON-RPC."""
    return {
        way: {
            name: round(value / vars(found[f"{way}, JSON-RPC, before"])[name], 3)
            for name, value in vars(found[f"{way}, JSON-RPC, now"]).items()
        }
        for way in ("head", "backfill")
    }


@click.command()
@click.option("--blocks", default=1000, show_default=True, help="Blocks to read, each way.")
def main(blocks: int) -> None:
    """Count requests, calls and bytes for 1,000 blocks."""
    found = measure(blocks)
    print("| for 1,000 blocks | requests | JSON-RPC calls | MB |\n|---|---:|---:|---:|")
    for name, asked in found.items():
        calls = f"{asked.calls:,}" if asked.calls else ""
        print(f"| {name} | {asked.requests:,} | {calls} | {asked.bytes / 1e6:,.1f} |")
    print(json.dumps(ratios(found)))


if __name__ == "__main__":
    main()
