"""Anything at all into every parser, and into the HTTP front of the embedded ClickHouse.

Records in are rows and dead letters out; answers end in rows or in an error of `ingest.errors`; a request gets an answer.
"""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import cycle
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from scripted_server import Answer, ScriptedServer
from worlds import PATIENCE_S

from embedded_clickhouse import Endpoint, sqltext
from embedded_clickhouse.lexer import tokens
from ingest.contracts import EXCHANGES, ORDER_FILLED_TOPICS, V1, V2
from ingest.errors import IngestError, mask_url, one_line
from ingest.http import HttpClient
from ingest.http_answers import parse_retry_after
from ingest.progress import Progress
from ingest.records import DeadLetter, content_hash, decode_batch, whole_number
from ingest.retries import RetryPolicy
from ingest.sources.gamma.entities import EVENT, MARKET, entities_table
from ingest.sources.gamma.passes import Keyset, Pass, run_pass
from ingest.sources.goldsky.reader import Archive, archive_pages, decode_fills, keyset_filter
from ingest.sources.polygon.chain import Endpoints
from ingest.sources.polygon.logs import decode_logs
from ingest.sources.polygon.range_reader import RangeReader
from ingest.sources.polygon.rpc import Node
from pipeline.errors import SettingsError
from pipeline.settings import Settings, load_settings
from pipeline.timerange import parse_range
from sandbox.contracts import Fill, log_of

NUMBERS = st.integers() | st.sampled_from([-1, 2**63, 2**64 - 1, 2**64, 2**256, 10**90])
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["0x", "0x0", "-0x1", "0x_1", " 1", "1_000", "٣", "1e9", "1.5", "-5", "null", "nan", "9" * 5000]
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, width=32) | TEXTS


def as_received(value: Any) -> Any:
    """The value as it comes out of an HTTP body."""
    try:
        return orjson.loads(json.dumps(value))
    except orjson.JSONDecodeError:  # a number that no double can hold, half a surrogate pair
        assume(False)


JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
).map(as_received)


def mutations(valid: dict) -> st.SearchStrategy[dict]:
    """The record with some fields changed or gone."""
    changes = st.dictionaries(st.sampled_from(sorted(valid)), JSON, max_size=3)
    gone = st.sets(st.sampled_from(sorted(valid)), max_size=2)
    return st.builds(
        lambda change, without: {k: v for k, v in (valid | change).items() if k not in without},
        changes,
        gone,
    )


# -- records ---

TX, ORDER = "0x" + "ab" * 32, "0x" + "cd" * 32
V2_FILL = Fill(1_780_000_000, TX, ORDER, "77", version=V2, block_number=90_000_000, log_index=5)
LOG = log_of(V2_FILL, "0x" + "5a" * 32, with_timestamp=True)
WORDS = st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**255]).map(lambda n: f"{n:064x}")
LOGS = mutations(LOG) | st.builds(
    lambda words, version: (
        LOG
        | {
            "address": next(a for a, v in EXCHANGES.items() if v == version),
            "topics": [ORDER_FILLED_TOPICS[version], *LOG["topics"][1:]],
            "data": "0x" + "".join(words),
        }
    ),
    st.lists(WORDS, min_size=4, max_size=8),
    st.sampled_from([V1, V2]),
)
ROW = {
    "id": f"{TX}_{ORDER}",
    "transactionHash": TX,
    "timestamp": "1777000000",
    "orderHash": ORDER,
    "maker": "0x" + "12" * 20,
    "taker": "0x" + "34" * 20,
    "makerAssetId": "0",
    "takerAssetId": str(2**256 - 1),
    "makerAmountFilled": "250000",
    "takerAmountFilled": str(2**64 - 1),
    "fee": "0",
}
GAMMA_RECORD = {"id": "7", "closed": False, "events": [{"id": "1", "slug": "a", "x": 1}]}


