"""The embedded ClickHouse through an unmodified clickhouse-connect."""

import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import clickhouse_connect
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, ProgrammingError
from worlds import PATIENCE_S

ROWS = 1_000_000


@pytest.fixture
def connect(clickhouse, database_prefix):
    """A function that opens a client in a database of the test."""
    clients = []

    def open_client(**options):
        client = clickhouse_connect.get_client(
            host=clickhouse.host,
            port=clickhouse.port,
            password=clickhouse.password,
            **options,
        )
        clients.append(client)
        client.command(f"create database if not exists {database_prefix}")
        client.database = database_prefix
        return client

    yield open_client
    for client in clients:
        client.close()


@pytest.fixture
def client(connect):
    return connect()


def hex_rows(count: int) -> pa.Table:
    """Rows the size of a fill: a number and 66 characters that hardly compress."""
    numbers = pa.array(range(count), pa.int64())
    return pa.table({"a": numbers, "s": pc.utf8_lpad(pc.cast(numbers, pa.string()), 66, "0")})


def peak_memory(pid: int) -> int:
    """The most physical memory the process ever had, in MiB."""
    with Path(f"/proc/{pid}/status").open() as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def test_rows_come_back_as_they_were_inserted(client):
    client.command(
        "create table t (a UInt256, d Decimal(38, 6), at DateTime64(3, 'Asia/Tokyo'), "
        "s LowCardinality(String), n Nullable(Int8)) engine = MergeTree order by a"
    )
    at = datetime(2026, 4, 28, 11, 0, 40, 123000, tzinfo=UTC)
    rows = [(2**256 - 1, Decimal("0.000001"), at, "a'\\\t\n", None), (0, Decimal(1), at, "", 7)]

    summary = client.insert("t", rows, column_names=["a", "d", "at", "s", "n"])

    assert summary.written_rows == 2
    result = client.query("select * from t order by a desc")
    assert result.result_rows == rows
    assert result.column_names == ("a", "d", "at", "s", "n")
    assert result.result_rows[0][2].utcoffset().total_seconds() == 9 * 3600
    assert int(result.summary["read_rows"]) == 2


def test_frames_and_arrow_tables_make_the_round_trip(client):
    client.command("create table t (a Int64, s String) engine = MergeTree order by a")
    table = hex_rows(1000)

    client.insert_arrow("t", table)
    client.insert_df("t", table.to_pandas())

    query = "select a, s, count() as n from t group by a, s order by a"
    assert client.query_arrow(query, use_strings=True).select(["a", "s"]).to_pydict() == (
        table.to_pydict()
    )
    frame = client.query_df(query)
    assert frame.s.tolist() == table["s"].to_pylist()
    assert set(frame.n) == {2}


@pytest.mark.parametrize("fmt", ["CSVWithNames", "JSONEachRow", "Parquet", "Native", "ArrowStream"])
def test_what_is_read_in_a_format_can_be_inserted_in_it(client, fmt):
    client.command("create table t (a Int64, s String) engine = MergeTree order by a")
    query = "select number as a, toString(number) as s from numbers(1000)"

    written = client.raw_insert("t", insert_block=client.raw_query(query, fmt=fmt), fmt=fmt)

    assert written.written_rows == 1000
    assert client.raw_query("select * from t order by a", fmt="CSV") == client.raw_query(
        query, fmt="CSV"
    )


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_both_directions_can_be_compressed(connect, compress):
    client = connect(compress=compress)
    client.command("create table t (a Int64, s String) engine = MergeTree order by a")

    rows = [(n, "x" * n) for n in range(3000)]

    client.insert("t", rows, column_names=["a", "s"])

    assert client.query("select a, s from t order by a").result_rows == rows


def test_parameters_are_bound_by_the_engine_and_by_the_client(client):
    value = "it's\t\\ {x:String} %(x)s"

    bound = client.query("select {x:String}, {y:Array(Int32)}", {"x": value, "y": [1, 2]})
    substituted = client.query("select %(x)s, %(y)s", {"x": value, "y": [1, 2]})
    long = client.query("select length({x:String})", {"x": "x" * 100_000})

    assert bound.result_rows == [(value, [1, 2])]
    assert substituted.result_rows == [(value, [1, 2])]
    assert long.result_rows == [(100_000,)]


