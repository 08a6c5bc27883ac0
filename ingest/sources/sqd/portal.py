"""The chain by an SQD Portal: the keyless way to the same logs, block by block as NDJSON.

`POST …/stream` answers one line a block: `{"header": {…}, "logs": […]}`. It may end before the
range does; the last line says how far it got. A fork is answered with 409 and the hashes of the
canonical chain. `…/finalized-stream` serves what no reorganisation can replace. Source: the EVM
reference of docs.sqd.dev, as of 2026-11. The public Portal takes 20 requests in 10 s.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from ingest.decoding import DECODING
from ingest.errors import (
    ChainReorganised,
    HttpStatusError,
    NodeBehind,
    Unavailable,
    UpstreamError,
    WrongShape,
    one_line,
)
from ingest.http import HttpClient
from ingest.rate_limits import RateLimit
from ingest.sizes import AdaptiveSize
from ingest.sources.polygon.chain import (
    FIRST_RANGE,
    LARGEST_RANGE,
    Block,
    Evidence,
    Found,
    LogFilter,
    spread,
)
from ingest.sources.polygon.log_places import placed, quantity
from ingest.sources.polygon.rpc import is_excluded

PUBLIC_URL = "https://portal.sqd.dev"
DATASET = "polygon-mainnet"
# Of the public Portal; one of your own has none.
LIMITS = (RateLimit(requests=20),)
# A stream is cut behind so many bytes; the rest is asked for again.
MOST_BYTES = 64 << 20
TRIES_OF_A_RANGE = 2
# For evidence; each is a request of its own.
BLOCKS_LOOKED_AT = 3

_HEADER = ("number", "hash", "parentHash", "timestamp")
_EVIDENCE = ("gasUsed", "logsBloom")
_LOG = ("address", "topics", "data", "transactionHash", "logIndex")
_LEG = ("transactionHash", "logIndex")


def dataset_url(base: str) -> str:
    """Address of the dataset: `base` itself if it names one, else Polygon's at that Portal."""
    base = base.rstrip("/")
    return base if "/datasets/" in base else f"{base}/datasets/{DATASET}"


def limits_of(base: str) -> tuple[RateLimit, ...]:
    """Rate limits of a Portal."""
    return LIMITS if urlsplit(base).hostname == urlsplit(PUBLIC_URL).hostname else ()


