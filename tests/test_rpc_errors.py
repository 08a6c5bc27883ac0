"""What providers mean by their refusals: wordings as public issues and retry helpers quote them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.refusals import Refusal, classify, limit_in

RANGE, RATE, BATCH = Refusal.RANGE, Refusal.RATE, Refusal.BATCH
BEHIND, PRUNED, ACCESS = Refusal.BEHIND, Refusal.PRUNED, Refusal.ACCESS
PASSING, UNKNOWN, UNSUPPORTED = Refusal.PASSING, Refusal.UNKNOWN, Refusal.UNSUPPORTED

CASES = [
    (RANGE, -32614, "eth_getLogs is limited to a 10,000 range"),
    (RANGE, -32600, "You can make eth_getLogs requests with up to a 10 block range. Based on your parameters,"
     " this block range should work: [0x1a30dfd, 0x1a30e06]. Upgrade to PAYG for expanded block range."),
    (RANGE, -32602, "range 1000000 exceeds limit of 10000"),
    (RANGE, -32000, "requested too many blocks from 133216808 to 133217807, maximum is set to 30"),
    (RANGE, -32602, "Maximum allowed number of requested blocks is 1000"),
    (RANGE, -32602, "response size should not greater than 10000000 bytes"),
    (RANGE, -32600, "The request exceeds the range allowed for your plan (2000 > 500). Please upgrade."),
    (RANGE, -32602, "please limit the query to at most 1,000 blocks"),
    (RANGE, -32602, "query exceeds max block range 1000"),
    (RANGE, -32000, "query must be smaller than size 1024"),
    (RANGE, -32000, "maximum [from, to] blocks distance: 1000"),
    (RANGE, -32000, "eth_getLogs block range too large, range: 99991, max: 3500"),
    (RANGE, -32000, "block range is bigger than maxBlockRange"),
    (RANGE, 30, "Request timeout on the free tier, please upgrade your tier to the paid one"),
    (RANGE, -32003, "response too large"),
    (RANGE, -32005, "query returned more than 10000 results"),
    (RANGE, -32000, "Log response size exceeded"),
    (RANGE, -32000, "query timeout exceeded"),
    (RANGE, -32000, "execution aborted (timeout = 5s)"),
    (RANGE, -32062, "Block range is too large"),
    (RANGE, -32000, "logs matched by query exceeds limit of 10000"),
    (RANGE, -32000, "too wide blocks range, the limit is 100"),
    (RANGE, -32701, "Please specify an address in your request or, to remove restrictions, reduce the block range"),
    (RATE, -32007, "25/second request limit reached - reduce calls per second or upgrade your account"),
    (RATE, 429, "Your app has exceeded its compute units per second capacity."),
    (RATE, -32005, "project ID request rate exceeded"),
    (RATE, -32005, "You've exceeded the RPS limit available on the current plan."),
    (RATE, -32001, "You've reached the usage limit for your current plan. Kindly wait until your quota resets daily."),
    (RATE, -32005, "Request exceeds defined limit"),
    (RATE, -32000, "You have exceeded your rate limit"),
    (RATE, -32000, "Max requests per second exceeded"),
    (RATE, -32090, "Too many requests, reason: call rate limit exhausted, retry in 10s"),
    (RATE, 15, "Too many request, try again later, max 40 requests per 1 second"),
    (BATCH, 31, "Batch of more than 3 requests are not allowed on free tier"),
    (BATCH, -32600, "batch too large"),
    (BATCH, -32005, "Number of requests in batch exceeds max batch size"),
    (BATCH, -32600, "batch requests are not supported"),
    (BEHIND, -32602, "block range extends beyond current head block: requested 50162452, head 50162449"),
    (BEHIND, -32602, "invalid block range"),
    (BEHIND, -32000, "header not found"),
    (BEHIND, -32000, "One or more of the specified blocks are not available: unknown block range"),
    (BEHIND, -32000, "unknown block"),
    (BEHIND, -32000, "cannot query unfinalized data: block 5 after last accepted block 4"),
    (PRUNED, 4444, "pruned history unavailable"),
    (PRUNED, -32603, "state at block #12369623 is pruned"),
    (PRUNED, -32000, "missing trie node 5a (path ) state 0x5a is not available"),
    (PRUNED, -32701, "Archive requests require a personal token. Request range too old"),
    (ACCESS, -32051, "message: API key disabled, reason: tenant disabled, json-rpc code: -32051, rest code: 403"),
    (ACCESS, -32000, "Unauthorized: You must authenticate your request with an API key."),
    (ACCESS, 0, "invalid project id"),
    (PASSING, 19, "Temporary internal error. Please retry, trace-id: 3f2a"),
    (PASSING, -32001, "Service temporarily unavailable"),
    (PASSING, -32011, "no backend is currently healthy to serve traffic"),
    (PASSING, -32603, "Internal error"),
    (PASSING, -32000, "store error: database unavailable"),
    (UNSUPPORTED, -32601, "the method eth_getBlockReceipts does not exist/is not available"),
    # Words that say nothing: the code decides.
    (RATE, -32005, "no"), (RATE, -32007, "no"), (PASSING, -32603, "no"), (RATE, 429, "no"),
    (UNKNOWN, -32000, "no"), (UNKNOWN, 0, ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "code", "message"), CASES)
def test_a_refusal_is_understood(kind: Refusal, code: int, message: str) -> None:
    assert classify(code, message) is kind
    assert classify(code, message.upper()) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ACCESS), (403, ACCESS), (405, UNSUPPORTED), (413, RANGE), (429, RATE), (502, PASSING), (400, UNKNOWN)],
)  # fmt: skip
def test_the_status_decides_where_nothing_else_does(status: int, kind: Refusal) -> None:
    assert classify(0, "", status) is kind
    assert classify(0, "batch too large", status) is (kind if status == 405 else BATCH)


@pytest.mark.parametrize(
    ("message", "asked", "limit"),
    [
        ("up to a 10 block range. This should work: [0x1a30dfd, 0x1a30e06].", 2000, 10),
        ("requested too many blocks from 133216808 to 133217807, maximum is set to 30", 1000, 30),
        ("exceeds the range allowed for your plan (2000 > 500)", 2000, 500),
        ("at most 1,000 blocks", 2000, 1000),
        ("up to a 2K block range", 10_000, 2000),
        ("query returned more than 10000 results", 2000, None),
        ("Batch of more than 3 requests are not allowed", 100, 3),
        ("response too large", 64, None),
        ("limit of 64", 64, None),
    ],
)
def test_the_limit_that_a_refusal_names(message: str, asked: int, limit: int | None) -> None:
    found = limit_in(message, asked)
    assert (found and found.size) == limit
    assert found is None or found.is_lasting


@pytest.mark.parametrize(
    "message",
    [
        "query returned more than 10000 results. Try with this block range [0x1a30dfd, 0x1a30e06].",
        "Log response size exceeded. this block range should work: [0x1a30dfd, 0x1a30e06]",
    ],
)
def test_a_range_that_would_have_fitted_this_time_is_no_lasting_limit(message: str) -> None:
    assert limit_in(message, 2000) == (10, False)


@given(st.text(max_size=200), st.integers(1, 10_000), st.integers(-40_000, 40_000))
def test_any_words_have_a_kind_and_no_limit_is_useless(words: str, asked: int, code: int) -> None:
    assert isinstance(classify(code, words), Refusal)
    limit = limit_in(words, asked)
    assert limit is None or 0 < limit.size < asked
