"""A Polygon node's JSON-RPC, as far as reading logs needs it.

Promises checked answers or errors of `ingest.errors`. What a provider allows (calls in a batch,
blocks in a range) is found out by what it refuses and remembered as long as the node lives; what
its refusals mean is decided in `ingest.refusals`. The module is longer than 300 lines because one
class answers every question of `chain.Endpoint`, and its ways to find evidence share the same
headers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ingest.errors import (
    ChainReorganised,
    NodeBehind,
    WrongShape,
)
from ingest.http import HttpClient
from ingest.records import hex_number
from ingest.sizes import AdaptiveSize
from ingest.sources.polygon.blooms import excludes
from ingest.sources.polygon.chain import (
    FIRST_RANGE,
    LARGEST_RANGE,
    Block,
    Evidence,
    Found,
    LogFilter,
    spread,
)
from ingest.sources.polygon.json_rpc import Call, JsonRpc
from ingest.sources.polygon.log_places import placed

CALLS_PER_BATCH = 100
# A range that fails is asked for again so often before it is halved.
TRIES_OF_A_RANGE = 2
# What evidence may cost: headers in one request, and blocks of a run whose receipts are looked at.
HEADERS_AT_ONCE, BLOCKS_LOOKED_AT, BLOCKS_LOOKED_AT_FIRST = 64, 64, 8
# Of a node without eth_getBlockReceipts so many receipts of a block are looked at.
RECEIPTS_OF_A_BLOCK = 20
# Root of a trie without entries: keccak256 of the RLP of an empty string. A block with it has no transaction.
EMPTY_ROOT = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"

CHAIN_ID = 137


class Node:
    """One JSON-RPC endpoint.

    Args:
        client: of this thread.
        url: its address.
        batch: most calls in one request at first.
        block_range: blocks in one `eth_getLogs` at first.
    """

    kind = "JSON-RPC"
    is_silent_about_gaps = True

    def __init__(
        self,
        client: HttpClient,
        url: str,
        *,
        batch: int = CALLS_PER_BATCH,
        block_range: int = FIRST_RANGE,
    ) -> None:
        self.url = url
        self.sizes = AdaptiveSize(block_range, max(block_range, LARGEST_RANGE))
        self._rpc = JsonRpc(client, url, batch)

    def for_backfill(self) -> Node:
        """See `Endpoint`."""
        other = copy.copy(self)  # shares what was found out about its limits
        other._rpc = self._rpc.in_background()
        return other

    def head(self) -> Block:
        """See `Endpoint`."""
        return self._block("latest")

    def confirmed(self, confirmations: int) -> Block:
        """See `Endpoint`."""
        head = self.head()
        return self.block(max(head.number - confirmations, 0)) if confirmations else head

    def block(self, number: int) -> Block:
        """See `Endpoint`.

        Raises:
            NodeBehind: the node has no such block.
            WrongShape: it answered with something else.
        """
        return self._block(number)

    def ancestor(self, number: int, of: Block) -> Block:
        """See `Endpoint`.

        Raises:
            ChainReorganised: the headers do not lead there; they may be of nodes in different states.
        """
        request, found, expected = f"headers of blocks {number} to {of.number}", of, of.hash
        for last in range(of.number, number - 1, -HEADERS_AT_ONCE):
            numbers = range(last, max(last - HEADERS_AT_ONCE, number - 1), -1)
            results = self._rpc.call([_block_call(each) for each in numbers], request)
            for each, result in zip(numbers, results, strict=True):
                found = self._as_block(result, request, each)
                if found.hash != expected:
                    message = f"block {each} is not the one that block {of.number} descends from"
                    raise ChainReorganised(f"{message}; try again", **self._rpc.where(request))
                expected = str(result.get("parentHash")).lower()
        return found

    def logs(self, first: int, last: int, wanted: LogFilter, follows: str | None = None) -> Found:
        """See `Endpoint`.

        The block comes before the logs, so that a reorganisation in between leaves a hash that is seen to be gone the
        next time.

        Raises:
            RangeTooLarge: the node wants to be asked for less.
            ChainReorganised: block `first - 1` has another hash.
            NodeBehind: the node has no block `last`.
            WrongShape: its answer is no list of logs of this range.
        """
        request = f"logs of blocks {first} to {last}"
        calls = [_block_call(last), ("eth_getLogs", [_query(wanted, first, last)])]
        if follows is not None:
            calls.append(_block_call(first - 1))
        attempts = TRIES_OF_A_RANGE if last > first else None
        end, logs, *before = self._rpc.call(
            calls, request, blocks=last - first + 1, attempts=attempts
        )
        if not isinstance(logs, list):
            raise WrongShape("eth_getLogs did not answer with a list", **self._rpc.where(request))
        if before and self._as_block(before[0], request, first - 1).hash != follows:
            message = "blocks were replaced while they were read; the next run reads them again"
            raise ChainReorganised(message, **self._rpc.where(request))
        kept = [log for log in logs if not _is_removed(log)]
        return Found(
            placed(kept, first, last, self._rpc.where(request)), self._as_block(end, request, last)
        )

    def times(self, numbers: Sequence[int]) -> dict[int, int]:
        """See `Endpoint`."""
        if not numbers:
            return {}
        request = f"times of {len(numbers)} blocks from {min(numbers)}"
        results = self._rpc.call([_block_call(number) for number in numbers], request)
        return {
            number: self._as_block(result, request, number).timestamp
            for number, result in zip(numbers, results, strict=True)
        }

    def evidence(self, numbers: Sequence[int], wanted: LogFilter) -> Evidence:
        """See `Endpoint`: headers that exclude logs, else receipts, else all logs by block hash.

        Any of the latter two shows that the node has what happened in their block, so it has what happened in the blocks
        around it.
        """
        ends = [*numbers[:HEADERS_AT_ONCE], *numbers[HEADERS_AT_ONCE:][-HEADERS_AT_ONCE:]]
        fills, open_ = self._by_headers(ends, wanted)
        if not open_ and len(ends) < len(numbers):
            ends = numbers
            fills, open_ = self._by_headers(numbers, wanted)
        looked_at = spread(list(open_), BLOCKS_LOOKED_AT)
        for number in spread(looked_at, BLOCKS_LOOKED_AT_FIRST) + looked_at:
            if number in fills or (len(fills) >= BLOCKS_LOOKED_AT_FIRST and any(fills.values())):
                continue  # where there are fills, a few blocks show it
            header = open_[number]
            count = None
            if isinstance(header, dict) and header.get("hash"):
                count = self._in_receipts(header, wanted)
                if count is None:
                    count = self._by_hash(header, wanted)
            if count is not None:
                fills[number] = count
        is_sample = len(looked_at) < len(open_) or len(ends) < len(numbers)
        return Evidence(fills, all(number in fills for number in looked_at), is_sample)

    def _by_headers(
        self, numbers: Sequence[int], wanted: LogFilter
    ) -> tuple[dict[int, int], dict[int, Any]]:
        """Blocks whose headers exclude such logs, with 0, and the headers of the others."""
        request = f"headers of {len(numbers)} blocks from {min(numbers)}"
        fills: dict[int, int] = {}
        open_: dict[int, Any] = {}
        for at in range(0, len(numbers), HEADERS_AT_ONCE):
            part = numbers[at : at + HEADERS_AT_ONCE]
            headers = self._rpc.try_all([_block_call(number) for number in part], request)
            for number, header in zip(part, headers, strict=True):
                if is_excluded(header, wanted):
                    fills[number] = 0
                else:
                    open_[number] = header
        return fills, open_

    def _in_receipts(self, header: dict, wanted: LogFilter) -> int | None:
        """Logs in a block's receipts, or in some of them; None if the node does not have these."""
        request = f"receipts of block {header['number']}"
        [receipts] = self._rpc.try_all([("eth_getBlockReceipts", [header["number"]])], request)
        hashes = header.get("transactions")
        if not isinstance(receipts, list) or not receipts:
            if not isinstance(hashes, list) or not hashes:
                return None
            sample = random.sample(hashes, min(len(hashes), RECEIPTS_OF_A_BLOCK))
            names = [each.get("hash") if isinstance(each, dict) else each for each in sample]
            receipts = self._rpc.try_all(
                [("eth_getTransactionReceipt", [name]) for name in names], request
            )
        if not all(_is_receipt_of(receipt, header) for receipt in receipts):
            return None
        return sum(wanted.matches(log) for receipt in receipts for log in receipt["logs"])

    def _by_hash(self, header: dict, wanted: LogFilter) -> int | None:
        """Logs of the block with this hash; None if the node cannot be asked so, or shows no log of it at all.

        Asked without a filter: a node that has the block but not its logs, or no more, answers with none.
        """
        request = f"all logs of block {header['hash']}"
        [logs] = self._rpc.try_all([("eth_getLogs", [{"blockHash": header["hash"]}])], request)
        if not isinstance(logs, list) or not logs:
            return None
        return sum(wanted.matches(log) for log in logs)

    def identify(self) -> str:
        """See `Endpoint`."""
        [answer] = self._rpc.call([("eth_chainId", [])], "its chain")
        try:
            chain_id = hex_number("eth_chainId", answer)
        except ValueError as error:
            raise WrongShape(str(error), **self._rpc.where("its chain")) from error
        if chain_id != CHAIN_ID:
            message = f"chain {chain_id} is not Polygon ({CHAIN_ID})"
            raise WrongShape(message, **self._rpc.where("its chain"))
        return f"chain {chain_id}, up to {self._rpc.largest_batch} calls in a request"

    def _block(self, number: int | str) -> Block:
        request = f"block {number}"
        [result] = self._rpc.call([_block_call(number)], request)
        return self._as_block(result, request, number)

    def _as_block(self, result: Any, request: str, asked: int | str) -> Block:
        if result is None:
            message = "the node does not have that block yet; wait, or use another node"
            raise NodeBehind(message, **self._rpc.where(request))
        try:
            number, timestamp = (hex_number(name, result[name]) for name in ("number", "timestamp"))
            block_hash = result["hash"]
        except (LookupError, TypeError, ValueError) as error:
            message = "the answer is no block; try again"
            raise WrongShape(message, **self._rpc.where(request)) from error
        if not isinstance(block_hash, str) or not block_hash:
            raise WrongShape("a block without a hash; try again", **self._rpc.where(request))
        if isinstance(asked, int) and number != asked:
            message = f"answered with block {number} when asked for block {asked}; try another node"
            raise WrongShape(message, **self._rpc.where(request))
        return Block(number, timestamp, block_hash.lower())


