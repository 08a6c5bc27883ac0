"""Ethereum's logs bloom: what a block header can exclude. Pure functions.

A header's `logsBloom` has three of 2048 bits set for the address and for every topic of each log of
its block. If one of the three is not set, no log of the block has that address or topic. Bits that
are set prove nothing: Polygon's blooms are close to saturated. Source: Ethereum's yellow paper, 4.3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from Crypto.Hash import keccak

BITS = 2048


@cache
def mask(value: str) -> int:
    """The three bits of an address or topic (0x and hex digits), as a number of 2048 bits."""
    digest = keccak.new(data=bytes.fromhex(value[2:]), digest_bits=256).digest()
    pairs = (int.from_bytes(digest[at : at + 2], "big") for at in (0, 2, 4))
    return sum({1 << (pair % BITS) for pair in pairs})


def excludes(bloom: str, addresses: Iterable[str], topics: Iterable[str]) -> bool:
    """Whether a block with this bloom has no log of these addresses with one of these topics.

    Args:
        bloom: 0x and 512 hex digits; anything else excludes nothing.
        addresses: none given: any.
    """
    try:
        bits = int(bloom, 16)
    except (TypeError, ValueError):
        return False
    if len(bloom) != 2 + BITS // 4:
        return False

    def lacks_all(values: Iterable[str]) -> bool:
        masks = [mask(value) for value in values]
        return bool(masks) and all(bits & each != each for each in masks)

    return lacks_all(addresses) or lacks_all(topics)
