"""The embedded ClickHouse spoken to in plain HTTP: curl, and the details clients rely on."""

import gzip
import http.client
import json
import subprocess
import threading
import time
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from worlds import PATIENCE_S

from embedded_clickhouse import Access, running

SLOW = "select sum(cityHash64(number)) from numbers(100000000000)"


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        try:
            self.body, self.is_complete = response.read(), True
        except http.client.IncompleteRead as error:
            self.body, self.is_complete = error.partial, False
        self.text = self.body.decode(errors="replace")

    @property
    def code(self):
        return int(self.headers.get("X-ClickHouse-Exception-Code", 0))

    @property
    def summary(self):
        return {
            name: int(value)
            for name, value in json.loads(self.headers["X-ClickHouse-Summary"]).items()
        }


def ask(endpoint, body=b"", method="POST", headers=None, **params):
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=PATIENCE_S)
    signed = {"X-ClickHouse-Key": endpoint.password} if endpoint.password else {}
    signed |= headers or {}
    connection.request(method, "/?" + urlencode(params), body, signed)
    try:
        return Answer(connection.getresponse())
    finally:
        connection.close()


@pytest.fixture
def table(clickhouse, database_prefix):
    """The name of an empty table (a Int64, s String)."""
    ask(clickhouse, f"create database {database_prefix}".encode())
    name = f"{database_prefix}.t"
    ask(clickhouse, f"create table {name} (a Int64, s String) engine=MergeTree order by a".encode())
    return name


def curl(*arguments, data=None):
    run = subprocess.run(
        ["curl", "-sS", "--max-time", "30", *arguments], input=data, capture_output=True, check=True
    )
    return run.stdout.decode()


def test_curl_pings_queries_and_inserts(clickhouse, table):
    url = f"http://default:{clickhouse.password}@{clickhouse.host}:{clickhouse.port}/"

    assert curl(f"{url}ping") == "Ok.\n"
    assert curl(url) == "Ok.\n"
    assert curl(f"{url}?query=select%201%2B1") == "2\n"
    assert curl(url, "-d", "select 'a', 1 format CSV") == '"a",1\n'

    csv = b"".join(b"%d,row %d\n" % (number, number) for number in range(200_000))
    insert = f"{url}?query=insert%20into%20{table}%20format%20CSV"
    assert curl(insert, "--data-binary", "@-", data=csv) == ""

    assert curl(url, "-d", f"select count(), max(s) from {table}") == "200000\trow 99999\n"


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ("insert into {t} format CSV\n1,one\n", ""),
        ("1,one\n", "insert into {t} format CSV"),
        ("insert into {t} values (1, 'one')", ""),
        ("(0 + 1, lower('ONE'))", "insert into {t} values"),
        ("", "insert into {t} values (1, 'one')"),
        ("insert into {t} (s, a) select 'one', 1", ""),
        (
            'insert into {t} settings async_insert=1, wait_for_async_insert=1 format JSONEachRow\n{{"a":1,"s":"one"}}',
            "",
        ),
    ],
)
def test_data_may_come_in_the_body_or_behind_the_statement(clickhouse, table, body, query):
    answer = ask(clickhouse, body.format(t=table).encode(), query=query.format(t=table))

    assert (answer.status, answer.text) == (200, "")
    assert answer.summary["written_rows"] == 1
    assert ask(clickhouse, f"select * from {table}".encode()).text == "1\tone\n"


