"""The chain by an SQD Portal: the keyless way to the same logs, block by block as NDJSON.

Answers the questions of `polygon.chain.Endpoint` by the streams of one dataset, whose protocol is in `stream`. Every
line has its block's header, so an answer says itself which blocks it covers. The public Portal takes 20 requests in
10 s.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ingest.errors import NodeBehind, WrongShape
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
from ingest.sources.sqd.stream import Dataset

PUBLIC_URL = "https://portal.sqd.dev"
DATASET = "polygon-mainnet"
# Of the public Portal; one of your own has none.
LIMITS = (RateLimit(requests=20),)
# For evidence; each is a request of its own.
BLOCKS_LOOKED_AT = 3

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
        self._dataset = Dataset(client, dataset_url(base))
        self.url = self._dataset.url
        self.sizes = AdaptiveSize(FIRST_RANGE, LARGEST_RANGE)

    def for_backfill(self) -> Portal:
        """See `Endpoint`."""
        other = copy.copy(self)
        other._dataset = self._dataset.finalized()
        return other

    def head(self) -> Block:
        """See `Endpoint`."""
        return self._newest("finalized-head" if self._dataset.is_final else "head")

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
        lines = self._dataset.lines(request, number, number, [], ())
        for line in lines:
            block = self._dataset.as_block(line, request)
            if block.number == number:
                return block
        raise self._dataset.behind(number, request)

    def ancestor(self, number: int, of: Block) -> Block:
        """See `Endpoint`.

        Raises:
            ChainReorganised: the headers do not lead there.
            NodeBehind: the Portal does not have them all.
        """
        request, first, before = f"headers of blocks {number} to {of.number}", number, None
        found: Block | None = None
        while first <= of.number:
            lines = self._dataset.lines(request, first, of.number, [], ())
            if not lines:
                raise self._dataset.behind(first, request)
            for line in lines:
                block = self._dataset.as_block(line, request)
                parent = str(line["header"].get("parentHash")).lower()
                if block.number != first or before not in (None, parent):
                    raise self._dataset.reorganised(request)
                found, before, first = found or block, block.hash, first + 1
        if before != of.hash or found is None:
            raise self._dataset.reorganised(request)
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
        lines = self._dataset.lines(request, first, last, [_log_request(wanted)], fields, follows)
        headers: dict[int, Block] = {}
        quiet: set[int] = set()
        logs: list[Any] = []
        for line in lines:
            block = self._dataset.as_block(line, request)
            self._check_place(block, first, last, headers, request)
            parent = line["header"].get("parentHash")
            before = headers.get(block.number - 1)
            known = follows if block.number == first else before.hash if before else None
            if parent and known and str(parent).lower() != known.lower():
                raise self._dataset.reorganised(request)
            headers[block.number] = block
            found = line.get("logs") or []
            if not isinstance(found, list):
                raise WrongShape("logs that are no list", **self._dataset.where(request))
            if not found and is_excluded(line["header"], wanted):
                quiet.add(block.number)
            for log in found:
                if isinstance(log, dict):
                    log["blockNumber"], log["blockHash"] = block.number, block.hash
                    log["blockTimestamp"] = block.timestamp
                logs.append(log)
        if not headers:
            raise self._dataset.behind(first, request)
        end = headers[next(reversed(headers))]
        kept = placed(logs, first, end.number, self._dataset.where(request))
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
            for line in self._dataset.lines(request, number, number, [{}], fields, more=_EVIDENCE):
                logs = line.get("logs") or []
                if self._dataset.as_block(line, request).number != number:
                    continue
                if logs:
                    fills[number] = sum(wanted.matches(log) for log in logs)
                elif is_excluded(line["header"], wanted):
                    fills[number] = 0
        return Evidence(fills, len(fills) == len(looked_at))

    def identify(self) -> str:
        """See `Endpoint`."""
        metadata = self._dataset.get("metadata")
        if not isinstance(metadata, dict):
            raise WrongShape("its metadata are no object", **self._dataset.where("metadata"))
        name = str(metadata.get("dataset") or self.url.rpartition("/")[2])
        if name != DATASET:
            message = f"data set {name} is not {DATASET}"
            raise WrongShape(message, **self._dataset.where("metadata"))
        kind = "real time" if metadata.get("real_time", True) else "not in real time"
        return f"data set {name}, {kind}"

    def _newest(self, which: str) -> Block:
        answer = self._dataset.get(which)
        if answer is None:
            raise NodeBehind(f"the Portal has no {which} yet; wait", **self._dataset.where(which))
        try:
            number = quantity("number", answer["number"])
        except (LookupError, TypeError, ValueError) as error:
            raise WrongShape(
                f"{which} without a block number", **self._dataset.where(which)
            ) from error
        return self.block(number)

    def _check_place(
        self, block: Block, first: int, last: int, headers: Mapping[int, Block], request: str
    ) -> None:
        """Refuse a line that is not where its block belongs: the first one first, then upwards."""
        expected = block.number == first if not headers else block.number > next(reversed(headers))
        if not expected or block.number > last:
            message = f"block {block.number} came out of its place in the stream"
            raise WrongShape(f"{message}; try again", **self._dataset.where(request))


def _log_request(wanted: LogFilter) -> dict[str, list[str]]:
    request = {"topic0": list(wanted.topics)}
    if wanted.addresses:
        request["address"] = list(wanted.addresses)
    if wanted.takers:
        request["topic3"] = ["0x" + "0" * 24 + taker[2:] for taker in wanted.takers]
    return request
