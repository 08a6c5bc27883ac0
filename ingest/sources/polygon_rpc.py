"""A Polygon node's JSON-RPC, as far as reading logs needs it.

Promises checked answers or errors of `ingest.errors`; providers word their limits in many ways, and
all of those become `RangeTooLarge`. Which blocks to read is left to `ingest.sources.polygon`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ingest.contracts import exchanges_of, topics_of
from ingest.errors import (
    ChainReorganised,
    HttpStatusError,
    RateLimited,
    RpcError,
    WrongShape,
    one_line,
)
from ingest.http import HttpClient
from ingest.records import hex_number

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
        [result] = self._call([_block_call(number)], request)
        return self._as_block(result, request, number)

    def logs(
        self, first: int, last: int, versions: Sequence[str], follows: str | None = None
    ) -> tuple[list[dict], Block]:
        """OrderFilled logs of blocks `first` to `last`, and the block `last`.

        All is asked for in one batch: a node that has not seen `last` yet would answer with fewer
        logs than there are, and without that block the answer is refused. The block comes before the
        logs, so that a reorganisation in between leaves a hash that is seen to be gone the next time.

        Args:
            follows: hash that block `first - 1` must have, if it is known.

        Raises:
            RangeTooLarge: the node wants to be asked for less.
            ChainReorganised: block `first - 1` has another hash.
            WrongShape: the node has no block `last`, or its answer is no list of logs of this range.
        """
        request = f"logs of blocks {first} to {last}"
        query = {
            "fromBlock": hex(first),
            "toBlock": hex(last),
            "address": exchanges_of(versions),
            "topics": [topics_of(versions)],
        }
        calls = [_block_call(last), ("eth_getLogs", [query])]
        if follows is not None:
            calls.append(_block_call(first - 1))
        try:
            end, logs, *before = self._call(calls, request)
        except HttpStatusError as error:
            if error.status in (400, 403, 413) and _TOO_LARGE.search(str(error)):
                message = f"the range is too large for this node ({error.status})"
                raise RangeTooLarge(message, code=error.status, **self._where(request)) from error
            raise
        if not isinstance(logs, list):
            raise WrongShape("eth_getLogs did not answer with a list", **self._where(request))
        if before and self._as_block(before[0], request, first - 1).hash != follows:
            message = "blocks were replaced while they were read; the next run reads them again"
            raise ChainReorganised(message, **self._where(request))
        kept = self._placed([log for log in logs if not _is_removed(log)], first, last, request)
        return kept, self._as_block(end, request, last)

    def add_timestamps(self, logs: list[dict]) -> None:
        """Give logs their `blockTimestamp` where the node left it out; each block is asked once."""
        missing = [log for log in logs if isinstance(log, dict) and not log.get("blockTimestamp")]
        numbers = sorted({place[0] for place in map(_place, missing) if place})
        times = {}
        for at in range(0, len(numbers), BLOCKS_PER_BATCH):
            batch = numbers[at : at + BLOCKS_PER_BATCH]
            request = f"times of {len(batch)} blocks from {batch[0]}"
            results = self._call([_block_call(number) for number in batch], request)
            for number, result in zip(batch, results, strict=True):
                times[number] = hex(self._as_block(result, request, number).timestamp)
        for log in missing:
            if place := _place(log):
                log["blockTimestamp"] = times[place[0]]

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
        ids = [reply.get("id") for reply in replies if isinstance(reply, dict)]
        complete = len(ids) == len(replies) == expected and all(n in ids for n in range(expected))
        if not isinstance(answer, list) or not complete:
            raise WrongShape("the answer to a JSON-RPC batch does not match it", **where)

    def _placed(self, logs: list[Any], first: int, last: int, request: str) -> list[Any]:
        """The logs, once each, if they are of this range and no two of them claim one place.

        Those without a place stay: they become dead letters.
        """
        by_place: dict[tuple[int, int] | int, Any] = {}
        for at, log in enumerate(logs):
            place = _place(log)
            if place and not first <= place[0] <= last:
                message = f"a log of block {place[0]}, which was not asked for"
                raise WrongShape(message, **self._where(request))
            if by_place.setdefault(place or at, log) != log:
                block, index = place
                message = f"two different logs in one place (block {block}, log index {index})"
                raise WrongShape(message, **self._where(request))
        return list(by_place.values())

    def _as_block(self, result: Any, request: str, asked: int | str) -> Block:
        try:
            number, timestamp = (hex_number(name, result[name]) for name in ("number", "timestamp"))
            block_hash = result["hash"]
        except (LookupError, TypeError, ValueError) as error:
            message = "the node does not have that block yet, or its answer is no block; try again"
            raise WrongShape(message, **self._where(request)) from error
        if not isinstance(block_hash, str) or not block_hash:
            raise WrongShape("a block without a hash; try again", **self._where(request))
        if isinstance(asked, int) and number != asked:
            message = f"answered with block {number} when asked for block {asked}; try another node"
            raise WrongShape(message, **self._where(request))
        return Block(number, timestamp, block_hash)

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


def _block_call(number: int | str) -> tuple[str, list]:
    """The call for a block by number or tag, without its transactions."""
    tag = number if isinstance(number, str) else hex(number)
    return "eth_getBlockByNumber", [tag, False]


def _place(log: Any) -> tuple[int, int] | None:
    """Block number and log index of a log; None if it does not say."""
    try:
        return hex_number("blockNumber", log["blockNumber"]), hex_number(
            "logIndex", log["logIndex"]
        )
    except (LookupError, TypeError, ValueError):
        return None


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
