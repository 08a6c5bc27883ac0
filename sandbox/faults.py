"""Faults of the simulated upstreams: `FAULTS` says what can go wrong, `Faults` when it does.

A fault stands between a request and its upstream, over real HTTP: it answers in the upstream's place, changes the
request or the answer, breaks the connection, or moves the world. It happens by schedule (at the nth request that
matches) or by probability, from a seed. What each one means for a pipeline is written in docs/faults.md.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson

from sandbox.clock import BLOCK_SECONDS
from sandbox.wire import Answer, Request
from sandbox.world import World

GAMMA, GOLDSKY, POLYGON = SOURCES = ("gamma", "goldsky", "polygon")
PAGES = (GAMMA, GOLDSKY)  # the sources that page
FILLS = (GOLDSKY, POLYGON)

RETRY_AFTER_S = 2  # what the rate limit asks for, and enforces
ROWS_IN_TIME = 100  # of a subgraph query; more time out
SHORT_ROWS = 10  # of a short page of Gamma
BLOCKS_AT_ONCE = 100  # of `eth_getLogs`; more are too many results
REORG_BLOCKS = 60
FROZEN_SECONDS = SKEW_SECONDS = 3600
ONE_ROW_IN = 7  # rows of an answer, of which one is spoilt

Ask = Callable[[Request], Awaitable[Answer]]


@dataclass
class Place:
    """Where a fault acts: the source that is asked, the world behind it, and what the fault remembers of it."""

    source: str
    world: World
    memory: dict[str, Any] = field(default_factory=dict)


Act = Callable[[Request, Ask, Place], Awaitable[Answer]]


@dataclass(frozen=True)
class Fault:
    """One way to go wrong.

    Attributes:
        what: what the upstream does, in a few words.
        sources: the upstreams that can do it.
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
        sources: Container[str] = SOURCES,
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


# -- how faults act ------------------------------------------------------------------------------


def _instead(answer: Answer) -> Act:
    """The same answer to everything, without asking the upstream."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        return answer

    return act


def _on_the_way(**how: bool) -> Act:
    """The upstream's own answer, badly sent."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        return replace(await ask(request), **how)

    return act


def _changed(change: Callable[[Any, Place], Any]) -> Act:
    """The upstream's answer, its JSON changed in place (or replaced by what `change` returns)."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        answer = await ask(request)
        content = orjson.loads(answer.body)
        other = change(content, place)
        return replace(answer, body=orjson.dumps(content if other is None else other))

    return act


def _asked(change: Callable[[Request, Place], Request]) -> Act:
    """The upstream's answer to another request."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        return await ask(change(request, place))

    return act


def _graphql_errors(message: str) -> Answer:
    return Answer(orjson.dumps({"errors": [{"message": message}]}))


def _row_lists(content: Any) -> list[list]:
    """The lists of rows of an answer of any upstream: markets, events, fills or logs."""
    if isinstance(content, list):  # a JSON-RPC batch
        return [reply["result"] for reply in content if isinstance(reply.get("result"), list)]
    data = content.get("data", content)
    names = ("markets", "events", "orderFilledEvents")
    return [data[name] for name in names if isinstance(data.get(name), list)]


def _spoilt(spoil: Callable[[dict, int, Place], Any]) -> Act:
    """The upstream's answer, with one row in `ONE_ROW_IN` replaced by what `spoil` makes of it and its number."""

    def change(content: Any, place: Place) -> None:
        for rows in _row_lists(content):
            for number, at in enumerate(range(3 % len(rows) if rows else 0, len(rows), ONE_ROW_IN)):
                rows[at] = spoil(rows[at], number, place)

    return _changed(change)


# -- rate limits ---------------------------------------------------------------------------------


