"""How the faults of `faults` act on a request to a simulated upstream.

Each is an `Act`: it gets the request and a way to ask the upstream, and returns the answer. It answers in the upstream's
place, changes the request or the answer, or moves the world. When it happens is decided in `faults`.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

from sandbox import providers
from sandbox.clock import BLOCK_SECONDS
from sandbox.portals import PortalEndpoint, PortalState
from sandbox.providers import Provider
from sandbox.wire import Answer, Request
from sandbox.world import World

GAMMA, GOLDSKY, POLYGON = SOURCES = ("gamma", "goldsky", "polygon")
PORTAL = "sqd"  # the chain's other transport
CLOB = "clob"
UPSTREAMS = (*SOURCES, PORTAL, CLOB)
PAGES = (GAMMA, GOLDSKY)  # the sources that page
FILLS = (GOLDSKY, POLYGON)

RETRY_AFTER_S = 2  # what the rate limit asks for, and enforces
ROWS_IN_TIME = 100  # of a subgraph query; more time out
BLOCKS_AT_ONCE = 100  # of `eth_getLogs`; more are too many results
REORG_BLOCKS = 60
FROZEN_SECONDS = SKEW_SECONDS = 3600
CACHED_SECONDS = 219  # as reported of a page of Gamma's
ONE_ROW_IN = 7  # rows of an answer, of which one is spoilt

Ask = Callable[[Request], Awaitable[Answer]]


@dataclass
class Place:
    """Where a fault acts: the upstream that is asked, the world behind it, and what the fault remembers of it."""

    source: str
    world: World
    memory: dict[Any, Any] = field(default_factory=dict)


Act = Callable[[Request, Ask, Place], Awaitable[Answer]]


# -- how faults act ------------------------------------------------------------------------------


def instead(answer: Answer) -> Act:
    """The same answer to everything, without asking the upstream."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        return answer

    return act


def on_the_way(**how: bool) -> Act:
    """The upstream's own answer, badly sent."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        return replace(await ask(request), **how)

    return act


def changed(change: Callable[[Any, Place], Any]) -> Act:
    """The upstream's answer, its JSON changed in place (or replaced by what `change` returns)."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        answer = await ask(request)
        content = orjson.loads(answer.body)
        other = change(content, place)
        return replace(answer, body=orjson.dumps(content if other is None else other))

    return act


def asked(change: Callable[[Request, Place], Request]) -> Act:
    """The upstream's answer to another request."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        return await ask(change(request, place))

    return act


def graphql_errors(message: str) -> Answer:
    return Answer(orjson.dumps({"errors": [{"message": message}]}))


def row_lists(content: Any) -> list[list]:
    """The lists of rows of an answer of any upstream: markets, events, fills or logs."""
    if isinstance(content, list) or "jsonrpc" in content:
        results = [reply.get("result") for reply in _replies(content)]
        return [rows for rows in results if isinstance(rows, list) and not _are_receipts(rows)]
    data = content.get("data", content)
    names = ("markets", "events", "orderFilledEvents")
    return [data[name] for name in names if isinstance(data.get(name), list)]


def _replies(content: Any) -> list[dict]:
    """The replies of a JSON-RPC answer, to a batch or to a single call."""
    return content if isinstance(content, list) else [content]


def _are_receipts(rows: list) -> bool:
    return any(isinstance(row, dict) and "logs" in row for row in rows)


def spoilt(spoil: Callable[[dict, int, Place], Any]) -> Act:
    """The upstream's answer, with one row in `ONE_ROW_IN` replaced by what `spoil` makes of it and its number."""

    def change(content: Any, place: Place) -> None:
        for rows in row_lists(content):
            for number, at in enumerate(range(3 % len(rows) if rows else 0, len(rows), ONE_ROW_IN)):
                rows[at] = spoil(rows[at], number, place)

    return changed(change)


# -- rate limits ---------------------------------------------------------------------------------


def rate_limited(retry_after: Callable[[float], str]) -> Act:
    """429 until the time that `Retry-After` asks for is over, so that coming back earlier is of no use."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        until = place.memory.setdefault("until", math.ceil(time.time()) + RETRY_AFTER_S)
        if time.time() >= until:
            return await ask(request)
        return Answer(b"slow down", 429, {"Retry-After": retry_after(until)})

    return act


async def graphql_timeout(request: Request, ask: Ask, place: Place) -> Answer:
    first = orjson.loads(request.body).get("variables", {}).get("first", 1)
    if first > ROWS_IN_TIME:
        return graphql_errors("canceling statement due to statement timeout")
    return await ask(request)


async def too_many_results(request: Request, ask: Ask, place: Place) -> Answer:
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


# -- time ----------------------------------------------------------------------------------------


async def frozen(request: Request, ask: Ask, place: Place) -> Answer:
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
        for rows in row_lists(content):
            rows[:] = [row for row in rows if int(row["timestamp"]) <= end]

    return await changed(forget)(request, ask, place)


def head_off_by(seconds: int) -> Act:
    """The newest block carries another time: to the client, its own clock is off."""

    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        def skew(content: Any, place: Place) -> None:
            for call in _calls(request, "eth_getBlockByNumber"):
                if call["params"][0] == "latest":
                    [block] = [
                        reply["result"] for reply in _replies(content) if reply["id"] == call["id"]
                    ]
                    block["timestamp"] = hex(int(block["timestamp"], 16) + seconds)

        return await changed(skew)(request, ask, place)

    return act


async def reorg(request: Request, ask: Ask, place: Place) -> Answer:
    place.world.reorg(REORG_BLOCKS)
    return await ask(request)


# -- states of the chain's endpoints -------------------------------------------------------------


def node(**how: Any) -> Act:
    """A JSON-RPC provider as `sandbox.providers` describes them, over the same chain."""
    return _over_the_chain(lambda world: providers.Endpoint(Provider(**how), world.chain))


def portal(**how: Any) -> Act:
    """An SQD Portal as `sandbox.portals` describes them, over the same chain."""
    return _over_the_chain(lambda world: PortalEndpoint(PortalState(**how), world.chain))


class _Responds(Protocol):
    def respond(self, request: Request) -> Answer: ...


def _over_the_chain(make: Callable[[World], _Responds]) -> Act:
    async def act(request: Request, ask: Ask, place: Place) -> Answer:
        if "endpoint" not in place.memory:
            place.memory["endpoint"] = make(place.world)
        path = request.path.removeprefix(f"/{place.source}")
        with place.world.lock:
            return place.memory["endpoint"].respond(replace(request, path=path))

    return act


HTML = Answer(
    b"<!doctype html><title>Just a moment...</title>", headers={"Content-Type": "text/html"}
)
BROKEN_GZIP = Answer(
    gzip.compress(b"{}" * 1000)[:20] + b"\0" * 20,
    headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
)
ALLOWANCE = "Sorry, you've surpassed your query allowance"
