"""What every way to read the chain has in common: blocks, log filters, and endpoints that take turns.

An endpoint is one provider's address: a JSON-RPC node (`rpc.Node`) or an SQD Portal
(`sqd.portal.Portal`). Each answers the same questions in the same words, so one may go on where
another stopped. `range_reader` decides which part of an answer is accepted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from ingest.contracts import EXCHANGES, exchanges_of, topics_of
from ingest.errors import (
    ChainReorganised,
    IngestError,
    NodeBehind,
    NoEndpoint,
    UpstreamError,
)
from ingest.sizes import AdaptiveSize

SOURCE = "polygon"
USUAL_BLOCK_SECONDS = 2.0
FIRST_RANGE, LARGEST_RANGE = 64, 2000  # blocks in one request
# 2020-05-01: Polygon's mainnet began at the end of that month, so no block is older.
GENESIS = 1_588_291_200
# Blocks so new that a quiet one among them may wait for the next fill, which shows that nothing was left out.
RECENT_BLOCKS = 256
# Every node keeps the newest blocks, and none of these has been pruned anywhere.
UNPRUNED_BLOCKS = 64
FIRST_PAUSE_S, LONGEST_PAUSE_S = 15.0, 600.0  # of an endpoint that failed
BEHIND_TRIES, BEHIND_WAIT_S = 4, 2.0

Answer = TypeVar("Answer")


class Block(NamedTuple):
    """A block's number, time (unix seconds) and hash."""

    number: int
    timestamp: int
    hash: str


@dataclass(frozen=True)
class LogFilter:
    """Which logs are asked for.

    Attributes:
        addresses: of these contracts, lower case; empty: of any.
        topics: with one of these as their first topic.
        takers: if given, fills with one of these as their taker, which is the fourth topic.
    """

    addresses: tuple[str, ...]
    topics: tuple[str, ...]
    takers: tuple[str, ...] = ()

    def matches(self, log: Any) -> bool:
        """Whether a log, as JSON, is one of them."""
        try:
            topics = [topic.lower() for topic in log["topics"]]
            return (
                topics[0] in self.topics
                and (not self.addresses or log["address"].lower() in self.addresses)
                and (not self.takers or "0x" + topics[3][26:] in self.takers)
            )
        except (LookupError, TypeError, AttributeError):
            return False


def fills_of(versions: Sequence[str]) -> LogFilter:
    """`OrderFilled` logs of the exchanges of these generations."""
    return LogFilter(tuple(exchanges_of(tuple(versions))), tuple(topics_of(tuple(versions))))


def taker_legs_of(versions: Sequence[str]) -> LogFilter:
    """The taker legs among them: one for each match, so about a third of all fills."""
    every = fills_of(versions)
    return LogFilter(every.addresses, every.topics, tuple(EXCHANGES))


def any_emitter_of(versions: Sequence[str]) -> LogFilter:
    """Logs with the topics of these generations, whichever contract emitted them."""
    return LogFilter((), fills_of(versions).topics)


@dataclass(frozen=True)
class Found:
    """What an endpoint says of a range of blocks.

    Attributes:
        logs: each at most once, every one within the range.
        end: the last block that the answer covers, which may be before the one asked for.
        headers: blocks of the range that came along, by number.
        quiet: blocks of the range whose header excludes that they hold such a log.
    """

    logs: list[Any]
    end: Block
    headers: Mapping[int, Block] = field(default_factory=dict)
    quiet: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Evidence:
    """What else than an answer about a range says how many logs blocks hold.

    Attributes:
        fills: such logs by block, of the blocks that were looked at.
        is_complete: every block was looked at, or the endpoint showed everything that happened in a sample of them.
        is_sample: it was a sample.
    """

    fills: Mapping[int, int]
    is_complete: bool
    is_sample: bool = False


