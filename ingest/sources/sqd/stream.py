"""How an SQD Portal is spoken to: one dataset's streams of lines, its other answers, and what its refusals mean.

`POST …/stream` answers one line a block: `{"header": {…}, "logs": […]}`. It may end before the
range does; the last line says how far it got. A fork is answered with 409 and the hashes of the
canonical chain. `…/finalized-stream` serves what no reorganisation can replace. Source: the EVM
reference of docs.sqd.dev, as of 2026-11. What the lines say about the chain is left to `portal`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

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
from ingest.sources.polygon.chain import Block
from ingest.sources.polygon.log_places import quantity

# A stream is cut behind so many bytes; the rest is asked for again.
MOST_BYTES = 64 << 20
TRIES_OF_A_RANGE = 2

_HEADER = ("number", "hash", "parentHash", "timestamp")


class Dataset:
    """One dataset of a Portal.

    Args:
        client: of this thread.
        url: address of the dataset.
    """

    def __init__(self, client: HttpClient, url: str) -> None:
        self._client, self.url = client, url
        self.is_final = False  # whether finalized blocks are read only

    def finalized(self) -> Dataset:
        """The same for a thread that reads the past, in the background: finalized blocks only."""
        other = copy.copy(self)
        other._client, other.is_final = self._client.in_background(), True
        return other

    def get(self, name: str) -> Any:
        """The JSON at a path of the dataset, such as `head`."""
        return self._client.get_json(f"{self.url}/{name}")

    def lines(
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
            request: what is asked for, in a few words, for errors.
            logs: which logs are wanted, in the Portal's terms.
            follows: the hash that block `first - 1` must have.
            more: fields of the headers beside the usual ones.

        Raises:
            ChainReorganised: block `first - 1` has another hash.
            UpstreamError: see `HttpClient.post_lines`.
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
        if follows is not None and not self.is_final:
            query["parentBlockHash"] = follows
        answer = self._client.post_lines(
            f"{self.url}/{'finalized-stream' if self.is_final else 'stream'}",
            query,
            most_bytes=MOST_BYTES,
            request=request,
            attempts=TRIES_OF_A_RANGE if last > first else None,
            refusal=lambda status, body: self._refusal(status, body, request),
            is_broken=lambda line: not line.rstrip().endswith(b"}"),
        )
        return self._decoded(answer.lines, request)

    def _decoded(self, texts: Sequence[bytes], request: str) -> list[dict]:
        lines = []
        with DECODING:
            for at, text in enumerate(texts):
                try:
                    line = orjson.loads(text)
                except orjson.JSONDecodeError as error:
                    if at and at == len(texts) - 1:
                        break  # the stream was cut in the middle of it
                    message = f"line {at + 1} of the stream is not JSON ({error.msg})"
                    raise Unavailable(f"{message}; try again", **self.where(request)) from error
                lines.append(line)
        return lines

    def as_block(self, line: Any, request: str) -> Block:
        """The block of a line.

        Raises:
            WrongShape: the line has none.
        """
        try:
            header = line["header"]
            number, timestamp = (quantity(name, header[name]) for name in ("number", "timestamp"))
            block_hash = header["hash"]
        except (LookupError, TypeError, ValueError) as error:
            message = "a line of the stream is no block; try again"
            raise WrongShape(message, **self.where(request)) from error
        if not isinstance(block_hash, str) or not block_hash:
            raise WrongShape("a block without a hash; try again", **self.where(request))
        return Block(number, timestamp, block_hash.lower())

    def reorganised(self, request: str) -> ChainReorganised:
        """The error of blocks that are not the ones that were read before."""
        message = "blocks were replaced while they were read; the next run reads them again"
        return ChainReorganised(message, **self.where(request))

    def behind(self, number: int | None, request: str, words: str = "") -> NodeBehind:
        """The error of a block that the Portal has not seen; None: of one that it does not name."""
        which = f"block {number}" if number is not None else "such a block"
        said = f" ({words})" if words else ""
        message = f"the Portal does not have {which} yet{said}; wait, or use another endpoint"
        return NodeBehind(message, **self.where(request))

    def where(self, request: str) -> dict[str, Any]:
        """Who asked, where and for what, for errors."""
        return {"source": self._client.source, "url": self.url, "request": request}

    def _refusal(self, status: int, body: bytes, request: str) -> UpstreamError | None:
        if status == 409:
            return self.reorganised(request)
        if status == 400 and b"block" in body.lower() and _is_about_the_future(body):
            return self.behind(None, request, one_line(body.decode("utf-8", "replace"), 120))
        if status in (404, 405):
            words = one_line(body.decode("utf-8", "replace"), 120)
            message = f"HTTP {status}: {words}; is SQD_PORTAL_URL the address of a Portal?"
            return HttpStatusError(message, status=status, **self.where(request))
        return None


def _is_about_the_future(body: bytes) -> bool:
    words = body.decode("utf-8", "replace").lower()
    return any(each in words for each in ("head", "above", "beyond", "not available", "after"))
