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
from typing import Any, NamedTuple

import pyarrow as pa

from ingest.contracts import EXCHANGES, V2, V3
from ingest.errors import (
    ChainReorganised,
    ClockSkew,
    NodeBehind,
    SourceFrozen,
    Unconfirmed,
    UpstreamError,
    WrongShape,
)
from ingest.page import Page, Stream
from ingest.progress import Progress
from ingest.records import DeadLetter, as_order_filled, fill_keys, late_fills_table, tombstones
from ingest.sources.polygon.chain import (
    GENESIS,
    RECENT_BLOCKS,
    USUAL_BLOCK_SECONDS,
    Block,
    Endpoint,
    Endpoints,
    any_emitter_of,
    first_since,
    name_of,
    place_of,
    quantity,
    taker_legs_of,
)
from ingest.sources.polygon.logs import decode_logs
from ingest.sources.polygon.range_reader import SOURCE, RangeReader
from ingest.tables import LATE_FILLS, ORDER_FILLED

logger = logging.getLogger(__name__)

RESOURCE = "order_filled_chain"

LAST_SECOND = (1 << 32) - 1  # of the times that can be stored
MILESTONES = (
    64  # blocks whose hashes are remembered, to find the last one that two forks have in common
)
SECOND_READING_BLOCKS = (
    64  # so many are read a second time at once, or as many as came in the delay
)
FAR_BEHIND_BLOCKS = 1800  # an endpoint that is about an hour behind what was read is a failure
OVERDUE_BLOCKS = 1800  # about an hour: a second reading that is so late is a failure
UNKNOWN_EVERY_S = 3600
UNKNOWN_BLOCKS = 30
UNKNOWN_LETTERS = 100  # a stranger's contract may be busy

# (first block, last block) -> the landing rows of this source in these blocks, both included.
KnownFills = Callable[[int, int], pa.Table]


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
            last = head.number - pace.confirmations
            if "next_block" not in state:
                state["next_block"] = _first_block(endpoints, start, lookback, head)
                state["second_next"] = state["next_block"]
            reader = RangeReader(endpoints, versions, head.number)
            chain = _Chain(reader, state, known_fills)
            # The caller must know whether it was done, and what follows must not wait for it.
            with progress.recording_failures():
                for first, until in recheck:
                    yield from chain.compare(first, until)
            try:
                yield from chain.reread_after_reorg(last, pace.reorg_depth)
                yield from chain.follow(last, progress)
                if pace.second_reading is not None and progress.has_time():
                    yield from chain.read_again(head, pace.second_reading, progress)
                yield from chain.look_for_strangers(head)
            except ChainReorganised as error:
                logger.warning("%s", error)
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
                    source=SOURCE,
                    url=self._endpoints.preferred.url,
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
            raise NodeBehind(message, source=SOURCE, url=self._endpoints.preferred.url)
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
        known = as_order_filled(self._known_fills(first, last))
        known = self._reader.only_mine(known, first, last)
        gone = [at for at, key in enumerate(fill_keys(known)) if key not in again]
        if gone and not is_whole:
            raise _unreadable(first, last, self._endpoints.preferred)
        if gone:
            yield fills_page([tombstones(known.take(gone))])
        return end

    # -- the second reading ---

    def read_again(self, head: Block, delay_s: float, progress: Progress) -> Iterator[Page]:
        """Read ranges a second time once they are `delay_s` old, and compare them with what has landed.

        Compares taker legs only, by place, transaction and time: every match has one, and they are a third of all
        fills. Blocks that differ are read in full.
        """
        state = self._state
        ripe = head.number - int(delay_s / USUAL_BLOCK_SECONDS)
        last = min(ripe, self._landed)
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
                    yield from self._read_again(endpoint, first, last)
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
                source=SOURCE,
                url=preferred.url,
            )

    def _read_again(self, endpoint: Endpoint, first: int, last: int) -> Iterator[Page]:
        wanted = taker_legs_of(self._reader.versions)
        found, _ = self._reader.ask(endpoint, first, last, wanted)
        last = found.end.number
        known = as_order_filled(self._known_fills(first, last))
        known = self._reader.only_mine(known, first, last)
        landed = _landed_taker_legs(known)
        there = dict(filter(None, map(_leg_of, found.logs)))
        differ = {
            leg.block
            for leg in landed.keys() | there.keys()
            if leg not in landed or leg not in there or there[leg] not in (None, landed[leg])
        }
        for block in sorted(differ):
            yield from self._repair(endpoint, block, self._reader.only_mine(known, block, block))
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
            raise _unreadable(block, block, endpoint)
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

    # -- contracts that are not known ---

    def look_for_strangers(self, head: Block) -> Iterator[Page]:
        """Once an hour: find logs with the topic of a fill from contracts that are not known; keep them as dead letters."""
        state = self._state
        last = state["next_block"] - 1
        seen_at = state.get("strangers_at", 0)
        if seen_at <= head.timestamp < seen_at + UNKNOWN_EVERY_S:
            return
        endpoint = self._endpoints.preferred
        first = max(last - min(UNKNOWN_BLOCKS, endpoint.sizes.value) + 1, 0)
        wanted = any_emitter_of(self._reader.versions)
        try:
            found = endpoint.logs(first, last, wanted)
            strangers = [
                log
                for log in found.logs
                if wanted.matches(log) and log["address"].lower() not in EXCHANGES
            ]
            kept = strangers[:UNKNOWN_LETTERS]
            # A letter is read again once its contract is known, and then has to say its time.
            self._reader.give_times(endpoint, kept, found, None)
        except UpstreamError as error:
            # Nothing is lost by it; some nodes refuse queries without an address.
            logger.info("%s: logs of unknown contracts were not looked for: %s", SOURCE, error)
            return
        state["strangers_at"] = head.timestamp
        if strangers:
            addresses = sorted({log["address"].lower() for log in strangers})
            logger.warning(
                "%s: %d OrderFilled logs of unknown contracts in blocks %d to %d: %s; they are dead letters"
                " (unknown_contract)",
                SOURCE, len(strangers), first, last, ", ".join(addresses),
            )  # fmt: skip
            dead = decode_logs(kept, source=SOURCE)[1]
            yield fills_page([], dead)


