"""Everything that can go wrong while reading an upstream, as one tree of exceptions.

Every message is one line: what happened, where, and what to do about it. API keys never appear in
one: addresses are masked here, once, before an error is built, and so is what quotes them. Retrying is decided in
`ingest.http`, what a failure means for a run in `ingest.land.loader`.

    IngestError
    ├── LoadError               the rows did not get into ClickHouse
    ├── ArchiveError            an archive, or a file of one, cannot be read as fills
    └── UpstreamError           the upstream failed (carries source, url, request)
        ├── Unreachable         no connection, or it broke
        │   └── Timeout         no answer in time
        ├── HttpStatusError     a status that is not 2xx
        │   └── RateLimited     429, after all retries
        ├── BadAnswer           an answer that cannot be what was asked for
        │   ├── NotJson         an HTML page, a truncated body, broken compression
        │   ├── WrongShape      JSON without the fields the protocol promises
        │   ├── RepeatedCursor  paging went back to a cursor it had handed out before
        │   ├── RepeatedPage    paging returned rows it had returned before
        │   └── OrderIgnored    a listing is not in the order that was asked for
        ├── GraphQLError        the GraphQL answer says errors
        ├── RpcError            the JSON-RPC answer says error
        │   ├── RangeTooLarge   it wants to be asked for fewer blocks
        │   └── BatchTooLarge   it wants fewer calls in one request, or no batches
        ├── Unavailable         it says that it cannot answer for now
        ├── AccessDenied        it refuses this user: a key is missing, wrong or switched off
        ├── NodeBehind          it does not have blocks yet that it was asked for
        ├── HistoryPruned       it does not keep blocks any more that it was asked for
        ├── TokensRefused       it does not take a token that it was asked about
        ├── MissingFills        its answer lacks fills that other evidence shows
        ├── Unconfirmed         it says that there are no fills, and nothing confirms it
        ├── SourceFrozen        it answers, but its data stopped before it should have
        ├── ClockSkew           its newest data are of a time that has not come yet here
        ├── ChainReorganised    blocks were replaced while they were read
        └── NoEndpoint          none of several endpoints could answer
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

_SECRET_PARAMETERS = re.compile(r"key|token|secret|password|auth", re.IGNORECASE)
_PUBLIC_PARAMETERS = {"clob_token_ids"}
_SECRET_SEGMENT = re.compile(r"^(?=.*\d)[A-Za-z0-9_-]{20,}$")


def mask_url(url: str) -> str:
    """`url` without credentials: user info, key-like parameters and key-like path segments.

    RPC providers put the key into the path (`/v2/<key>`), so a segment of 20 or more letters and
    digits keeps its first four characters only.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # an unfinished [IPv6] address, say; what of it is secret cannot be told
        return "an address that is no URL"
    path = "/".join(
        f"{segment[:4]}***" if _SECRET_SEGMENT.match(segment) else segment
        for segment in parts.path.split("/")
    )
    query = urlencode(
        [
            (name, "***" if _is_secret(name) else value)
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
        ],
        safe="*",
    )
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))


def redact(text: str, url: str) -> str:
    """`text` without the secrets of `url`: what an upstream answers, or a library says, may quote them."""
    parts = urlsplit(url)
    secrets = [segment for segment in parts.path.split("/") if _SECRET_SEGMENT.match(segment)]
    secrets += [value for name, value in parse_qsl(parts.query) if _is_secret(name)]
    userinfo = parts.netloc.rpartition("@")[0]
    secrets += [userinfo, unquote(userinfo.partition(":")[2])]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text


def _is_secret(name: str) -> bool:
    return name not in _PUBLIC_PARAMETERS and bool(_SECRET_PARAMETERS.search(name))


