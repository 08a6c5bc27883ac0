"""One chain as several nodes see it: up to an older head, or on a fork of the last blocks.

Views hold no blocks of their own, so thousands of nodes can look at one chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b

from sandbox.blocks import ChainView
from sandbox.chain import PREFIX, Log
from sandbox.contracts import Fill, OrdersMatched, place_of


class UpTo:
    """A chain up to `head`, which may be moved: a mined history that unfolds, or a node that lags."""

    def __init__(self, chain: ChainView, head: int) -> None:
        self._chain, self.head = chain, head

    def block_hash(self, number: int) -> str:
        """See `ChainView`."""
        return self._chain.block_hash(number)

    def number_of(self, name: str) -> int | None:
        """See `ChainView`."""
        number = self._chain.number_of(name)
        return number if number is not None and number <= self.head else None

    def block_with(self, tx_hash: str) -> int | None:
        """See `ChainView`."""
        return self._chain.block_with(tx_hash)

    def logs(self, first: int, last: int) -> Iterator[Log]:
        """See `ChainView`."""
        return self._chain.logs(first, min(last, self.head))


class Forked:
    """A chain whose blocks from `since` on are others: other hashes, and of their transactions some are
    missing, some are there in place of others."""

    def __init__(self, chain: ChainView, since: int, salt: str = "") -> None:
        self._chain, self._since, self._salt = chain, since, salt
        self._numbers: dict[str, int] = {}

    @property
    def head(self) -> int:
        """See `ChainView`."""
        return self._chain.head

    def block_hash(self, number: int) -> str:
        """See `ChainView`."""
        name = self._chain.block_hash(number)
        if number < self._since:
            return name
        name = "0x" + blake2b(f"{self._salt}{name}".encode(), digest_size=32).hexdigest()
        self._numbers[name[:PREFIX]] = number
        return name

    def number_of(self, name: str) -> int | None:
        """See `ChainView`."""
        number = self._numbers.get(name[:PREFIX])
        if number is not None:
            return number if number <= self.head and self.block_hash(number) == name else None
        number = self._chain.number_of(name)
        return number if number is not None and number < self._since else None

    def block_with(self, tx_hash: str) -> int | None:
        """See `ChainView`."""
        if tx_hash[:PREFIX] in self._numbers:
            return self._numbers[tx_hash[:PREFIX]]
        for log in self.logs(self._since, self.head):
            if place_of(log).tx_hash == tx_hash:
                return log.block_number
        number = self._chain.block_with(tx_hash)
        return number if number is not None and number < self._since else None

    def logs(self, first: int, last: int) -> Iterator[Log]:
        """See `ChainView`."""
        for log in self._chain.logs(first, last):
            if log.block_number < self._since:
                yield log
            elif (other := self._replaced(log)) is not None:
                yield other

    def _replaced(self, log: Log) -> Log | None:
        """The log as it is on the fork; None if its transaction is not on it."""
        leg = place_of(log)
        fate = int(leg.tx_hash[-4:], 16) % 3
        if fate == 0:
            return None
        if fate == 1:
            return log
        return OrdersMatched(_other(leg), log.log_index) if log is not leg else _other(leg)


def _other(leg: Fill) -> Fill:
    """A fill in the place of another one."""
    turned = str.maketrans("0123456789abcdef", "123456789abcdef0")
    return replace(
        leg,
        tx_hash="0x" + leg.tx_hash[2:].translate(turned),
        order_hash="0x" + leg.order_hash[2:].translate(turned),
    )