@pytest.mark.parametrize(
    ("column", "view", "settings", "code"),
    [
        ("constraint small check a < 1000000", "a", {}, 469),
        ("index i a type minmax", "throwIf(a = 7, 'seven') + a", {}, 395),
        ("index i a type minmax", "a", {"max_memory_usage": 50_000}, 241),
        ("index i a type minmax", "a", {}, 0),
    ],
)
@pytest.mark.parametrize("rows", [1, 200_000])
def test_what_fails_while_rows_are_written_is_an_error(
    clickhouse, database_prefix, column, view, settings, code, rows
):
    """However small or large the insert: an answer of 200 says that its rows are there."""
    ask(clickhouse, f"create database {database_prefix}".encode())
    name = f"{database_prefix}.strict"
    create = f"create table {name} (a Int64, s String, {column}) engine=MergeTree order by a"
    ask(clickhouse, create.encode())
    ask(
        clickhouse,
        f"create materialized view {name}_mv engine=MergeTree order by b as select {view} as b"
        f" from {name}".encode(),
    )
    values = [2_000_000, 7, *range(3)] if rows == 1 else range(10_000_000, 10_000_000 + rows)
    lines = "".join(f'{{"a": {a if rows == 1 or a % 9 else 7}, "s": "x"}}\n' for a in values)
    answer = ask(
        clickhouse, lines.encode(), query=f"insert into {name} format JSONEachRow", **settings
    )
    assert answer.code == code, answer.text
    assert (answer.status == 200) == (code == 0)
    assert "/dev/fd" not in answer.text
    if code:
        assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    else:
        stored = ask(clickhouse, f"select count() from {name}".encode())
        assert int(stored.text) == len(values)


def test_settings_of_an_insert_count(clickhouse, table):
    statement = f"insert into {table} (s, a) settings format_csv_delimiter = ';' format CSV"
    taken = ask(clickhouse, b"x;1\n", query=statement)
    assert taken.status == 200, taken.text
    assert ask(clickhouse, f"select * from {table}".encode()).text == "1\tx\n"


def test_an_insert_that_breaks_off_leaves_no_row_of_its_last_block(clickhouse, table):
    """The client promises more than it sends, and what it sent would be whole rows."""
    connection = http.client.HTTPConnection(clickhouse.host, clickhouse.port, timeout=PATIENCE_S)
    connection.putrequest("POST", "/?" + urlencode({"query": f"insert into {table} format TSV"}))
    connection.putheader("X-ClickHouse-Key", clickhouse.password)
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b"1\tone\n2\ttwo\n")
    time.sleep(0.3)
    connection.close()
    deadline = time.monotonic() + PATIENCE_S
    running = (
        "select count() from system.processes"
        " where query ilike '%infile%' and query not ilike '%processes%'"
    )
    while ask(clickhouse, running.encode()).text != "0\n":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ask(clickhouse, f"select count() from {table}".encode()).text == "0\n"


def test_parameters_reach_every_kind_of_statement(clickhouse, table):
    insert = f"insert into {table} values ({{a:Int64}}, {{s:String}})".encode()
    database, name = table.split(".")
    stream = "insert into {d:Identifier}.{t:Identifier} format CSV"

    assert ask(clickhouse, insert, param_a=1, param_s="o'ne").status == 200
    assert ask(clickhouse, b"2,two\n", query=stream, param_d=database, param_t=name).status == 200
    answer = ask(
        clickhouse, f"select s from {table} where a = {{a:Int64}} format TSVRaw".encode(), param_a=1
    )

    assert answer.text == "o'ne\n"
    assert ask(clickhouse, f"select count() from {table}".encode()).text == "2\n"


@pytest.mark.parametrize(
    ("query", "params", "status", "code", "message"),
    [
        ("selec 1", {}, 400, 62, "Syntax error: failed at position 1 (selec)"),
        ("", {}, 400, 62, "Empty query"),
        ("select 1; select 2", {}, 400, 62, "Multi-statements are not allowed"),
        ("select * from nope", {}, 404, 60, "'nope'"),
        ("select 1", {"database": "nope"}, 404, 81, "Database nope does not exist"),
        ("select 1", {"nope": "1"}, 404, 115, "Unknown setting 'nope'"),
        ("select 1 format Nope", {}, 404, 73, "Unknown format Nope"),
        ("select 1", {"default_format": "CSV select"}, 404, 73, "Unknown format CSV select"),
        ("select 1", {"database": "a`b\\"}, 404, 81, "does not exist"),
        ("insert into nope format CSV\n1", {}, 404, 60, "nope"),
        ("select {x:String}", {}, 500, 456, "Substitution `x` is not set"),
        ("select 1 into outfile '/dev/null'", {}, 500, 358, "INTO OUTFILE is not allowed"),
        ("drop table nope", {"readonly": "1"}, 500, 164, "readonly mode"),
        ("select 1", {"session_id": "n", "session_check": "1"}, 500, 372, "Session n not found"),
        ("select 1", {"session_id": "n", "session_timeout": "x"}, 500, 374, "session timeout"),
        (SLOW, {"max_execution_time": "0.2"}, 408, 159, "Timeout exceeded"),
        (
            "select arraySort(range(100000000))",
            {"max_memory_usage": "10M"},
            500,
            241,
            "memory limit",
        ),
        ("insert into t select * from input('a Int8') format CSV\n1", {}, 501, 48, "input()"),
    ],
)
def test_errors_have_clickhouses_status_code_and_text(
    clickhouse, query, params, status, code, message
):
    answer = ask(clickhouse, query.encode(), **params)

    assert (answer.status, answer.code) == (status, code), answer.text
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    assert message in answer.text
    assert "(version 26." in answer.text


