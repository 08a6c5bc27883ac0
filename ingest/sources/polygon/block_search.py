"""Finds the first block of the chain at or after a time, in few requests and whatever the times of blocks are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ingest.errors import WrongShape
from ingest.sources.polygon.chain import (
    USUAL_BLOCK_SECONDS,
    Block,
    Endpoint,
    Endpoints,
    where_of,
)


def block_since(endpoints: Endpoints, moment: int, head: Block) -> int:
    """Number of the first block at or after `moment` (unix seconds); head + 1 if none is.

    Raises:
        WrongShape: the times of blocks contradict each other.
        UpstreamError: see `Endpoints.ask`.
    """

    def search(endpoint: Endpoint) -> int:
        return first_since(moment, head, endpoint.block, where_of(endpoint))

    return endpoints.ask(search)


def first_since(
    timestamp: int, head: Block, block: Callable[[int], Block], where: Mapping[str, str]
) -> int:
    """Number of the first block at or after `timestamp`; head + 1 if none is.

    Guesses from the time between the two blocks asked last, which finds it in two or three requests where blocks come
    evenly; every third request halves what is left, whatever the chain looks like.

    Args:
        where: who asks, for errors.

    Raises:
        WrongShape: a block's time does not lie between those of the blocks around it.
    """
    if timestamp > head.timestamp:
        return head.number + 1
    low, high, last = -1, head.number, head  # the answer is above low, and at most high
    earliest, latest = 0, head.timestamp  # of the blocks between them
    pace, asked = USUAL_BLOCK_SECONDS, 0
    while high - low > 1:
        asked += 1
        guess = last.number + math.ceil((timestamp - last.timestamp) / pace)
        number = (low + high) // 2 if asked % 3 == 0 else min(max(guess, low + 1), high - 1)
        found = block(number)
        if not earliest <= found.timestamp <= latest:
            message = f"the time of block {number} does not lie between those of its neighbours"
            raise WrongShape(f"{message}; try another node", **where)
        if found.timestamp < timestamp:
            low, earliest = number, found.timestamp
        else:
            high, latest = number, found.timestamp
        pace = max(abs(found.timestamp - last.timestamp), 1) / abs(number - last.number)
        last = found
    return high
