"""Faults of the simulated upstreams: `FAULTS` says what can go wrong, `Faults` when it does.

A fault stands between a request and its upstream, over real HTTP. It happens by schedule (at the nth request that
matches) or by probability, from a seed. How each one acts is in `fault_acts`, `paging_faults`, `row_faults` and
`clob_faults`, what each one means for a pipeline in docs/faults.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Container
from dataclasses import dataclass
from email.utils import formatdate
from random import Random

from sandbox import clob_faults, paging_faults, refusals, row_faults
from sandbox import fault_acts as acts
from sandbox.fault_acts import (
    CLOB,
    FILLS,
    GAMMA,
    GOLDSKY,
    PAGES,
    POLYGON,
    PORTAL,
    SOURCES,
    UPSTREAMS,
    Act,
    Ask,
    Place,
)
from sandbox.portals import PortalLimits
from sandbox.providers import EMPTY, NONE, ZERO, NodeState
from sandbox.wire import Answer, Request
from sandbox.world import World


@dataclass(frozen=True)
class Fault:
    """One way to go wrong.

    Attributes:
        what: what the upstream does, in a few words.
        sources: the upstreams that can do it: names of sources, sqd and clob.
        act: makes the answer to one request.
    """

    what: str
    sources: tuple[str, ...]
    act: Act


class Faults:
    """Which faults are on, and when.

    Args:
        world: the one that is served.
        seed: of the probabilities.
    """

    def __init__(self, world: World, seed: int = 0) -> None:
        self.hits: dict[str, int] = {}
        self._world, self._seed = world, seed
        self._rules: list[_Rule] = []

    def add(
        self,
        name: str,
        *,
        sources: Container[str] = UPSTREAMS,
        path: str = "",
        requests: Container[int] | None = None,
        probability: float = 1.0,
    ) -> None:
        """Turn a fault on, for those of `sources` that can have it.

        Args:
            path: a part of the paths to which it happens.
            requests: at which of the matching requests of a source, counted from 1; None is all of them.
            probability: of happening at one of those.

        Raises:
            KeyError: there is no such fault.
        """
        fault = FAULTS[name]
        wanted = [source for source in fault.sources if source in sources]
        rng = Random(f"{self._seed}:{name}")
        self._rules += [
            _Rule(name, Place(source, self._world), path, requests, probability, rng)
            for source in wanted
        ]

    def clear(self) -> None:
        """Turn all faults off."""
        self._rules = []

    async def answer(self, request: Request, ask: Ask) -> Answer:
        """The answer to a request, by every fault that happens to it; `ask` asks the upstream itself."""
        for rule in self._rules:
            if rule.happens(request):
                self.hits[rule.name] = self.hits.get(rule.name, 0) + 1
                ask = _through(rule, ask)
        return await ask(request)

    def matches(self, path: str) -> bool:
        """Whether any fault could happen to a request for this path."""
        return any(rule.matches(path) for rule in self._rules)


@dataclass
class _Rule:
    """A fault at one source, and when it happens there."""

    name: str
    place: Place
    path: str
    requests: Container[int] | None
    probability: float
    rng: Random
    seen: int = 0

    def matches(self, path: str) -> bool:
        return path.startswith(f"/{self.place.source}") and self.path in path

    def happens(self, request: Request) -> bool:
        if not self.matches(request.path):
            return False
        self.seen += 1
        scheduled = self.requests is None or self.seen in self.requests
        return scheduled and self.rng.random() < self.probability


def _through(rule: _Rule, ask: Ask) -> Ask:
    async def asked(request: Request) -> Answer:
        return await FAULTS[rule.name].act(request, ask, rule.place)

    return asked


def parse_fault(text: str) -> tuple[str, float]:
    """Name and probability out of `NAME[:probability]`.

    Raises:
        ValueError: no such fault, or no probability; the message says what there is.
    """
    name, _, share = text.partition(":")
    if name not in FAULTS:
        raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
    try:
        probability = float(share or 1)
    except ValueError:
        probability = math.nan
    if not 0 < probability <= 1:
        raise ValueError(f"{share!r} is no probability above 0 and up to 1, as in {name}:0.1")
    return name, probability


FAULTS: dict[str, Fault] = {
    "rate-limited": Fault("429 without Retry-After", UPSTREAMS, acts.instead(Answer(b"slow down", 429, {}))),
    "retry-after-seconds": Fault(
        f"429 with Retry-After in seconds, until {acts.RETRY_AFTER_S} s are over", UPSTREAMS,
        acts.rate_limited(lambda until: str(math.ceil(until - time.time()))),
    ),
    "retry-after-date": Fault(
        f"429 with Retry-After as a date, until {acts.RETRY_AFTER_S} s are over", UPSTREAMS,
        acts.rate_limited(lambda until: formatdate(until, usegmt=True)),
    ),
    "error-500": Fault("500 Internal Server Error", UPSTREAMS, acts.instead(Answer(b"oops", 500, {}))),
    "error-502": Fault("502 Bad Gateway", UPSTREAMS, acts.instead(Answer(b"bad gateway", 502, {}))),
    "error-503": Fault("503 Service Unavailable", UPSTREAMS, acts.instead(Answer(b"overloaded", 503, {}))),
    "reset": Fault("connection reset in place of an answer", UPSTREAMS, acts.on_the_way(reset=True)),
    "stalled-body": Fault("silence after half of the body", UPSTREAMS, acts.on_the_way(stalled=True)),
    "truncated-body": Fault("connection closed after half of the body", UPSTREAMS, acts.on_the_way(cut=True)),
    "broken-gzip": Fault("a body that says gzip and is damaged", UPSTREAMS, acts.instead(acts.BROKEN_GZIP)),
    "html": Fault("an HTML page with status 200", UPSTREAMS, acts.instead(acts.HTML)),
    "wrong-shape": Fault(
        "JSON without the fields that the protocol promises", UPSTREAMS, acts.instead(Answer(b'{"status": "ok"}'))
    ),
    "graphql-timeout": Fault(
        f"GraphQL: pages of more than {acts.ROWS_IN_TIME} rows time out", (GOLDSKY,), acts.graphql_timeout
    ),
    "graphql-allowance": Fault(
        "GraphQL: query allowance surpassed, with status 200", (GOLDSKY,), acts.instead(acts.graphql_errors(acts.ALLOWANCE))
    ),
    "graphql-error": Fault(
        "GraphQL: any other error, with status 200", (GOLDSKY,), acts.instead(acts.graphql_errors("store error"))
    ),
    "short-page": Fault("pages with fewer rows than asked for", PAGES, paging_faults.short_page),
    "empty-page": Fault("every other page empty", (GOLDSKY,), acts.changed(paging_faults.every_other_page_empty)),
    "repeated-page": Fault("the first page or logs again, whatever is asked", SOURCES, paging_faults.repeated_page),
    "repeated-cursor": Fault("the same next_cursor on every page", (GAMMA,), paging_faults.repeated_cursor),
    "cursor-ignored": Fault("the cursor ignored: page 1 forever", PAGES, acts.asked(paging_faults.cursor_ignored)),
    "order-ignored": Fault("`order` ignored: listings by id", (GAMMA,), acts.asked(paging_faults.order_ignored)),
    "order-refused": Fault("`order` refused with 422", (GAMMA,), paging_faults.order_refused),
    "stale-page": Fault("pages by id out of a cache that is never renewed", (GAMMA,), paging_faults.stale_page),
    "frozen": Fault("no data of the last hour, for good", FILLS, acts.frozen),
    "clock-ahead": Fault(
        "the newest block an hour ahead of the client's clock", (POLYGON,), acts.head_off_by(acts.SKEW_SECONDS)
    ),
    "clock-behind": Fault(
        "the newest block an hour behind the client's clock", (POLYGON,), acts.head_off_by(-acts.SKEW_SECONDS)
    ),
    "reorg": Fault(f"the last {acts.REORG_BLOCKS} blocks are replaced", (POLYGON,), acts.reorg),
    "too-many-results": Fault(
        f"eth_getLogs of more than {acts.BLOCKS_AT_ONCE} blocks refused", (POLYGON,), acts.too_many_results
    ),
    "small-ranges": Fault(
        "eth_getLogs of more than 10 blocks refused, as by free plans", (POLYGON,),
        acts.node(blocks=10, blocks_refusal=refusals.RANGE[1]),
    ),
    "small-batches": Fault(
        "batches of more than 3 calls refused, as by keyless endpoints", (POLYGON,),
        acts.node(batch=3, timestamps=NONE),
    ),
    "no-batches": Fault(
        "every batch refused", (POLYGON,), acts.node(batch=1, batch_refusal=refusals.NO_BATCH[0])
    ),
    "zero-times": Fault("logs with a blockTimestamp of 0", (POLYGON,), acts.node(timestamps=ZERO)),
    "lagging-node": Fault(
        "one of a gateway's three nodes 20 blocks behind, its answers mixed into batches", (POLYGON,),
        acts.node(nodes=(NodeState(), NodeState(lag=20), NodeState()), seed=1, heals_after=None),
    ),
    "late-logs": Fault(
        "the newest 5 blocks without their logs", (POLYGON,), acts.node(nodes=(NodeState(log_lag=5),), heals_after=None)
    ),
    "pruned-node": Fault(
        "no logs of all but the newest 100 blocks, without a word", (POLYGON,),
        acts.node(nodes=(NodeState(keeps=100, pruned=EMPTY),), heals_after=None),
    ),
    "pruned-history": Fault(
        "older blocks refused", (POLYGON,),
        acts.node(nodes=(NodeState(keeps=100, pruned=refusals.PRUNED[0]),), heals_after=None),
    ),
    "early-end": Fault(
        "streams that end after 25 blocks", (PORTAL,), acts.portal(limits=PortalLimits(stream_blocks=25))
    ),
    "lagging-portal": Fault(
        "one of two servers 40 blocks behind", (PORTAL,), acts.portal(lags=(0, 40), seed=1, heals_after=None)
    ),
    "forked-portal": Fault(
        "one of two servers on a fork of 20 blocks, for 30 requests", (PORTAL,),
        acts.portal(lags=(0, 0), fork=20, seed=1, heals_after=30),
    ),
    "missing-blocks": Fault(
        "streams that leave out one block in twenty", (PORTAL,), acts.portal(missing=0.05, heals_after=None)
    ),
    "nulls": Fault("rows with nulls, and rows that are null", SOURCES, acts.spoilt(row_faults.nulls)),
    "odd-integers": Fault("negative and huge integers", SOURCES, acts.spoilt(row_faults.odd_integers)),
    "odd-times": Fault("times of the year 2099 or 1, and words for times", (GAMMA,), acts.spoilt(row_faults.odd_times)),
    "unknown-contract": Fault(
        "logs of an unknown event or contract", (POLYGON,), acts.spoilt(row_faults.unknown_contract)
    ),
    "duplicate-ids": Fault("an id twice on a page, with different content", SOURCES, acts.changed(row_faults.duplicate_ids)),
    "refused-token": Fault("batches refused for one token in them", (CLOB,), clob_faults.refused_token),
    "no-prices": Fault("an empty object in place of prices", (CLOB,), acts.instead(Answer(b"{}"))),
    "stale-prices": Fault("prices out of a cache that is never renewed", (CLOB,), clob_faults.stale_prices),
    "number-prices": Fault(
        "prices as JSON numbers in place of text", (CLOB,), clob_faults.values(clob_faults.as_number)
    ),
    "odd-prices": Fault(
        "words, objects and numbers beyond 0 and 1 for prices", (CLOB,), clob_faults.values(clob_faults.odd)
    ),
    "crossed-book": Fault("the bid above the ask", (CLOB,), acts.changed(clob_faults.crossed)),
    "one-sided-book": Fault("no bid, or an empty ask", (CLOB,), acts.changed(clob_faults.one_sided)),
}  # fmt: skip
