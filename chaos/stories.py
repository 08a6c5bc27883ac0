"""Stories: the chain source against endpoints that were drawn by a seed, while the chain grows, and what came of it.

The source is the real one, run by dlt's own iteration, over real HTTP to `sandbox.farm`; only the landing tables
are a dictionary. A story ends well when every fill has landed and none that is on no chain; or when a named
error says that this is not so and the source does not call itself fresh. Anything else is a silent loss.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from chaos.direct import DirectClient
from chaos.story_chain import BASE, BLOCKS, DENSITIES, VERSIONS, chain_of
from chaos.story_landing import RESOURCE, Landing, Tables, truth
from ingest.errors import IngestError
from ingest.http import HttpClient
from ingest.page import Stream
from ingest.progress import Progress
from ingest.queue.slices import Slice
from ingest.retries import RetryPolicy
from ingest.sources.polygon.chain import SOURCE, Endpoint, Endpoints
from ingest.sources.polygon.reader import Pace
from ingest.sources.polygon.reader import streams as polygon
from ingest.sources.polygon.rpc import Node
from ingest.sources.polygon.slices import ChainReader
from ingest.sources.sqd.portal import Portal
from sandbox.clock import block_time
from sandbox.farm import Farm
from sandbox.portals import PortalEndpoint, PortalState, random_portal
from sandbox.providers import Endpoint as NodeEndpoint
from sandbox.providers import Provider
from sandbox.random_providers import random_provider
from sandbox.views import UpTo

CYCLES = 5  # while the endpoints are as they were drawn
MOST_CYCLES, MOST_ATTEMPTS = 40, 6  # at the head and at a slice, after they were healed
SECOND_READING_S = 120.0
LARGEST_BLOCK = 100  # logs
WHOLE, NAMED, BEHIND = "whole", "named", "behind"


@dataclass
class Story:
    """One drawn set of endpoints over one chain, and what became of it.

    Attributes:
        said: what was drawn, in one line.
        outcome: `WHOLE`; `NAMED`, an error says what is missing; `BEHIND`, a cursor says it; or what went wrong.
        errors: the failures of the last cycle or slice.
        requests: to all endpoints.
    """

    seed: int
    said: str = ""
    outcome: str = ""
    errors: list[str] = field(default_factory=list)
    requests: int = 0

    @property
    def failed(self) -> bool:
        """Whether anything went wrong that was not named."""
        return self.outcome not in (WHOLE, NAMED, BEHIND)

    def __str__(self) -> str:
        errors = "".join(f"\n    {each}" for each in self.errors)
        return f"{self.outcome}: {self.said}{errors}"


def run_story(
    seed: int,
    farm: Farm,
    *,
    direct: bool = False,
    drawn: Sequence[Provider | PortalState] = (),
    landing: Landing | None = None,
) -> Story:
    """Draw endpoints and a chain by the seed, and load from them.

    Args:
        direct: without sockets, see `Direct`.
        drawn: the endpoints, in place of any mix; they are read at the head of a busy chain, and heal.
        landing: where rows go; None is a place in memory.
    """
    story = Story(seed)
    rng = Random(seed)
    teller = _Teller(rng, farm, story, direct, landing or Tables(), drawn)
    try:
        if drawn or rng.random() < 0.7:
            teller.follow()
        else:
            teller.backfill()
    except Exception as error:  # whatever is not an error of the project's own tree
        story.outcome = f"broken by {type(error).__name__}: {error}"
        story.errors.append("".join(traceback.format_exception(error)[-3:]))
    finally:
        teller.close()
    return story


def _is_forked(drawn: Provider | PortalState) -> bool:
    if isinstance(drawn, PortalState):
        return drawn.fork > 0
    return any(node.fork for node in drawn.nodes)


def _draw(rng: Random) -> list[Provider | PortalState]:
    kinds = rng.choices(("node", "portal"), (4, 1), k=rng.choice((1, 1, 1, 2, 3)))
    return [
        random_provider(rng, largest_block=LARGEST_BLOCK) if kind == "node" else random_portal(rng)
        for kind in kinds
    ]


class _Teller:
    """Builds what a story needs, and tells it."""

    def __init__(
        self,
        rng: Random,
        farm: Farm,
        story: Story,
        direct: bool,
        landing: Landing,
        drawn: Sequence[Provider | PortalState],
    ) -> None:
        self._rng, self._farm, self._story = rng, farm, story
        self._farm_in_thread = farm if direct else None
        self._tables = landing
        self._density = "dense" if drawn else rng.choice(tuple(DENSITIES))
        self._chain = chain_of(self._density)
        self._view = UpTo(self._chain, BASE + rng.randint(0, 300))
        self._now = 0.0
        self._urls: list[str] = []
        self._servers: list[NodeEndpoint | PortalEndpoint] = []
        drawn = drawn or _draw(rng)
        # Nobody can tell which of two chains is the right one for as long as both are shown.
        self._heals = rng.random() < 0.8 or any(map(_is_forked, drawn))
        endpoints = [self._endpoint(each) for each in drawn]
        self._endpoints = Endpoints(endpoints, sleep=self._sleep, clock=lambda: self._now)
        said = "; ".join(each.describe() for each in drawn)
        self._say(f"seed {story.seed} {self._density} heals={self._heals} [{said}]")

    def close(self) -> None:
        """Take the endpoints off the server."""
        self._story.requests = sum(each.requests for each in self._servers)
        for url in self._urls:
            self._farm.remove(url)

    def _endpoint(self, drawn: Provider | PortalState) -> Endpoint:
        """A client of what was drawn, which is served from now on."""
        is_node = isinstance(drawn, Provider)
        server = (NodeEndpoint if is_node else PortalEndpoint)(drawn, self._view)
        url = self._farm.add(server)
        self._servers.append(server)
        self._urls.append(url)
        return (Node if is_node else Portal)(self._client(), url)

    def _client(self) -> HttpClient:
        retry = RetryPolicy(attempts=self._rng.choice((3, 6)))
        options = {"retry": retry, "sleep": self._sleep, "timeout": (10.0, 30.0)}
        if self._farm_in_thread is None:
            return HttpClient(SOURCE, **options)
        return DirectClient(self._farm_in_thread, **options)

    def _sleep(self, seconds: float) -> None:
        self._now += seconds

    def _say(self, words: str) -> None:
        self._story.said = f"{self._story.said} {words}".strip()

    # -- the head ---

    def follow(self) -> None:
        """Cycles at the head, first with the endpoints as they were drawn."""
        rng = self._rng
        pace = Pace(
            confirmations=rng.choice((0, 0, 3, 32)),
            stale_after=None,
            second_reading=SECOND_READING_S,
        )
        start = self._view.head - rng.choice((0, 20, 150))
        self._say(f"follow from {start} confirmations={pace.confirmations}")
        for _ in range(CYCLES):
            self._grow(rng.choice((0, 1, 10, 40, 90)))
            self._cycle(pace, start)
        if not self._heals:
            # What they never show again cannot be missing in silence for longer than until it is read twice.
            if self._story.errors:
                self._story.outcome = NAMED
            else:
                self._judge(start, self._tables.cursor()["second_next"] - 1)
            return
        for server in self._servers:
            server.heal()
        sick_until = self._view.head
        self._grow(int(SECOND_READING_S))  # so that all of it is read a second time
        for _ in range(MOST_CYCLES):
            fresh = self._cycle(pace, start)
            cursor = self._tables.cursor()
            last = cursor["next_block"] - 1
            read_twice = cursor["second_next"] > min(sick_until, last)
            if fresh and read_twice and last >= self._view.head - pace.confirmations:
                break
            self._grow(5)
        else:
            if self._story.errors:
                self._story.outcome = NAMED
                return
        # What was not read twice yet may lack what sick endpoints left out.
        self._judge(start, last if read_twice else cursor["second_next"] - 1)
        if not self._story.failed and not (
            read_twice and last >= self._view.head - pace.confirmations
        ):
            self._story.outcome = BEHIND

    def _grow(self, blocks: int) -> None:
        self._view.head = min(self._view.head + blocks, BASE + BLOCKS - 1)
        self._now += 2 * blocks + 1

    def _cycle(self, pace: Pace, start: int) -> bool:
        """One run of the source; whether it calls itself fresh."""

        def make_streams(progress: Progress) -> Sequence[Stream]:
            return polygon(
                self._endpoints,
                progress=progress,
                known_fills=self._tables.known,
                versions=VERSIONS,
                start=start,
                pace=pace,
            )

        progress = self._tables.load(make_streams)
        self._story.errors = [f"{type(each).__name__}: {each}" for each in progress.failures]
        return not progress.failures and progress.caught_up[RESOURCE]

    def _judge(self, first: int, last: int) -> None:
        expected, found = truth(self._chain, first, last), self._tables.keys(first, last)
        missing, more = expected - found, found - expected
        if not (missing or more):
            self._story.outcome = WHOLE
            return
        key = min(missing or more)
        block = self._chain.block_with(key[1]) or 0
        self._story.outcome = (
            f"LOST {len(missing)} EXTRA {len(more)} of {len(expected)}, as in block {block}"
        )

    # -- the past ---

    def backfill(self) -> None:
        """Slices of the past, first with the endpoints as they were drawn."""
        rng = self._rng
        self._view.head = BASE + 1_500
        first = BASE + rng.randint(0, 800)
        blocks = rng.choice((20, 100, 300))
        parts = [
            Slice(SOURCE, block_time(first + at), block_time(first + at + blocks))
            for at in range(0, 2 * blocks, blocks)
        ]
        self._say(f"backfill from {first}, slices of {blocks} blocks")
        endpoints = self._endpoints.for_backfill()
        todo = parts
        for attempt in range(3 + MOST_ATTEMPTS):
            if attempt == 3:
                if not self._heals:
                    break
                for server in self._servers:
                    server.heal()
            reader = ChainReader(endpoints, VERSIONS, 32, {})
            todo = [part for part in todo if not self._slice(reader, part)]
            self._grow(5)
            self._now += 700
            if not todo:
                break
        done = [part for part in parts if part not in todo]
        for part in done:
            at = first + (part.start - parts[0].start) // 2
            self._judge(at, at + blocks - 1)
            if self._story.failed:
                return
        self._story.outcome = NAMED if todo else WHOLE

    def _slice(self, reader: ChainReader, part: Slice) -> bool:
        """Read a slice; whether it is done."""
        tables = []
        try:
            for page in reader.pages(part):
                tables += page.rows
        except IngestError as error:
            self._story.errors = [f"{type(error).__name__}: {error}"]
            return False
        for table in tables:
            self._tables.add(table)
        return True