def test_get_only_reads(clickhouse, table):
    write = ask(clickhouse, method="GET", query=f"insert into {table} values (1, '')")
    drop = ask(clickhouse, method="GET", query=f"drop table {table}")

    assert (write.code, drop.code) == (164, 164)
    assert ask(clickhouse, method="GET", query=f"select count() from {table}").text == "0\n"


def test_bytes_that_are_not_utf8_pass_through(clickhouse):
    assert ask(clickhouse, b"select '\xff\xfe'").body == b"\xff\xfe\n"
    assert ask(clickhouse, b"select \xff").code == 62


@pytest.mark.parametrize(
    ("output_format", "kind"),
    [
        ("TabSeparatedWithNames", "text/tab-separated-values; charset=UTF-8"),
        ("CSVWithNames", "text/csv; charset=UTF-8; header=present"),
        ("JSON", "application/json; charset=UTF-8"),
        ("JSONEachRow", "application/x-ndjson; charset=UTF-8"),
        ("Native", "application/octet-stream"),
        ("Pretty", "text/plain; charset=UTF-8"),
    ],
)
def test_headers_describe_the_result(clickhouse, output_format, kind):
    answer = ask(
        clickhouse, b"select number from numbers(10)", default_format=output_format, query_id="mine"
    )

    assert answer.headers["Content-Type"] == kind
    assert answer.headers["X-ClickHouse-Format"] == output_format
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Timezone"] == "UTC"
    assert answer.summary["read_rows"] == answer.summary["result_rows"] == 10


@pytest.mark.parametrize("given", ["", "two\nlines", "ünïcode"])
def test_a_query_id_that_no_header_can_carry_is_replaced(clickhouse, given):
    answer = ask(clickhouse, b"select 1", query_id=given)

    assert answer.text == "1\n"
    assert len(answer.headers["X-ClickHouse-Query-Id"]) == 36


def test_a_statement_without_a_result_has_no_format(clickhouse):
    assert "X-ClickHouse-Format" not in ask(clickhouse, b"set max_threads = 1").headers


def test_a_compressed_body_is_unpacked_and_a_damaged_one_refused(clickhouse):
    def send(body, encoding):
        return ask(clickhouse, body, headers={"Content-Encoding": encoding})

    assert send(gzip.compress(b"select ") + gzip.compress(b"1"), "gzip").text == "1\n"
    assert send(b"select 1", "gzip").code == 271
    assert send(gzip.compress(b"select 1")[:-9], "gzip").code == 271
    assert send(b"select 1", "rot13").code == 89


def test_a_result_is_compressed_only_if_asked(clickhouse):
    headers = {"Accept-Encoding": "gzip"}

    plain = ask(clickhouse, b"select 1", headers=headers)
    packed = ask(clickhouse, b"select 1", headers=headers, enable_http_compression=1)

    assert (plain.body, gzip.decompress(packed.body)) == (b"1\n", b"1\n")


def test_a_late_error_ends_in_a_block_and_a_broken_connection(clickhouse):
    query = b"select number, throwIf(number = 900000) from numbers(1000000)"

    streamed = ask(clickhouse, query)
    waited = ask(clickhouse, query, wait_end_of_query=1)

    tag = streamed.headers["X-ClickHouse-Exception-Tag"]
    assert (streamed.status, streamed.is_complete) == (200, False)
    assert f"\r\n__exception__\r\n{tag}\r\nCode: 395." in streamed.text
    assert streamed.text.endswith(f" {tag}\r\n__exception__\r\n")
    assert (waited.status, waited.code) == (500, 395)


