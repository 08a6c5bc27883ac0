"""Times of logs: a log's time is believed if it lies between those of the blocks around it, else its block is asked."""

from __future__ import annotations

from typing import Any

from ingest.sources.polygon.chain import GENESIS, Block, Endpoint, Found
from ingest.sources.polygon.log_places import place_of, quantity


def give_times(endpoint: Endpoint, logs: list[Any], found: Found, follows: Block | None) -> None:
    """Give logs the time of their block where they have none, or one that cannot be."""
    by_block: dict[int, set[Any]] = {}
    for log in logs:
        if place := place_of(log):
            by_block.setdefault(place[0], set()).add(_text(log.get("blockTimestamp")))
    if not by_block:
        return
    known = {
        number: block.timestamp
        for number, block in (found.headers | {found.end.number: found.end}).items()
        if number in by_block
    }
    oldest = min(by_block)
    if follows is None and oldest not in known:
        known |= endpoint.times([oldest])  # nothing before it says how early a time may be
    before = follows.timestamp if follows is not None else GENESIS
    is_doubtful = False
    for number in sorted(by_block):
        moment = _moment(by_block[number])
        if (
            moment is None
            or not before <= moment <= found.end.timestamp
            or moment != known.get(number, moment)
        ):
            is_doubtful = True
        else:
            before = moment
    if not is_doubtful:
        return
    # One wrong time makes those after it look wrong, or those before it: all of them are asked for.
    missing = [number for number in by_block if number not in known]
    known |= endpoint.times(missing)
    for log in logs:
        if place := place_of(log):
            log["blockTimestamp"] = known[place[0]]


def _text(value: Any) -> Any:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def _moment(values: set[Any]) -> int | None:
    """The one time that all logs of a block say; None if they say none, or several."""
    if len(values) != 1:
        return None
    try:
        return quantity("blockTimestamp", next(iter(values)))
    except ValueError:
        return None
