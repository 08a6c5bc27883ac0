"""A Polygon node's JSON-RPC, as far as reading logs needs it.

Promises checked answers or errors of `ingest.errors`; providers word their limits in many ways, and
all of those become `RangeTooLarge`. Which blocks to read is left to `ingest.sources.polygon`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ingest.contracts import ORDER_FILLED_TOPICS, exchanges_of
from ingest.errors import HttpStatusError, RateLimited, RpcError, WrongShape, one_line
from ingest.http import HttpClient

BLOCKS_PER_BATCH = 100
USUAL_BLOCK_SECONDS = 2.0

# How Alchemy, Ankr, Chainstack, dRPC, Erigon, Bor, Infura, QuickNode and public nodes say it.
_TOO_LARGE = re.compile(
    r"more than [\d,]+ (results|logs)|too many (results|logs)|(block|eth_getlogs|log).{0,40}range"
    r"|range.{0,40}(too|exceed|limit|large|wide|up to)|(response|result).{0,30}(too|exceed).{0,20}"
    r"(large|big|size|limit)|response size|exceeds? (the )?(max|limit)|query timeout|timed? ?out"
    r"|limited to [\d,]+ (blocks|results|logs)|payload too large|reduce the (range|block)",
    re.IGNORECASE,
)
_RATE_LIMIT = re.compile(
    r"rate.?limit|too many requests|requests? (count|limit) exceeded|compute units|over capacity"
    r"|request rate|quota",
    re.IGNORECASE,
)


class Block(NamedTuple):
    """A block's number, time (unix seconds) and hash."""

    number: int
    timestamp: int
    hash: str


class RangeTooLarge(RpcError):
    """The node refuses to answer for so many blocks or logs."""


class Node:
    """One JSON-RPC endpoint."""

    def __init__(self, client: HttpClient, url: str) -> None:
        self._client, self.url = client, url

    def block(self, number: int | str) -> Block:
        """A block by number or tag ("latest").

        Raises:
            WrongShape: the node has no such block.
        """
        request = f"block {number}"
        [result] = self._call([("eth_getBlockByNumber", [_tag(number), False])], request)
        return self._as_block(result, request)

    def logs(self, first: int, last: int, versions: Sequence[str]) -> tuple[list[dict], Block]:
        """OrderFilled logs of blocks `first` to `last`, and the block `last`.

        Both are asked for in one batch: a node that has not seen `last` yet would answer with fewer
        logs than there are, and without that block the answer is refused.

        Raises:
            RangeTooLarge: the node wants to be asked for less.
            WrongShape: the node has no block `last`, or its answer is no list of logs.
        """
        request = f"logs of blocks {first} to {last}"
        query = {
            "fromBlock": hex(first),
            "toBlock": hex(last),
            "address": exchanges_of(tuple(versions)),
            "topics": [[ORDER_FILLED_TOPICS[version] for version in versions]],
        }
        calls = [("eth_getLogs", [query]), ("eth_getBlockByNumber", [hex(last), False])]
        try:
            logs, end = self._call(calls, request)
        except HttpStatusError as error:
            if error.status in (400, 403, 413) and _TOO_LARGE.search(str(error)):
                message = f"the range is too large for this node ({error.status})"
                raise RangeTooLarge(message, code=error.status, **self._where(request)) from error
            raise
        if not isinstance(logs, list):
            raise WrongShape("eth_getLogs did not answer with a list", **self._where(request))
        return [log for log in logs if not _is_removed(log)], self._as_block(end, request)

    def add_timestamps(self, logs: list[dict]) -> None:
        """Give logs their `blockTimestamp` where the node left it out; each block is asked once."""
        missing = [log for log in logs if isinstance(log, dict) and not log.get("blockTimestamp")]
        numbers = sorted({log["blockNumber"] for log in missing if log.get("blockNumber")})
        times = {}
        for at in range(0, len(numbers), BLOCKS_PER_BATCH):
            batch = numbers[at : at + BLOCKS_PER_BATCH]
            request = f"times of {len(batch)} blocks from {batch[0]}"
            results = self._call([("eth_getBlockByNumber", [x, False]) for x in batch], request)
            for number, result in zip(batch, results, strict=True):
                times[number] = hex(self._as_block(result, request).timestamp)
        for log in missing:
            if log.get("blockNumber") in times:
                log["blockTimestamp"] = times[log["blockNumber"]]

    def first_block_since(self, timestamp: int, head: Block) -> int:
        """Number of the first block at or after `timestamp` (unix seconds); head + 1 if none is."""
        return first_since(timestamp, head, self.block)

    def _call(self, calls: list[tuple[str, list]], request: str) -> list[Any]:
        """Results of several calls, sent as one batch."""
        body = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(calls)
        ]
        answer = self._client.post_json(
            self.url,
            body,
            request=request,
            retry_timeouts=len(calls) == 1,
            check=lambda answer: self._check(answer, len(calls), request),
        )
        results = {reply["id"]: reply.get("result") for reply in answer}
        return [results[number] for number in range(len(calls))]

    def _check(self, answer: Any, expected: int, request: str) -> None:
        where = self._where(request)
        replies = answer if isinstance(answer, list) else [answer]
        for reply in replies:
            if isinstance(reply, dict) and reply.get("error"):
                raise _rpc_error(reply["error"], where)
        ids = {reply.get("id") for reply in replies if isinstance(reply, dict)}
        if not isinstance(answer, list) or ids != set(range(expected)):
            raise WrongShape("the answer to a JSON-RPC batch does not match it", **where)

    def _as_block(self, result: Any, request: str) -> Block:
        try:
            return Block(int(result["number"], 16), int(result["timestamp"], 16), result["hash"])
        except (KeyError, TypeError, ValueError) as error:
            message = "the node does not have that block yet, or its answer is no block; try again"
            raise WrongShape(message, **self._where(request)) from error

    def _where(self, request: str) -> dict[str, str]:
        return {"source": self._client.source, "url": self.url, "request": request}