def test_a_session_keeps_what_is_set_but_not_what_the_url_sets(clickhouse, database_prefix):
    ask(clickhouse, f"create database {database_prefix}".encode())
    session = {"session_id": database_prefix}

    def threads(**params):
        return ask(clickhouse, b"select getSetting('max_threads')", **session, **params).text

    def database(**params):
        return ask(clickhouse, b"select currentDatabase()", **session, **params).text.strip()

    ask(clickhouse, b"set max_threads = 5", **session, max_threads=7)
    ask(clickhouse, f"use {database_prefix}".encode(), **session)

    assert (threads(), threads(max_threads=3), threads()) == ("5\n", "3\n", "5\n")
    assert "CANNOT_PARSE" in threads(max_threads="x")
    assert threads() == "5\n"
    assert (database(), database(database="system"), database()) == (
        database_prefix,
        "system",
        database_prefix,
    )


def test_a_session_ends_after_its_timeout_or_when_closed(clickhouse):
    def check(session_id):
        return ask(clickhouse, b"select 1", session_id=session_id, session_check=1).code

    ask(clickhouse, b"select 1", session_id="short", session_timeout=1)
    ask(clickhouse, b"select 1", session_id="closed", close_session=1)
    assert (check("short"), check("closed")) == (0, 372)
    ask(clickhouse, b"select 1", session_id="short", session_timeout=0)
    time.sleep(0.1)
    assert check("short") == 372


def test_a_client_that_leaves_takes_its_query_with_it(clickhouse):
    connection = http.client.HTTPConnection(clickhouse.host, clickhouse.port)
    signed = {"X-ClickHouse-Key": clickhouse.password}
    connection.request("POST", "/", f"{SLOW} /* left alone */", signed)
    running_now = b"select count() from system.processes where query like '%left' || ' alone%'"

    def wait_for(count):
        deadline = time.monotonic() + PATIENCE_S
        while (found := ask(clickhouse, running_now).text) != f"{count}\n":
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    wait_for(1)
    connection.close()
    wait_for(0)


def test_a_client_that_stops_reading_holds_its_query_up_and_nobody_else(clickhouse):
    connection = http.client.HTTPConnection(clickhouse.host, clickhouse.port)
    signed = {"X-ClickHouse-Key": clickhouse.password}
    query = "select number from numbers(1000000000) format Native"
    connection.request("POST", "/", query, signed)
    connection.getresponse().read(1000)

    started = time.monotonic()
    assert ask(clickhouse, b"select 1").text == "1\n"
    assert time.monotonic() - started < 20  # a client has 30 s to go on reading
    connection.close()


def test_many_clients_are_served_at_once(clickhouse):
    answers = []

    def work():
        answers.append(ask(clickhouse, b"select sleep(0.5)").text)

    threads = [threading.Thread(target=work) for _ in range(16)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == ["0\n"] * 16
    assert time.monotonic() - started < 16 * 0.5


def test_only_the_password_lets_a_client_in(tmp_path):
    with running(tmp_path, 0, access=Access("se:cret")) as started:
        endpoint = replace(started, password="")  # `ask` sends no password of its own
        url = f"http://{endpoint.host}:{endpoint.port}/"
        ways_in = [
            ask(
                endpoint,
                b"select 1",
                headers={"X-ClickHouse-User": "default", "X-ClickHouse-Key": "se:cret"},
            ),
            ask(endpoint, b"select 1", user="default", password="se:cret"),
        ]
        ways_out = [
            ask(endpoint, b"select 1"),
            ask(endpoint, b"select 1", password="wrong"),
            ask(endpoint, b"select 1", user="other", password="se:cret"),
            ask(endpoint, b"select 1", headers={"Authorization": "Basic %%%"}),
        ]

        assert [answer.text for answer in ways_in] == ["1\n"] * 2
        assert curl(url, "--user", "default:se:cret", "-d", "select 1") == "1\n"
        assert [(answer.status, answer.code) for answer in ways_out] == [(403, 516)] * 4
        assert "default: Authentication failed" in ways_out[0].text
        assert curl(f"{url}ping") == "Ok.\n"