def fills_page(tables: Sequence[pa.Table], dead: Sequence[DeadLetter] = ()) -> Page:
    """A page of fills of the chain."""
    return Page(ORDER_FILLED, tables, SOURCE, dead)


def _unreadable(first: int, last: int, endpoint: Endpoint) -> WrongShape:
    """Why fills stay that another reading did not find: some of its logs may be theirs."""
    return WrongShape(
        f"logs of blocks {first} to {last} cannot be parsed, so no fill of them is taken back; try another node",
        source=SOURCE,
        url=endpoint.url,
    )


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


def block_since(endpoints: Endpoints, moment: int, head: Block) -> int:
    """Number of the first block at or after `moment` (unix seconds); head + 1 if none is.

    Raises:
        WrongShape: the times of blocks contradict each other.
        UpstreamError: see `Endpoints.ask`.
    """

    def search(endpoint: Endpoint) -> int:
        return first_since(moment, head, endpoint.block, {"source": SOURCE, "url": endpoint.url})

    return endpoints.ask(search)


def _check_head(head: Block, now: float, tolerance: float, endpoint: Endpoint) -> None:
    """Refuse a head that is too far from now: behind, nobody adds to it; ahead, this clock is slow."""
    moment = datetime.fromtimestamp(min(head.timestamp, LAST_SECOND), UTC).isoformat()
    if head.timestamp > now + tolerance:
        raise ClockSkew(
            f"the newest block {head.number} is of {moment}, which is {head.timestamp - now:.0f} s"
            " ahead of this machine's clock; set the clock, because ages cannot be told by it",
            source=SOURCE,
            url=endpoint.url,
        )
    if head.timestamp < now - tolerance:
        raise SourceFrozen(
            f"the newest block {head.number} is of {moment}: the node does not follow the chain;"
            " use another POLYGON_RPC_URL",
            source=SOURCE,
            url=endpoint.url,
        )
