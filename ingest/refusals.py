"""What a JSON-RPC provider means by a refusal. Pure functions over its code, words and HTTP status.

Providers share no codes: -32005 is a rate limit at one, too many results at another and too large a
batch at a third. So words decide first, and codes where the words say nothing. The wordings are
those of Alchemy, Ankr, Base, Besu, Bor, Chainstack, dRPC, Erigon, geth, Infura, PublicNode,
QuickNode, reth, Tatum and others, as public issues and retry helpers quote them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple


class Refusal(Enum):
    """What the provider wants."""

    BATCH = "fewer calls in one request"
    PRUNED = "another node: it does not keep blocks that old"
    BEHIND = "time: it does not have these blocks yet"
    RANGE = "fewer blocks or logs in one request"
    RATE = "a slower pace"
    ACCESS = "another key, or a user it knows"
    UNSUPPORTED = "another method: it does not have this one"
    PASSING = "another try: something is wrong there for the moment"
    UNKNOWN = "something that its words do not say"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# In this order: a wording that fits several kinds means the first of them.
_WORDS: Sequence[tuple[Refusal, re.Pattern[str]]] = (
    (Refusal.BATCH, _any(r"\bbatch", r"\barray of requests", r"multiple (rpc )?calls")),
    (
        Refusal.PRUNED,
        _any(
            r"prun",
            r"missing trie node",
            r"histor\w* (is |has been )?(not available|unavailable|expired|not supported)",
            r"(no|lacks|without) historical",
            r"historical (state|data|logs?|blocks?) .{0,40}(not|unavailable)",
            r"archive",
            r"too old",
            r"(no longer|not any more|not any longer) available",
            r"(before|below|lower than|older than) .{0,30}(earliest|oldest|first|lowest|available)",
            r"ancient",
        ),
    ),
    (
        Refusal.BEHIND,
        _any(
            r"(beyond|past|after|above|ahead of|greater than|higher than).{0,30}"
            r"\b(head|latest|tip|last accepted|current block|chain height)\b",
            r"header not found",
            r"unknown block",
            r"invalid block range$",
            r"\bblock\b.{0,40}\b(not found|does not exist|not yet|is unknown)",
            r"(could not|cannot|can't|unable to) find .{0,20}block",
            r"blocks? (is|are) not available",
            r"(future|non-?existent) block",
            r"not (yet )?synced|still syncing|is syncing",
        ),
    ),
    (
        Refusal.RANGE,
        _any(
            r"(block|blocks|eth_getlogs|logs?)\b.{0,60}\brange",
            r"\brange\b.{0,60}(too|exceed|limit|large|wide|up to|bigger|than|max|allow)",
            r"exceed\w* .{0,20}(\brange|range\b)",
            r"(more than|over|exceed\w*|limited to|at most|up to) [\d,_]+ ?k? (results|logs|blocks)",
            r"too many (results|logs|blocks|events)",
            r"too many .{0,20}blocks",
            r"max\w* .{0,30}blocks",
            r"blocks? (distance|span|count|limit)|maxblockrange",
            r"(response|result|payload|content|body)s?.{0,40}(too|exceed|greater|larger|bigger)",
            r"(response|result) size|size (limit )?exceeded|too large|too big|too wide",
            r"query .{0,20}(must be|should be|too|exceed)",
            r"(limit|reduce|narrow|shorten|split) (the|your) (query|range|block|request)",
            r"time-? ?out|timed out|took too long|deadline exceeded|execution aborted",
        ),
    ),
    (
        Refusal.RATE,
        _any(
            r"rate.?limit|request rate|\brate\b.{0,20}exceed|exceed\w*.{0,30}\brate\b",
            r"too many (requests?|connections|concurrent)|max(imum)? requests",
            r"/ ?(s|sec|second|min|minute|day)\b|per \d* ?(second|minute|hour|day|month)|daily|monthly",
            r"requests? (count|limit)|request exceeds defined limit",
            r"compute units|\bcups?\b|\brps\b|\btps\b|\bqps\b|throughput|throttl|credits?\b|quota",
            r"usage limit|plan limit|limit (reached|exceeded)|exceed\w* your|over capacity|capacity",
            r"slow down|back ?off|too fast",
        ),
    ),
    (
        Refusal.ACCESS,
        _any(
            r"api.?key|access.?key|project id|tenant",
            r"unauthori[sz]ed|forbidden|access denied|permission|not allowed|authenticat",
            r"(invalid|missing|expired|disabled|inactive) .{0,20}(key|token|project|account|app)",
            r"credentials|payment required|subscription|suspended",
        ),
    ),
    (
        Refusal.UNSUPPORTED,
        _any(
            r"method .{0,60}(not|unsupported|unknown|disabled)",
            r"(unsupported|unknown|unavailable) method|not implemented|not (supported|served)",
            r"invalid (argument|params|parameters)|does not exist/is not available",
        ),
    ),
    (
        Refusal.PASSING,
        _any(
            r"temporar|try again|retry|unavailable|unhealthy|not healthy|healthy|overload|busy",
            r"no (backend|available|upstream|nodes?|workers?)|internal|bad gateway|upstream",
            r"server error|connection (reset|refused|closed)|failed to (get|fetch|serve|query|load)",
            r"\bstore\b|index(ing|er|es)|database|\bdb\b|maintenance",
        ),
    ),
)

_CODES = {
    429: Refusal.RATE,
    -32005: Refusal.RATE,
    -32007: Refusal.RATE,
    -32029: Refusal.RATE,
    -32090: Refusal.RATE,
    -32601: Refusal.UNSUPPORTED,
    -32004: Refusal.UNSUPPORTED,
    -32602: Refusal.UNSUPPORTED,
    -32051: Refusal.ACCESS,
    -32052: Refusal.ACCESS,
    -32603: Refusal.PASSING,
    -32002: Refusal.PASSING,
    -32011: Refusal.PASSING,
    4444: Refusal.PRUNED,
    -32701: Refusal.PRUNED,
    30: Refusal.RANGE,
    31: Refusal.BATCH,
}
_STATUSES = {
    401: Refusal.ACCESS,
    402: Refusal.ACCESS,
    403: Refusal.ACCESS,
    405: Refusal.UNSUPPORTED,
    408: Refusal.RANGE,
    413: Refusal.RANGE,
    429: Refusal.RATE,
}
_SPAN = re.compile(r"\[?(0x[0-9a-f]+)\s*(?:,|-|to)\s*(0x[0-9a-f]+)\]?", re.IGNORECASE)
_COUNT = re.compile(r"(?<![\w.])(\d[\d,_]*)\s?(k\b)?", re.IGNORECASE)


def classify(code: int, message: str, status: int = 200) -> Refusal:
    """What a JSON-RPC error means.

    Args:
        code: of the error object; 0 if it has none.
        message: of the error object, or the body of an answer that is no error object.
        status: HTTP status of the answer.
    """
    if status == 405:  # "Method Not Allowed" is about HTTP's
        return Refusal.UNSUPPORTED
    for kind, words in _WORDS:
        if words.search(message):
            return kind
    known = _CODES.get(code) or _STATUSES.get(status)
    if known is None and status >= 500:
        return Refusal.PASSING
    return known or Refusal.UNKNOWN


class Limit(NamedTuple):
    """How much a provider says that it would answer.

    Attributes:
        size: blocks, or calls.
        is_lasting: it always holds; else it is about the one question, whose answer was too large.
    """

    size: int
    is_lasting: bool = True


def limit_in(message: str, asked: int) -> Limit | None:
    """The limit that a refusal names, if it is smaller than what was asked for.

    It is the length of a span of blocks ("[0x1a30dfd, 0x1a30e06]" is 10), else the largest number
    below `asked` ("maximum is set to 30", "up to a 2K block range"). A span alone is what would
    have fitted this time: Infura and Alchemy name one when there are too many results.
    """
    counts = [
        int(digits.replace(",", "").replace("_", "")) * (1000 if thousand else 1)
        for digits, thousand in _COUNT.findall(message)
    ]
    if span := _SPAN.search(message):
        length = int(span[2], 16) - int(span[1], 16) + 1
        if 0 < length < asked:
            return Limit(length, length in counts)
    largest = max((count for count in counts if 0 < count < asked), default=None)
    return None if largest is None else Limit(largest)