def one_line(text: str, limit: int = 300) -> str:
    """`text` with all white space folded into single spaces, cut to `limit` characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"


class PolymarketError(Exception):
    """Base of every failure that the project reports; its message is one line for the user."""


class IngestError(PolymarketError):
    """Base of every failure of `ingest`."""


class LoadError(IngestError):
    """Rows were read but are not in ClickHouse; the cursor has not moved past them."""


class ArchiveError(IngestError):
    """An archive, or a file of one, cannot be read as fills; the message says why and what to do."""


class UpstreamError(IngestError):
    """The upstream failed.

    Args:
        message: what happened and what to do, without the address.
        source: the source that asked, such as `gamma`.
        url: address that was asked; masked before it is kept.
        request: what was asked for, in a few words; empty where the address says it all.
    """

    def __init__(self, message: str, *, source: str, url: str, request: str = "") -> None:
        self.source = source
        self.url = mask_url(url)
        self.request = one_line(request)
        asked = f" ({self.request})" if self.request else ""
        super().__init__(one_line(f"{source}: {redact(message, url)} [{self.url}]{asked}", 1000))


class Unreachable(UpstreamError):
    """No connection could be made, or it broke before the answer was complete."""


class Timeout(Unreachable):
    """The upstream did not answer in time."""


class HttpStatusError(UpstreamError):
    """A status that is not 2xx; `status` has it, `retry_after` the seconds it asks to wait."""

    def __init__(
        self, message: str, *, status: int, retry_after: float | None = None, **where: str
    ) -> None:
        super().__init__(message, **where)
        self.status = status
        self.retry_after = retry_after


class RateLimited(HttpStatusError):
    """429: the upstream refuses to answer for now."""


class BadAnswer(UpstreamError):
    """An answer that cannot be what was asked for."""


class NotJson(BadAnswer):
    """Not JSON: an HTML page with status 200, a truncated body, broken compression."""


class WrongShape(BadAnswer):
    """JSON, but without the fields that the protocol promises."""


class RepeatedCursor(BadAnswer):
    """Paging handed out a cursor that it had handed out before: it would never end."""


class RepeatedPage(BadAnswer):
    """Paging returned rows that it had returned before: the cursor is being ignored."""


class OrderIgnored(BadAnswer):
    """A listing is not in the order that was asked for: what is newest cannot be told from it."""


class GraphQLError(UpstreamError):
    """A GraphQL answer with `errors`."""


class RpcError(UpstreamError):
    """A JSON-RPC answer with `error`; `code` is its number."""

    def __init__(self, message: str, *, code: int, **where: str) -> None:
        super().__init__(message, **where)
        self.code = code


class RangeTooLarge(RpcError):
    """The node refuses to answer for so many blocks or logs.

    Attributes:
        limit: what it names, in blocks; None if it names nothing.
        is_lasting: the limit holds for every question, not for this one alone.
    """

    def __init__(
        self, message: str, *, limit: int | None = None, is_lasting: bool = True, **where: Any
    ) -> None:
        super().__init__(message, **where)
        self.limit, self.is_lasting = limit, is_lasting


class BatchTooLarge(RpcError):
    """The node refuses so many calls in one request; `limit` is what it names; 1: no batches."""

    def __init__(self, message: str, *, limit: int | None = None, **where: Any) -> None:
        super().__init__(message, **where)
        self.limit = limit


class Unavailable(UpstreamError):
    """The upstream says that it cannot answer for now: worth asking again."""


class AccessDenied(UpstreamError):
    """The upstream refuses this user; the message names the setting to change."""


class NodeBehind(UpstreamError):
    """The upstream does not have the blocks yet that it was asked for."""


class HistoryPruned(UpstreamError):
    """The upstream does not keep the blocks any more that it was asked for."""


class TokensRefused(UpstreamError):
    """The upstream refuses a request, for one of the tokens in it or for their number: ask about fewer."""


class MissingFills(BadAnswer):
    """The answer lacks fills that other evidence shows."""


class Unconfirmed(UpstreamError):
    """The answer says that blocks hold no fills, or few, and there is no evidence for it.

    `is_suspicious` says whether many fills were to be expected in them.
    """

    def __init__(self, message: str, *, is_suspicious: bool = True, **where: str) -> None:
        super().__init__(message, **where)
        self.is_suspicious = is_suspicious


class NoEndpoint(UpstreamError):
    """None of several endpoints could answer; the message says why for each."""


class SourceFrozen(UpstreamError):
    """The upstream answers, but its data stopped before the point it should have reached."""


class ClockSkew(UpstreamError):
    """The newest data are of a time that has not come yet by this machine's clock."""


class ChainReorganised(UpstreamError):
    """Blocks were replaced while the ones after them were being read."""