def first_since(timestamp: int, head: Block, block: Callable[[int], Block]) -> int:
    """Number of the first block at or after `timestamp`; head + 1 if none is.

    Guesses from the time between the two blocks asked last, which finds it in two or three requests where blocks come
    evenly; every third request halves what is left, whatever the chain looks like.
    """
    if timestamp > head.timestamp:
        return head.number + 1
    low, high, last = -1, head.number, head  # the answer is above low, and at most high
    pace, asked = USUAL_BLOCK_SECONDS, 0
    while high - low > 1:
        asked += 1
        guess = last.number + math.ceil((timestamp - last.timestamp) / pace)
        number = (low + high) // 2 if asked % 3 == 0 else min(max(guess, low + 1), high - 1)
        found = block(number)
        if found.timestamp < timestamp:
            low = number
        else:
            high = number
        pace = max(abs(found.timestamp - last.timestamp), 1) / abs(number - last.number)
        last = found
    return high


def _tag(number: int | str) -> str:
    return number if isinstance(number, str) else hex(number)


def _is_removed(log: Any) -> bool:
    """Whether a node says that this log left the chain; the one that replaced it comes as well."""
    return isinstance(log, dict) and log.get("removed") is True


def _rpc_error(error: Any, where: dict[str, str]) -> Exception:
    known = error if isinstance(error, dict) else {}
    message = one_line(str(known.get("message") or error), 200)
    code = known.get("code") if isinstance(known.get("code"), int) else 0
    # Infura says -32005 for both, so the words decide.
    if _RATE_LIMIT.search(message) or code == 429:
        return RateLimited(
            f"rate limited ({message}); wait or use another node", status=429, **where
        )
    if _TOO_LARGE.search(message):
        return RangeTooLarge(f"the node wants a smaller range: {message}", code=code, **where)
    return RpcError(f"the node refused: {message} (code {code})", code=code, **where)