def _rate_limited(retry_after: Callable[[float], str]) -> Act:
    """429 until the time that `Retry-After` asks for is over, so that coming back earlier is of no use."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        until = place.memory.setdefault("until", math.ceil(time.time()) + RETRY_AFTER_S)
        if time.time() >= until:
            return await ask(request)
        return Answer(b"slow down", 429, {"Retry-After": retry_after(until)})

    return act


async def _graphql_timeout(request: Request, ask: Ask, place: Place) -> Answer:
    first = orjson.loads(request.body).get("variables", {}).get("first", 1)
    if first > ROWS_IN_TIME:
        return _graphql_errors("canceling statement due to statement timeout")
    return await ask(request)


async def _too_many_results(request: Request, ask: Ask, place: Place) -> Answer:
    for call in _calls(request, "eth_getLogs"):
        query = call["params"][0]
        if int(query["toBlock"], 16) - int(query["fromBlock"], 16) >= BLOCKS_AT_ONCE:
            error = {"code": -32005, "message": "query returned more than 10000 results"}
            return Answer(orjson.dumps({"jsonrpc": "2.0", "id": call["id"], "error": error}))
    return await ask(request)


def _calls(request: Request, method: str) -> list[dict]:
    """The calls of a method in a JSON-RPC request."""
    body = orjson.loads(request.body)
    return [
        call for call in (body if isinstance(body, list) else [body]) if call["method"] == method
    ]


# -- paging --------------------------------------------------------------------------------------


async def _short_page(request: Request, ask: Ask, place: Place) -> Answer:
    """Fewer rows than asked for although there are more: Gamma's cursor and the subgraph's filter go on behind them."""
    if place.source == GAMMA:
        query = [pair for pair in parse_qsl(request.query.decode()) if pair[0] != "limit"]
        short = urlencode([*query, ("limit", str(SHORT_ROWS))])
        return await ask(replace(request, query=short.encode()))

    def halve(content: Any, place: Place) -> None:
        for rows in _row_lists(content):
            del rows[(len(rows) + 1) // 2 :]

    return await _changed(halve)(request, ask, place)


def _every_other_page_empty(content: Any, place: Place) -> None:
    place.memory["full"] = not place.memory.get("full", True)
    if not place.memory["full"]:
        for rows in _row_lists(content):
            rows.clear()


async def _repeated_page(request: Request, ask: Ask, place: Place) -> Answer:
    """The first page of a listing, and of a node the first answer with logs, again and again."""
    answer = await ask(request)
    content = orjson.loads(answer.body)
    if not any(_row_lists(content)):
        return answer
    if place.source == GAMMA:
        page = place.memory.setdefault(_without_cursor(request), content)
        again = page | {"next_cursor": content.get("next_cursor")}
    elif place.source == GOLDSKY:
        again = place.memory.setdefault("page", content)
    else:
        results = {reply["id"]: reply["result"] for reply in content}
        first = place.memory.setdefault("results", results)
        again = [reply | {"result": first.get(reply["id"], reply["result"])} for reply in content]
    return replace(answer, body=orjson.dumps(again))


def _without_cursor(request: Request) -> str:
    query = parse_qsl(request.query.decode())
    return f"{request.path}?{urlencode([pair for pair in query if pair[0] != 'after_cursor'])}"


async def _repeated_cursor(request: Request, ask: Ask, place: Place) -> Answer:
    answer = await ask(request)
    content = orjson.loads(answer.body)
    if not content.get("next_cursor"):
        return answer
    first = place.memory.setdefault(_without_cursor(request), content["next_cursor"])
    return replace(answer, body=orjson.dumps(content | {"next_cursor": first}))


def _cursor_ignored(request: Request, place: Place) -> Request:
    if place.source == GAMMA:
        return replace(request, query=_without_cursor(request).partition("?")[2].encode())
    body = orjson.loads(request.body)
    if "where" in body["variables"]:
        body["variables"]["where"] = place.memory.setdefault("where", body["variables"]["where"])
    return replace(request, body=orjson.dumps(body))


# -- time ----------------------------------------------------------------------------------------


async def _frozen(request: Request, ask: Ask, place: Place) -> Answer:
    """The subgraph without its last hour of fills; the node with a head that is an hour old."""
    if place.source == POLYGON:
        head = place.world.chain.head - FROZEN_SECONDS // BLOCK_SECONDS
        head = place.memory.setdefault("head", head)
        request = replace(request, body=request.body.replace(b'"latest"', b'"%#x"' % head))
        return await ask(request)
    end = place.memory.setdefault(
        "end", max(fill.timestamp for fill in place.world.archive_fills()) - FROZEN_SECONDS
    )

    def forget(content: Any, place: Place) -> None:
        for rows in _row_lists(content):
            rows[:] = [row for row in rows if int(row["timestamp"]) <= end]

    return await _changed(forget)(request, ask, place)


def _head_off_by(seconds: int) -> Act:
    """The newest block carries another time: to the client, its own clock is off."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        def skew(content: Any, place: Place) -> None:
            for call in _calls(request, "eth_getBlockByNumber"):
                if call["params"][0] == "latest":
                    block = content[call["id"]]["result"]
                    block["timestamp"] = hex(int(block["timestamp"], 16) + seconds)

        return await _changed(skew)(request, ask, place)

    return act


async def _reorg(request: Request, ask: Ask, place: Place) -> Answer:
    place.world.reorg(REORG_BLOCKS)
    return await ask(request)


# -- rows ----------------------------------------------------------------------------------------


def _nulls(row: dict, number: int, place: Place) -> Any:
    """In turn a row that is null itself, and one in which all is null but what Goldsky's pages go by."""
    if number % 2 == 0 and place.source != GOLDSKY:
        return None
    kept = (
        {"id", "timestamp"} if place.source == GOLDSKY else {"id"} if place.source == GAMMA else ()
    )
    return {name: value if name in kept else None for name, value in row.items()}


def _odd_integers(row: dict, number: int, place: Place) -> Any:
    """Amounts in turn negative and beyond 64 bits."""
    if place.source == GAMMA:
        return row | {
            "volume": ("-1", "1e99")[number % 2],
            "liquidityNum": (-(2**63), 2**64 - 1)[number % 2],
        }
    if place.source == GOLDSKY:
        return row | {"makerAmountFilled": ("-1", str(2**64))[number % 2]}
    huge = row["data"][:130] + "f" * 64 + row["data"][194:]  # the third word: the amount given
    return row | ({"logIndex": "-0x1"}, {"data": huge})[number % 2]


