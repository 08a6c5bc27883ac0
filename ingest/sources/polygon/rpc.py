"""A Polygon node's JSON-RPC, as far as reading logs needs it.

Promises checked answers or errors of `ingest.errors`. What a provider allows (calls in a batch,
blocks in a range) is found out by what it refuses and remembered as long as the node lives; what
its refusals mean is decided in `rpc_errors`.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from ingest.errors import (
    AccessDenied,
    BatchTooLarge,
    ChainReorganised,
    HistoryPruned,
    HttpStatusError,
    NodeBehind,
    NotJson,
    RangeTooLarge,
    RateLimited,
    RpcError,
    Timeout,
    Unavailable,
    Unreachable,
    UpstreamError,
    WrongShape,
    one_line,
)
from ingest.http import HttpClient
from ingest.http_answers import denied
from ingest.records import hex_number
from ingest.refusals import Refusal, classify, limit_in
from ingest.sizes import AdaptiveSize
from ingest.sources.polygon.blooms import excludes
from ingest.sources.polygon.chain import (
    FIRST_RANGE,
    LARGEST_RANGE,
    Block,
    Evidence,
    Found,
    LogFilter,
    placed,
    spread,
)

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

Call = tuple[str, list]


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
        self._client, self.url = client, url
        self.sizes = AdaptiveSize(block_range, max(block_range, LARGEST_RANGE))
        self._batches = _Batches(batch)

    def for_backfill(self) -> Node:
        """See `Endpoint`."""
        other = copy.copy(self)  # shares what was found out about its limits
        other._client = self._client.in_background()
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
            results = self._call([_block_call(each) for each in numbers], request)
            for each, result in zip(numbers, results, strict=True):
                found = self._as_block(result, request, each)
                if found.hash != expected:
                    message = f"block {each} is not the one that block {of.number} descends from"
                    raise ChainReorganised(f"{message}; try again", **self._where(request))
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
        end, logs, *before = self._call(calls, request, blocks=last - first + 1, attempts=attempts)
        if not isinstance(logs, list):
            raise WrongShape("eth_getLogs did not answer with a list", **self._where(request))
        if before and self._as_block(before[0], request, first - 1).hash != follows:
            message = "blocks were replaced while they were read; the next run reads them again"
            raise ChainReorganised(message, **self._where(request))
        kept = [log for log in logs if not _is_removed(log)]
        return Found(
            placed(kept, first, last, self._where(request)), self._as_block(end, request, last)
        )

    def times(self, numbers: Sequence[int]) -> dict[int, int]:
        """See `Endpoint`."""
        if not numbers:
            return {}
        request = f"times of {len(numbers)} blocks from {min(numbers)}"
        results = self._call([_block_call(number) for number in numbers], request)
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
            headers = self._try([_block_call(number) for number in part], request)
            for number, header in zip(part, headers, strict=True):
                if is_excluded(header, wanted):
                    fills[number] = 0
                else:
                    open_[number] = header
        return fills, open_

    def _in_receipts(self, header: dict, wanted: LogFilter) -> int | None:
        """Logs in a block's receipts, or in some of them; None if the node does not have these."""
        request = f"receipts of block {header['number']}"
        [receipts] = self._try([("eth_getBlockReceipts", [header["number"]])], request)
        hashes = header.get("transactions")
        if not isinstance(receipts, list) or not receipts:
            if not isinstance(hashes, list) or not hashes:
                return None
            sample = random.sample(hashes, min(len(hashes), RECEIPTS_OF_A_BLOCK))
            names = [each.get("hash") if isinstance(each, dict) else each for each in sample]
            receipts = self._try([("eth_getTransactionReceipt", [name]) for name in names], request)
        if not all(_is_receipt_of(receipt, header) for receipt in receipts):
            return None
        return sum(wanted.matches(log) for receipt in receipts for log in receipt["logs"])

    def _by_hash(self, header: dict, wanted: LogFilter) -> int | None:
        """Logs of the block with this hash; None if the node cannot be asked so, or shows no log of it at all.

        Asked without a filter: a node that has the block but not its logs, or no more, answers with none.
        """
        request = f"all logs of block {header['hash']}"
        [logs] = self._try([("eth_getLogs", [{"blockHash": header["hash"]}])], request)
        if not isinstance(logs, list) or not logs:
            return None
        return sum(wanted.matches(log) for log in logs)

    def identify(self) -> str:
        """See `Endpoint`."""
        [answer] = self._call([("eth_chainId", [])], "its chain")
        try:
            chain_id = hex_number("eth_chainId", answer)
        except ValueError as error:
            raise WrongShape(str(error), **self._where("its chain")) from error
        if chain_id != CHAIN_ID:
            message = f"chain {chain_id} is not Polygon ({CHAIN_ID})"
            raise WrongShape(message, **self._where("its chain"))
        return f"chain {chain_id}, up to {self._batches.size.value} calls in a request"

    # -- calls ---

    def _block(self, number: int | str) -> Block:
        request = f"block {number}"
        [result] = self._call([_block_call(number)], request)
        return self._as_block(result, request, number)

    def _call(
        self, calls: Sequence[Call], request: str, *, blocks: int = 1, attempts: int | None = None
    ) -> list[Any]:
        """Results of calls, in as few requests as the node takes.

        Args:
            blocks: how many blocks they are about, where that decides what a refusal means.
            attempts: see `HttpClient.post_json`.
        """
        return self._send_all(
            calls,
            request,
            lambda replies: self._results(replies, request, blocks),
            blocks,
            attempts,
        )

    def _try(self, calls: Sequence[Call], request: str) -> list[Any]:
        """Results of calls; None for each that the node refuses, which it may."""

        def results_of(replies: list[dict]) -> list[Any]:
            if len(replies) > 1 and all(reply.get("error") for reply in replies):
                self._batches.check(len(replies), self._where(request))
            return [reply.get("result") for reply in replies]

        return self._send_all(calls, request, results_of, 1, None)

    def _send_all(
        self,
        calls: Sequence[Call],
        request: str,
        results_of: Callable[[list[dict]], list[Any]],
        blocks: int,
        attempts: int | None,
    ) -> list[Any]:
        results: list[Any] = []
        while len(results) < len(calls):
            size = self._batches.size.value
            part = calls[len(results) : len(results) + size]
            try:
                results += results_of(self._send(part, request, blocks, attempts))
            except UpstreamError as error:
                if not self._batches.fewer(len(part), error, is_range=blocks > 1):
                    raise
            else:
                self._batches.worked(len(part))
        return results

    def _send(
        self, calls: Sequence[Call], request: str, blocks: int, attempts: int | None
    ) -> list[dict]:
        """The replies to calls, in their order."""
        body = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(calls)
        ]
        answer = self._client.post_json(
            self.url,
            body if len(body) > 1 else body[0],
            request=request,
            attempts=attempts,
            retry_timeouts=blocks == 1,
            check=lambda answer: self._check(answer, len(calls), request, blocks),
            refusal=lambda status, content: self._refusal(
                status, content, request, len(calls), blocks
            ),
        )
        replies = answer if isinstance(answer, list) else [answer]
        by_id = {reply["id"]: reply for reply in replies}
        return [by_id[number] for number in range(len(calls))]

    def _check(self, answer: Any, expected: int, request: str, blocks: int) -> None:
        """Raise if an answer does not match its batch, or refuses it as a whole."""
        replies = answer if isinstance(answer, list) else [answer]
        ids = [reply.get("id") for reply in replies if isinstance(reply, dict)]
        if len(ids) == len(replies) == expected and all(n in ids for n in range(expected)):
            for reply in replies:
                self._raise_what_passes(reply, request, expected, blocks)
            return
        for reply in replies:
            if isinstance(reply, dict) and reply.get("error"):
                raise self._error(reply["error"], request, expected, blocks)
        message = "the answer to a JSON-RPC batch does not match it"
        raise WrongShape(message, **self._where(request))

    def _raise_what_passes(self, reply: dict, request: str, calls: int, blocks: int) -> None:
        """Raise the error of a reply if it is about the whole request or worth another try."""
        if reply.get("error"):
            error = self._error(reply["error"], request, calls, blocks)
            if isinstance(error, RateLimited | Unavailable | BatchTooLarge):
                raise error

    def _results(self, replies: Sequence[dict], request: str, blocks: int) -> list[Any]:
        """Results of replies; raises the first error among them."""
        for reply in replies:
            if reply.get("error"):
                raise self._error(reply["error"], request, len(replies), blocks)
        return [reply.get("result") for reply in replies]

    def _refusal(
        self, status: int, content: bytes, request: str, calls: int, blocks: int
    ) -> UpstreamError | None:
        """What an answer with an HTTP error means in JSON-RPC's terms; None: what HTTP says."""
        try:
            body = orjson.loads(content)
        except orjson.JSONDecodeError:
            body = None
        body = body[0] if isinstance(body, list) and body else body
        error = body.get("error") if isinstance(body, dict) else None
        if error is None and isinstance(body, dict) and body.get("message"):
            error = body
        if error is not None:
            return self._error(error, request, calls, blocks, status)
        if status >= 500 or status in (401, 402, 403, 408, 429):
            return None
        text = one_line(content.decode("utf-8", "replace"), 200) or f"HTTP {status}"
        return self._error({"message": text}, request, calls, blocks, status)

    def _error(
        self, error: Any, request: str, calls: int, blocks: int, status: int = 200
    ) -> UpstreamError:
        """The exception for a JSON-RPC error object."""
        known = error if isinstance(error, dict) else {}
        message = one_line(str(known.get("message") or error), 300)
        code = known.get("code") if type(known.get("code")) is int else 0
        where = self._where(request)
        said = f"{message} (code {code}{f', HTTP {status}' if status != 200 else ''})"
        match classify(code, message, status):
            case Refusal.BATCH:
                size, _ = limit_in(message, calls) or (None, True)
                return BatchTooLarge(
                    f"too many calls in one request: {said}", limit=size, code=code, **where
                )
            case Refusal.RANGE:
                size, is_lasting = limit_in(message, blocks) or (None, True)
                return RangeTooLarge(
                    f"the node wants a smaller range: {said}",
                    limit=size,
                    is_lasting=is_lasting,
                    code=code,
                    **where,
                )
            case Refusal.RATE:
                return RateLimited(
                    f"rate limited: {said}; wait or use another node", status=429, **where
                )
            case Refusal.BEHIND:
                return NodeBehind(
                    f"the node does not have that block yet: {said}; wait, or use another node",
                    **where,
                )
            case Refusal.PRUNED:
                return HistoryPruned(
                    f"the node does not keep blocks that old: {said}; add an archive node to POLYGON_RPC_URL, or leave"
                    " it empty",
                    **where,
                )
            case Refusal.ACCESS:
                return AccessDenied(
                    denied(said, self._client.setting or "POLYGON_RPC_URL"), **where
                )
            case Refusal.PASSING:
                return Unavailable(f"the node cannot answer for now: {said}; try again", **where)
        return RpcError(f"the node refused: {said}", code=code, **where)

    def _as_block(self, result: Any, request: str, asked: int | str) -> Block:
        if result is None:
            message = "the node does not have that block yet; wait, or use another node"
            raise NodeBehind(message, **self._where(request))
        try:
            number, timestamp = (hex_number(name, result[name]) for name in ("number", "timestamp"))
            block_hash = result["hash"]
        except (LookupError, TypeError, ValueError) as error:
            message = "the answer is no block; try again"
            raise WrongShape(message, **self._where(request)) from error
        if not isinstance(block_hash, str) or not block_hash:
            raise WrongShape("a block without a hash; try again", **self._where(request))
        if isinstance(asked, int) and number != asked:
            message = f"answered with block {number} when asked for block {asked}; try another node"
            raise WrongShape(message, **self._where(request))
        return Block(number, timestamp, block_hash.lower())

    def _where(self, request: str) -> dict[str, Any]:
        return {"source": self._client.source, "url": self.url, "request": request}


