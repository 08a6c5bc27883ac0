"""The second reading of the chain: finds and repairs what the first reading of a range has missed.

Every range is read again some minutes later, by another endpoint where there is one, and compared with what has landed.
What is found is landed in the same load and noted in `late_fills`; a fill is taken back only with evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from ingest.contracts import EXCHANGES
from ingest.errors import ChainReorganised, Unconfirmed, UpstreamError
from ingest.page import Page
from ingest.progress import Progress
from ingest.records import fill_keys, late_fills_table, tombstones
from ingest.sources.polygon.chain import (
    GENESIS,
    SOURCE,
    USUAL_BLOCK_SECONDS,
    Block,
    Endpoint,
    name_of,
    taker_legs_of,
    where_of,
)
from ingest.sources.polygon.landing import (
    KnownFills,
    fills_page,
    fills_within,
    landed_fills,
    unreadable,
)
from ingest.sources.polygon.log_places import place_of, quantity
from ingest.sources.polygon.range_reader import RangeReader
from ingest.tables import LATE_FILLS

logger = logging.getLogger(__name__)

SECOND_READING_BLOCKS = (
    64  # so many are read a second time at once, or as many as came in the delay
)
OVERDUE_BLOCKS = 1800  # about an hour: a second reading that is so late is a failure


class SecondReading:
    """Reads ranges of the chain a second time; `second_next` of the state is the next block of it.

    Args:
        reader: who is asked, and for what.
        state: that of the first reading.
        known_fills: asked for what has landed.
    """

    def __init__(self, reader: RangeReader, state: dict[str, Any], known_fills: KnownFills) -> None:
        self._reader, self._state, self._known_fills = reader, state, known_fills
        self._endpoints = reader.endpoints

    def pages(self, head: Block, landed: int, delay_s: float, progress: Progress) -> Iterator[Page]:
        """Read ranges a second time once they are `delay_s` old, and compare them with what has landed.

        Compares taker legs only, by place, transaction and time: every match has one, and they are a third of all
        fills. Blocks that differ are read in full.

        Args:
            landed: the last block that has landed by now; rows of this run land when it is over.

        Raises:
            Unconfirmed: no endpoint could be read a second time for long.
        """
        state = self._state
        ripe = head.number - int(delay_s / USUAL_BLOCK_SECONDS)
        last = min(ripe, landed)
        first = state.setdefault("second_next", state["next_block"])
        if last - first + 1 < SECOND_READING_BLOCKS:
            return
        preferred = self._endpoints.preferred
        witness = next(self._endpoints.others(preferred), None)
        for endpoint in filter(None, (witness, preferred)):
            try:
                newest = endpoint.block(state["next_block"] - 1)
                if newest.hash != state["last_hash"]:
                    continue  # it shows another chain; which one counts is not decided here
                while (first := state["second_next"]) <= last:
                    yield from self._compare(endpoint, first, last)
                    if not progress.has_time():
                        break
                return
            except ChainReorganised as error:
                logger.info("second reading: %s", error)
            except UpstreamError as error:
                logger.warning("second reading of blocks %d to %d: %s", first, last, error)
        if last - state["second_next"] >= OVERDUE_BLOCKS:
            raise Unconfirmed(
                f"no endpoint could be read a second time since block {state['second_next']}, so fills that the"
                " first reading missed would stay missing; see the warnings, and add one to POLYGON_RPC_URL",
                **where_of(preferred),
            )

    def _compare(self, endpoint: Endpoint, first: int, last: int) -> Iterator[Page]:
        wanted = taker_legs_of(self._reader.versions)
        found, _ = self._reader.ask(endpoint, first, last, wanted)
        last = found.end.number
        known = landed_fills(self._known_fills, self._reader.versions, first, last)
        landed = _landed_taker_legs(known)
        there = dict(filter(None, map(_leg_of, found.logs)))
        differ = {
            leg.block
            for leg in landed.keys() | there.keys()
            if leg not in landed or leg not in there or there[leg] not in (None, landed[leg])
        }
        for block in sorted(differ):
            landed_before = fills_within(known, self._reader.versions, block, block)
            yield from self._repair(endpoint, block, landed_before)
        self._state["second_next"] = last + 1

    def _repair(self, endpoint: Endpoint, block: int, known: pa.Table) -> Iterator[Page]:
        """Land what the first reading missed of a block, and take back what is not in it.

        One of a gateway's nodes may be on a fork. So the block has to be the one from which a block descends that was
        read, and whose hash is remembered.
        """
        before = fill_keys(known)
        known_block = self._remembered(block)
        on_chain = self._endpoints.preferred.ancestor(block, known_block)
        tables, dead, _ = self._reader.read_block(endpoint, on_chain, len(before))
        after = {key for table in tables for key in fill_keys(table)}
        gone = [at for at, key in enumerate(before) if key not in after]
        if gone and dead:
            raise unreadable(block, block, endpoint)
        late = len(after.difference(before))
        if gone:
            tables.append(tombstones(known.take(gone)))
        if gone or late:
            yield fills_page(tables, dead)
            yield self._note_late(endpoint, block, late, len(gone))

    def _remembered(self, number: int) -> Block:
        """The first block at or behind this one whose hash is remembered; its time is not."""
        state = self._state
        last = [state["next_block"] - 1, state["last_hash"]]
        found = next(each for each in (*state.get("milestones", []), last) if each[0] >= number)
        return Block(found[0], 0, found[1])

    def _note_late(self, endpoint: Endpoint, block: int, fills: int, gone: int) -> Page:
        logger.warning(
            "%s: the second reading of block %d found %d fills that the first one missed, and took back %d",
            SOURCE, block, fills, gone,
        )  # fmt: skip
        note = late_fills_table(block, fills, gone, name_of(endpoint))
        return Page(LATE_FILLS, [note])


class _Leg(NamedTuple):
    """A taker leg. A fork may hold another transaction's in the same place."""

    block: int
    log_index: int
    tx_hash: str


def _landed_taker_legs(fills: pa.Table) -> dict[_Leg, int]:
    """Taker legs among landing rows, with their times (unix seconds)."""
    names = ("block_number", "log_index", "tx_hash", "taker")
    columns = [fills.column(name).to_pylist() for name in names]
    moments = fills.column("timestamp").cast(pa.int64()).to_pylist()
    return {
        _Leg(*leg): moment
        for *leg, taker, moment in zip(*columns, moments, strict=True)
        if taker in EXCHANGES
    }


def _leg_of(log: Any) -> tuple[_Leg, int | None] | None:
    """The leg that a log is of, and its time if it says one that can be; None if it does not say which leg."""
    if not (place := place_of(log)):
        return None
    try:
        leg = _Leg(*place, log["transactionHash"].lower())
    except (LookupError, TypeError, AttributeError):
        return None
    try:
        moment = quantity("blockTimestamp", log["blockTimestamp"])
    except (LookupError, ValueError):
        moment = 0
    return leg, moment if moment >= GENESIS else None