def check_counts(records: list, tables: list[pa.Table], dead: list[DeadLetter]) -> None:
    """Nothing is dropped, and a dead letter holds its record as received."""
    assert sum(map(len, tables)) + len(dead) == len(records)
    received = [orjson.dumps(record) for record in records]
    for letter in dead:
        assert letter.payload in received
        assert letter.reason and letter.detail
    for table in tables:
        assert not any(pa.types.is_floating(column.type) for column in table.columns)


@given(st.lists(LOGS | JSON, max_size=8))
def test_logs_become_rows_or_dead_letters(records: list) -> None:
    tables, dead = decode_logs(records, source="polygon")
    check_counts(records, tables, dead)


@given(st.lists(mutations(ROW) | JSON, max_size=8))
def test_archive_rows_become_rows_or_dead_letters(records: list) -> None:
    tables, dead = decode_fills(records)
    check_counts(records, tables, dead)
    good = [r for r in records if orjson.dumps(r) not in {letter.payload for letter in dead}]
    amounts = [value for table in tables for value in table.column("maker_amount").to_pylist()]
    assert amounts == [int(str(record["makerAmountFilled"])) for record in good]


@pytest.mark.parametrize("entity", [MARKET, EVENT])
@given(records=st.lists(mutations(GAMMA_RECORD) | JSON, max_size=8))
def test_gamma_records_become_rows_or_dead_letters(entity, records: list) -> None:
    def to_table(batch: list) -> pa.Table:
        return entities_table(entity, batch, fetched_at=datetime.now(UTC))

    tables, dead = decode_batch(records, to_table)
    check_counts(records, tables, dead)
    for table in tables:
        payloads = table.column("payload").to_pylist()
        hashes = table.column("content_hash").to_pylist()
        assert hashes == [content_hash(payload.encode()) for payload in payloads]


@given(JSON)
@example(5.0)
@example(2.0**64)
@example(True)
@example("٣")
def test_whole_numbers_are_exact_or_refused(value: Any) -> None:
    try:
        number = whole_number("amount", value)
    except ValueError:
        return
    assert type(value) in (str, int)
    assert str(number) == str(value).lstrip("0") or int(value) == number


# -- answers ---


@pytest.fixture(scope="module")
def answering() -> Iterator[Callable[[list[Any]], str]]:
    """Sets the answers that a server gives in turn, as JSON; returns its URL."""
    answers: Iterator[Any] = iter(())
    with ScriptedServer(lambda path, body: Answer(json.dumps(next(answers)).encode())) as server:

        def answer(values: list[Any]) -> str:
            nonlocal answers
            answers = cycle(values)
            return server.url

        yield answer


def client(source: str) -> HttpClient:
    return HttpClient(source, retry=RetryPolicy(attempts=1), sleep=lambda seconds: None)


def some_pages() -> Callable[[], bool]:
    left = iter(range(4))
    return lambda: next(left, None) is not None


BY_HTTP = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
TIMES = st.sampled_from(
    ["2026-07-24 00:00:16+00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "x"]
)
GAMMA_PAGES = st.fixed_dictionaries(
    {"markets": st.lists(JSON | st.fixed_dictionaries({"id": JSON, "createdAt": TIMES | JSON}))},
    optional={"next_cursor": TEXTS | JSON},
)


@BY_HTTP
@given(st.lists(GAMMA_PAGES | JSON, min_size=1, max_size=3))
def test_any_gamma_answer_is_pages_or_an_upstream_error(answering, answers: list) -> None:
    keyset = Keyset(client("gamma"), answering(answers), MARKET, 10)
    a_pass = Pass("new", closed=False, newest_by="createdAt")
    state: dict = {}
    try:
        pages = run_pass(keyset, a_pass, state, has_time=some_pages(), now=lambda: 0.0, overlap=60)
        for page in pages:
            assert isinstance(page, list)
    except IngestError as error:
        assert "\n" not in str(error)
    orjson.dumps(state)  # it is stored as JSON


SUBGRAPH = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {"orderFilledEvents": st.lists(mutations(ROW) | JSON, max_size=4)},
            optional={"_meta": JSON},
        )
    },
    optional={"errors": JSON},
)


