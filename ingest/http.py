"""The one HTTP client: timeouts, retries with backoff, rate limits and checks of what came back.

Promises that a call returns decoded JSON or raises an error of `ingest.errors`, and that waiting is
bounded: no call sleeps longer in total than `RetryPolicy.max_wait`. What the JSON means is left to
the sources.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests
from urllib3.exceptions import ReadTimeoutError

from ingest.errors import (
    AccessDenied,
    HttpStatusError,
    RateLimited,
    Timeout,
    Unreachable,
    UpstreamError,
    one_line,
    redact,
)
from ingest.events import Event, span
from ingest.http_answers import (
    Session,
    clock_ahead_of,
    decode,
    denied,
    naming_failures,
    not_json,
    parse_retry_after,
    with_params,
)
from ingest.rate_limits import BACKGROUND_SHARE, RateLimit, RateLimiter
from ingest.retries import RetryPolicy

_GATEWAY_TIMEOUTS = {408, 504, 522, 524}
_DENIED = {401, 402, 403}
# requests reads bodies in pieces of 10 KB, and every piece gives the interpreter away.
requests.models.CONTENT_CHUNK_SIZE = 1 << 20


# Looks at the status and body of an answer that is not 2xx, and returns what the protocol says that it means;
# None: what HTTP says.
Refusal = Callable[[int, bytes], UpstreamError | None]


@dataclass(frozen=True)
class Lines:
    """An answer of lines, such as NDJSON.

    Attributes:
        status: HTTP status.
        lines: every complete line that came, without its end; none for a status without a body.
        is_cut: the connection broke, or the answer was longer than wanted, before its end.
    """

    status: int
    lines: list[bytes]
    is_cut: bool = False


LONGEST_BODY = 10  # so many times the timeout for one read


class HttpClient:
    """JSON over HTTP from one upstream.

    Args:
        source: name of the source, for errors.
        limits: rate limits of this upstream; every limit whose path matches counts.
        timeout: (connect, read) in seconds; a body of lines may take `LONGEST_BODY` times as long as one read.
        retry: see `RetryPolicy`.
        setting: environment variable to change when access is denied, for errors.
        sleep, clock: replaceable for tests.

    Attributes:
        clock_ahead_s: seconds by which this machine's clock was ahead of the upstream's at the last answer.
    """

    def __init__(
        self,
        source: str,
        *,
        limits: Sequence[RateLimit] = (),
        timeout: tuple[float, float] = (10.0, 60.0),
        retry: RetryPolicy | None = None,
        setting: str = "",
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source, self.setting = source, setting
        self._timeout, self._clock = timeout, clock
        self._longest_body_s = LONGEST_BODY * timeout[1]
        self._retry = retry or RetryPolicy()
        self.sleep = sleep
        self.clock_ahead_s = 0.0
        self._limiter = RateLimiter(limits, clock=clock, sleep=sleep)
        self._share = 1.0
        self._open_session()

    def in_background(self) -> HttpClient:
        """A client for another thread that counts against the same limits, and leaves a quarter of them alone."""
        twin = copy.copy(self)
        twin._share = BACKGROUND_SHARE
        twin._open_session()
        return twin

    def _open_session(self) -> None:
        self._session = Session()
        self._session.headers["Accept"] = "application/json"
        self._session.headers["User-Agent"] = "polymarket-elt"

    def get_json(self, url: str, params: Sequence[tuple[str, str]] = ()) -> Any:
        """GET `url` with `params` (repeatable) and return the decoded JSON.

        Raises:
            UpstreamError: see `ingest.errors` for which one says what.
        """
        where = {"source": self.source, "url": with_params(url, params), "request": ""}
        return self._retry.retrying(self.sleep)(self._send_json, "GET", where["url"], where)

    def post_json(
        self,
        url: str,
        body: Any,
        *,
        request: str = "",
        retry_timeouts: bool = True,
        attempts: int | None = None,
        check: Callable[[Any], None] | None = None,
        refusal: Refusal | None = None,
    ) -> Any:
        """POST `body` as JSON and return the decoded JSON.

        Args:
            request: what is asked for, in a few words, for errors.
            retry_timeouts: False where the caller answers a timeout by asking for less.
            attempts: fewer than the client's own where the caller has another way out.
            check: looks at the answer and raises if it is an error in the protocol's own terms;
                what it raises is retried by the same rules.
            refusal: see `Refusal`; what it returns is raised, and retried by the same rules.

        Raises:
            UpstreamError: see `ingest.errors` for which one says what.
        """
        where = {"source": self.source, "url": url, "request": request}
        content = orjson.dumps(body)
        retrying = self._retry.retrying(
            self.sleep, retry_timeouts=retry_timeouts, attempts=attempts
        )
        return retrying(self._send_json, "POST", url, where, content, check, refusal)

    def post_lines(
        self,
        url: str,
        body: Any,
        *,
        most_bytes: int,
        request: str = "",
        attempts: int | None = None,
        refusal: Refusal | None = None,
        is_broken: Callable[[bytes], bool] | None = None,
    ) -> Lines:
        """POST `body` as JSON and return the lines of the answer, as many as came whole.

        A connection that breaks after a whole line is no error: the answer says that it is cut.

        Args:
            most_bytes: the answer is cut behind about so many (decompressed).
            request, attempts, refusal: see `post_json`.
            is_broken: whether the last line is one in part, where it has no end.

        Raises:
            UpstreamError: see `ingest.errors`; Unreachable if the connection broke before a line, NotJson if
                it is a page of HTML.
        """
        where = {"source": self.source, "url": url, "request": request}
        content = orjson.dumps(body)
        retrying = self._retry.retrying(self.sleep, attempts=attempts)
        return retrying(self._send_for_lines, url, where, content, most_bytes, refusal, is_broken)

    def _send_json(
        self,
        method: str,
        url: str,
        where: dict[str, str],
        content: bytes | None = None,
        check: Callable[[Any], None] | None = None,
        refusal: Refusal | None = None,
    ) -> Any:
        response = self._send(method, url, where, content)
        self._check_status(response, where, refusal)
        answer = decode(response, where)
        if check is not None:
            check(answer)
        return answer

    def _send_for_lines(
        self,
        url: str,
        where: dict[str, str],
        content: bytes,
        most_bytes: int,
        refusal: Refusal | None,
        is_broken: Callable[[bytes], bool] | None,
    ) -> Lines:
        with self._send("POST", url, where, content, stream=True) as response:
            if not 200 <= response.status_code < 300:
                with naming_failures(where):
                    _ = response.content  # of a stream, or the connection is of no further use
            self._check_status(response, where, refusal)
            received, is_cut = bytearray(), False
            try:
                with naming_failures(where):
                    # Not by requests, which drops what came of a piece when the connection breaks.
                    for piece in self._pieces(response, where):
                        received += piece
                        if is_cut := len(received) >= most_bytes:
                            break
            except UpstreamError:
                if b"\n" not in received:
                    raise
                is_cut = True
        if received.lstrip()[:1] == b"<":
            raise not_json(response, bytes(received), where)
        *lines, rest = bytes(received).split(b"\n")
        if rest.strip() and not is_cut:
            is_cut = is_broken is not None and is_broken(rest)
            if is_cut and not lines:
                raise Unreachable("the connection broke in mid-answer; try again", **where)
            lines += [] if is_cut else [rest]  # the last line needs no end
        return Lines(response.status_code, [line for line in lines if line.strip()], is_cut)

    def _pieces(self, response: requests.Response, where: dict[str, str]) -> Iterator[bytes]:
        """What comes of a body, as it comes; a timeout that counts for each read alone would never end a slow drip."""
        limit = self._clock() + self._longest_body_s
        while piece := response.raw.read1(1 << 18, decode_content=True):
            yield piece
            if self._clock() > limit:
                response.close()
                raise ReadTimeoutError(None, where["url"], "too slow")

    def _send(
        self,
        method: str,
        url: str,
        where: dict[str, str],
        content: bytes | None = None,
        stream: bool = False,
    ) -> requests.Response:
        self._limiter.wait(urlsplit(url).path, self._share)
        headers = {"Content-Type": "application/json"} if content is not None else {}
        sent = time.monotonic()
        with naming_failures(where), span(Event.REQUEST_SENT, source=self.source):
            response = self._session.request(
                method, url, data=content, headers=headers, timeout=self._timeout, stream=stream
            )
        self.clock_ahead_s = clock_ahead_of(response, time.monotonic() - sent)
        return response

    def _check_status(
        self, response: requests.Response, where: dict[str, str], refusal: Refusal | None
    ) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        retry_after = parse_retry_after(response.headers.get("Retry-After"))
        error = refusal(status, response.content) if refusal is not None else None
        if error is not None:
            if isinstance(error, HttpStatusError):
                error.retry_after = retry_after
            raise error
        excerpt = one_line(redact(response.text, where["url"]), 160)
        if status == 429:
            message = f"rate limited (429: {excerpt}); wait, or raise your quota"
            raise RateLimited(message, status=status, retry_after=retry_after, **where)
        if status in _DENIED:
            raise AccessDenied(denied(f"HTTP {status}: {excerpt}", self.setting), **where)
        if status in _GATEWAY_TIMEOUTS:
            raise Timeout(f"timed out on its side (HTTP {status}); try again", **where)
        message = f"HTTP {status}: {excerpt or 'no message'}"
        raise HttpStatusError(message, status=status, retry_after=retry_after, **where)
