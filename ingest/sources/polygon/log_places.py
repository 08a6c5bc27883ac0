"""Where logs belong: the block and the index that a log says, and what a whole answer says by them.

Pure functions. A log that does not say where it belongs is kept, because it becomes a dead letter; logs that contradict
each other are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ingest.errors import ChainReorganised, WrongShape
from ingest.records import hex_number
from ingest.sources.polygon.chain import Found


def quantity(name: str, value: Any) -> int:
    """The number in a JSON value: 0x and hex digits (JSON-RPC), or an integer (SQD Portal).

    Raises:
        BadRecord: it is something else.
    """
    if type(value) is int and value >= 0:
        return value
    return hex_number(name, value)


def place_of(log: Any) -> tuple[int, int] | None:
    """Block number and log index of a log; None if it does not say."""
    try:
        return quantity("blockNumber", log["blockNumber"]), quantity("logIndex", log["logIndex"])
    except (LookupError, TypeError, ValueError):
        return None


def placed(logs: Sequence[Any], first: int, last: int, where: Mapping[str, str]) -> list[Any]:
    """The logs, once each, if they are of this range and no two of them claim one place.

    Those without a place stay: they become dead letters.

    Raises:
        WrongShape: a log is of another block, or two different ones are in one place.
    """
    by_place: dict[tuple[int, int] | int, Any] = {}
    for at, log in enumerate(logs):
        place = place_of(log)
        if place and not first <= place[0] <= last:
            raise WrongShape(f"a log of block {place[0]}, which was not asked for", **where)
        if by_place.setdefault(place or at, log) != log:
            block, index = place
            message = f"two different logs in one place (block {block}, log index {index})"
            raise WrongShape(message, **where)
    return list(by_place.values())


def counts_of(found: Found, where: Mapping[str, str]) -> dict[int, int]:
    """Logs of an answer by block, of blocks that have any, in order.

    Raises:
        ChainReorganised: logs are of another block than the one with their number.
    """
    counts: dict[int, int] = {}
    hashes: dict[int, str] = {found.end.number: found.end.hash}
    for log in found.logs:
        if place := place_of(log):
            number = place[0]
            counts[number] = counts.get(number, 0) + 1
            block_hash = log.get("blockHash")
            known = hashes.setdefault(number, str(block_hash).lower())
            if isinstance(block_hash, str) and known != block_hash.lower():
                message = f"logs of two different blocks {number}; try again"
                raise ChainReorganised(message, **where)
    return dict(sorted(counts.items()))
