"""How JSON-RPC providers say no: the words, codes and HTTP statuses of real ones, by what they mean.

Collected from public issue threads, clients' retry helpers and providers' documents; statuses other than 200 are
partly assumed. Nobody promises any of them, so a client has to do with words that are not in any list.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from sandbox.wire import Answer

_TEXT = {"Content-Type": "text/html"}
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Refusal:
    """One way to say no.

    Attributes:
        message: with `{limit}`, `{size}`, `{first}`, `{last}` and `{until}` (the last block of a range that would do),
            and `{head}`, each also as hexadecimal with `:x`.
        code: of JSON-RPC; None where the body is no JSON-RPC.
        status: of HTTP; other than 200 it is for the whole request.
        items: whether in a batch each call is refused by itself.
        reset: the connection is closed in place of an answer.
    """

    message: str
    code: int | None = -32000
    status: int = 200
    items: bool = True
    reset: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it answers the whole request, of however many calls."""
        return self.reset or self.status != 200 or self.code is None or not self.items

    def error(self, call_id: Any, **numbers: int) -> dict:
        """The error as the reply to one call."""
        error = {"code": self.code, "message": self._words(numbers)}
        return {"jsonrpc": "2.0", "id": call_id, "error": error}

    def answer(self, call_id: Any = None, **numbers: int) -> Answer:
        """The error as the answer to a request."""
        headers = dict(self.headers)
        if self.reset:
            return Answer(reset=True)
        if self.code is None:
            return Answer(self._words(numbers).encode(), self.status, _TEXT | headers)
        body = orjson.dumps(self.error(call_id, **numbers))
        return Answer(body, self.status, _JSON | headers)

    def _words(self, numbers: dict[str, int]) -> str:
        known = dict.fromkeys(("limit", "size", "first", "last", "until", "head"), 0) | numbers
        return self.message.format(**known)


def _all(*rows: tuple) -> tuple[Refusal, ...]:
    return tuple(Refusal(*row) for row in rows)


