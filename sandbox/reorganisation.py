"""What becomes of the matches of blocks that a reorganisation replaces: some come back, some move, some go."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from random import Random

from sandbox.clock import block_time
from sandbox.matches import Match, Slot

_FORMS_AGAIN, _SAME_BLOCK = 0.8, 0.5  # of a replaced transaction: comes back; in the same block


def scatter(rng: Random, orphans: list[Match], head: int) -> dict[int, list[list[Match]]]:
    """Decide for each transaction of replaced blocks whether it comes back, and in which block."""
    carried: dict[int, list[list[Match]]] = {}
    for _, matches in groupby(orphans, key=lambda match: match.taker_leg.tx_hash):
        transaction = list(matches)
        if rng.random() < _FORMS_AGAIN:
            number = transaction[0].taker_leg.block_number
            if rng.random() >= _SAME_BLOCK:
                number = min(number + 1, head)
            carried.setdefault(number, []).append(transaction)
    return carried


def relocate(rng: Random, match: Match, slot: Slot) -> Match:
    """The same match, same transaction and order hashes, at another place in the chain."""
    legs = []
    for leg in match.legs:
        slot.log_index += rng.randint(1, 4)
        legs.append(
            replace(
                leg,
                timestamp=block_time(slot.block_number),
                block_number=slot.block_number,
                log_index=slot.log_index,
                tx_index=slot.tx_index,
            )
        )
    matched = match.matched_log_index
    if matched >= 0:
        slot.log_index += 1
        matched = slot.log_index
    return replace(match, legs=tuple(legs), matched_log_index=matched)