@BY_HTTP
@given(st.lists(SUBGRAPH | JSON, min_size=1, max_size=3), st.none() | st.integers(0, 2**40))
def test_any_graphql_answer_is_rows_or_an_upstream_error(
    answering, answers: list, end: int | None
) -> None:
    state = {"timestamp": 0, "id": None}
    try:
        archive = Archive(client("goldsky"), answering(answers), 100)
        for rows in archive_pages(archive, state, end, 10**9, Progress(0.0)):
            check_counts(rows, *decode_fills(rows))
    except IngestError as error:
        assert "\n" not in str(error)
    assert 0 <= state["timestamp"] < 2**32


QUANTITIES = st.sampled_from(["0x5", "0x9", "0x", "9", "-0x1"]) | JSON
BLOCKS = st.fixed_dictionaries({"number": QUANTITIES, "timestamp": QUANTITIES, "hash": JSON})
RPC_LOGS = st.lists(mutations(LOG | {"blockNumber": "0x5"}) | JSON, max_size=4)
REPLIES = st.fixed_dictionaries(
    {"id": st.sampled_from([0, 1]) | JSON},
    optional={"result": BLOCKS | RPC_LOGS | JSON, "error": JSON},
)
BATCHES = st.tuples(
    st.fixed_dictionaries({"id": st.just(0), "result": BLOCKS}),
    st.fixed_dictionaries({"id": st.just(1), "result": RPC_LOGS}),
).map(list)


@BY_HTTP
@given(st.lists(BATCHES | st.lists(REPLIES, max_size=3) | JSON, min_size=1, max_size=3))
def test_any_rpc_answer_is_rows_or_an_upstream_error(answering, answers: list) -> None:
    node = Node(client("polygon"), answering(answers), block_range=8)
    reader = RangeReader(Endpoints([node], sleep=lambda seconds: None), (V2,), head=14)
    try:
        tables, _, block = reader.read(5, 9)
    except IngestError as error:
        assert "\n" not in str(error)
    else:
        assert 5 <= block.number <= 9
        for table in tables:
            assert all(5 <= number <= 9 for number in table.column("block_number").to_pylist())


# -- words ---


@given(st.integers(0, 2**33), st.none() | TEXTS, st.none() | st.integers(0, 2**33))
def test_a_filter_asks_for_what_follows(timestamp: int, last: str | None, end: int | None) -> None:
    where = keyset_filter(timestamp, last, end)
    branches = where.get("or", [where])
    assert branches[0]["timestamp_gt"] == str(timestamp)
    assert ("timestamp_lt" in branches[0]) == (end is not None)
    assert ("or" in where) == (last is not None) and not ("or" in where and len(where) > 1)


@given(st.text(max_size=40))
@example("http://[x/?key=1")
@example("Fri, 31 Dec 99999999999 23:59:59 GMT")
def test_any_text_can_be_shown_and_waited_for(text: str) -> None:
    assert "\n" not in one_line(text)
    assert isinstance(mask_url(text), str)
    wait = parse_retry_after(text)
    assert wait is None or wait >= 0


@given(*[st.none() | st.text(max_size=30) | st.datetimes().map(str) for _ in range(2)])
@example("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")
def test_any_range_is_half_open_or_refused_in_one_line(start: str | None, end: str | None) -> None:
    try:
        first, last = parse_range(start, end)
    except SettingsError as refusal:
        assert len(str(refusal).splitlines()) == 1
    else:
        assert first is None or first < last


SETTINGS = sorted(Settings.model_fields)