class _Batches:
    """How many calls a node takes in one request; threads share it."""

    def __init__(self, size: int) -> None:
        self.size = AdaptiveSize(size, size)
        self._proven = 1  # calls of the largest request that was answered
        self._was_doubted = False

    def worked(self, calls: int) -> None:
        self._proven = max(self._proven, calls)
        self.size.succeeded()

    def fewer(self, calls: int, error: UpstreamError, *, is_range: bool) -> bool:
        """Whether to send the calls again, fewer at once, after a request of so many failed.

        Some providers refuse batches in words that do not say so, or hang up (Erigon): while no request of several
        was answered, a refusal means single calls. What may pass means, for a while, no more calls than were answered
        before.
        """
        if isinstance(error, BatchTooLarge):
            return self.shrink(calls, error.limit)
        if isinstance(error, RangeTooLarge) or (is_range and isinstance(error, Timeout)):
            return False
        if isinstance(error, RpcError | HttpStatusError | WrongShape):
            if not isinstance(error, RateLimited) and self.doubt(calls):
                return True
        elif not isinstance(error, Unavailable | Unreachable | NotJson):
            return False
        return calls > self._proven and self.size.shrink(calls, -(-calls // self._proven))

    def check(self, calls: int, where: Mapping[str, Any]) -> None:
        """Every one of several calls was refused: maybe because there were several.

        Raises:
            RpcError: no request of several was answered yet.
        """
        if self._proven <= 1:
            raise RpcError(f"the node refused each of {calls} calls at once", code=0, **where)

    def shrink(self, calls: int, limit: int | None) -> bool:
        """Send fewer calls from now on; False if it was one alone."""
        if calls <= 1:
            return False
        self.size.cap(limit or calls // 2)
        return True

    def doubt(self, calls: int) -> bool:
        """Send single calls for a while, if no request of several was answered yet; the second time, for good."""
        if calls <= 1 or self._proven > 1:
            return False
        if self._was_doubted:
            self.size.cap(1)
        else:
            self.size.shrink(calls, calls)
        self._was_doubted = True
        return True


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
