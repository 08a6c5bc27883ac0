"""The one HTTP client: timeouts, retries with backoff, rate limits and checks of what came back.

Promises that a call returns decoded JSON or raises an error of `ingest.errors`, and that waiting is
bounded: no call sleeps longer in total than `RetryPolicy.max_wait`. What the JSON means is left to
the sources.
"""

from __future__ import annotations

import copy
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
import requests
from tenacity import RetryCallState, Retrying, retry_if_exception
from urllib3.exceptions import DecodeError, ProtocolError, ReadTimeoutError

from ingest.decoding import DECODING
from ingest.errors import (
    AccessDenied,
    HttpStatusError,
    NotJson,
    RateLimited,
    Timeout,
    Unavailable,
    Unreachable,
    UpstreamError,
    WrongShape,
    one_line,
    redact,
)
from ingest.events import Event, span

_RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_GATEWAY_TIMEOUTS = {408, 504, 522, 524}
_DENIED = {401, 402, 403}
# requests reads bodies in pieces of 10 KB, and every piece gives the interpreter away.
requests.models.CONTENT_CHUNK_SIZE = 1 << 20
# Of every rate limit, what reads in the background leave to those that are in a hurry.
BACKGROUND_SHARE = 0.75


@dataclass(frozen=True)
class RateLimit:
    """At most `requests` in any `seconds` to paths that start with one of `paths`."""

    requests: int
    paths: tuple[str, ...] = ("/",)
    seconds: float = 10.0


@dataclass(frozen=True)
class RetryPolicy:
    """How often to ask again and how long to wait, in seconds.

    The wait before attempt n is drawn between half and all of `first_wait * 2**(n-2)`, capped by
    `longest_wait`; a `Retry-After` of the upstream is obeyed instead. `max_wait` bounds the sum.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0
    max_wait: float = 120.0


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


class RateLimiter:
    """Sliding-window limits, shared by threads: `wait` returns when a request may be sent."""

    def __init__(
        self,
        limits: Sequence[RateLimit],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._windows: list[tuple[RateLimit, deque[float]]] = [(limit, deque()) for limit in limits]
        self._lock = threading.Lock()
        self._clock, self._sleep = clock, sleep

    def wait(self, path: str, share: float = 1.0) -> None:
        """Block until a request to `path` keeps this share of every limit, and count it."""
        while pause := self._reserve(path, share):
            self._sleep(pause)

    def _reserve(self, path: str, share: float) -> float:
        """Count a request to `path` and return 0, or the seconds after which to try again."""
        with self._lock:
            now = self._clock()
            windows = [(lim, sent) for lim, sent in self._windows if path.startswith(lim.paths)]
            pause = 0.0
            for limit, sent in windows:
                while sent and sent[0] <= now - limit.seconds:
                    sent.popleft()
                if len(sent) >= max(1, limit.requests * share):
                    pause = max(pause, sent[0] + limit.seconds - now)
            if not pause:
                for _, sent in windows:
                    sent.append(now)
            return pause


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
        self._session = _Session()
        self._session.headers["Accept"] = "application/json"
        self._session.headers["User-Agent"] = "polymarket-elt"

    def get_json(self, url: str, params: Sequence[tuple[str, str]] = ()) -> Any:
        """GET `url` with `params` (repeatable) and return the decoded JSON.

        Raises:
            UpstreamError: see `ingest.errors` for which one says what.
        """
        where = {"source": self.source, "url": _with_params(url, params), "request": ""}
        return self._retrying()(self._send_json, "GET", where["url"], where)

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
        retrying = self._retrying(retry_timeouts, attempts)
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
        retrying = self._retrying(attempts=attempts)
        return retrying(self._send_for_lines, url, where, content, most_bytes, refusal, is_broken)

    def _retrying(self, retry_timeouts: bool = True, attempts: int | None = None) -> Retrying:
        most = min(attempts or self._retry.attempts, self._retry.attempts)
        return Retrying(
            retry=retry_if_exception(lambda error: _is_transient(error, retry_timeouts)),
            wait=self._wait,
            stop=lambda state: self._stop(state, most),
            sleep=self.sleep,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception()
        asked = getattr(error, "retry_after", None)
        if asked is not None:
            return asked
        backoff = self._retry.first_wait * 2 ** (state.attempt_number - 1)
        # Jitter keeps several runs that failed together from coming back together.
        return min(backoff, self._retry.longest_wait) * random.uniform(0.5, 1.0)

    def _stop(self, state: RetryCallState, attempts: int) -> bool:
        waited = state.idle_for + state.upcoming_sleep
        if isinstance(state.outcome.exception(), RateLimited):
            attempts = self._retry.attempts  # there is no way out but to wait
        return state.attempt_number >= attempts or waited > self._retry.max_wait

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
        answer = _decode(response, where)
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
                with _naming_failures(where):
                    _ = response.content  # of a stream, or the connection is of no further use
            self._check_status(response, where, refusal)
            received, is_cut = bytearray(), False
            try:
                with _naming_failures(where):
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
            raise _not_json(response, bytes(received), where)
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
        with _naming_failures(where), span(Event.REQUEST_SENT, source=self.source):
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


def denied(what: str, setting: str) -> str:
    """What to say when an upstream refuses this user, and which setting to change."""
    remedy = f"set {setting} to another address or key" if setting else "check the address"
    return f"access denied ({what}); {remedy}"


@contextmanager
def _naming_failures(where: dict[str, str]) -> Iterator[None]:
    """Turn what requests raises while it sends or reads into an error of `ingest.errors`."""
    try:
        yield
    except requests.Timeout as error:
        raise Timeout("no answer in time; it may be overloaded, try again", **where) from error
    except (requests.exceptions.ContentDecodingError, DecodeError) as error:
        raise NotJson("the body's compression is broken; try again", **where) from error
    except ReadTimeoutError as error:
        raise Timeout("no answer in time: it stopped in mid-answer; try again", **where) from error
    except (requests.exceptions.ChunkedEncodingError, ProtocolError) as error:
        raise Unreachable("the connection broke in mid-answer; try again", **where) from error
    except requests.ConnectionError as error:
        raise _connection_error(error, where) from error
    except requests.RequestException as error:
        # Its own words quote the address, key and all.
        reason = f"cannot send the request ({type(error).__name__}); check the address"
        raise UpstreamError(reason, **where) from error
    except ValueError as error:  # an address that it redirects to, which is none
        raise WrongShape(
            f"an answer that makes no sense ({type(error).__name__})", **where
        ) from error


class _Session(requests.Session):
    """Looks up the environment's proxies and certificates once for each host, not for each request: that took 3 ms."""

    def __init__(self) -> None:
        super().__init__()
        self._environments: dict[str, dict[str, Any]] = {}

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, *others: Any
    ) -> dict[str, Any]:
        """See `requests.Session`; proxies and the others are always the same here."""
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._environments:
            found = super().merge_environment_settings(url, proxies, stream, *others)
            self._environments[host] = found
        return self._environments[host] | {"stream": stream}


