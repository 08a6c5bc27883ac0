"""How faults of paging act: pages that are short, empty or repeated, and cursors or orders that are not obeyed.

See `fault_acts` for what an act is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson

from sandbox.fault_acts import (
    CACHED_SECONDS,
    GAMMA,
    GOLDSKY,
    Ask,
    Place,
    changed,
    row_lists,
)
from sandbox.wire import Answer, Request

SHORT_ROWS = 10  # of a short page of Gamma


async def short_page(request: Request, ask: Ask, place: Place) -> Answer:
    """Fewer rows than asked for although there are more: Gamma's cursor and the subgraph's filter go on behind them."""
    if place.source == GAMMA:
        query = [pair for pair in parse_qsl(request.query.decode()) if pair[0] != "limit"]
        short = urlencode([*query, ("limit", str(SHORT_ROWS))])
        return await ask(replace(request, query=short.encode()))

    def halve(content: Any, place: Place) -> None:
        for rows in row_lists(content):
            del rows[(len(rows) + 1) // 2 :]

    return await changed(halve)(request, ask, place)


def every_other_page_empty(content: Any, place: Place) -> None:
    place.memory["full"] = not place.memory.get("full", True)
    if not place.memory["full"]:
        for rows in row_lists(content):
            rows.clear()


async def repeated_page(request: Request, ask: Ask, place: Place) -> Answer:
    """The first page of a listing, and of a node the first answer with logs, again and again."""
    answer = await ask(request)
    content = orjson.loads(answer.body)
    if not any(row_lists(content)):
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


async def repeated_cursor(request: Request, ask: Ask, place: Place) -> Answer:
    answer = await ask(request)
    content = orjson.loads(answer.body)
    if not content.get("next_cursor"):
        return answer
    first = place.memory.setdefault(_without_cursor(request), content["next_cursor"])
    return replace(answer, body=orjson.dumps(content | {"next_cursor": first}))


def cursor_ignored(request: Request, place: Place) -> Request:
    if place.source == GAMMA:
        return replace(request, query=_without_cursor(request).partition("?")[2].encode())
    body = orjson.loads(request.body)
    if "where" in body["variables"]:
        body["variables"]["where"] = place.memory.setdefault("where", body["variables"]["where"])
    return replace(request, body=orjson.dumps(body))


def order_ignored(request: Request, place: Place) -> Request:
    """The same listing by id: the cursors that it hands out are bound to that."""
    pairs = parse_qsl(request.query.decode())
    by_id = [pair for pair in pairs if pair[0] not in ("order", "ascending")]
    return replace(request, query=urlencode(by_id).encode())


async def order_refused(request: Request, ask: Ask, place: Place) -> Answer:
    if "order" not in dict(parse_qsl(request.query.decode())):
        return await ask(request)
    error = {"type": "validation error", "error": "order fields are not valid"}
    return Answer(orjson.dumps(error), 422)


async def stale_page(request: Request, ask: Ask, place: Place) -> Answer:
    """Pages of the listings by id out of a cache that is never renewed, as a CDN's are for minutes."""
    if b"order=" in request.query:
        return await ask(request)
    page = request.path, request.query
    if page not in place.memory:
        place.memory[page] = await ask(request)
    kept = place.memory[page]
    return replace(kept, headers=kept.headers | {"Age": str(CACHED_SECONDS)})