def _unknown_contract(row: dict, number: int, place: Place) -> Any:
    """In turn another event and another contract."""
    if number % 2:
        return row | {"address": "0x" + "ab" * 20}
    return row | {"topics": ["0x" + "cd" * 32, *row["topics"][1:]]}


_DIFFERENT = {
    GAMMA: lambda row: row | {"slug": "another"},
    GOLDSKY: lambda row: row | {"makerAmountFilled": "1"},
    POLYGON: lambda row: (
        row | {"data": row["data"][:-1] + ("1" if row["data"][-1] == "0" else "0")}
    ),
}


def _duplicate_ids(content: Any, place: Place) -> None:
    """Before each page its first row, with other content: an older version of it, say."""
    for rows in _row_lists(content):
        if rows:
            rows.insert(0, _DIFFERENT[place.source](rows[0]))


HTML = Answer(
    b"<!doctype html><title>Just a moment...</title>", headers={"Content-Type": "text/html"}
)
BROKEN_GZIP = Answer(
    gzip.compress(b"{}" * 1000)[:20] + b"\0" * 20,
    headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
)
ALLOWANCE = "Sorry, you've surpassed your query allowance"

FAULTS: dict[str, Fault] = {
    "rate-limited": Fault("429 without Retry-After", SOURCES, _instead(Answer(b"slow down", 429, {}))),
    "retry-after-seconds": Fault(
        f"429 with Retry-After in seconds, until {RETRY_AFTER_S} s are over", SOURCES,
        _rate_limited(lambda until: str(math.ceil(until - time.time()))),
    ),
    "retry-after-date": Fault(
        f"429 with Retry-After as a date, until {RETRY_AFTER_S} s are over", SOURCES,
        _rate_limited(lambda until: formatdate(until, usegmt=True)),
    ),
    "error-500": Fault("500 Internal Server Error", SOURCES, _instead(Answer(b"oops", 500, {}))),
    "error-502": Fault("502 Bad Gateway", SOURCES, _instead(Answer(b"bad gateway", 502, {}))),
    "error-503": Fault("503 Service Unavailable", SOURCES, _instead(Answer(b"overloaded", 503, {}))),
    "reset": Fault("connection reset in place of an answer", SOURCES, _on_the_way(reset=True)),
    "stalled-body": Fault("silence after half of the body", SOURCES, _on_the_way(stalled=True)),
    "truncated-body": Fault("connection closed after half of the body", SOURCES, _on_the_way(cut=True)),
    "broken-gzip": Fault("a body that says gzip and is damaged", SOURCES, _instead(BROKEN_GZIP)),
    "html": Fault("an HTML page with status 200", SOURCES, _instead(HTML)),
    "wrong-shape": Fault(
        "JSON without the fields that the protocol promises", SOURCES, _instead(Answer(b'{"status": "ok"}'))
    ),
    "graphql-timeout": Fault(
        f"GraphQL: pages of more than {ROWS_IN_TIME} rows time out", (GOLDSKY,), _graphql_timeout
    ),
    "graphql-allowance": Fault(
        "GraphQL: query allowance surpassed, with status 200", (GOLDSKY,), _instead(_graphql_errors(ALLOWANCE))
    ),
    "graphql-error": Fault(
        "GraphQL: any other error, with status 200", (GOLDSKY,), _instead(_graphql_errors("store error"))
    ),
    "short-page": Fault("pages with fewer rows than asked for", PAGES, _short_page),
    "empty-page": Fault("every other page empty", (GOLDSKY,), _changed(_every_other_page_empty)),
    "repeated-page": Fault("the first page or logs again, whatever is asked", SOURCES, _repeated_page),
    "repeated-cursor": Fault("the same next_cursor on every page", (GAMMA,), _repeated_cursor),
    "cursor-ignored": Fault("the cursor ignored: page 1 forever", PAGES, _asked(_cursor_ignored)),
    "frozen": Fault("no data of the last hour, for good", FILLS, _frozen),
    "clock-ahead": Fault(
        "the newest block an hour ahead of the client's clock", (POLYGON,), _head_off_by(SKEW_SECONDS)
    ),
    "clock-behind": Fault(
        "the newest block an hour behind the client's clock", (POLYGON,), _head_off_by(-SKEW_SECONDS)
    ),
    "reorg": Fault(f"the last {REORG_BLOCKS} blocks are replaced", (POLYGON,), _reorg),
    "too-many-results": Fault(
        f"eth_getLogs of more than {BLOCKS_AT_ONCE} blocks refused", (POLYGON,), _too_many_results
    ),
    "nulls": Fault("rows with nulls, and rows that are null", SOURCES, _spoilt(_nulls)),
    "odd-integers": Fault("negative and huge integers", SOURCES, _spoilt(_odd_integers)),
    "unknown-contract": Fault(
        "logs of an unknown event or contract", (POLYGON,), _spoilt(_unknown_contract)
    ),
    "duplicate-ids": Fault("an id twice on a page, with different content", SOURCES, _changed(_duplicate_ids)),
}  # fmt: skip
