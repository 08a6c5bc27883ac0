"""Reads ranges of blocks and believes an answer for its content, not for its envelope.

Nothing in an `eth_getLogs` answer ties it to the chain: a node that lags behind, has pruned its
history or has holes in its index answers with the logs it has, which may be none, and with no error.
What is believed here, and why:

- A node that has the logs of two blocks has those of the blocks between them, because it lags at the
  end of its history and prunes at the beginning. So an answer is believed from its first log to its
  last one, and the cursor goes no further than that.
- What lies before the first log of an old range is believed if the answer repeats the logs of the
  block before it; what lies behind the last log is read again with the blocks that follow.
- Blocks without logs at either end, where no log is near, and blocks without logs where many were to
  be expected, are believed when something else confirms it: their headers, their receipts, their
  logs by block hash, or another endpoint (`evidence`).
- A log's time is believed if it lies between those of the blocks around it, else its block is asked
  (`log_times`).

`docs/reliability.md` says what these checks can and cannot see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from ingest.errors import (
    AccessDenied,
    ChainReorganised,
    HttpStatusError,
    MissingFills,
    NotJson,
    RangeTooLarge,
    RateLimited,
    RpcError,
    Timeout,
    Unavailable,
    Unconfirmed,
    Unreachable,
    UpstreamError,
)
from ingest.records import DeadLetter
from ingest.sources.polygon.chain import (
    SOURCE,
    UNPRUNED_BLOCKS,
    Block,
    Endpoint,
    Endpoints,
    Found,
    LogFilter,
    fills_of,
    name_of,
    where_of,
)
from ingest.sources.polygon.evidence import ANOTHER, SampleOnly, Witnesses
from ingest.sources.polygon.log_places import counts_of, place_of
from ingest.sources.polygon.log_times import give_times
from ingest.sources.polygon.logs import decode_logs

TIMED_OUT_SHRINKS_BY = 8
FEW_LOGS = 2000  # below this many in an answer the range may grow
SMALLEST_OVERLAP = (
    16  # an endpoint that answers fewer blocks at once is not asked for one of them twice
)
REMEMBERED = 16  # answers, for what is to be expected


class Range(NamedTuple):
    """Fills of consecutive blocks, what could not be parsed, and the last block that was read."""

    tables: list[pa.Table]
    dead: list[DeadLetter]
    end: Block


class RangeReader:
    """Reads ranges of blocks from endpoints that take turns, as Arrow tables.

    Args:
        endpoints: who is asked.
        versions: exchange generations to read.
        head: the newest block known, which says how old a range is; set it anew as the chain grows.
    """

    def __init__(self, endpoints: Endpoints, versions: Sequence[str], head: int = 0) -> None:
        self.endpoints, self.versions, self.head = endpoints, tuple(versions), head
        self._wanted = fills_of(versions)
        self._paces: deque[float] = deque(maxlen=REMEMBERED)  # fills a block, of answers believed
        self._with_fills: Block | None = None  # the last block that was read, if it had any
        self._places: set[tuple[int, int]] = set()  # of its logs
        self._may_be_cut = False  # its answer ended before its range did, so it may hold more

    def read(self, first: int, last: int, follows: Block | None = None) -> Range:
        """Fills of blocks `first` to `last`, or of as many as fit one answer and are believed.

        Args:
            follows: block `first - 1`, if it is known.

        Raises:
            ChainReorganised: block `first - 1` has another hash.
            MissingFills: the answer of the only endpoint lacks fills.
            Unconfirmed: it says that there are none, or few, and nothing confirms that.
            UpstreamError: see `Endpoints.ask`.
        """
        return self.endpoints.ask(lambda endpoint: self._read(endpoint, first, last, follows))

    def _read(self, endpoint: Endpoint, first: int, last: int, follows: Block | None) -> Range:
        while True:
            try:
                return self._read_once(endpoint, first, last, follows)
            except SampleOnly as doubt:
                endpoint.sizes.shrink(max(doubt.blocks, 2))

    def _read_once(self, endpoint: Endpoint, first: int, last: int, follows: Block | None) -> Range:
        is_recent = first > self.head - UNPRUNED_BLOCKS
        overlaps = (
            endpoint.is_silent_about_gaps
            and follows is not None
            and follows == self._with_fills
            and (self._may_be_cut or (not is_recent and endpoint.sizes.value > SMALLEST_OVERLAP))
        )
        start = first - 1 if overlaps else first
        found, until = self.ask(endpoint, start, last, self._wanted, None if overlaps else follows)
        counts = counts_of(found, where_of(endpoint))
        # Logs that do not say where they belong become dead letters; without them counts prove nothing.
        unplaced = _unplaced(found)
        if overlaps:
            if not unplaced or follows.number in counts:
                self._check_overlap(endpoint, found, counts, follows)
            if found.end.number < first:  # it answers one block at once
                self._may_be_cut = False
                return self._read_once(endpoint, first, last, follows)
            counts.pop(start, None)
            # What an answer that was cut within that block had left out, and nothing that was read before.
            found = Found(
                [log for log in found.logs if place_of(log) not in self._places],
                found.end,
                found.headers,
                found.quiet,
            )
        end = self._believed_end(endpoint, found, counts)
        witnesses = self._witnesses(endpoint, unplaced)
        witnesses.confirm_quiet(found, counts, first, end.number, overlaps or is_recent)
        if not unplaced:
            witnesses.confirm_number(counts, first, end.number)
        logs = found.logs
        if len(logs) < FEW_LOGS and found.end.number >= until:
            endpoint.sizes.succeeded()
        give_times(endpoint, logs, found, follows)
        self._paces.append(sum(counts.values()) / (end.number - first + 1))
        self._with_fills = end if end.number in counts else None
        self._places = {
            place for log in logs if (place := place_of(log)) and place[0] == end.number
        }
        self._may_be_cut = endpoint.is_silent_about_gaps and end.number < until
        return Range(*decode_logs(logs, source=SOURCE), end)

    # -- asking ---

    def read_block(self, endpoint: Endpoint, block: Block, at_least: int) -> Range:
        """Fills of one block from one endpoint; fewer than `at_least` only with evidence for it.

        Args:
            block: the one that is on the chain; an endpoint may show another one with this number.

        Raises:
            MissingFills, Unconfirmed: see `read`.
            ChainReorganised: the endpoint has another block there.
        """
        number = block.number
        found, _ = self.ask(endpoint, number, number, self._wanted)
        counts = counts_of(found, where_of(endpoint))
        if found.end.hash != block.hash:
            message = f"block {number} is another one at {name_of(endpoint)}"
            raise ChainReorganised(message, **where_of(endpoint))
        fills = counts.get(number, 0)
        witnesses = self._witnesses(endpoint, _unplaced(found))
        if fills < at_least and witnesses.evidence([number], {number: fills}) is None:
            message = f"says that block {number} holds {fills} fills, not {at_least}"
            raise Unconfirmed(f"{message}, and gives no evidence for it", **where_of(endpoint))
        give_times(endpoint, found.logs, found, None)
        return Range(*decode_logs(found.logs, source=SOURCE), found.end)

    def ask(
        self,
        endpoint: Endpoint,
        first: int,
        last: int,
        wanted: LogFilter,
        follows: Block | None = None,
    ) -> tuple[Found, int]:
        """What an endpoint says of as much of a range as it answers, and the last block asked for."""
        usual = endpoint.sizes.value
        parent = follows.hash if follows is not None else None
        while True:
            until = min(first + endpoint.sizes.value - 1, last)
            try:
                return endpoint.logs(first, until, wanted, parent), until
            except (RpcError, Unreachable, NotJson, Unavailable, HttpStatusError) as error:
                if isinstance(error, RateLimited | AccessDenied):
                    raise
                if not _ask_for_less(endpoint, error, until - first + 1):
                    if not isinstance(error, RangeTooLarge | Timeout):
                        endpoint.sizes.value = usual  # the size was not what was wrong
                    raise

    def _check_overlap(
        self, endpoint: Endpoint, found: Found, counts: dict[int, int], follows: Block
    ) -> None:
        """Refuse an answer that does not repeat the logs of the block before its range."""
        if follows.number not in counts:
            raise MissingFills(
                f"no fills of block {follows.number} any more, which had some; {ANOTHER}",
                **where_of(endpoint),
            )
        if not _unplaced(found) and not self._places <= set(map(place_of, found.logs)):
            raise MissingFills(
                f"fewer fills of block {follows.number} than before; {ANOTHER}",
                **where_of(endpoint),
            )
        hashes = {
            str(log.get("blockHash")).lower()
            for log in found.logs
            if isinstance(log, dict)
            and "blockHash" in log
            and (place_of(log) or (None,))[0] == follows.number
        }
        if hashes - {follows.hash}:
            message = "blocks were replaced while they were read; the next run reads them again"
            raise ChainReorganised(message, **where_of(endpoint))

    # -- believing ---

    def _witnesses(self, endpoint: Endpoint, unplaced: int) -> Witnesses:
        """Those who can confirm an answer of an endpoint, with so many logs that do not say where they belong."""
        return Witnesses(
            self.endpoints,
            endpoint,
            self._wanted,
            head=self.head,
            paces=self._paces,
            unplaced=unplaced,
        )

    def _believed_end(self, endpoint: Endpoint, found: Found, counts: dict[int, int]) -> Block:
        """The last block up to which an answer is believed: that of its last log, if it has any."""
        if not counts or not endpoint.is_silent_about_gaps:
            return found.end
        newest = max(counts)
        if newest == found.end.number:
            return found.end
        block = found.headers.get(newest) or endpoint.block(newest)
        for log in reversed(found.logs):
            if (place_of(log) or (None,))[0] == newest:
                if str(log.get("blockHash", block.hash)).lower() != block.hash:
                    message = "blocks were replaced while they were read; try again"
                    raise ChainReorganised(message, **where_of(endpoint))
                break
        return block


def _unplaced(found: Found) -> int:
    """How many logs do not say where they belong."""
    return sum(place_of(log) is None for log in found.logs)


def _ask_for_less(endpoint: Endpoint, error: UpstreamError, asked: int) -> bool:
    """Shrink the ranges of an endpoint after an error; False if it was one block."""
    if asked <= 1:
        return False
    if isinstance(error, RangeTooLarge) and error.limit is not None:
        if error.is_lasting:
            endpoint.sizes.cap(error.limit)
            return True
        return endpoint.sizes.shrink(asked, -(-asked // error.limit))
    # A timeout costs its whole time, so few of them must do.
    by = TIMED_OUT_SHRINKS_BY if isinstance(error, Timeout) else 2
    return endpoint.sizes.shrink(asked, by)
