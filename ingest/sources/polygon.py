"""Fills from the chain: `OrderFilled` logs of the exchange contracts, by `eth_getLogs`.

Loads `order_filled` rows of V2, and of V1 when asked for. The cursor is the next block, behind
`confirmations`, with the hash of the last block read: when the chain has another block there, the
last `reorg_depth` blocks are read again and fills that are gone are taken back with `is_deleted`.
Rows of a block range and the cursor past it are always in one load package.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import dlt
import pyarrow as pa
from dlt.extract import DltSource

from ingest.contracts import V2
from ingest.errors import ChainReorganised, ClockSkew, SourceFrozen, Timeout
from ingest.http import HttpClient
from ingest.landing import RESOURCE_OPTIONS, AdaptiveSize, Landing
from ingest.progress import Progress
from ingest.records import DeadLetter, as_order_filled, fill_keys, tombstones
from ingest.sources.polygon_logs import decode_logs
from ingest.sources.polygon_rpc import Block, Node, RangeTooLarge

logger = logging.getLogger(__name__)

SOURCE = "polygon"
RESOURCE = "order_filled_chain"
FIRST_RANGE, LARGEST_RANGE = 64, 2000  # blocks in one request
TIMED_OUT_SHRINKS_BY = 8
FEW_LOGS = 2000  # below this many in an answer the range may grow

LAST_SECOND = (1 << 32) - 1  # of the times that can be stored

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
    block_range: int = FIRST_RANGE,
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
        block_range: blocks in one request at first; adapts to what the node can answer.
        confirmations: blocks at the head that are not read yet.
        reorg_depth: blocks that are read again when the last block read is no longer there.
        stale_after: seconds by which the newest block may be older than `now`, or be ahead of it; None
            is no limit.

    Failures recorded in `progress`: SourceFrozen (the head does not move), ClockSkew, RpcError, and
    what `HttpClient` raises.
    """
    node = Node(client or HttpClient(SOURCE), url)

    @dlt.resource(name=RESOURCE, table_name="order_filled", **RESOURCE_OPTIONS)
    def order_filled_chain() -> Iterator[Any]:
        landing = Landing(SOURCE)
        states = dlt.current.resource_state()
        key = "head" if end is None else f"{_name(start)}-{_name(end)}"
        state = states.setdefault(key, {})
        state["caught_up"] = False
        with progress.recording_failures():
            head = node.block("latest")
            last = head.number - confirmations
            if end is not None:
                last = min(last, _last_block(node, end, head, state))
            if "next_block" not in state:
                state["next_block"] = _first_block(node, start, lookback, head)
            reader = RangeReader(node, versions, block_range)
            reread = _reread_after_reorg(reader, landing, state, last, reorg_depth, known_fills)
            try:
                yield from reread
                yield from _follow(reader, landing, state, last, progress)
            except ChainReorganised as error:
                logger.warning("%s", error)
            if end is None and stale_after is not None:
                _check_head(head, now(), stale_after, url)
        yield from landing.flush()
        progress.caught_up[RESOURCE] = state["caught_up"]
        progress.watermark[RESOURCE] = state.get("watermark", 0)
        if end is not None and state.get("next_block", 0) > state.get("last_block", 1 << 63):
            del states[key]

    return order_filled_chain


def _name(bound: int | datetime | None) -> str:
    return bound.isoformat() if isinstance(bound, datetime) else str(bound)


def _follow(
    reader: RangeReader, landing: Landing, state: dict[str, Any], last: int, progress: Progress
) -> Iterator[Any]:
    """Read from the cursor to block `last`, moving the cursor; until then or the budget ends.

    Every range must follow the one before by its hash. If it does not, the run ends there, because what it has
    read has not landed yet and cannot be taken back: the next run finds the hash gone and does that.
    """
    while state["next_block"] <= last:
        rows, dead, block = reader.read(state["next_block"], last, state.get("last_hash"))
        yield from landing.add(rows, dead)
        _move(state, block)
        if not progress.has_time():
            break
    state["caught_up"] = state["next_block"] > last


def _move(state: dict[str, Any], block: Block) -> None:
    state.update(next_block=block.number + 1, last_hash=block.hash, watermark=block.timestamp)


