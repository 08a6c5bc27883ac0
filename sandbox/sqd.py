"""An SQD Portal over the simulated chain: `/stream`, `/finalized-stream` and the heads of one dataset.

Follows the portal's own HTTP contract (subsquid/sqd-portal, docs/openapi and spec/14-interface-binding): one
block a line, the first and the last block covered are always among them, and a stream may end early without
saying so. What real portals do differently from each other is a parameter.
"""

from __future__ import annotations

import gzip
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from sandbox.blocks import Block, ChainView, all_logs
from sandbox.clock import block_at, block_time
from sandbox.portal_query import PortalError, Query
from sandbox.wire import Answer, Request

DATASET = "polygon-mainnet"
FINALITY_BLOCKS = 16  # how far finalized blocks lie behind the head
CONFLICT_BLOCKS = 10  # blocks in the answer to a `parentBlockHash` of another chain

_JSONL = {"Content-Type": "application/jsonl"}


@dataclass(frozen=True)
class PortalLimits:
    """What a portal refuses, and where it stops.

    Attributes:
        stream_blocks: blocks that one stream covers at most; None is all that are asked for.
        stream_bytes: size of a stream before compression, after which it ends with the block it is at.
        requests, seconds: how many requests in how long; above that 429 with Retry-After. None is no limit.
        finality_blocks: how far the finalized head lies behind the head.
        boundary_every: every so many blocks one comes without logs, as where a stored chunk ends; 0 is never.
        saturated_bloom: whether the blooms of blocks exclude nothing, as on Polygon.
    """

    stream_blocks: int | None = None
    stream_bytes: int | None = None
    requests: int | None = None
    seconds: float = 10.0
    finality_blocks: int = FINALITY_BLOCKS
    boundary_every: int = 0
    saturated_bloom: bool = False


def portal_app(
    chain: ChainView,
    limits: PortalLimits | None = None,
    lock: AbstractContextManager | None = None,
) -> Starlette:
    """The portal over `chain`, under `/datasets/polygon-mainnet`."""
    portal = Portal(chain, limits)
    guard = lock or nullcontext()

    async def answer(request: HttpRequest) -> Response:
        body = await request.body()
        path = "/" + request.path_params["path"]
        with guard:
            answer = portal.respond(Request(path, b"", body))
        if "gzip" in request.headers.get("accept-encoding", ""):
            answer = gzipped(answer)
        return Response(answer.body, answer.status, answer.headers)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def gzipped(answer: Answer) -> Answer:
    """The answer, its stream compressed; other bodies are left as they are."""
    if answer.headers.get("Content-Type") != _JSONL["Content-Type"]:
        return answer
    body = gzip.compress(answer.body, compresslevel=1)
    return Answer(body, answer.status, answer.headers | {"Content-Encoding": "gzip"})