class Endpoint(Protocol):
    """One provider's address; belongs to one thread.

    Every method raises UpstreamError, and these of it: RangeTooLarge (asked for too much),
    NodeBehind (it has not seen a block), HistoryPruned (it does not keep one), ChainReorganised.
    """

    url: str
    kind: str  # "SQD Portal", "JSON-RPC"
    # Whether an answer may lack the logs of blocks that the endpoint has no more, or not yet, without a word.
    is_silent_about_gaps: bool
    sizes: AdaptiveSize  # of a range, blocks

    def head(self) -> Block:
        """The newest block."""

    def confirmed(self, confirmations: int) -> Block:
        """The newest block that no reorganisation is expected to replace."""

    def block(self, number: int) -> Block:
        """A block by its number."""

    def ancestor(self, number: int, of: Block) -> Block:
        """Block `number` of the chain that ends in block `of`: the headers between them name each other."""

    def logs(self, first: int, last: int, wanted: LogFilter, follows: str | None = None) -> Found:
        """Logs of blocks `first` to `last`; `follows` is the hash that block `first - 1` must have."""

    def times(self, numbers: Sequence[int]) -> dict[int, int]:
        """Times of blocks, unix seconds."""

    def evidence(self, numbers: Sequence[int], wanted: LogFilter) -> Evidence:
        """How many such logs consecutive or chosen blocks hold, from something else than a range of logs."""

    def identify(self) -> str:
        """Which chain it serves, in a few words; raises WrongShape if it is not Polygon."""

    def for_backfill(self) -> Endpoint:
        """The same for a thread that reads the past, in the background and under the same limits.

        It reads finalized blocks only, where the endpoint can be asked for these.
        """


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """All numbers, or so many of them: both ends and some in between, at random."""
    if len(numbers) <= most:
        return list(numbers)
    inner = random.sample(range(1, len(numbers) - 1), most - 2)
    return [numbers[0], *(numbers[at] for at in sorted(inner)), numbers[-1]]


def name_of(endpoint: Endpoint) -> str:
    """An endpoint for people: its kind and its host, no key."""
    return f"{endpoint.kind} {urlsplit(endpoint.url).hostname}"


def where_of(endpoint: Endpoint) -> dict[str, str]:
    """Who was asked and where, for errors."""
    return {"source": SOURCE, "url": endpoint.url}


@dataclass
class _Rest:
    """How long to leave an endpoint alone that failed: failures in a row, and the clock's time."""

    failures: int = 0
    until: float = 0.0


class Endpoints:
    """Endpoints in order of preference: the next answers when one fails, for a while.

    One question is answered by one endpoint alone: nothing is put together from two.

    Args:
        endpoints: at least one.
        are_polygon: whether they are known to serve Polygon, and need not be asked.
        sleep, clock: replaceable for tests.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        are_polygon: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.all = list(endpoints)
        self._rests = [_Rest() for _ in self.all]  # threads share them
        self._identified = set(range(len(self.all))) if are_polygon else set()
        self._sleep, self._clock = sleep, clock

    def for_backfill(self) -> Endpoints:
        """The same for a thread that reads the past, see `Endpoint`."""
        past = [each.for_backfill() for each in self.all]
        other = Endpoints(past, sleep=self._sleep, clock=self._clock)
        other._rests, other._identified = self._rests, self._identified
        return other

    @property
    def preferred(self) -> Endpoint:
        """The one that is asked first now."""
        return self.all[self._order()[0]]

    def others(self, than: Endpoint) -> Iterator[Endpoint]:
        """Every other endpoint that did not fail lately."""
        now = self._clock()
        for endpoint, rest in zip(self.all, self._rests, strict=True):
            if endpoint is not than and rest.until <= now:
                yield endpoint

    def ask(self, question: Callable[[Endpoint], Answer]) -> Answer:
        """The first answer to a question.

        An endpoint is asked once which chain it serves, and fails if that is another one. One that is merely behind is
        asked again a few times, when no other has the block.

        Raises:
            ChainReorganised: an endpoint says so; no other is asked.
            UpstreamError: the only endpoint failed.
            NoEndpoint: all of several failed.
        """
        for attempt in range(1, BEHIND_TRIES + 1):
            failures = []
            for at in self._order():
                try:
                    self._identify(at)
                    answer = question(self.all[at])
                except ChainReorganised:
                    raise
                except UpstreamError as error:
                    failures.append(error)
                    self._failed(at, error)
                else:
                    self._rests[at].failures = 0
                    self._rests[at].until = 0.0
                    return answer
            if attempt == BEHIND_TRIES or not any(isinstance(x, NodeBehind) for x in failures):
                break
            self._sleep(BEHIND_WAIT_S * attempt)
        if len(failures) == 1:
            raise failures[0]
        first = failures[0]
        reasons = "; ".join(str(each).removeprefix(f"{first.source}: ") for each in failures)
        raise NoEndpoint(
            f"none of {len(failures)} endpoints could answer: {reasons}",
            source=first.source,
            url=first.url,
        )

    def _identify(self, at: int) -> None:
        if at not in self._identified:
            self.all[at].identify()
            self._identified.add(at)

    def _order(self) -> list[int]:
        """Positions of the endpoints: those that did not fail lately first."""
        now = self._clock()
        return sorted(range(len(self.all)), key=lambda at: self._rests[at].until > now)

    def _failed(self, at: int, error: IngestError) -> None:
        rest = self._rests[at]
        pause = min(FIRST_PAUSE_S * 2 ** min(rest.failures, 10), LONGEST_PAUSE_S)
        if isinstance(error, NodeBehind):
            pause = FIRST_PAUSE_S
        rest.failures += 1
        rest.until = self._clock() + pause