@given(st.sampled_from(SETTINGS), st.text(st.characters(blacklist_characters="\0"), max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_setting_is_taken_or_refused_in_one_line(name: str, value: str) -> None:
    try:
        load_settings(_env_file=None, **{name: value})
    except SettingsError as refusal:
        assert str(refusal).startswith(f"{name.upper()}: ")
        assert len(str(refusal).splitlines()) == 1


# -- the HTTP front of the embedded ClickHouse ---

SQL = st.lists(
    st.sampled_from(
        [
            b"select", b"1", b"insert into t", b"values", b"(1)", b"format", b"FORMAT", b"CSV", b"\xff\xfe", b"'",
            b'"', b"`", b"--", b"/*", b"$$", b";", b"settings", b"max_threads=1", b"{x:UInt8}", b"\0", b"as", b"x",
        ]
    ),
    max_size=8,
).map(b" ".join) | st.binary(max_size=40)  # fmt: skip
PARAMETERS = st.dictionaries(
    st.sampled_from(
        [
            "query", "database", "default_format", "session_id", "session_timeout", "session_check", "query_id",
            "param_x", "readonly", "compress", "enable_http_compression", "wait_end_of_query", "max_threads",
            "user", "password", "role", "x y",
        ]
    ),
    TEXTS | st.sampled_from(["select 1", "1", "0", "CSV"]),
    max_size=4,
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Content-Encoding", "Accept-Encoding", "Content-Type", "Authorization", "X-ClickHouse-User",
            "X-ClickHouse-Key", "X-ClickHouse-Database", "X-ClickHouse-Format", "Connection", "Expect-Nothing",
        ]
    ),
    st.sampled_from(
        ["", "gzip", "lz4", "zstd", "deflate", "br", "Basic !!", "Basic ZGVmYXVsdDo=", "é", "close", "default",
         "multipart/form-data", "multipart/form-data; boundary=b", "CSV"]
    )
    | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=10),
    max_size=3,
)  # fmt: skip
FORM = b'\r\n--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--b--\r\n'
BODIES = (
    SQL
    | SQL.map(gzip.compress)
    | st.builds(lambda name, value: FORM % (name, value), st.sampled_from([b"query", b"\xff"]), SQL)
)


def asked(endpoint: Endpoint, method: str, path: str, body: bytes = b"", **headers: str) -> tuple:
    """Status, headers and body of an answer; the connection may end early once it has begun."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=PATIENCE_S)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in ({"X-ClickHouse-Key": endpoint.password} | headers).items():
            connection.putheader(name, value.encode("latin-1"))
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        try:
            return response.status, response.headers, response.read()
        except http.client.IncompleteRead as partial:
            return response.status, response.headers, partial.partial
    finally:
        connection.close()


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"]),
    st.sampled_from(["/", "/", "/", "/ping", "/replicas_status", "/nowhere", "//", "/?%ff=%fe&query=%00"]),
    PARAMETERS,
    HEADERS,
    BODIES,
)  # fmt: skip
@example("POST", "/", {}, {}, b"select 1 FORMAT \xff\xfe")
@example("POST", "/", {"session_id": "s", "session_timeout": "9" * 5000}, {}, b"select 1")
@example(
    "POST", "/", {}, {"Content-Type": "multipart/form-data; boundary=b"}, FORM % (b"query", b"\xff")
)
@example(
    "POST", "/", {}, {"Content-Type": "multipart/form-data; boundary=b"}, FORM % (b"\xff", b"1")
)
def test_any_request_gets_an_answer_of_clickhouse(
    clickhouse: Endpoint, method: str, path: str, parameters: dict, headers: dict, body: bytes
) -> None:
    query = urlencode(parameters)
    joined = path + ("&" if "?" in path else "?") + query if query else path
    status, answered, text = asked(clickhouse, method, joined, body, **headers)
    assert 200 <= status < 600
    if status >= 500:
        assert "X-ClickHouse-Exception-Code" in answered, text
    status, _, text = asked(clickhouse, "GET", "/?query=" + quote_from_bytes(b"select 1"))
    assert (status, text) == (200, b"1\n")


@given(SQL)
def test_any_text_is_taken_apart(text: bytes) -> None:
    spans = [(token.start, token.end) for token in tokens(text)]
    assert all(start < end for start, end in spans) and spans == sorted(spans)
    sqltext.verb(text)
    query, output_format, tail = sqltext.output_clauses(text)
    assert output_format is None or (text.startswith(query) and text.endswith(tail))
    head = sqltext.insert_head(text)
    assert head is None or (text.startswith(head.statement) and head.data_start <= len(text))