class Portal:
    """The portal as a function of requests, without HTTP around it."""

    def __init__(
        self,
        chain: ChainView,
        limits: PortalLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve `chain`; `clock` counts for the rate limit only."""
        self.chain, self.limits = chain, limits or PortalLimits()
        self._clock = clock
        self._sent: deque[float] = deque()

    def respond(self, request: Request) -> Answer:
        """The answer to a request; a GET is one without a body."""
        wait = self._over_limit()
        if wait:
            message = "Service is overloaded, please try again later"
            error = PortalError(429, "rate_limit_error", "overloaded", message)
            return error.answer(**{"Retry-After": str(math.ceil(wait))})
        try:
            return self._route(request)
        except PortalError as error:
            return error.answer()

    @property
    def finalized(self) -> int:
        """Number of the highest finalized block."""
        return max(self.chain.head - self.limits.finality_blocks, 0)

    def _over_limit(self) -> float:
        """Seconds until a request is allowed again, or 0, in which case this one is counted."""
        if self.limits.requests is None:
            return 0.0
        now = self._clock()
        while self._sent and self._sent[0] <= now - self.limits.seconds:
            self._sent.popleft()
        if len(self._sent) >= self.limits.requests:
            return self._sent[0] + self.limits.seconds - now
        self._sent.append(now)
        return 0.0

    def _route(self, request: Request) -> Answer:
        dataset = f"/datasets/{DATASET}/"
        if not request.path.startswith("/datasets/"):
            raise PortalError(404, "invalid_request_error", "not_found", "Not found")
        if not request.path.startswith(dataset):
            message = f"Unknown dataset: {request.path.split('/')[2]}"
            raise PortalError(404, "invalid_request_error", "unknown_dataset", message)
        name = request.path.removeprefix(dataset)
        if name == "stream":
            return self._stream(request.body, self.chain.head, checks_parent=True)
        if name == "finalized-stream":
            return self._stream(request.body, self.finalized, checks_parent=False)
        return Answer(orjson.dumps(self._get(name)))

    def _get(self, name: str) -> dict | None:
        if name == "head":
            return self._block_ref(self.chain.head)
        if name == "finalized-head":
            return self._block_ref(self.finalized)
        if name == "metadata":
            return {"dataset": DATASET, "aliases": [], "real_time": True, "start_block": 0}
        parts = name.split("/")
        if len(parts) == 3 and parts[::2] == ["timestamps", "block"] and parts[1].isdigit():
            number = block_at(int(parts[1]) - 1) + 1  # the first one at or after that second
            if number > self.chain.head:
                message = "No block found for timestamp"
                raise PortalError(404, "invalid_request_error", "not_found", message)
            return {"block_number": max(number, 0)}
        raise PortalError(404, "invalid_request_error", "not_found", "Not found")

    def _block_ref(self, number: int) -> dict:
        return {"number": number, "hash": self.chain.block_hash(number)}

    def _stream(self, body: bytes, head: int, *, checks_parent: bool) -> Answer:
        query = Query.parse(body)
        # A fork is noticed before there is anything new to send.
        if checks_parent and query.parent_hash is not None and query.first - 1 <= self.chain.head:
            self._check_parent(query)
        headers = {
            "X-Sqd-Data-Source": "network" if query.first <= self.finalized else "real_time",
            "X-Sqd-Head-Number": str(self.chain.head),
            "X-Sqd-Finalized-Head-Number": str(self.finalized),
            "X-Sqd-Finalized-Head-Hash": self.chain.block_hash(self.finalized),
        }
        if query.first > head:
            return Answer(b"", 204, headers)
        last = head if query.last is None else min(query.last, head)
        if self.limits.stream_blocks is not None:
            last = min(last, query.first + self.limits.stream_blocks - 1)
        return Answer(self._lines(query, last), 200, _JSONL | headers)

    def _check_parent(self, query: Query) -> None:
        parent = query.first - 1
        if parent >= 0 and self.chain.block_hash(parent) != query.parent_hash:
            shown = range(parent, max(parent - CONFLICT_BLOCKS, -1), -1)
            raise PortalError(
                409,
                "invalid_request_error",
                "base_block_mismatch",
                "Base block mismatch",
                previousBlocks=[self._block_ref(number) for number in shown],
            )

    def _lines(self, query: Query, last: int) -> bytes:
        logs: dict[int, list[dict]] = {}
        if query.filters:
            logs_of = self.chain.logs if query.of_exchanges else partial(all_logs, self.chain)
            for log in logs_of(query.first, last):
                if query.matches(log):
                    logs.setdefault(log.block_number, []).append(query.log_of(log))
        every = self.limits.boundary_every
        if query.all_blocks:
            numbers = list(range(query.first, last + 1))
        else:
            boundaries = range(query.first + every - 1, last, every) if every else ()
            numbers = sorted({query.first, last, *logs, *boundaries})
        lines: list[bytes] = []
        size = 0
        for number in numbers:
            line = {"header": self._header(number, query.block_fields)}
            if number in logs:
                line["logs"] = logs[number]
            lines.append(orjson.dumps(line) + b"\n")
            size += len(lines[-1])
            if self.limits.stream_bytes is not None and size >= self.limits.stream_bytes:
                break
        return b"".join(lines)

    def _header(self, number: int, fields: list[str]) -> dict:
        header: dict[str, Any] = {}
        node_header = None
        for name in fields:
            if name == "number":
                header[name] = number
            elif name == "timestamp":
                header[name] = block_time(number)
            elif name == "hash":
                header[name] = self.chain.block_hash(number)
            elif name == "parentHash":
                header[name] = self.chain.block_hash(number - 1)
            else:  # as the node spells it
                node_header = node_header or Block(self.chain, number).header(
                    saturated=self.limits.saturated_bloom
                )
                header[name] = node_header[name]
        return header
