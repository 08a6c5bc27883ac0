"""Gamma's list endpoints: keyset and offset paging over markets and events that change while a
client pages.

Behaviour follows the published API and what users found: `after_cursor` only, silent clamping of
`limit` (of events to 100 since September 2026, to 500 before), 422 for what is not allowed, 414 for
long URLs, camelCase order fields, open records unless `closed` is given (published for markets; taken
to hold for events). Filters that are not implemented are ignored, as unknown parameters are. What a
record looks like is decided by the one who fills the store. The module is longer than 300 lines
because the cursors, filters and orders of all listings are one protocol.
"""

from __future__ import annotations

import base64
import hashlib
import json
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cmp_to_key
from itertools import islice
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MAX_MARKETS, MAX_EVENTS, MAX_TAGS, DEFAULT_LIMIT = 100, 100, 100, 20
MAX_OFFSET = 2000
MAX_URL_BYTES = 8192


class GammaStore:
    """Records by id as Gamma would return them now, markets and events apart and related by id.

    Ids are decimal strings and sort as numbers. A market that is not `listed` is only returned to
    who asks for its id, slug, condition or token.

    Args:
        tags: all there are.
        nulls_largest: records without the time of an order come first in a descending one, as in
            Postgres; False: last.
    """

    def __init__(self, tags: Iterable[dict] = (), *, nulls_largest: bool = True) -> None:
        self.nulls_largest = nulls_largest
        self.tags = {tag["slug"]: tag for tag in tags}
        self.markets: dict[str, dict] = {}
        self.events: dict[str, dict] = {}
        self.unlisted: set[str] = set()
        self.market_tags: dict[str, Sequence[str]] = {}
        self.event_tags: dict[str, Sequence[str]] = {}
        self.event_markets: dict[str, list[str]] = {}
        self.market_events: dict[str, list[str]] = {}
        self._order: dict[str, list[int]] = {"markets": [], "events": []}

    def put_market(self, payload: dict, *, tags: Sequence[str] = (), listed: bool = True) -> None:
        """Add a market or replace it; `payload` has neither events nor tags, `tags` are slugs."""
        market_id = payload["id"]
        if market_id not in self.markets:
            insort(self._order["markets"], int(market_id))
        self.markets[market_id] = payload
        self.market_tags[market_id] = tags
        if not listed:
            self.unlisted.add(market_id)

    def put_event(
        self, payload: dict, *, market_ids: Sequence[str], tags: Sequence[str] = ()
    ) -> None:
        """Add an event or replace it, with its relation to markets that are in the store."""
        event_id = payload["id"]
        if event_id not in self.events:
            insort(self._order["events"], int(event_id))
        self.events[event_id] = payload
        self.event_tags[event_id] = tags
        self.event_markets[event_id] = list(market_ids)
        for market_id in market_ids:
            events = self.market_events.setdefault(market_id, [])
            if event_id not in events:
                events.append(event_id)

    def listing(self, kind: str, after: int = -1) -> Iterator[dict]:
        """Records of `kind` ("markets" or "events") in order of id, unlisted ones included.

        Only ids above `after`.
        """
        records, order = self.markets if kind == "markets" else self.events, self._order[kind]
        for position in range(bisect_right(order, after), len(order)):
            yield records[str(order[position])]

    def full_market(self, payload: dict, *, with_tags: bool) -> dict:
        """A market with its events (these without markets) and, if asked for, its tags."""
        market_id = payload["id"]
        events = [self.events[event_id] for event_id in self.market_events.get(market_id, ())]
        full = payload | {"events": events}
        if with_tags:
            full["tags"] = [self.tags[slug] for slug in self.market_tags[market_id]]
        return full

    def full_event(self, payload: dict) -> dict:
        """An event with its markets (these without events) and tags."""
        event_id = payload["id"]
        return payload | {
            "markets": [self.markets[market_id] for market_id in self.event_markets[event_id]],
            "tags": [self.tags[slug] for slug in self.event_tags[event_id]],
        }


class RejectedQuery(Exception):
    """What Gamma answers with 422 and a validation error."""


