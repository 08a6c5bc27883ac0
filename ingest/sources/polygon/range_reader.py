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
  logs by block hash, or another endpoint.
- A log's time is believed if it lies between those of the blocks around it, else its block is asked.

`docs/reliability.md` says what these checks can and cannot see.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import pyarrow as pa

from ingest.errors import (
    AccessDenied,
    ChainReorganised,
    HistoryPruned,
    HttpStatusError,
    MissingFills,
    NodeBehind,
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
    GENESIS,
    UNPRUNED_BLOCKS,
    Block,
    Endpoint,
    Endpoints,
    Evidence,
    Found,
    LogFilter,
    fills_of,
    name_of,
    place_of,
    quantity,
)
from ingest.sources.polygon.logs import decode_logs

logger = logging.getLogger(__name__)

SOURCE = "polygon"
TIMED_OUT_SHRINKS_BY = 8
FEW_LOGS = 2000  # below this many in an answer the range may grow
# Where so many fills were to be expected in blocks without one, evidence is looked for; matches come at random and
# have three fills each, so this happens by chance too.
DOUBTFUL_FILLS = 8
# Where so many were, it is not believed without evidence.
SUSPICIOUS_FILLS = 40
# An answer is suspicious with less than this share of the fills that were to be expected.
SUSPICIOUS_SHARE = 0.1
COMPARED_BLOCKS = 3  # of an answer with few fills
SMALLEST_OVERLAP = (
    16  # an endpoint that answers fewer blocks at once is not asked for one of them twice
)
EMPTY_BLOCKS = 16  # so many without any fill are believed with evidence only, from any endpoint
SURROUNDINGS = (4, 64, 512)  # blocks before and after a run of blocks without logs
REMEMBERED = 16  # answers, for what is to be expected


class Range(NamedTuple):
    """Fills of consecutive blocks, what could not be parsed, and the last block that was read."""

    tables: list[pa.Table]
    dead: list[DeadLetter]
    end: Block


class _Run(NamedTuple):
    """Consecutive blocks without a log, both ends included."""

    first: int
    last: int

    @property
    def blocks(self) -> int:
        return self.last - self.first + 1


