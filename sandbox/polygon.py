"""A Polygon node's JSON-RPC, as far as a log reader needs it: blocks, the head, and `eth_getLogs`
with its caps.

Answers have the fields and the hex spelling of a real node. Nodes differ in what they cap and in
whether logs carry `blockTimestamp`, so both are parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.chain import Chain
from sandbox.contracts import CHAIN_ID, log_of, topics_of

FINALITY_BLOCKS = 16  # how far "finalized" and "safe" lie behind the head


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


def polygon_app(
    chain: Chain,
    limits: NodeLimits | None = None,
    lock: AbstractContextManager | None = None,
) -> Starlette:
    """The node over `chain`, single requests and batches, on POST of any path."""
    node = _Node(chain, limits or NodeLimits())
    guard = lock or nullcontext()

    async def answer(request: Request) -> Response:
        body = await request.body()
        with guard:
            return Response(orjson.dumps(node.respond(body)), media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])


class _Node:
    def __init__(self, chain: Chain, limits: NodeLimits) -> None:
        self._chain, self._limits = chain, limits
        self._methods: dict[str, Callable[..., Any]] = {
            "eth_chainId": lambda: hex(CHAIN_ID),
            "eth_blockNumber": lambda: hex(self._chain.head),
            "eth_getBlockByNumber": self._get_block,
            "eth_getLogs": self._get_logs,
        }

    def respond(self, body: bytes) -> dict | list[dict]:
        """Answer one request body, which is a call or a batch of calls."""
        try:
            request = orjson.loads(body)
        except orjson.JSONDecodeError:
            return _failure(None, RpcError(-32700, "parse error"))
        if isinstance(request, list):
            return [self._call(each) for each in request]
        return self._call(request)

    def _call(self, call: Any) -> dict:
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
        if full:
            raise RpcError(-32602, "full transaction objects are not served here")
        return self._chain.block(self._block_number(tag))

    def _get_logs(self, query: dict) -> list[dict]:
        if "blockHash" in query:
            raise RpcError(-32602, "logs by blockHash are not served here")
        first = self._block_number(query.get("fromBlock", "latest"))
        last = self._block_number(query.get("toBlock", "latest"))
        if last < first:
            raise RpcError(-32602, "invalid block range params")
        if last - first + 1 > self._limits.block_range_cap:
            raise RpcError(-32602, f"exceed maximum block range: {self._limits.block_range_cap}")
        addresses = _addresses(query.get("address"))
        wanted_topics = [_alternatives(each) for each in query.get("topics") or []]
        found = []
        for event in self._chain.logs(first, last):
            if addresses and event.exchange not in addresses:
                continue
            topics = topics_of(event)
            if not _topics_match(topics, wanted_topics):
                continue
            if len(found) == self._limits.result_cap:
                cap = self._limits.result_cap
                raise RpcError(-32005, f"query returned more than {cap} results")
            found.append(event)
        hash_of = {
            number: self._chain.block_hash(number) for number in {e.block_number for e in found}
        }
        with_timestamp = self._limits.with_timestamp
        return [log_of(e, hash_of[e.block_number], with_timestamp=with_timestamp) for e in found]

    def _block_number(self, tag: Any) -> int:
        if tag in ("latest", "pending"):
            return self._chain.head
        if tag in ("finalized", "safe"):
            return max(self._chain.head - FINALITY_BLOCKS, 0)
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
