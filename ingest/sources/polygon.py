"""Fills from the chain: `OrderFilled` logs of the exchange contracts, by `eth_getLogs`.

Loads `order_filled` rows of V2, and of V1 when asked for. The cursor is the next block, behind
`confirmations`, with the hash of the last block read: when the chain has another block there, the
last `reorg_depth` blocks are read again and fills that are gone are taken back with `is_deleted`.
Rows of a block range and the cursor past it are always in one load package.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.compute as pc
from dlt.extract import DltSource

from ingest.contracts import V2
from ingest.errors import SourceFrozen
from ingest.http import HttpClient
from ingest.landing import RESOURCE_OPTIONS, AdaptiveSize, Landing
from ingest.progress import Progress
from ingest.records import tombstones
from ingest.sources.polygon_logs import decode_logs
from ingest.sources.polygon_rpc import Block, Node, RangeTooLarge

SOURCE = "polygon"
RESOURCE = "order_filled_chain"
FIRST_RANGE, LARGEST_RANGE = 64, 2000  # blocks in one request
FEW_LOGS = 2000  # below this many in an answer the range may grow

# (first block) -> the landing rows of this source from that block on.
KnownFills = Callable[[int], pa.Table]


@dlt.source(name=SOURCE, max_table_nesting=0)
def polygon(
    url: str,
    *,
    progress: Progress,
    known_fills: KnownFills,
    versions: tuple[str, ...] = (V2,),
    start: int | datetime | None = None,
    end: int | datetime | None = None,
    lookback: int = 3600,
    confirmations: int = 32,
    reorg_depth: int = 256,
    stale_after: float | None = 600.0,
    now: Callable[[], float] = time.time,
    client: HttpClient | None = None,
) -> DltSource:
    """OrderFilled logs of the chain.

    Args:
        url: JSON-RPC endpoint of a Polygon node.
        progress: budget of this run; says afterwards whether it is caught up, and what failed.
        known_fills: asked after a reorganisation for the landing rows from a block on.
        versions: exchange generations to read.
        start: first block (int) or time (datetime); None is `lookback` seconds before the newest
            block. Counts on the first run only, afterwards the cursor does.
        end: block or time, exclusive. With an `end` the run is a backfill of start..end with a
            cursor of its own, forgotten when the range is done.
        confirmations: blocks at the head that are not read yet.
        reorg_depth: blocks that are read again when the last block read is no longer there.
        stale_after: seconds by which the newest block may be older than `now`; None is no limit.

    Failures recorded in `progress`: SourceFrozen (the head does not move), RpcError, and what
    `HttpClient` raises.
    """
    node = Node(client or HttpClient(SOURCE), url)

    @dlt.resource(name=RESOURCE, table_name="order_filled", **RESOURCE_OPTIONS)
    def order_filled_chain() -> Iterator[Any]:
        landing = Landing("order_filled", SOURCE)
        states = dlt.current.resource_state()
        key = "head" if end is None else f"{_name(start)}-{_name(end)}"
        state = states.setdefault(key, {})
        with progress.recording_failures():
            head = node.block("latest")
            safe = head.number - confirmations
            last = safe if end is None else min(safe, _block_of(node, end, head) - 1)
            if "next_block" not in state:
                since = start if start is not None else head.timestamp - lookback
                state["next_block"] = _block_of(node, since, head)
            reader = _Reader(node, versions, landing)
            yield from _retract(node, reader, state, last, reorg_depth, known_fills)
            yield from reader.follow(state, last, progress)
            if end is None:
                _check_head(head, stale_after, now(), url)
        yield from landing.flush()
        state["caught_up"] = state.get("caught_up", False) and not progress.failures
        progress.caught_up[RESOURCE] = state["caught_up"]
        progress.watermark[RESOURCE] = state.get("watermark", 0)
        if end is not None and state["caught_up"]:
            del states[key]

    return order_filled_chain


def _name(bound: int | datetime | None) -> str:
    return bound.isoformat() if isinstance(bound, datetime) else str(bound)