class _SampleOnly(Exception):
    """Too many blocks without a log to look at all of them.

    Attributes:
        blocks: how many.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks


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
        self._unplaced = 0  # logs of the answer at hand that do not say where they belong

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
            except _SampleOnly as doubt:
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
        counts = self._counts(endpoint, found, start)
        # Logs that do not say where they belong become dead letters; without them counts prove nothing.
        self._unplaced = sum(place_of(log) is None for log in found.logs)
        if overlaps:
            if not self._unplaced or follows.number in counts:
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
        self._confirm(endpoint, found, counts, first, end.number, overlaps or is_recent)
        if not self._unplaced:
            self._check_number(endpoint, counts, first, end.number)
        logs = found.logs
        if len(logs) < FEW_LOGS and found.end.number >= until:
            endpoint.sizes.succeeded()
        self.give_times(endpoint, logs, found, follows)
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
        counts = self._counts(endpoint, found, number)
        if found.end.hash != block.hash:
            message = f"block {number} is another one at {name_of(endpoint)}"
            raise ChainReorganised(message, **_where(endpoint))
        fills = counts.get(number, 0)
        if fills < at_least and self._evidence(endpoint, [number], {number: fills}) is None:
            message = f"says that block {number} holds {fills} fills, not {at_least}"
            raise Unconfirmed(f"{message}, and gives no evidence for it", **_where(endpoint))
        self.give_times(endpoint, found.logs, found, None)
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

    def _counts(self, endpoint: Endpoint, found: Found, first: int) -> dict[int, int]:
        """Logs by block, of blocks that have any, in order.

        Raises:
            ChainReorganised: logs are of another block than the one with their number.
        """
        counts: dict[int, int] = {}
        hashes: dict[int, str] = {found.end.number: found.end.hash}
        for log in found.logs:
            if place := place_of(log):
                number = place[0]
                counts[number] = counts.get(number, 0) + 1
                block_hash = log.get("blockHash")
                known = hashes.setdefault(number, str(block_hash).lower())
                if isinstance(block_hash, str) and known != block_hash.lower():
                    message = f"logs of two different blocks {number}; try again"
                    raise ChainReorganised(message, **_where(endpoint))
        return dict(sorted(counts.items()))

    def _check_overlap(
        self, endpoint: Endpoint, found: Found, counts: dict[int, int], follows: Block
    ) -> None:
        """Refuse an answer that does not repeat the logs of the block before its range."""
        if follows.number not in counts:
            raise MissingFills(
                f"no fills of block {follows.number} any more, which had some; {_ANOTHER}",
                **_where(endpoint),
            )
        if not self._unplaced and not self._places <= set(map(place_of, found.logs)):
            raise MissingFills(
                f"fewer fills of block {follows.number} than before; {_ANOTHER}", **_where(endpoint)
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
            raise ChainReorganised(message, **_where(endpoint))

    # -- believing ---

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
                    raise ChainReorganised(message, **_where(endpoint))
                break
        return block

    def _confirm(
        self,
        endpoint: Endpoint,
        found: Found,
        counts: dict[int, int],
        first: int,
        last: int,
        is_anchored: bool,
    ) -> None:
        """Make sure that blocks without logs have none, where the answer alone does not prove it.

        Args:
            is_anchored: the endpoint is known to have the block before `first`.
        """
        pace = self._pace(counts)
        is_listed = not endpoint.is_silent_about_gaps or _lists_every_block(found, counts)
        for run in _runs(first, last, counts, found.quiet):
            is_silent = endpoint.is_silent_about_gaps and (
                not counts or (run.first == first and not is_anchored)
            )
            if is_listed:  # a block that was left out may hold anything
                for number in range(run.first, run.last + 1):
                    if number not in found.headers:
                        self._confirm_run(endpoint, _Run(number, number), pace, must=True)
            # Nothing in a long range: an endpoint may have left out all logs.
            is_empty = not counts and run.blocks >= EMPTY_BLOCKS
            # A Portal answers block by block: of its answers a single block has to be doubtful.
            expected = pace * run.blocks if endpoint.is_silent_about_gaps else pace
            is_doubtful = expected >= DOUBTFUL_FILLS or pace * run.blocks >= SUSPICIOUS_FILLS
            if is_silent or is_empty or is_doubtful:
                self._confirm_run(endpoint, run, pace, must=is_silent or is_empty)

    def _confirm_run(self, endpoint: Endpoint, run: _Run, pace: float, must: bool) -> None:
        """Find evidence that blocks hold no fill.

        Raises:
            MissingFills: they hold some.
            Unconfirmed: there is no evidence.
            _SampleOnly: not all of them were looked at, and a gateway may ask other nodes for evidence than for logs.
        """
        evidence = self._evidence(endpoint, range(run.first, run.last + 1), {})
        if evidence is not None:
            is_sure = not endpoint.is_silent_about_gaps or not evidence.is_sample
            if not must or is_sure or self._is_surrounded(endpoint, run):
                return
            raise _SampleOnly(run.blocks)
        is_suspicious = pace * run.blocks >= SUSPICIOUS_FILLS
        # A Portal answers block by block, so where few were to be expected its answer may stand alone.
        if not (must or is_suspicious):
            return
        # A Portal's own answer about the same blocks proves nothing more.
        is_node = endpoint.is_silent_about_gaps
        if not is_suspicious and is_node and self._is_surrounded(endpoint, run):
            return
        raise Unconfirmed(
            f"says that blocks {run.first} to {run.last} hold no fills, and nothing confirms it (no receipts, no"
            f" header that excludes it); {_ANOTHER}",
            is_suspicious=is_suspicious,
            **_where(endpoint),
        )

    def _is_surrounded(self, endpoint: Endpoint, run: _Run) -> bool:
        """Whether one answer has logs before and after these blocks, and none of them.

        Raises:
            MissingFills: it has some of them.
        """
        for width in SURROUNDINGS:
            first = max(run.first - width, 0)
            last = min(run.last + width, max(self.head, run.last))
            if last - first + 1 > endpoint.sizes.largest:
                return False
            try:
                counts = self._counts(endpoint, endpoint.logs(first, last, self._wanted), first)
            except (RpcError, NodeBehind, HistoryPruned) as error:
                logger.debug("no evidence: %s", error)
                return False
            if within := [number for number in counts if run.first <= number <= run.last]:
                words = "which it has when asked again"
                raise self._left_out(endpoint, within[0], words)
            if counts and min(counts) < run.first and max(counts) > run.last:
                return True
        return False

    def _check_number(
        self, endpoint: Endpoint, counts: dict[int, int], first: int, last: int
    ) -> None:
        """Compare the counts of some blocks with evidence, where an answer has far fewer logs than the ones before.

        Raises:
            MissingFills, Unconfirmed: see `_confirm_run`.
        """
        if len(self._paces) < 4 or not counts:
            return
        expected = median(self._paces) * (last - first + 1)
        total = sum(counts.values())
        if expected < 5 * SUSPICIOUS_FILLS or total >= SUSPICIOUS_SHARE * expected:
            return
        numbers = sorted(random.sample(list(counts), min(len(counts), COMPARED_BLOCKS)))
        if self._evidence(endpoint, numbers, counts) is None:
            raise Unconfirmed(
                f"says that blocks {first} to {last} hold {total} fills, where about"
                f" {expected:.0f} were to be expected, and gives no evidence for that; {_ANOTHER}",
                **_where(endpoint),
            )

    def _evidence(
        self, endpoint: Endpoint, numbers: Sequence[int], counts: Mapping[int, int]
    ) -> Evidence | None:
        """The evidence of an endpoint that these blocks hold no more fills than `counts` says; None if none has any.

        Raises:
            MissingFills: a block holds more.
            NodeBehind: it is one of the newest, so the endpoint may not have its fills yet.
        """
        for witness in (endpoint, *self.endpoints.others(endpoint)):
            try:
                evidence = self._testimony(endpoint, witness, numbers)
            except ChainReorganised:
                raise
            except UpstreamError as error:
                if witness is endpoint:
                    raise  # what is wrong with it is what has to be told
                logger.debug("no evidence: %s", error)
                continue
            for number, fills in evidence.fills.items():
                if fills > counts.get(number, 0) + self._unplaced:
                    words = f"{counts.get(number, 0)} of at least {fills}, by {name_of(witness)}"
                    raise self._left_out(endpoint, number, words)
            if evidence.is_complete:
                return evidence
        return None

    def _testimony(self, endpoint: Endpoint, witness: Endpoint, numbers: Sequence[int]) -> Evidence:
        """What a witness says: its own answer for these blocks, where it is another one that lists every block."""
        if witness is endpoint or witness.is_silent_about_gaps:
            return witness.evidence(numbers, self._wanted)
        found = witness.logs(numbers[0], numbers[-1], self._wanted)
        counts = self._counts(witness, found, numbers[0])
        listed = {number: counts.get(number, 0) for number in numbers if number in found.headers}
        return Evidence(listed, len(listed) == len(numbers))

    def _left_out(self, endpoint: Endpoint, number: int, words: str) -> UpstreamError:
        """The error of an answer without fills that a block holds; a node may not have the newest ones yet."""
        message = f"left out fills of block {number}: {words}"
        if endpoint.is_silent_about_gaps and number > self.head - UNPRUNED_BLOCKS:
            return NodeBehind(f"{message}; wait, or {_ANOTHER}", **_where(endpoint))
        return MissingFills(f"{message}; {_ANOTHER}", **_where(endpoint))

    def _pace(self, counts: dict[int, int]) -> float:
        """Fills a block that are to be expected: as before, or as between the first and last log of this answer."""
        own = 0.0
        if len(counts) > 1:
            own = sum(counts.values()) / (max(counts) - min(counts) + 1)
        return max(own, median(self._paces) if self._paces else 0.0)

    # -- times ---

    def give_times(
        self, endpoint: Endpoint, logs: list[Any], found: Found, follows: Block | None
    ) -> None:
        """Give logs the time of their block where they have none, or one that cannot be."""
        by_block: dict[int, set[Any]] = {}
        for log in logs:
            if place := place_of(log):
                by_block.setdefault(place[0], set()).add(_text(log.get("blockTimestamp")))
        if not by_block:
            return
        known = {
            number: block.timestamp
            for number, block in (found.headers | {found.end.number: found.end}).items()
            if number in by_block
        }
        oldest = min(by_block)
        if follows is None and oldest not in known:
            known |= endpoint.times([oldest])  # nothing before it says how early a time may be
        before = follows.timestamp if follows is not None else GENESIS
        is_doubtful = False
        for number in sorted(by_block):
            moment = _moment(by_block[number])
            if (
                moment is None
                or not before <= moment <= found.end.timestamp
                or moment != known.get(number, moment)
            ):
                is_doubtful = True
            else:
                before = moment
        if not is_doubtful:
            return
        # One wrong time makes those after it look wrong, or those before it: all of them are asked for.
        missing = [number for number in by_block if number not in known]
        known |= endpoint.times(missing)
        for log in logs:
            if place := place_of(log):
                log["blockTimestamp"] = known[place[0]]

    def only_mine(self, rows: pa.Table, first: int, last: int) -> pa.Table:
        """Landing rows of the generations that are read here, of blocks `first` to `last`."""
        versions, blocks = (rows.column(name) for name in ("contract_version", "block_number"))
        mine = [
            version in self.versions and first <= block <= last
            for version, block in zip(versions.to_pylist(), blocks.to_pylist(), strict=True)
        ]
        return rows.filter(pa.array(mine, pa.bool_()))


_ANOTHER = "use another endpoint, or add one to POLYGON_RPC_URL"


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


def _runs(first: int, last: int, counts: Iterable[int], quiet: frozenset[int]) -> list[_Run]:
    """Runs of blocks from `first` to `last` that have no log and are not known to be quiet."""
    known = sorted({*counts, *quiet} & set(range(first, last + 1)))
    bounds = [first - 1, *known, last + 1]
    return [_Run(before + 1, after - 1) for before, after in pairwise(bounds) if after - before > 1]


def _lists_every_block(found: Found, counts: dict[int, int]) -> bool:
    """Whether an endpoint lists blocks without logs too: one it leaves out is then missing."""
    inner = [number for number in found.headers if number not in counts][1:-1]
    return bool(inner)


def _text(value: Any) -> Any:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def _moment(values: set[Any]) -> int | None:
    """The one time that all logs of a block say; None if they say none, or several."""
    if len(values) != 1:
        return None
    try:
        return quantity("blockTimestamp", next(iter(values)))
    except ValueError:
        return None


def _where(endpoint: Endpoint) -> dict[str, Any]:
    return {"source": SOURCE, "url": endpoint.url}
