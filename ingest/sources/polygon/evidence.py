"""Looks for evidence that blocks hold no more fills than an endpoint's answer says.

A node that has no logs of a block answers like one where nothing happened. So blocks without logs, and answers with
far fewer logs than expected, are accepted when something else confirms them: headers, receipts, logs by
block hash, another endpoint, or an answer with logs on both sides. Which blocks are read, and what becomes of an
answer, is left to `range_reader`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from ingest.errors import (
    ChainReorganised,
    HistoryPruned,
    MissingFills,
    NodeBehind,
    RpcError,
    Unconfirmed,
    UpstreamError,
)
from ingest.sources.polygon.chain import (
    UNPRUNED_BLOCKS,
    Endpoint,
    Endpoints,
    Evidence,
    Found,
    LogFilter,
    name_of,
    where_of,
)
from ingest.sources.polygon.log_places import counts_of

logger = logging.getLogger(__name__)

# Where so many fills were to be expected in blocks without one, evidence is looked for; matches come at random and
# have three fills each, so this happens by chance too.
DOUBTFUL_FILLS = 8
# An answer without that many expected fills needs evidence.
SUSPICIOUS_FILLS = 40
# An answer is suspicious with less than this share of the fills that were to be expected.
SUSPICIOUS_SHARE = 0.1
COMPARED_BLOCKS = 3  # of an answer with few fills
EMPTY_BLOCKS = 16  # so many without any fill are believed with evidence only, from any endpoint
SURROUNDINGS = (4, 64, 512)  # blocks before and after a run of blocks without logs
ANOTHER = "use another endpoint, or add one to POLYGON_RPC_URL"


class _Run(NamedTuple):
    """Consecutive blocks without a log, both ends included."""

    first: int
    last: int

    @property
    def blocks(self) -> int:
        return self.last - self.first + 1


class SampleOnly(Exception):
    """Too many blocks without a log to look at all of them.

    Attributes:
        blocks: how many.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks


