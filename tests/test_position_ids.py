"""Position ids of ExchangeV3: the SQL that takes them apart agrees with the layout, whatever the bits."""

from __future__ import annotations

from collections.abc import Iterator

import clickhouse_connect
import jinja2
import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded_clickhouse import Endpoint
from pipeline.derive.dbt import DBT_DIR
from sandbox.positions import BINARY, COMBO, NEG_RISK, describe, position_id, position_row

MACROS = (DBT_DIR / "macros" / "position_ids.sql").read_text()
COLUMNS = ["token_id", "module", "condition_id", "event_id", "condition_index", "outcome_index"]
QUERY = jinja2.Environment().from_string(
    MACROS
    + """
    select
        fill.1 as token_id,
        {{ position_module('id') }} as module,
        {{ position_condition_id('id') }} as condition_id,
        {{ position_event_id('id') }} as event_id,
        {{ position_condition_index('id') }} as condition_index,
        {{ position_outcome_index('id') }} as outcome_index
    from (
        select *, {{ position_id('fill.1', 'fill.2') }} as id
        from (select arrayJoin({fills:Array(Tuple(String, String))}) as fill)
    )
    """
)

positions = st.builds(
    position_id,
    st.integers(1, 255),
    st.integers(0, 2**128 - 1),
    arity=st.integers(0, 2**16 - 1),
    reserved=st.integers(0, 2**64 - 1),
    chain=st.integers(0, 2**16 - 1),
    condition_index=st.integers(0, 2**16 - 1),
    outcome_index=st.integers(0, 255),
)
any_token = st.one_of(positions, st.integers(1, 2**256 - 1).map(str))


@pytest.fixture(scope="module")
def client(clickhouse: Endpoint) -> Iterator[Client]:
    client = clickhouse_connect.get_client(
        host=clickhouse.host, port=clickhouse.port, password=clickhouse.password
    )
    yield client
    client.close()


def in_sql(client: Client, fills: list[tuple[str, str]]) -> list[dict]:
    rows = client.query(QUERY.render(), parameters={"fills": fills}).result_rows
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


@settings(max_examples=40)
@given(tokens=st.lists(any_token, min_size=1, max_size=60))
def test_sql_reads_the_bits_of_v3_tokens(client: Client, tokens: list[str]) -> None:
    expected = [{name: position_row(token)[name] for name in COLUMNS} for token in tokens]
    assert in_sql(client, [(token, "v3") for token in tokens]) == expected


@settings(max_examples=10)
@given(tokens=st.lists(any_token, min_size=1, max_size=60), version=st.sampled_from(["v1", "v2"]))
def test_sql_never_reads_the_bits_of_a_hash(
    client: Client, tokens: list[str], version: str
) -> None:
    """Token ids of V1 and V2 are hashes: one may begin with the byte of a module by chance."""
    nothing = {"module": "", "condition_id": "", "event_id": ""}
    nothing |= {"condition_index": None, "outcome_index": None}
    expected = [{"token_id": token} | nothing for token in tokens]
    assert in_sql(client, [(token, version) for token in tokens]) == expected


def test_sql_takes_what_is_no_number_for_no_position(client: Client) -> None:
    for token in ("", "x", "-1", "1.5", "0"):
        [row] = in_sql(client, [(token, "v3")])
        assert (row["module"], row["condition_id"], row["outcome_index"]) == ("", "", None)


@pytest.mark.parametrize(("number", "module"), [(1, BINARY), (2, NEG_RISK), (3, COMBO)])
def test_a_position_is_described_by_its_bytes(number: int, module: str) -> None:
    token = position_id(number, 0xABCD, condition_index=3, outcome_index=1)
    condition = f"0x{number:02x}" + "0" * 28 + "abcd" + "0002" + "0" * 16 + "0089" + "0003"
    assert describe("v3", token) == {
        "module": module,
        "condition_id": condition,
        "outcome_index": 1,
    }
    assert len(condition) == 2 + 62
    assert position_row(token)["event_id"] == condition[: 2 + 58]
