"""What a block holds beside the exchanges' logs: other contracts' logs, transactions, receipts, a header.

All of it follows from the block's hash and from the logs in it, so nothing is stored. The transactions of fills
stand at their index; the places between are filled with others, some of which move tokens. One block in four
without fills is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain as chained
from typing import Protocol

from sandbox.chain import PREFIX, Log
from sandbox.clock import block_time
from sandbox.contracts import Transfer, log_of, place_of, topics_of
from sandbox.keccak import bloom

EMPTY_ROOT = (
    "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"  # of an empty trie
)
FULL_BLOOM = "0x" + "f" * 512
_GAS_PER_TRANSACTION, _GAS_PER_LOG = 21_000, 60_000
_ZEROS = "0x" + "0" * 64


class ChainView(Protocol):
    """A chain as one node sees it."""

    @property
    def head(self) -> int:
        """Number of the newest block."""

    def block_hash(self, number: int) -> str:
        """Hash of a block."""

    def number_of(self, name: str) -> int | None:
        """Number of the block with this hash, None if there is none."""

    def block_with(self, tx_hash: str) -> int | None:
        """Number of the block that may hold a transaction."""

    def logs(self, first: int, last: int) -> Iterator[Log]:
        """The exchanges' logs of a range of blocks, in order."""


def all_logs(chain: ChainView, first: int, last: int) -> Iterator[Log | Transfer]:
    """Logs of all contracts in blocks `first` to `last`, in order; none beyond the head."""
    by_block: dict[int, list[Log]] = {}
    for log in chain.logs(first, last):
        by_block.setdefault(log.block_number, []).append(log)
    for number in range(max(first, 0), min(last, chain.head) + 1):
        yield from block_logs(chain, number, by_block.get(number, []))


def block_logs(chain: ChainView, number: int, logs: list[Log]) -> list[Log | Transfer]:
    """All logs of a block, in order; `logs` are those of the exchanges."""
    name = chain.block_hash(number)
    drawn = bytes.fromhex(name[2:])
    others: list[Transfer] = []

    def move(tx_hash: str, tx_index: int, log_index: int) -> None:
        step = len(others)
        others.append(
            Transfer(
                timestamp=block_time(number),
                tx_hash=tx_hash,
                block_number=number,
                log_index=log_index,
                tx_index=tx_index,
                sender="0x" + name[2 + step : 42 + step],
                receiver="0x" + name[12 + step : 52 + step],
                amount=int.from_bytes(drawn[:5], "big") + step,
            )
        )

    index, place = -1, -1
    for log in logs:
        leg = place_of(log)
        # The collateral of a match moves before its first log, where there is room for that.
        if leg.tx_index != place and log.log_index - 1 > index:
            move(leg.tx_hash, leg.tx_index, log.log_index - 1)
        index, place = log.log_index, leg.tx_index
    for _ in range(drawn[0] % 4):
        index, place = index + 1, place + 1
        move(_other_transaction(name, place), place, index)
    return sorted(chained(logs, others), key=lambda log: log.log_index)


def _other_transaction(block_hash: str, index: int) -> str:
    return f"{block_hash[:PREFIX]}{index:08x}"


class Block:
    """One block as a node serves it."""

    def __init__(self, chain: ChainView, number: int) -> None:
        """Block `number` of `chain`, which must have it."""
        self.number, self.hash = number, chain.block_hash(number)
        self.parent_hash = chain.block_hash(number - 1)
        self.logs = block_logs(chain, number, list(chain.logs(number, number)))
        places: dict[int, str] = {}
        crowded: list[str] = []  # by hand two transactions may claim one index
        for name, index in {
            place_of(log).tx_hash: place_of(log).tx_index for log in self.logs
        }.items():
            if places.setdefault(index, name) != name:
                crowded.append(name)
        self.transactions = [
            places.get(index) or _other_transaction(self.hash, index)
            for index in range(max(places, default=-1) + 1)
        ] + crowded

    def header(self, *, saturated: bool = False) -> dict:
        """The answer to `eth_getBlockByNumber`; `saturated` fills the bloom, as busy blocks do."""
        count = len(self.transactions)
        return {
            "number": hex(self.number),
            "hash": self.hash,
            "parentHash": self.parent_hash,
            "timestamp": hex(block_time(self.number)),
            "nonce": "0x0000000000000000",
            "difficulty": "0x1",
            "extraData": "0x",
            "gasLimit": hex(45_000_000),
            "gasUsed": hex(count * _GAS_PER_TRANSACTION + len(self.logs) * _GAS_PER_LOG),
            "baseFeePerGas": hex(25_000_000_000),
            "logsBloom": self._bloom(saturated),
            "miner": "0x" + "0" * 40,
            "mixHash": _ZEROS,
            "transactionsRoot": _root(self.hash, "a") if count else EMPTY_ROOT,
            "receiptsRoot": _root(self.hash, "b") if count else EMPTY_ROOT,
            "stateRoot": _root(self.hash, "c"),
            "size": hex(600 + 200 * count),
            "uncles": [],
            "transactions": self.transactions,
        }

    def receipts(self, *, with_timestamp: bool, saturated: bool = False) -> list[dict]:
        """The answer to `eth_getBlockReceipts`, one receipt a transaction."""
        by_transaction: dict[str, list[Log | Transfer]] = {name: [] for name in self.transactions}
        for log in self.logs:
            by_transaction[place_of(log).tx_hash].append(log)
        receipts, used = [], 0
        for index, (name, logs) in enumerate(by_transaction.items()):
            gas = _GAS_PER_TRANSACTION + len(logs) * _GAS_PER_LOG
            used += gas
            receipts.append(
                {
                    "transactionHash": name,
                    "transactionIndex": hex(place_of(logs[0]).tx_index if logs else index),
                    "blockHash": self.hash,
                    "blockNumber": hex(self.number),
                    "from": "0x" + self.hash[2:42],
                    "to": logs[-1].exchange if logs else "0x" + self.hash[12:52],
                    "contractAddress": None,
                    "cumulativeGasUsed": hex(used),
                    "gasUsed": hex(gas),
                    "effectiveGasPrice": hex(30_000_000_000),
                    "logs": [log_of(log, self.hash, with_timestamp=with_timestamp) for log in logs],
                    "logsBloom": FULL_BLOOM if saturated and logs else _bloom_of(logs),
                    "status": "0x1",
                    "type": "0x2",
                }
            )
        return receipts

    def _bloom(self, saturated: bool) -> str:
        if saturated and self.transactions:
            return FULL_BLOOM
        return _bloom_of(self.logs)


def _bloom_of(logs: list[Log | Transfer]) -> str:
    return bloom((log.exchange, topics_of(log)) for log in logs)


def _root(block_hash: str, mark: str) -> str:
    """Some root of a trie: which one does not matter, a reader has not what it takes to check it."""
    return "0x" + block_hash[3:] + mark