def gamma_app(store: GammaStore, lock: AbstractContextManager | None = None) -> Starlette:
    """The Gamma API over `store`; `lock` is held while a response is put together."""
    api = _Gamma(store, lock or nullcontext())
    return Starlette(
        routes=[
            Route("/markets/keyset", api.markets_keyset),
            Route("/events/keyset", api.events_keyset),
            Route("/markets", api.markets),
            Route("/events", api.events),
            Route("/tags", api.tags),
        ]
    )


class _Gamma:
    def __init__(self, store: GammaStore, lock: AbstractContextManager) -> None:
        self._store, self._lock = store, lock

    async def markets_keyset(self, request: Request) -> Response:
        return self._answer(request, lambda params: self._keyset("markets", MAX_MARKETS, params))

    async def events_keyset(self, request: Request) -> Response:
        return self._answer(request, lambda params: self._keyset("events", MAX_EVENTS, params))

    async def markets(self, request: Request) -> Response:
        return self._answer(request, lambda params: self._offset("markets", MAX_MARKETS, params))

    async def events(self, request: Request) -> Response:
        return self._answer(request, lambda params: self._offset("events", MAX_EVENTS, params))

    async def tags(self, request: Request) -> Response:
        def page(params: QueryParams) -> list[dict]:
            start = _integer(params, "offset", 0)
            tags = sorted(self._store.tags.values(), key=lambda tag: int(tag["id"]))
            return tags[start : start + _limit(params, MAX_TAGS)]

        return self._answer(request, page)

    def _answer(self, request: Request, respond: Callable[[QueryParams], object]) -> Response:
        if len(request.url.path) + len(request.url.query) > MAX_URL_BYTES:
            return Response(
                "<html><h1>414 Request-URI Too Large</h1></html>", 414, media_type="text/html"
            )
        try:
            with self._lock:
                body = orjson.dumps(respond(request.query_params))
        except RejectedQuery as rejection:
            body = orjson.dumps({"type": "validation error", "error": str(rejection)})
            return Response(body, 422, media_type="application/json")
        return Response(body, media_type="application/json")

    def _keyset(self, kind: str, max_limit: int, params: QueryParams) -> dict:
        if "offset" in params:
            raise RejectedQuery("offset is not allowed on keyset endpoints")
        limit, order = _limit(params, max_limit), self._order(kind, params)
        filters, start = _fingerprint(params), None
        if "after_cursor" in params:
            start = _decode_cursor(params["after_cursor"], filters)
        if order.is_by_id:  # read from the cursor on, however many records there are
            records = self._store.listing(kind, start[-1] if start else -1)
            page = list(islice(self._matching(kind, records, params), limit))
        else:
            rows = order.sorted(self._matching(kind, self._store.listing(kind), params))
            page = order.after(rows, start)[:limit] if start else rows[:limit]
        body: dict[str, Any] = {kind: self._full(kind, page, params)}
        if len(page) == limit:
            body["next_cursor"] = _encode_cursor(order.key(page[-1]), filters)
        return body

    def _offset(self, kind: str, max_limit: int, params: QueryParams) -> list[dict]:
        start = _integer(params, "offset", 0)
        if start > MAX_OFFSET:
            raise RejectedQuery(f"offset too large, use /{kind}/keyset for deeper pagination")
        order = self._order(kind, params)
        rows = order.sorted(self._matching(kind, self._store.listing(kind), params))
        return self._full(kind, rows[start : start + _limit(params, max_limit)], params)

    def _order(self, kind: str, params: QueryParams) -> _Order:
        return _Order.of(params, self._store.listing(kind), self._store.nulls_largest)

    def _matching(self, kind: str, records: Iterable[dict], params: QueryParams) -> Iterator[dict]:
        wanted = {name: set(params.getlist(name)) for name in _LOOKUPS[kind] if name in params}
        closed = params.get("closed", "false") == "true"
        hidden = () if wanted or kind == "events" else self._store.unlisted
        return (
            row
            for row in records
            if bool(row.get("closed")) == closed
            and row["id"] not in hidden
            and all(values & _LOOKUPS[kind][name](row) for name, values in wanted.items())
        )

    def _full(self, kind: str, rows: list[dict], params: QueryParams) -> list[dict]:
        if kind == "events":
            return [self._store.full_event(row) for row in rows]
        with_tags = params.get("include_tag") == "true"
        return [self._store.full_market(row, with_tags=with_tags) for row in rows]


