"""The embedded ClickHouse through an unmodified clickhouse-connect."""

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError


@pytest.fixture
def client(clickhouse, database_prefix):
    client = clickhouse_connect.get_client(host=clickhouse.host, port=clickhouse.port)
    client.command(f"create database {database_prefix}")
    client.database = database_prefix
    yield client
    client.close()


def test_rows_come_back_as_they_were_inserted(client):
    client.command("create table t (a Int64, s String) engine = MergeTree order by a")

    summary = client.insert("t", [[1, "a"], [2, "b"]], column_names=["a", "s"])

    assert summary.written_rows == 2
    assert client.query("select a, s from t order by a").result_rows == [(1, "a"), (2, "b")]


def test_an_error_carries_clickhouses_code_name_and_message(client):
    with pytest.raises(DatabaseError, match="Unknown expression identifier `nope`") as caught:
        client.query("select nope")

    assert (caught.value.code, caught.value.name) == (47, "UNKNOWN_IDENTIFIER")