def _with_params(url: str, params: Sequence[tuple[str, str]]) -> str:
    return f"{url}?{urlencode(params)}" if params else url


def _decode(response: requests.Response, where: dict[str, str]) -> Any:
    try:
        with DECODING:
            return orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise _not_json(response, response.content, where, f"; {error.msg}") from error


def _not_json(
    response: requests.Response, body: bytes, where: dict[str, str], why: str = ""
) -> NotJson:
    kind = response.headers.get("Content-Type", "no content type")
    if body.lstrip()[:1] == b"<":
        what = f"an HTML or XML page instead of JSON ({kind})"
    else:
        what = f"{len(body)} bytes that are not JSON ({kind}{why})"
    return NotJson(f"answered {response.status_code} with {what}", **where)


def _is_transient(error: BaseException, retry_timeouts: bool) -> bool:
    """Whether asking again may help: broken connections, overload, and bodies cut short."""
    if isinstance(error, Timeout):
        return retry_timeouts
    if isinstance(error, HttpStatusError):
        return error.status in _RETRIED_STATUSES
    return isinstance(error, Unreachable | NotJson | Unavailable)


def _connection_error(error: requests.ConnectionError, where: dict[str, str]) -> Unreachable:
    """What became of the connection: requests says the same of all of these, urllib3 inside tells them apart."""
    inner = error.args[0] if error.args else None
    if isinstance(inner, ReadTimeoutError):
        return Timeout("no answer in time: it stopped in mid-answer; try again", **where)
    if isinstance(inner, ProtocolError):
        return Unreachable(f"the connection broke ({root_cause(error)}); try again", **where)
    reason = "cannot connect; check the address and your network"
    return Unreachable(f"{reason} ({root_cause(error)})", **where)


def root_cause(error: requests.ConnectionError) -> str:
    """The operating system's own words, out of urllib3's nest of exceptions."""
    cause: BaseException = error
    while inner := getattr(cause, "reason", None) or cause.__cause__ or cause.__context__:
        if not isinstance(inner, BaseException):
            break
        cause = inner
    return one_line(str(cause), 120)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait, from a `Retry-After` header in seconds or as a date; None if unusable."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def clock_ahead_of(response: requests.Response, took_s: float) -> float:
    """Seconds by which this machine's clock is ahead of an upstream's, by the Date of its answer; 0 if it has none."""
    try:
        theirs = parsedate_to_datetime(response.headers["Date"]).timestamp()
        theirs += int(response.headers.get("Age", 0))  # of an answer out of a cache
    except (LookupError, TypeError, ValueError):
        return 0.0
    now = time.time()  # a Date is cut to the second, and as old as the answer took at most
    return max(now - took_s - theirs - 1, 0.0) - max(theirs - now, 0.0)