RANGE = _all(
    ("eth_getLogs is limited to a {limit:,} range", -32614, 413),
    (
        "Under the Free tier plan, you can make eth_getLogs requests with up to a {limit} block range. Based on your"
        " parameters, this block range should work: [{first:#x}, {until:#x}]. Upgrade to PAYG for expanded block range.",
        -32600,
        400,
    ),
    ("range {size} exceeds limit of {limit}", -32602),
    ("requested too many blocks from {first} to {last}, maximum is set to {limit}", -32000),
    ("Maximum allowed number of requested blocks is {limit}", -32602, 400),
    ("The request exceeds the range allowed for your plan ({size} > {limit}). Please upgrade.", -32600),
    ("please limit the query to at most {limit:,} blocks", -32602),
    ("query exceeds max block range {limit}", -32602),
    ("block range exceeds {limit}", -32602),
    ("query must be smaller than size {limit}", -32000),
    ("maximum [from, to] blocks distance: {limit}", -32000),
    ("eth_getLogs block range too large, range: {size}, max: {limit}", -32000),
    ("block range is bigger than maxBlockRange", -32000),
    ("query exceeds range, retry smaller (max blocks {limit})", -32602),
    ("exceed maximum block range: {limit}", -32602),
    ("exceed maximum block range: {limit}", -32701, 403),
    ("ranges over {limit} blocks are not supported on freetier", 35, 400),
    ("ranges over {limit} blocks are not supported on freetier", 35, 500),
    ("eth_getLogs is limited to 0 - {limit} blocks range", -32000),
    ("You cannot query logs for more than {limit} blocks at once.", -32602),
    ("Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: {limit}", -32047, 400),
    ("block range is too wide", -32600),
    ("Block range limit exceeded. See more details at the provider's page on limits.", -32000),
    ("Requested range exceeds maximum range limit", -32005),
    ("invalid params: filter spans {size} blocks; allowed: {limit}", -32602),
    ("too much history in one go, ask for {limit} or less", -32099),
    ("{{'reason': 'E_SPAN', 'allowed': {limit}}}", -32000),
    ("Request timeout on the free tier, please upgrade your tier to the paid one", 30, 408),
    ("Invalid params", -32602),
    ("<html><head><title>413 Request Entity Too Large</title></head></html>", None, 413),
)  # fmt: skip
RESULTS = _all(
    ("query returned more than {limit} results", -32005),
    ("query returned more than {limit} results. Try with this block range [{first:#x}, {until:#x}].", -32005),
    ("query exceeds max results {limit}, retry with the range {first}-{until}", -32602),
    (
        "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no limit on the"
        " response size, or you can request any block range with a cap of {limit} logs in the response. Based on your"
        " parameters and the response size limit, this block range should work: [{first:#x}, {until:#x}]",
        -32602,
        400,
    ),
    ("response size should not greater than 10000000 bytes", -32602),
    ("response too large", -32003),
    ("backend response too large", -32020),
    ("Too many logs requested. Max logs per response is {limit}", -32005),
    ("logs matched by query exceeds limit of {limit}", -32005),
    ("query timeout exceeded", -32000),
    ("request timed out", -32002),
    ("context deadline exceeded", -32000),
    ("execution aborted (timeout = 10s)", -32000),
    ("internal error", -32603),
    ("resp too big", -32801),
    ("<html><head><title>504 Gateway Time-out</title></head></html>", None, 504),
)  # fmt: skip
BATCH = _all(
    ("Batch of more than {limit} requests are not allowed on free tier, to use this feature register paid account", 31, 500),
    ("Batch of more than {limit} requests are not allowed on free tier", 31, 200, False),
    ("batch too large", -32600, 200, False),
    ("Number of requests in batch exceeds max batch size", -32005, 200, False),
    ("batch limit {limit} exceeded (can increase by --rpc.batch.limit), size: {size}", -32000, 200, False),
    ("The batch request was too large", -32010, 200, False),
    ("too many requests in one batch, max {limit}", -32600, 400),
    ("batch size exceeds {limit}", -32600, 413),
    ("batch limit of {limit} exceeded", -32000, 200, True),
    ("cannot process: bulk over quota", -32097, 200, False),
    ("", None, 200, False, True),
)  # fmt: skip
NO_BATCH = _all(
    ("Batch requests are not supported", -32600, 200, False),
    ("Invalid Request", -32600, 400),
    ("invalid request", -32600, 200, False),
    ("json: cannot unmarshal array into Go value of type rpc.Request", -32700, 400),
    ("Method Not Allowed", None, 405),
    ("Bad Request", None, 400),
    ("batch rpc calls are disabled", -32601, 200, False),
    ("Batch of more than 1 requests are not allowed on free tier", 31, 500),
    ("Internal Server Error", None, 500),
)  # fmt: skip
RATE = _all(
    ("25/second request limit reached - reduce calls per second or upgrade your account", -32007, 429),
    ("Your app has exceeded its compute units per second capacity. If you have retries enabled, ignore this message.", 429),
    ("Your app has exceeded its compute units per second capacity.", 429, 429),
    ("project ID request rate exceeded", -32005),
    ("You've exceeded the RPS limit available on the current plan.", -32005),
    ("Request exceeds defined limit", -32005),
    ("You have exceeded your rate limit", -32000),
    ("Max requests per second exceeded", -32000),
    ("Too many requests, reason: call rate limit exhausted, retry in 10s", -32090, 429),
    ("Too many requests, reason: call rate limit exhausted, retry in 10s", -32090),
    ("rate limited", -32016),
    ("slow down", None, 429),
    ("Too Many Requests", 429, 429, True, False, (("Retry-After", "1"),)),
    ("Too Many Requests", None, 429, True, False, (("Retry-After", "2"),)),
    ("Too many connections. Please slow down.", -32029),
)  # fmt: skip
TRANSIENT = _all(
    ("Temporary internal error. Please retry, trace-id: 3f2a", 19),
    ("Temporary internal error. Please retry, trace-id: 3f2a", 19, 500),
    ("Service temporarily unavailable", -32001),
    ("no backend is currently healthy to serve traffic", -32011, 503),
    ("no backend is currently healthy to serve traffic", -32011),
    ("Internal error", -32603),
    ("Internal error", -32603, 500),
    ("failed to get response from any upstream", -32603),
    ("Can't route your request to suitable provider, if you specified certain providers revise the list", 12, 400),
    ("server is busy", -32000),
    ("upstream request timeout", None, 504),
    ("<html><body><h1>502 Bad Gateway</h1></body></html>", None, 502),
    ("<!doctype html><title>Just a moment...</title>", None, 200),
    ("", None, 200, True, True),
)  # fmt: skip
BEYOND_HEAD = _all(
    ("block range extends beyond current head block: requested {last}, head {head}", -32602),
    ("block range extends beyond current head block", -32602),
    ("invalid block range", -32602),
    ("header not found", -32000),
    ("unknown block", -32000),
    ("One or more of the specified blocks are not available: unknown block range", -32000),
    ("cannot query unfinalized data", -32000),
)
PRUNED = _all(
    ("pruned history unavailable", 4444),
    ("missing trie node 9f1c (path ) state 0x9f1c is not available", -32000),
    ("state at block #{first} is pruned", -32603),
    ("history has been pruned for this block", -32000),
    ("Archive requests require a personal token. Request range too old", -32701, 403),
    ("required historical data is not available on this node", -32000),
    ("block {first} not available", -32001),
)
UNSUPPORTED = _all(
    ("the method does not exist/is not available", -32601),
    ("Method not found", -32601),
    ("method is not available on this plan", -32001, 403),
    ("Unsupported method", -32600, 400),
    ("This method is not whitelisted", -32004),
)
NO_BLOCK_HASH = _all(
    ("invalid argument 0: json: unknown field blockHash", -32602),
    ("Invalid params", -32602),
    ("filtering by blockHash is not supported", -32000),
)


def scrambled(rng: Random, refusal: Refusal, share: float = 0.15) -> Refusal:
    """The refusal, now and then with another code or in other letters, as no list has it."""
    if refusal.code is None or rng.random() >= share:
        return refusal
    code = rng.choice((refusal.code, -32000, -32603, -32602, -32005, rng.randint(-32099, -31000)))
    message = refusal.message
    if "{" not in message and rng.random() < 0.5:
        message = rng.choice((message.upper(), message.lower(), f"RPC error: {message}"))
    return Refusal(message, code, refusal.status, refusal.items, refusal.reset, refusal.headers)
