"""A Polygon node's JSON-RPC, as far as a log reader needs it: blocks, receipts, the head, and
`eth_getLogs` with its caps.

Answers have the fields and the hex spelling of a real node. Nodes differ in what they cap and in
whether logs carry `blockTimestamp`, so both are parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.blocks import Block, ChainView, all_logs
from sandbox.chain import Chain
from sandbox.contracts import CHAIN_ID, EXCHANGES, log_of, topics_of

FINALITY_BLOCKS = 16  # how far "finalized" and "safe" lie behind the head
_EXCHANGES = set(EXCHANGES.values())


class RpcError(Exception):
    """An error object of JSON-RPC 2.0."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class NodeLimits:
    """What a node refuses, and what it leaves out."""

    result_cap: int = 10_000  # logs in one answer
    block_range_cap: int = 10_000  # blocks in one request
    with_timestamp: bool = True  # whether logs carry blockTimestamp
    saturated_bloom: bool = False  # whether the blooms of blocks exclude nothing, as on Polygon


def polygon_app(
    chain: Chain,
    limits: NodeLimits | None = None,
    lock: AbstractContextManager | None = None,
) -> Starlette:
    """The node over `chain`, single requests and batches, on POST of any path."""
    node = Node(chain, limits)
    guard = lock or nullcontext()

    async def answer(request: Request) -> Response:
        body = await request.body()
        with guard:
            return Response(orjson.dumps(node.respond(body)), media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])


