"""JSON-RPC over HTTP: calls in batches of a size that the node takes, and what its refusals mean.

The specification says what a batch is (https://www.jsonrpc.org/specification); how providers refuse one differs, see
`ingest.refusals`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from ingest.errors import (
    AccessDenied,
    BatchTooLarge,
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
from ingest.refusals import Refusal, classify, limit_in
from ingest.sizes import AdaptiveSize

Call = tuple[str, list]


class JsonRpc:
    """Calls to one node.

    Args:
        client: of this thread.
        url: the node's address.
        batch: most calls in one request at first.
    """

    def __init__(self, client: HttpClient, url: str, batch: int) -> None:
        self._client, self._url = client, url
        self._batches = _Batches(batch)

    @property
    def largest_batch(self) -> int:
        """Calls that are sent in one request now."""
        return self._batches.size.value

    def in_background(self) -> JsonRpc:
        """The same for another thread; it shares what was found out about the node's limits."""
        other = copy.copy(self)
        other._client = self._client.in_background()
        return other

    def call(
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

    def try_all(self, calls: Sequence[Call], request: str) -> list[Any]:
        """Results of calls; None for each that the node refuses, which it may."""

        def results_of(replies: list[dict]) -> list[Any]:
            if len(replies) > 1 and all(reply.get("error") for reply in replies):
                self._batches.check(len(replies), self.where(request))
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
            self._url,
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
        raise WrongShape(message, **self.where(request))

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
        where = self.where(request)
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

    def where(self, request: str) -> dict[str, Any]:
        """Names a request, for errors."""
        return {"source": self._client.source, "url": self._url, "request": request}


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