# Parameter -> the values of a record that it is compared with.
_LOOKUPS = {
    "markets": {
        "id": lambda row: {row["id"]},
        "slug": lambda row: {row.get("slug")},
        "condition_ids": lambda row: {row.get("conditionId")},
        "clob_token_ids": lambda row: set(json.loads(row.get("clobTokenIds") or "[]")),
        "position_ids": lambda row: set(row.get("positionIds") or []),
    },
    "events": {"id": lambda row: {row["id"]}, "slug": lambda row: {row.get("slug")}},
}


class _Order:
    """A total order of records: the fields asked for, then the id."""

    def __init__(self, fields: Sequence[str], ascending: bool, nulls_largest: bool) -> None:
        self._fields, self._sign = fields, 1 if ascending else -1
        self._null_sign = self._sign if nulls_largest else -self._sign

    @classmethod
    def of(cls, params: QueryParams, records: Iterable[dict], nulls_largest: bool) -> _Order:
        """The order a query asks for.

        Raises:
            RejectedQuery: a field that no record has, such as a snake_case one.
        """
        fields = [name for name in params.get("order", "").split(",") if name]
        known = set().union(*records) if fields else set()
        if not known.issuperset(fields):
            raise RejectedQuery("order fields are not valid")
        ascending = not fields or params.get("ascending", "true") == "true"
        return cls(fields, ascending, nulls_largest)

    @property
    def is_by_id(self) -> bool:
        return not self._fields

    def key(self, row: dict) -> list:
        return [*(row.get(name) for name in self._fields if name != "id"), int(row["id"])]

    def sorted(self, rows: Iterable[dict]) -> list[dict]:
        return sorted(rows, key=lambda row: self._sort_key(self.key(row)))

    def after(self, rows: list[dict], key: list) -> list[dict]:
        """The sorted `rows` behind `key`, whether or not its record is still among them."""
        start = bisect_right(
            rows, self._sort_key(key), key=lambda row: self._sort_key(self.key(row))
        )
        return rows[start:]

    def _sort_key(self, key: list) -> Any:
        return cmp_to_key(self._compare)(key)

    def _compare(self, left: list, right: list) -> int:
        for one, other in zip(left, right, strict=True):
            if one == other:
                continue
            if one is None or other is None:
                return self._null_sign if one is None else -self._null_sign
            return self._sign if one > other else -self._sign
        return 0


def _integer(params: QueryParams, name: str, default: int) -> int:
    try:
        value = int(params.get(name, default))
    except ValueError:
        raise RejectedQuery(f"{name} is not an integer") from None
    if value < 0:
        raise RejectedQuery(f"{name} must not be negative")
    return value


def _limit(params: QueryParams, largest: int) -> int:
    """The effective limit: a larger one is cut without a word."""
    return min(max(_integer(params, "limit", DEFAULT_LIMIT), 1), largest)


def _fingerprint(params: QueryParams) -> str:
    """What a cursor is bound to: everything that decides which rows come, in which order."""
    bound = [(k, v) for k, v in params.multi_items() if k not in ("after_cursor", "limit")]
    return hashlib.sha256(repr(sorted(bound)).encode()).hexdigest()[:16]


def _encode_cursor(key: list, filters: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([filters, key])).decode()


def _decode_cursor(cursor: str, filters: str) -> list:
    try:
        bound_to, key = orjson.loads(base64.urlsafe_b64decode(cursor))
    except ValueError:
        raise RejectedQuery("after_cursor is not valid") from None
    if bound_to != filters:
        raise RejectedQuery("after_cursor is not valid for these filters")
    return key