def test_settings_last_for_one_query(client):
    setting = "select getSetting('max_block_size')"
    default = client.command(setting)

    assert client.command(setting, settings={"max_block_size": 123}) == 123
    assert client.command(setting) == default


def test_a_session_keeps_its_temporary_table_to_itself(connect):
    one, other = connect(), connect()
    one.command("create temporary table t (a Int8)")
    one.insert("t", [[1]], column_names=["a"])

    assert one.command("select a from t") == 1
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        other.command("select a from t")


def test_two_clients_of_one_session_take_turns(connect):
    holder, other = connect(session_id="shared"), connect()
    thread = threading.Thread(target=holder.query, args=["select sleep(1)"])
    thread.start()
    time.sleep(0.4)

    with pytest.raises(DatabaseError) as caught:
        other.command("select 1", settings={"session_id": "shared"})
    thread.join()

    assert (caught.value.code, caught.value.name) == (373, "SESSION_IS_LOCKED")
    assert other.command("select 1", settings={"session_id": "shared"}) == 1


def test_an_error_carries_clickhouses_code_name_and_message(client):
    with pytest.raises(DatabaseError, match="Unknown expression identifier `nope`") as caught:
        client.query("select nope")

    assert (caught.value.code, caught.value.name) == (47, "UNKNOWN_IDENTIFIER")
    assert "(version 26." in str(caught.value)


def test_a_result_that_fails_half_way_is_an_error(connect):
    query = "select number, throwIf(number = 3000000) from numbers(4000000)"
    client = connect(compress="lz4")

    with pytest.raises(DatabaseError, match="non-zero"):
        client.query(query)
    with (
        pytest.raises(DatabaseError, match="non-zero"),
        client.query_column_block_stream(query) as blocks,
    ):
        for _ in blocks:
            pass


def test_bad_data_leaves_the_table_as_it_was(client):
    client.command("create table t (a Int64) engine = MergeTree order by a")
    data = b"".join(b"%d\n" % number for number in range(200_000)) + b"x\n"

    with pytest.raises(DatabaseError, match="Row 200001"):
        client.raw_insert("t", insert_block=data, fmt="CSV")

    assert client.command("select count() from t") == 0


def test_a_million_rows_pass_in_bounded_memory(clickhouse, connect):
    client = connect()
    client.command("create table t (a Int64, s String) engine = MergeTree order by a")
    rows = hex_rows(ROWS)
    client.insert_arrow("t", rows.slice(0, 1000))
    before = peak_memory(clickhouse.pid)

    # 75 MB go in and 750 MB or more come out twice: what buffers a result would need all of it
    client.insert_arrow("t", rows)
    received = 0
    query = "select t.a, t.s from t, numbers(10) as copies"
    with client.query_column_block_stream(query) as blocks:
        for columns in blocks:
            received += len(columns[0])
    stream = client.raw_stream(query, fmt="JSONEachRow")
    size = sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b""))

    assert received == (ROWS + 1000) * 10
    assert size > 800_000_000
    assert peak_memory(clickhouse.pid) - before < 500


def test_readers_go_on_while_rows_are_inserted(connect):
    writer, reader = connect(), connect()
    writer.command("create table t (a Int64) engine = MergeTree order by a")
    seen = []

    def read():
        while not seen or seen[-1] < 400_000:
            seen.append(reader.command("select count() from t"))

    thread = threading.Thread(target=read)
    thread.start()
    for start in range(0, 400_000, 20_000):
        writer.insert("t", [[n] for n in range(start, start + 20_000)], column_names=["a"])
    thread.join(timeout=PATIENCE_S)

    assert seen == sorted(seen)
    assert {count % 20_000 for count in seen} == {0}
    assert len(set(seen)) > 5


def test_one_client_refuses_two_queries_at_once(client):
    """While an answer is streamed the server says 373; this one is larger than all buffers on the way, so it is not done."""
    with client.query_row_block_stream("select rand64(number) from numbers(20000000)") as blocks:
        next(iter(blocks))
        with pytest.raises((DatabaseError, ProgrammingError), match=r"concurrent|locked"):
            client.query("select 1")
