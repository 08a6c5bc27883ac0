"""What comes back of a request: a session without surprises, failures by name, JSON, and what heads say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
import requests
from urllib3.exceptions import DecodeError, ProtocolError, ReadTimeoutError

from ingest.decoding import DECODING
from ingest.errors import (
    NotJson,
    Timeout,
    Unreachable,
    UpstreamError,
    WrongShape,
    one_line,
)


def denied(what: str, setting: str) -> str:
    """What to say when an upstream refuses this user, and which setting to change."""
    remedy = f"set {setting} to another address or key" if setting else "check the address"
    return f"access denied ({what}); {remedy}"


@contextmanager
def naming_failures(where: dict[str, str]) -> Iterator[None]:
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
        raise connection_error(error, where) from error
    except requests.RequestException as error:
        # Its own words quote the address, key and all.
        reason = f"cannot send the request ({type(error).__name__}); check the address"
        raise UpstreamError(reason, **where) from error
    except ValueError as error:  # an address that it redirects to, which is none
        raise WrongShape(
            f"an answer that makes no sense ({type(error).__name__})", **where
        ) from error


class Session(requests.Session):
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


def with_params(url: str, params: Sequence[tuple[str, str]]) -> str:
    return f"{url}?{urlencode(params)}" if params else url


def decode(response: requests.Response, where: dict[str, str]) -> Any:
    try:
        with DECODING:
            return orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise not_json(response, response.content, where, f"; {error.msg}") from error


def not_json(
    response: requests.Response, body: bytes, where: dict[str, str], why: str = ""
) -> NotJson:
    kind = response.headers.get("Content-Type", "no content type")
    if body.lstrip()[:1] == b"<":
        what = f"an HTML or XML page instead of JSON ({kind})"
    else:
        what = f"{len(body)} bytes that are not JSON ({kind}{why})"
    return NotJson(f"answered {response.status_code} with {what}", **where)


def connection_error(error: requests.ConnectionError, where: dict[str, str]) -> Unreachable:
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