def _reread_after_reorg(
    reader: RangeReader,
    landing: Landing,
    state: dict[str, Any],
    last: int,
    depth: int,
    known_fills: KnownFills,
) -> Iterator[Any]:
    """If the last block read left the chain: read `depth` blocks again, take back what is gone.

    The budget does not count here: rows taken back and rows read again belong into one package.
    """
    cursor = state["next_block"]
    if "last_hash" not in state or last < cursor - 1:
        return  # nothing was read yet, or this node has not seen that block yet
    if reader.node.block(cursor - 1).hash == state["last_hash"]:
        return
    block = first = max(cursor - depth, 0)
    again = set()
    read = None
    while block < cursor:
        rows, dead, read = reader.read(block, cursor - 1, read.hash if read else None)
        again.update(key for table in rows for key in fill_keys(table))
        yield from landing.add(rows, dead)
        block = read.number + 1
    _move(state, read)
    known = reader.only_mine(as_order_filled(known_fills(first)), cursor)
    gone = [position for position, key in enumerate(fill_keys(known)) if key not in again]
    if gone:
        yield from landing.add([tombstones(known.take(gone))])


class RangeReader:
    """Reads block ranges that the node can answer, as Arrow tables."""

    def __init__(self, node: Node, versions: tuple[str, ...], block_range: int) -> None:
        self.node, self._versions = node, versions
        self._size = AdaptiveSize(block_range, max(block_range, LARGEST_RANGE))

    def read(
        self, first: int, last: int, follows: str | None = None
    ) -> tuple[list[pa.Table], list[DeadLetter], Block]:
        """Fills of blocks `first` to `last`, or of as many as fit one answer.

        Args:
            follows: hash that block `first - 1` must have, if it is known.

        Returns:
            The rows, what could not be parsed, and the last block that was read.

        Raises:
            ChainReorganised: block `first - 1` has another hash.
        """
        while True:
            until = min(first + self._size.value - 1, last)
            try:
                logs, block = self.node.logs(first, until, self._versions, follows)
            except (RangeTooLarge, Timeout) as error:
                # A timeout costs its whole time, so few of them must do.
                by = TIMED_OUT_SHRINKS_BY if isinstance(error, Timeout) else 2
                if not self._size.shrink(until - first + 1, by):
                    raise
            else:
                break
        if len(logs) < FEW_LOGS:
            self._size.succeeded()
        self.node.add_timestamps(logs)
        rows, dead = decode_logs(logs, source=SOURCE)
        return rows, dead, block

    def only_mine(self, rows: pa.Table, before: int) -> pa.Table:
        """Landing rows of the generations that are read here, of blocks before `before`."""
        versions, blocks = (rows.column(name) for name in ("contract_version", "block_number"))
        mine = [
            version in self._versions and block < before
            for version, block in zip(versions.to_pylist(), blocks.to_pylist(), strict=True)
        ]
        return rows.filter(pa.array(mine, pa.bool_()))


def _block_of(node: Node, bound: int | datetime, head: Block) -> int:
    """The block a bound means: itself, or the first one at or after a time."""
    if isinstance(bound, int):
        return bound
    return node.first_block_since(int(bound.timestamp()), head)


def _last_block(node: Node, end: int | datetime, head: Block, state: dict[str, Any]) -> int:
    """The last block before `end`; remembered once the chain has got there."""
    if "last_block" in state:
        return state["last_block"]
    last = _block_of(node, end, head) - 1
    if last < head.number:
        state["last_block"] = last
    return last


def _first_block(node: Node, start: int | datetime | None, lookback: int, head: Block) -> int:
    if start is None:
        return node.first_block_since(head.timestamp - lookback, head)
    return _block_of(node, start, head)


def _check_head(head: Block, now: float, tolerance: float, url: str) -> None:
    """Refuse a head that is too far from now: behind, nobody adds to it; ahead, this clock is slow."""
    moment = datetime.fromtimestamp(min(head.timestamp, LAST_SECOND), UTC).isoformat()
    if head.timestamp > now + tolerance:
        raise ClockSkew(
            f"the newest block {head.number} is of {moment}, which is {head.timestamp - now:.0f} s"
            " ahead of this machine's clock; set the clock, because ages cannot be told by it",
            source=SOURCE,
            url=url,
        )
    if head.timestamp < now - tolerance:
        raise SourceFrozen(
            f"the newest block {head.number} is of {moment}: the node does not follow the chain;"
            " use another POLYGON_RPC_URL",
            source=SOURCE,
            url=url,
        )