class Portal:
    """One SQD Portal.

    Args:
        client: of this thread.
        base: address of the Portal, or of a dataset of it.
    """

    kind = "SQD Portal"
    # Every line has its block's header, so an answer says itself which blocks it covers.
    is_silent_about_gaps = False

    def __init__(self, client: HttpClient, base: str) -> None:
        self._client, self.url = client, dataset_url(base)
        self._is_final = False  # whether finalized blocks are read only
        self.sizes = AdaptiveSize(FIRST_RANGE, LARGEST_RANGE)

    def for_backfill(self) -> Portal:
        """See `Endpoint`."""
        other = copy.copy(self)
        other._client, other._is_final = self._client.in_background(), True
        return other

    def head(self) -> Block:
        """See `Endpoint`."""
        return self._newest("finalized-head" if self._is_final else "head")

    def confirmed(self, confirmations: int) -> Block:
        """See `Endpoint`: the finalized head, or some blocks behind the head if there is none."""
        try:
            return self._newest("finalized-head")
        except NodeBehind:
            head = self.head()
            return self.block(max(head.number - confirmations, 0))

    def block(self, number: int) -> Block:
        """See `Endpoint`.

        Raises:
            NodeBehind: the Portal has no such block.
        """
        request = f"block {number}"
        lines = self._stream(request, number, number, [], ())
        for line in lines:
            block = self._as_block(line, request)
            if block.number == number:
                return block
        raise self._behind(number, request)

    def ancestor(self, number: int, of: Block) -> Block:
        """See `Endpoint`.

        Raises:
            ChainReorganised: the headers do not lead there.
            NodeBehind: the Portal does not have them all.
        """
        request, first, before = f"headers of blocks {number} to {of.number}", number, None
        found: Block | None = None
        while first <= of.number:
            lines = self._stream(request, first, of.number, [], ())
            if not lines:
                raise self._behind(first, request)
            for line in lines:
                block = self._as_block(line, request)
                parent = str(line["header"].get("parentHash")).lower()
                if block.number != first or before not in (None, parent):
                    raise self._reorganised(request)
                found, before, first = found or block, block.hash, first + 1
        if before != of.hash or found is None:
            raise self._reorganised(request)
        return found

    def logs(self, first: int, last: int, wanted: LogFilter, follows: str | None = None) -> Found:
        """See `Endpoint`.

        Raises:
            ChainReorganised: block `first - 1` has another hash.
            NodeBehind: the Portal has no block `first`.
            WrongShape: the lines are not those of a range of blocks.
        """
        request = f"logs of blocks {first} to {last}"
        fields = _LEG if wanted.takers else _LOG
        lines = self._stream(request, first, last, [_log_request(wanted)], fields, follows)
        headers: dict[int, Block] = {}
        quiet: set[int] = set()
        logs: list[Any] = []
        for line in lines:
            block = self._as_block(line, request)
            self._check_place(block, first, last, headers, request)
            parent = line["header"].get("parentHash")
            before = headers.get(block.number - 1)
            known = follows if block.number == first else before.hash if before else None
            if parent and known and str(parent).lower() != known.lower():
                raise self._reorganised(request)
            headers[block.number] = block
            found = line.get("logs") or []
            if not isinstance(found, list):
                raise WrongShape("logs that are no list", **self._where(request))
            if not found and is_excluded(line["header"], wanted):
                quiet.add(block.number)
            for log in found:
                if isinstance(log, dict):
                    log["blockNumber"], log["blockHash"] = block.number, block.hash
                    log["blockTimestamp"] = block.timestamp
                logs.append(log)
        if not headers:
            raise self._behind(first, request)
        end = headers[next(reversed(headers))]
        kept = placed(logs, first, end.number, self._where(request))
        return Found(kept, end, headers, frozenset(quiet))

    def times(self, numbers: Sequence[int]) -> dict[int, int]:
        """See `Endpoint`."""
        return {number: self.block(number).timestamp for number in numbers}

    def evidence(self, numbers: Sequence[int], wanted: LogFilter) -> Evidence:
        """See `Endpoint`: all logs of some blocks, of any contract.

        A block of which the Portal has other logs, and none of these, holds none.
        """
        fills = {}
        looked_at = spread(numbers, BLOCKS_LOOKED_AT)
        for number in looked_at:
            request = f"all logs of block {number}"
            fields = ("address", "topics")
            for line in self._stream(request, number, number, [{}], fields, more=_EVIDENCE):
                logs = line.get("logs") or []
                if self._as_block(line, request).number != number:
                    continue
                if logs:
                    fills[number] = sum(wanted.matches(log) for log in logs)
                elif is_excluded(line["header"], wanted):
                    fills[number] = 0
        return Evidence(fills, len(fills) == len(looked_at))

    def identify(self) -> str:
        """See `Endpoint`."""
        metadata = self._client.get_json(f"{self.url}/metadata")
        if not isinstance(metadata, dict):
            raise WrongShape("its metadata are no object", **self._where("metadata"))
        name = str(metadata.get("dataset") or self.url.rpartition("/")[2])
        if name != DATASET:
            message = f"data set {name} is not {DATASET}"
            raise WrongShape(message, **self._where("metadata"))
        kind = "real time" if metadata.get("real_time", True) else "not in real time"
        return f"data set {name}, {kind}"

    # -- requests ---

    def _newest(self, which: str) -> Block:
        answer = self._client.get_json(f"{self.url}/{which}")
        if answer is None:
            raise NodeBehind(f"the Portal has no {which} yet; wait", **self._where(which))
        try:
            number = quantity("number", answer["number"])
        except (LookupError, TypeError, ValueError) as error:
            raise WrongShape(f"{which} without a block number", **self._where(which)) from error
        return self.block(number)

    def _stream(
        self,
        request: str,
        first: int,
        last: int,
        logs: list[dict],
        log_fields: Sequence[str],
        follows: str | None = None,
        more: Sequence[str] = (),
    ) -> list[dict]:
        """Lines of a stream, which may end early; empty if the Portal has no block `first` yet.

        Args:
            more: fields of the headers beside the usual ones.
        """
        query: dict[str, Any] = {
            "type": "evm",
            "fromBlock": first,
            "toBlock": last,
            "includeAllBlocks": True,
            "fields": {
                "block": dict.fromkeys((*_HEADER, *more), True),
                "log": dict.fromkeys(log_fields, True),
            },
            "logs": logs,
        }
        if follows is not None and not self._is_final:
            query["parentBlockHash"] = follows
        answer = self._client.post_lines(
            f"{self.url}/{'finalized-stream' if self._is_final else 'stream'}",
            query,
            most_bytes=MOST_BYTES,
            request=request,
            attempts=TRIES_OF_A_RANGE if last > first else None,
            refusal=lambda status, body: self._refusal(status, body, request),
            is_broken=lambda line: not line.rstrip().endswith(b"}"),
        )
        lines = []
        with DECODING:
            for at, text in enumerate(answer.lines):
                try:
                    line = orjson.loads(text)
                except orjson.JSONDecodeError as error:
                    if at and at == len(answer.lines) - 1:
                        break  # the stream was cut in the middle of it
                    message = f"line {at + 1} of the stream is not JSON ({error.msg})"
                    raise Unavailable(f"{message}; try again", **self._where(request)) from error
                lines.append(line)
        return lines

    def _refusal(self, status: int, body: bytes, request: str) -> UpstreamError | None:
        if status == 409:
            return self._reorganised(request)
        if status == 400 and b"block" in body.lower() and _is_about_the_future(body):
            return self._behind(None, request, one_line(body.decode("utf-8", "replace"), 120))
        if status in (404, 405):
            words = one_line(body.decode("utf-8", "replace"), 120)
            message = f"HTTP {status}: {words}; is SQD_PORTAL_URL the address of a Portal?"
            return HttpStatusError(message, status=status, **self._where(request))
        return None

    def _check_place(
        self, block: Block, first: int, last: int, headers: Mapping[int, Block], request: str
    ) -> None:
        """Refuse a line that is not where its block belongs: the first one first, then upwards."""
        expected = block.number == first if not headers else block.number > next(reversed(headers))
        if not expected or block.number > last:
            message = f"block {block.number} came out of its place in the stream"
            raise WrongShape(f"{message}; try again", **self._where(request))

    def _reorganised(self, request: str) -> ChainReorganised:
        message = "blocks were replaced while they were read; the next run reads them again"
        return ChainReorganised(message, **self._where(request))

    def _behind(self, number: int | None, request: str, words: str = "") -> NodeBehind:
        which = f"block {number}" if number is not None else "such a block"
        said = f" ({words})" if words else ""
        message = f"the Portal does not have {which} yet{said}; wait, or use another endpoint"
        return NodeBehind(message, **self._where(request))

    def _as_block(self, line: Any, request: str) -> Block:
        try:
            header = line["header"]
            number, timestamp = (quantity(name, header[name]) for name in ("number", "timestamp"))
            block_hash = header["hash"]
        except (LookupError, TypeError, ValueError) as error:
            message = "a line of the stream is no block; try again"
            raise WrongShape(message, **self._where(request)) from error
        if not isinstance(block_hash, str) or not block_hash:
            raise WrongShape("a block without a hash; try again", **self._where(request))
        return Block(number, timestamp, block_hash.lower())

    def _where(self, request: str) -> dict[str, Any]:
        return {"source": self._client.source, "url": self.url, "request": request}


def _is_about_the_future(body: bytes) -> bool:
    words = body.decode("utf-8", "replace").lower()
    return any(each in words for each in ("head", "above", "beyond", "not available", "after"))


def _log_request(wanted: LogFilter) -> dict[str, list[str]]:
    request = {"topic0": list(wanted.topics)}
    if wanted.addresses:
        request["address"] = list(wanted.addresses)
    if wanted.takers:
        request["topic3"] = ["0x" + "0" * 24 + taker[2:] for taker in wanted.takers]
    return request
