"""The simulated chain: an ordered list of logs, a head that moves, and block hashes that change
with a reorganisation.

Blocks without logs are not stored; a block is its number, its time and a hash derived from both and
from how often it was replaced. What the logs mean is left to `contracts`, what else is in a block to
`blocks`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from operator import attrgetter

from sandbox.contracts import Fill, OrdersMatched, place_of

Log = Fill | OrdersMatched
PREFIX = 58  # characters of a block's hash that its transactions without fills begin with
_position = attrgetter("block_number", "log_index")
_block_number = attrgetter("block_number")


class Chain:
    """Logs by block number, from genesis to `head`."""

    def __init__(self, logs: Iterable[Log] = (), head: int | None = None, seed: int = 0) -> None:
        """Take `logs` in any order; `head` defaults to the block of the last one, or 0."""
        self.seed = seed
        self._logs: list[Log] = sorted(logs, key=_position)
        last = self._logs[-1].block_number if self._logs else 0
        self.head = last if head is None else head
        self._replaced: dict[int, int] = {}  # block number -> how often it was replaced
        self._numbers: dict[str, int] = {}  # start of a hash that was given out -> block number
        self._blocks_of: dict[str, int] | None = None  # transaction -> block, made when asked for

    def append(self, logs: Iterable[Log], head: int) -> None:
        """Move the head to `head`, adding the logs of the new blocks, in order."""
        self._logs.extend(logs)
        self._blocks_of = None
        self.head = head

    def rewind(self, depth: int) -> None:
        """Drop the last `depth` blocks; the blocks that replace them get other hashes."""
        for number in range(self.head - depth + 1, self.head + 1):
            self._replaced[number] = self._replaced.get(number, 0) + 1
        self.head -= depth
        self._blocks_of = None
        del self._logs[bisect_right(self._logs, self.head, key=_block_number) :]

    def logs(self, first: int, last: int) -> Iterator[Log]:
        """Logs of the blocks `first` to `last`, both included, in chain order."""
        start = bisect_left(self._logs, first, key=_block_number)
        stop = bisect_right(self._logs, last, key=_block_number)
        return islice(self._logs, start, stop)

    def block_hash(self, number: int) -> str:
        """Hash of block `number` as it stands now."""
        identity = f"{self.seed}:{number}:{self._replaced.get(number, 0)}"
        name = "0x" + blake2b(identity.encode(), digest_size=32).hexdigest()
        self._numbers[name[:PREFIX]] = number
        return name

    def number_of(self, name: str) -> int | None:
        """Number of the block with this hash; None unless it stands in the chain now."""
        number = self._numbers.get(name[:PREFIX])  # nobody knows a hash that was never given out
        if number is None or not 0 <= number <= self.head or self.block_hash(number) != name:
            return None
        return number

    def block_with(self, tx_hash: str) -> int | None:
        """Number of the block that may hold a transaction; None if none does."""
        if self._blocks_of is None:
            self._blocks_of = {place_of(log).tx_hash: log.block_number for log in self._logs}
        # Transactions without a fill carry their block's hash, up to their index in the block.
        return self._blocks_of.get(tx_hash, self._numbers.get(tx_hash[:PREFIX]))
