"""The simulated order books, as far as their best prices: `POST /prices`, `/midpoints` and `/spreads`.

Behaviour follows the published API: a list of at most 500 entries, for `/prices` one for each token and side, answers by
token with numbers as text, and nothing of tokens without an order book. `side` is that of the resting orders: BUY is the
best bid, SELL the best ask. A list that is too long or no list is refused with 400, as is a token that is no number.

A book stands one tick around the price of the last match, those of the two outcomes mirror each other. Closed markets,
combos and markets from before the order book have none, and a market that moved to ExchangeV3 is quoted by its position
ids. At the edge a side is empty; then there is neither midpoint nor spread (what the real API says there is not known).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.catalog import Market
from sandbox.world import World

MAX_ENTRIES = 500
SIDES = {"BUY": "bid", "SELL": "ask"}
_BOOKLESS = ("legacy", "combo")


class Quote(NamedTuple):
    """What the book of a token says; None: nothing."""

    token_id: str
    bid: Decimal | None
    ask: Decimal | None
    mid: Decimal | None
    spread: Decimal | None


def quotes_of(market: Market) -> list[Quote]:
    """The quotes of a market's outcomes; none if it has no order book."""
    if market.closed_at is not None or market.kind in _BOOKLESS:
        return []
    tokens = market.position_ids if market.has_moved else market.token_ids
    below, at = market.price - 1, market.price
    return [
        _quote(tokens[0], below, at, market.ticks),
        _quote(tokens[1], market.ticks - at, market.ticks - below, market.ticks),
    ]


def open_quotes(world: World) -> dict[str, Quote]:
    """Every quote there is now, by token."""
    markets = world.catalog.markets.values()
    return {quote.token_id: quote for market in markets for quote in quotes_of(market)}


def _quote(token_id: str, bid: int, ask: int, ticks: int) -> Quote:
    """A quote from prices in ticks; at 0 and 1 dollar nobody offers."""
    low = Decimal(bid) / ticks if bid > 0 else None
    high = Decimal(ask) / ticks if ask < ticks else None
    if low is None or high is None:
        return Quote(token_id, low, high, None, None)
    return Quote(token_id, low, high, (low + high) / 2, high - low)


class _Refused(Exception):
    """What the CLOB answers with 400."""


def clob_app(world: World) -> Starlette:
    """The CLOB of a world; every quote that it hands out is noted in `world.quotes`."""

    def answering(make: Callable[[list[dict], dict[str, Quote]], dict]) -> Any:
        async def answer(request: Request) -> Response:
            try:
                entries = _entries(await request.body())
                with world.lock:
                    quotes = open_quotes(world)
                    body = make(entries, quotes)
                    world.quotes.update(quotes[token] for token in body)
            except _Refused as refused:
                return _json({"error": str(refused)}, 400)
            return _json(body)

        return answer

    return Starlette(
        routes=[
            Route("/prices", answering(_prices), methods=["POST"]),
            Route("/midpoints", answering(_of("mid")), methods=["POST"]),
            Route("/spreads", answering(_of("spread")), methods=["POST"]),
        ]
    )


def _entries(body: bytes) -> list[dict]:
    try:
        entries = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _Refused("Invalid payload") from None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise _Refused("Invalid payload")
    if len(entries) > MAX_ENTRIES:
        raise _Refused(f"Payload exceeds the limit of {MAX_ENTRIES}")
    if not all(str(each.get("token_id", "")).isdigit() for each in entries):
        raise _Refused("Invalid token id")
    return entries


def _prices(entries: list[dict], quotes: dict[str, Quote]) -> dict:
    answer: dict[str, dict[str, str]] = {}
    for entry in entries:
        if entry.get("side") not in SIDES:
            raise _Refused("Invalid side")
        quote = quotes.get(entry["token_id"])
        price = getattr(quote, SIDES[entry["side"]]) if quote else None
        if price is not None:
            answer.setdefault(quote.token_id, {})[entry["side"]] = _text(price)
    return answer


def _of(name: str) -> Callable[[list[dict], dict[str, Quote]], dict]:
    def answer(entries: list[dict], quotes: dict[str, Quote]) -> dict:
        found = [quotes[entry["token_id"]] for entry in entries if entry["token_id"] in quotes]
        values = {quote.token_id: getattr(quote, name) for quote in found}
        return {token: _text(value) for token, value in values.items() if value is not None}

    return answer


def _text(price: Decimal) -> str:
    return format(price.normalize(), "f")


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