def _query(wanted: LogFilter, first: int, last: int) -> dict[str, Any]:
    return {"fromBlock": hex(first), "toBlock": hex(last)} | _topics_and_addresses(wanted)


def _topics_and_addresses(wanted: LogFilter) -> dict[str, Any]:
    topics: list[Any] = [list(wanted.topics)]
    if wanted.takers:
        topics += [None, None, ["0x" + "0" * 24 + taker[2:] for taker in wanted.takers]]
    query: dict[str, Any] = {"topics": topics}
    if wanted.addresses:
        query["address"] = list(wanted.addresses)
    return query


def is_excluded(header: Any, wanted: LogFilter) -> bool:
    """Whether a block's header excludes that it holds such a log: it has no transaction, or its bloom says so."""
    if not isinstance(header, dict):
        return False
    roots = [header.get(name) for name in ("receiptsRoot", "transactionsRoot")]
    if EMPTY_ROOT in roots:
        return True
    gas = header.get("gasUsed")
    said_empty = header.get("transactions") == [] and gas in (None, "0x0", 0)
    if said_empty and not any(isinstance(root, str) for root in roots):
        return True
    if gas in ("0x0", 0) and header.get("transactions") in (None, []):
        return True
    return excludes(header.get("logsBloom"), wanted.addresses, wanted.topics)


def _is_receipt_of(receipt: Any, header: Mapping[str, Any]) -> bool:
    return (
        isinstance(receipt, dict)
        and isinstance(receipt.get("logs"), list)
        and str(receipt.get("blockHash", header["hash"])).lower() == str(header["hash"]).lower()
    )


def _block_call(number: int | str) -> Call:
    """The call for a block by number or tag, without its transactions."""
    tag = number if isinstance(number, str) else hex(number)
    return "eth_getBlockByNumber", [tag, False]


def _is_removed(log: Any) -> bool:
    """Whether a node says that this log left the chain; the one that replaced it comes as well."""
    return isinstance(log, dict) and log.get("removed") is True