class Witnesses:
    """Those who can confirm an answer: the endpoint that gave it, asked in other ways, and the other ones.

    Args:
        endpoints: all of them.
        endpoint: whose answer it is.
        wanted: the logs that were asked for.
        head: the newest block known.
        paces: fills a block, of answers believed before.
        unplaced: logs of the answer that do not say where they belong, so any block may be theirs.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        endpoint: Endpoint,
        wanted: LogFilter,
        *,
        head: int,
        paces: Sequence[float],
        unplaced: int,
    ) -> None:
        self._endpoints, self._endpoint, self._wanted = endpoints, endpoint, wanted
        self._head, self._paces, self._unplaced = head, paces, unplaced

    def confirm_quiet(
        self,
        found: Found,
        counts: dict[int, int],
        first: int,
        last: int,
        is_anchored: bool,
    ) -> None:
        """Make sure that blocks without logs have none, where the answer alone does not prove it.

        Args:
            counts: logs of the answer by block.
            first, last: the blocks that are to be believed.
            is_anchored: the endpoint is known to have the block before `first`.

        Raises:
            MissingFills, Unconfirmed, SampleOnly: see `_confirm_run`.
        """
        pace = _pace_to_expect(counts, self._paces)
        is_listed = not self._endpoint.is_silent_about_gaps or _lists_every_block(found, counts)
        for run in _runs(first, last, counts, found.quiet):
            is_silent = self._endpoint.is_silent_about_gaps and (
                not counts or (run.first == first and not is_anchored)
            )
            if is_listed:  # a block that was left out may hold anything
                for number in range(run.first, run.last + 1):
                    if number not in found.headers:
                        self._confirm_run(_Run(number, number), pace, must=True)
            # Nothing in a long range: an endpoint may have left out all logs.
            is_empty = not counts and run.blocks >= EMPTY_BLOCKS
            # A Portal answers block by block: of its answers a single block has to be doubtful.
            expected = pace * run.blocks if self._endpoint.is_silent_about_gaps else pace
            is_doubtful = expected >= DOUBTFUL_FILLS or pace * run.blocks >= SUSPICIOUS_FILLS
            if is_silent or is_empty or is_doubtful:
                self._confirm_run(run, pace, must=is_silent or is_empty)

    def _confirm_run(self, run: _Run, pace: float, must: bool) -> None:
        """Find evidence that blocks hold no fill.

        Raises:
            MissingFills: they hold some.
            Unconfirmed: there is no evidence.
            SampleOnly: not all of them were looked at, and a gateway may ask other nodes for evidence than for logs.
        """
        evidence = self.evidence(range(run.first, run.last + 1), {})
        if evidence is not None:
            is_sure = not self._endpoint.is_silent_about_gaps or not evidence.is_sample
            if not must or is_sure or self._is_surrounded(run):
                return
            raise SampleOnly(run.blocks)
        is_suspicious = pace * run.blocks >= SUSPICIOUS_FILLS
        # A Portal answers block by block, so where few were to be expected its answer may stand alone.
        if not (must or is_suspicious):
            return
        # A Portal's own answer about the same blocks proves nothing more.
        is_node = self._endpoint.is_silent_about_gaps
        if not is_suspicious and is_node and self._is_surrounded(run):
            return
        raise Unconfirmed(
            f"says that blocks {run.first} to {run.last} hold no fills, and nothing confirms it (no receipts, no"
            f" header that excludes it); {ANOTHER}",
            is_suspicious=is_suspicious,
            **where_of(self._endpoint),
        )

    def _is_surrounded(self, run: _Run) -> bool:
        """Whether one answer has logs before and after these blocks, and none of them.

        Raises:
            MissingFills: it has some of them.
        """
        for width in SURROUNDINGS:
            first = max(run.first - width, 0)
            last = min(run.last + width, max(self._head, run.last))
            if last - first + 1 > self._endpoint.sizes.largest:
                return False
            try:
                found = self._endpoint.logs(first, last, self._wanted)
                counts = counts_of(found, where_of(self._endpoint))
            except (RpcError, NodeBehind, HistoryPruned) as error:
                logger.debug("no evidence: %s", error)
                return False
            if within := [number for number in counts if run.first <= number <= run.last]:
                words = "which it has when asked again"
                raise self._left_out(within[0], words)
            if counts and min(counts) < run.first and max(counts) > run.last:
                return True
        return False

    def confirm_number(self, counts: dict[int, int], first: int, last: int) -> None:
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
        if self.evidence(numbers, counts) is None:
            raise Unconfirmed(
                f"says that blocks {first} to {last} hold {total} fills, where about"
                f" {expected:.0f} were to be expected, and gives no evidence for that; {ANOTHER}",
                **where_of(self._endpoint),
            )

    def evidence(self, numbers: Sequence[int], counts: Mapping[int, int]) -> Evidence | None:
        """The evidence of an endpoint that these blocks hold no more fills than `counts` says; None if none has any.

        Raises:
            MissingFills: a block holds more.
            NodeBehind: it is one of the newest, so the endpoint may not have its fills yet.
        """
        for witness in (self._endpoint, *self._endpoints.others(self._endpoint)):
            try:
                evidence = self._testimony(witness, numbers)
            except ChainReorganised:
                raise
            except UpstreamError as error:
                if witness is self._endpoint:
                    raise  # what is wrong with it is what has to be told
                logger.debug("no evidence: %s", error)
                continue
            for number, fills in evidence.fills.items():
                if fills > counts.get(number, 0) + self._unplaced:
                    words = f"{counts.get(number, 0)} of at least {fills}, by {name_of(witness)}"
                    raise self._left_out(number, words)
            if evidence.is_complete:
                return evidence
        return None

    def _testimony(self, witness: Endpoint, numbers: Sequence[int]) -> Evidence:
        """What a witness says: its own answer for these blocks, where it is another one that lists every block."""
        if witness is self._endpoint or witness.is_silent_about_gaps:
            return witness.evidence(numbers, self._wanted)
        found = witness.logs(numbers[0], numbers[-1], self._wanted)
        counts = counts_of(found, where_of(witness))
        listed = {number: counts.get(number, 0) for number in numbers if number in found.headers}
        return Evidence(listed, len(listed) == len(numbers))

    def _left_out(self, number: int, words: str) -> UpstreamError:
        """The error of an answer without fills that a block holds; a node may not have the newest ones yet."""
        message = f"left out fills of block {number}: {words}"
        if self._endpoint.is_silent_about_gaps and number > self._head - UNPRUNED_BLOCKS:
            return NodeBehind(f"{message}; wait, or {ANOTHER}", **where_of(self._endpoint))
        return MissingFills(f"{message}; {ANOTHER}", **where_of(self._endpoint))


def _pace_to_expect(counts: Mapping[int, int], paces: Sequence[float]) -> float:
    """Fills a block that are to be expected: as before, or as between the first and last log of this answer."""
    own = 0.0
    if len(counts) > 1:
        own = sum(counts.values()) / (max(counts) - min(counts) + 1)
    return max(own, median(paces) if paces else 0.0)


def _runs(first: int, last: int, counts: Iterable[int], quiet: frozenset[int]) -> list[_Run]:
    """Runs of blocks from `first` to `last` that have no log and are not known to be quiet."""
    known = sorted({*counts, *quiet} & set(range(first, last + 1)))
    bounds = [first - 1, *known, last + 1]
    return [_Run(before + 1, after - 1) for before, after in pairwise(bounds) if after - before > 1]


def _lists_every_block(found: Found, counts: dict[int, int]) -> bool:
    """Whether an endpoint lists blocks without logs too: one it leaves out is then missing."""
    inner = [number for number in found.headers if number not in counts][1:-1]
    return bool(inner)
