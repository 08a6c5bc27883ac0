"""How the faults of the simulated CLOB act; see `fault_acts` for what an act is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from sandbox.fault_acts import CACHED_SECONDS, ONE_ROW_IN, Act, Ask, Place, changed
from sandbox.wire import Answer, Request

_ODD = ("soon", "-0.1", "1.5", {"price": "0.5"})


async def refused_token(request: Request, ask: Ask, place: Place) -> Answer:
    """400 for every batch with one token in it: the first that was ever asked about."""
    tokens = [entry["token_id"] for entry in orjson.loads(request.body)]
    if place.memory.setdefault("token", tokens[0]) in tokens:
        return Answer(b'{"error": "Invalid token id"}', 400)
    return await ask(request)


async def stale_prices(request: Request, ask: Ask, place: Place) -> Answer:
    """Answers out of a cache that is never renewed."""
    asked = request.path, request.body
    if asked not in place.memory:
        place.memory[asked] = await ask(request)
    kept = place.memory[asked]
    return replace(kept, headers=kept.headers | {"Age": str(CACHED_SECONDS)})


def values(change: Callable[[str, int], Any]) -> Act:
    """The answer with every price replaced by what `change` makes of it and its number; None leaves it out."""

    def change_all(content: dict, place: Place) -> dict:
        number = 0
        other: dict[str, Any] = {}
        for token, value in content.items():
            sides = value if isinstance(value, dict) else {"": value}
            turned = {
                side: change(each, number + at) for at, (side, each) in enumerate(sides.items())
            }
            number += len(sides)
            kept = {side: each for side, each in turned.items() if each is not None}
            if kept:
                other[token] = kept if isinstance(value, dict) else kept[""]
        return other

    return changed(change_all)


def as_number(value: str, number: int) -> float:
    """A JSON number in place of text."""
    return float(value)


def odd(value: str, number: int) -> Any:
    """Now and then what is no price."""
    at, is_odd = number // ONE_ROW_IN, number % ONE_ROW_IN == 3
    return _ODD[at % len(_ODD)] if is_odd else value


def crossed(content: dict, place: Place) -> None:
    """The bid above the ask, as when an order is added before another one is removed."""
    for sides in content.values():
        if isinstance(sides, dict) and len(sides) == 2:
            sides["BUY"], sides["SELL"] = sides["SELL"], sides["BUY"]


def one_sided(content: dict, place: Place) -> None:
    """In turn no bid, and an empty text for the ask."""
    for number, sides in enumerate(content.values()):
        if isinstance(sides, dict) and number % 2:
            sides.pop("BUY", None)
        elif isinstance(sides, dict):
            sides["SELL"] = ""
