"""Fills from the chain: `OrderFilled` logs of the exchange contracts, over JSON-RPC or an SQD Portal.

Loads `order_filled` rows of V2 and V3, and of V1 when asked for. The cursor is the next block,
behind `confirmations`, with the hash of the last block read. When the chain has another block there,
the blocks behind the last common one are read again, and fills that are gone are taken back with
`is_deleted`. Every range is read a second time some minutes later, by another endpoint where there
is one: what the first reading missed is landed and noted in `late_fills`. Rows of a block range and
the cursor past it are always in one load package.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ingest.contracts import V2, V3
from ingest.errors import ChainReorganised, ClockSkew, NodeBehind, SourceFrozen, Unconfirmed
from ingest.page import Page, Stream
from ingest.progress import Progress
from ingest.records import fill_keys, tombstones
from ingest.sources.polygon.block_search import block_since
from ingest.sources.polygon.chain import (
    RECENT_BLOCKS,
    SOURCE,
    Block,
    Endpoint,
    Endpoints,
    where_of,
)
from ingest.sources.polygon.landing import KnownFills, fills_page, landed_fills, unreadable
from ingest.sources.polygon.range_reader import RangeReader
from ingest.sources.polygon.second_reading import SecondReading
from ingest.sources.polygon.strangers import look_for_strangers
from ingest.tables import ORDER_FILLED

logger = logging.getLogger(__name__)

RESOURCE = "order_filled_chain"

LAST_SECOND = (1 << 32) - 1  # of the times that can be stored
MILESTONES = (
    64  # blocks whose hashes are remembered, to find the last one that two forks have in common
)
FAR_BEHIND_BLOCKS = 1800  # an endpoint that is about an hour behind what was read is a failure


@dataclass(frozen=True)
class Pace:
    """How the head of the chain is followed.

    Attributes:
        confirmations: blocks at the head that are not read yet.
        reorg_depth: blocks that are read again when no common block is remembered.
        stale_after: seconds by which the newest block may be older than now, or be ahead of it; None: no limit.
        second_reading: seconds after which a range is read a second time; None: never.
    """

    confirmations: int = 32
    reorg_depth: int = 256
    stale_after: float | None = 600.0
    second_reading: float | None = 300.0


def streams(
    endpoints: Endpoints,
    *,
    progress: Progress,
    known_fills: KnownFills = lambda first, last: ORDER_FILLED.schema.empty_table(),
    versions: tuple[str, ...] = (V2, V3),
    start: int | datetime | None = None,
    lookback: int = 3600,
    pace: Pace | None = None,
    recheck: Sequence[tuple[int, int]] = (),
    now: Callable[[], float] = time.time,
) -> Sequence[Stream]:
    """OrderFilled logs of the chain.

    Args:
        endpoints: who is asked.
        progress: budget of this run; says afterwards whether it is caught up, and what failed.
        known_fills: asked for the landing rows of blocks that are read again.
        versions: exchange generations to read.
        start: first block (int) or time (datetime); None is `lookback` seconds before the newest
            block. Counts on the first run only, afterwards the cursor does.
        pace: how the head is followed.
        recheck: ranges of blocks, both ends included, whose landed fills are compared with the chain first.

    Failures recorded in `progress`: SourceFrozen (the head does not move), ClockSkew, and what
    `RangeReader.read` raises.
    """
    pace = pace or Pace()

    def pages(states: dict[str, Any]) -> Iterator[Page]:
        state = states.setdefault("head", {})
        state["caught_up"] = False
        with progress.recording_failures():
            head = endpoints.ask(lambda endpoint: endpoint.head())
            if "next_block" not in state:
                state["next_block"] = _first_block(endpoints, start, lookback, head)
                state["second_next"] = state["next_block"]
            chain = _Chain(RangeReader(endpoints, versions, head.number), state, known_fills)
            # The caller must know whether it was done, and what follows must not wait for it.
            with progress.recording_failures():
                for first, until in recheck:
                    yield from chain.compare(first, until)
            yield from chain.read(head, pace, progress)
            if pace.stale_after is not None:
                _check_head(head, now(), pace.stale_after, endpoints.preferred)
        progress.caught_up[RESOURCE] = state["caught_up"]
        progress.watermark[RESOURCE] = state.get("watermark", 0)

    return [Stream(RESOURCE, ORDER_FILLED, pages)]


class _Chain:
    """One run over the chain; what its methods yield is landed in order, with the state that they leave."""

    def __init__(
        self,
        reader: RangeReader,
        state: dict[str, Any],
        known_fills: KnownFills,
    ) -> None:
        self._reader, self._state = reader, state
        self._endpoints, self._known_fills = reader.endpoints, known_fills
        # The last block before those that this run reads: its own rows land when it is over.
        self._landed = state["next_block"] - 1

    def read(self, head: Block, pace: Pace, progress: Progress) -> Iterator[Page]:
        """Take back what left the chain, read what has come, read ranges a second time, and look for strangers."""
        last = head.number - pace.confirmations
        try:
            yield from self.reread_after_reorg(last, pace.reorg_depth)
            yield from self.follow(last, progress)
            if pace.second_reading is not None and progress.has_time():
                again = SecondReading(self._reader, self._state, self._known_fills)
                yield from again.pages(head, self._landed, pace.second_reading, progress)
            yield from look_for_strangers(self._reader, self._state, head)
        except ChainReorganised as error:
            logger.warning("%s", error)

    # -- the first reading ---

    def follow(self, last: int, progress: Progress) -> Iterator[Page]:
        """Read from the cursor to block `last`, moving the cursor; until then or the budget ends.

        Every range must follow the one before by its hash. If it does not, the run ends there, because what it has
        read has not landed yet and cannot be taken back: the next run finds the hash gone and does that.
        """
        state = self._state
        while (first := state["next_block"]) <= last:
            try:
                tables, dead, end = self._reader.read(first, last, self._last_block())
            except Unconfirmed as error:
                if error.is_suspicious or first <= self._reader.head - RECENT_BLOCKS:
                    raise
                # The newest blocks seem to hold no fill. The next one that comes shows that none was left out.
                logger.info("%s; they are read again in the next run", error)
                last = first - 1
                break
            yield fills_page(tables, dead)
            self._move(end)
            if not progress.has_time():
                break
        state["caught_up"] = state["next_block"] > last

    def _last_block(self) -> Block | None:
        state = self._state
        if "last_hash" not in state:
            return None
        return Block(state["next_block"] - 1, state["watermark"], state["last_hash"])

    def _move(self, block: Block) -> None:
        self._state.update(
            next_block=block.number + 1, last_hash=block.hash, watermark=block.timestamp
        )
        milestones = [each for each in self._state.get("milestones", []) if each[0] < block.number]
        self._state["milestones"] = thinned([*milestones, [block.number, block.hash]])

    # -- reading again ---

    def reread_after_reorg(self, last: int, depth: int) -> Iterator[Page]:
        """If the last block read left the chain: read what follows the last common block again.

        The budget does not count here: rows taken back and rows read again belong into one package.
        """
        state = self._state
        cursor = state["next_block"]
        if "last_hash" not in state:
            return  # nothing was read yet
        if last < cursor - 1:  # this endpoint has not seen that block yet
            if last < cursor - 1 - FAR_BEHIND_BLOCKS:
                raise NodeBehind(
                    f"blocks up to {cursor - 1} were read before, and the newest one now is {last}: this endpoint is far"
                    " behind, or the one before was of another chain",
                    **where_of(self._endpoints.preferred),
                )
            return
        if self._is_on_chain(cursor - 1, state["last_hash"]):
            return
        common = next(
            (
                number
                for number, block_hash in reversed(state.get("milestones", []))
                if number < cursor - 1 and self._is_on_chain(number, block_hash)
            ),
            None,
        )
        # With no common block the fork may have begun before the oldest one that is remembered.
        oldest = min((number for number, _ in state.get("milestones", [])), default=cursor - 1)
        first = max(oldest + 1 - depth, 0) if common is None else common + 1
        logger.warning(
            "%s: blocks %d to %d were replaced; they are read again", SOURCE, first, cursor - 1
        )
        state["milestones"] = [each for each in state.get("milestones", []) if each[0] < first]
        state["second_next"] = min(state.get("second_next", first), first)
        end = yield from self._compare(first, cursor - 1)
        self._move(end)

    def _is_on_chain(self, number: int, block_hash: str) -> bool:
        block = self._endpoints.ask(lambda endpoint: endpoint.block(number))
        return block.hash == block_hash.lower()

    def compare(self, first: int, last: int) -> Iterator[Page]:
        """Read blocks again, land what is missing and take back what is not on the chain.

        Raises:
            NodeBehind: the endpoint has not seen all of them yet.
        """
        if last > self._reader.head:
            message = f"blocks {first} to {last} are to be read again, and the newest block is {self._reader.head}"
            raise NodeBehind(message, **where_of(self._endpoints.preferred))
        yield from self._compare(first, last)

    def _compare(self, first: int, last: int) -> Iterator[Page]:
        self._landed = min(self._landed, first - 1)
        again: set[tuple] = set()
        number, end, is_whole = first, None, True
        while number <= last:
            tables, dead, end = self._reader.read(number, last, end)
            is_whole = is_whole and not dead
            again.update(key for table in tables for key in fill_keys(table))
            yield fills_page(tables, dead)
            number = end.number + 1
        known = landed_fills(self._known_fills, self._reader.versions, first, last)
        gone = [at for at, key in enumerate(fill_keys(known)) if key not in again]
        if gone and not is_whole:
            raise unreadable(first, last, self._endpoints.preferred)
        if gone:
            yield fills_page([tombstones(known.take(gone))])
        return end


def thinned(milestones: list[list]) -> list[list]:
    """At most `MILESTONES` of them, in order: of the older half every other one is dropped."""
    if len(milestones) <= MILESTONES:
        return milestones
    half = len(milestones) // 2
    return milestones[:half:2] + milestones[half:]


def _first_block(
    endpoints: Endpoints, start: int | datetime | None, lookback: int, head: Block
) -> int:
    """The block a start means: itself, or the first one at or after a time."""
    if isinstance(start, int):
        return start
    moment = head.timestamp - lookback if start is None else int(start.timestamp())
    return block_since(endpoints, moment, head)


def _check_head(head: Block, now: float, tolerance: float, endpoint: Endpoint) -> None:
    """Refuse a head that is too far from now: behind, nobody adds to it; ahead, this clock is slow."""
    moment = datetime.fromtimestamp(min(head.timestamp, LAST_SECOND), UTC).isoformat()
    if head.timestamp > now + tolerance:
        raise ClockSkew(
            f"the newest block {head.number} is of {moment}, which is {head.timestamp - now:.0f} s"
            " ahead of this machine's clock; set the clock, because ages cannot be told by it",
            **where_of(endpoint),
        )
    if head.timestamp < now - tolerance:
        raise SourceFrozen(
            f"the newest block {head.number} is of {moment}: the node does not follow the chain;"
            " use another POLYGON_RPC_URL",
            **where_of(endpoint),
        )