class Node:
    """The node as a function of requests, without HTTP around it."""

    def __init__(self, chain: ChainView, limits: NodeLimits | None = None) -> None:
        self.chain, self.limits = chain, limits or NodeLimits()
        self._methods: dict[str, Callable[..., Any]] = {
            "eth_chainId": lambda: hex(CHAIN_ID),
            "eth_blockNumber": lambda: hex(self.chain.head),
            "eth_getBlockByNumber": self._get_block,
            "eth_getBlockByHash": self._get_block_by_hash,
            "eth_getBlockReceipts": self._get_receipts,
            "eth_getTransactionReceipt": self._get_receipt,
            "eth_getLogs": self._get_logs,
        }

    def respond(self, body: bytes) -> dict | list[dict]:
        """Answer one request body, which is a call or a batch of calls."""
        try:
            request = orjson.loads(body)
        except orjson.JSONDecodeError:
            return _failure(None, RpcError(-32700, "parse error"))
        if isinstance(request, list):
            return [self.call(each) for each in request]
        return self.call(request)

    def call(self, call: Any) -> dict:
        """Answer one call."""
        if not isinstance(call, dict) or "method" not in call:
            return _failure(None, RpcError(-32600, "invalid request"))
        try:
            method = self._methods.get(call["method"])
            if method is None:
                raise RpcError(
                    -32601, f"the method {call['method']} does not exist/is not available"
                )
            result = method(*call.get("params", []))
        except RpcError as error:
            return _failure(call.get("id"), error)
        except TypeError:
            return _failure(call.get("id"), RpcError(-32602, "invalid argument"))
        return {"jsonrpc": "2.0", "id": call.get("id"), "result": result}

    def _get_block(self, tag: str, full: bool = False) -> dict | None:
        return self._header(self._block_number(tag), full)

    def _get_block_by_hash(self, name: str, full: bool = False) -> dict | None:
        return self._header(self.chain.number_of(name), full)

    def _header(self, number: int | None, full: bool) -> dict | None:
        if full:
            raise RpcError(-32602, "full transaction objects are not served here")
        block = self._block(number)
        return block and block.header(saturated=self.limits.saturated_bloom)

    def _get_receipts(self, tag: str) -> list[dict] | None:
        is_hash = isinstance(tag, str) and len(tag) == 66
        return self._receipts(self.chain.number_of(tag) if is_hash else self._block_number(tag))

    def _get_receipt(self, name: str) -> dict | None:
        receipts = self._receipts(self.chain.block_with(name)) or []
        return next((each for each in receipts if each["transactionHash"] == name), None)

    def _receipts(self, number: int | None) -> list[dict] | None:
        block = self._block(number)
        return block and block.receipts(
            with_timestamp=self.limits.with_timestamp, saturated=self.limits.saturated_bloom
        )

    def _block(self, number: int | None) -> Block | None:
        """A block, None unless this node has it."""
        if number is None or not 0 <= number <= self.chain.head:
            return None
        return Block(self.chain, number)

    def _get_logs(self, query: dict) -> list[dict]:
        first, last = self.range_of(query)
        if last - first + 1 > self.limits.block_range_cap:
            raise RpcError(-32602, f"exceed maximum block range: {self.limits.block_range_cap}")
        addresses = _addresses(query.get("address"))
        wanted_topics = [_alternatives(each) for each in query.get("topics") or []]
        # Other contracts' logs are made only for those who can see them.
        of_exchanges = addresses and addresses <= _EXCHANGES
        logs = self.chain.logs if of_exchanges else partial(all_logs, self.chain)
        found = []
        for event in logs(first, last):
            if addresses and event.exchange not in addresses:
                continue
            topics = topics_of(event)
            if not _topics_match(topics, wanted_topics):
                continue
            if len(found) == self.limits.result_cap:
                cap = self.limits.result_cap
                raise RpcError(-32005, f"query returned more than {cap} results")
            found.append(event)
        hash_of = {
            number: self.chain.block_hash(number) for number in {e.block_number for e in found}
        }
        with_timestamp = self.limits.with_timestamp
        return [log_of(e, hash_of[e.block_number], with_timestamp=with_timestamp) for e in found]

    def range_of(self, query: dict) -> tuple[int, int]:
        """First and last block of a query for logs."""
        if "blockHash" in query:
            if "fromBlock" in query or "toBlock" in query:
                message = (
                    "cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other"
                )
                raise RpcError(-32602, message)
            name = query["blockHash"]
            if not isinstance(name, str) or len(name) != 66:
                raise RpcError(-32602, "invalid argument 0: hex string has not 64 digits")
            number = self.chain.number_of(name)
            if number is None:
                raise RpcError(-32000, "unknown block")
            return number, number
        first = self._block_number(query.get("fromBlock", "latest"))
        last = self._block_number(query.get("toBlock", "latest"))
        if last < first:
            raise RpcError(-32602, "invalid block range params")
        return first, last

    def _block_number(self, tag: Any) -> int:
        if tag in ("latest", "pending"):
            return self.chain.head
        if tag in ("finalized", "safe"):
            return max(self.chain.head - FINALITY_BLOCKS, 0)
        if tag == "earliest":
            return 0
        if not isinstance(tag, str) or not tag.startswith("0x"):
            raise RpcError(
                -32602, "invalid argument 0: hex string without 0x prefix or unknown block tag"
            )
        try:
            return int(tag, 16)
        except ValueError:
            raise RpcError(-32602, "invalid argument 0: invalid hex string") from None


def _failure(call_id: Any, error: RpcError) -> dict:
    return {
        "jsonrpc": "2.0",
        "id": call_id,
        "error": {"code": error.code, "message": str(error)},
    }


def _alternatives(value: Any) -> set[str] | None:
    """A topic position: None matches anything, a list any of its members."""
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if None in values:
        return None
    return {each.lower() for each in values} or None


def _addresses(value: Any) -> set[str]:
    """The `address` filter: one, a list, or none (everything)."""
    return _alternatives(value) or set()


def _topics_match(topics: list[str], wanted: list[set[str] | None]) -> bool:
    if len(wanted) > len(topics):
        return False
    return all(
        alternatives is None or topic in alternatives
        for topic, alternatives in zip(topics, wanted, strict=False)
    )
