"""Spellings of values in archives: whatever type and notation a value is written in, ClickHouse reads the same value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from embedded_clickhouse import running
from ingest.errors import ArchiveError
from ingest.sources.parquet.layouts import bare, choose, known_layouts, quoted
from ingest.sources.parquet.places import Keys, Place, places_of
from ingest.sources.parquet.spellings import FIELDS, WrongType, spelled
from ingest.sources.parquet.statements import literal
from pipeline.warehouse.client import Server, connect

LARGEST, LARGEST_64, LARGEST_32 = (1 << 256) - 1, (1 << 64) - 1, (1 << 32) - 1
Read = Callable[..., list]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spelled")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with running(folder / "clickhouse", 0) as own:
        yield connect(Server(own.host, own.port, own.user, own.password, False, embedded=True))


@pytest.fixture(scope="module")
def read(folder: Path, client: Client) -> Read:
    """What a field is when a file has these values in a column; null where it is none."""

    def reading(field: str, values: pa.Array, *, is_little: bool = False) -> list:
        path = folder / "clickhouse" / "files" / "x.parquet"
        pq.write_table(pa.table({"it": values}), path)
        described = client.query("describe table file('x.parquet', Parquet)").result_rows
        sql = spelled(field, "archive.`it`", bare(described[0][1]), is_little=is_little)
        found = client.query(
            f"select {sql} as value from file('x.parquet', Parquet) as archive",
            settings={"use_parquet_metadata_cache": 0},
        )
        return [row[0] for row in found.result_rows]

    return reading


def examples(**strategies: some.SearchStrategy) -> Callable:
    def decorated(test: Callable) -> Callable:
        fixture = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        return hypothesis_settings(max_examples=8, suppress_health_check=fixture)(
            given(**strategies)(test)
        )

    return decorated


def mixed(text: str, upper: bool) -> str:
    return text.upper() if upper else text


@examples(
    hashes=some.lists(some.binary(min_size=32, max_size=32), min_size=1, max_size=20),
    upper=some.booleans(),
)
def test_hashes(read: Read, hashes: list[bytes], upper: bool) -> None:
    expected = ["0x" + each.hex() for each in hashes]
    for values in (
        pa.array([mixed("0x" + each.hex(), upper) for each in hashes]),
        pa.array([mixed(each.hex(), upper) for each in hashes]),
        pa.array(hashes, pa.binary()),
        pa.array(hashes, pa.binary(32)),
        pa.array([each.hex().encode() for each in hashes], pa.binary(64)),
    ):
        assert read("tx_hash", values) == expected


@examples(addresses=some.lists(some.binary(min_size=20, max_size=20), min_size=1, max_size=20))
def test_addresses(read: Read, addresses: list[bytes]) -> None:
    expected = ["0x" + each.hex() for each in addresses]
    topics = [bytes(12) + each for each in addresses]
    for values in (
        pa.array(expected),
        pa.array([each.hex().upper() for each in addresses]),
        pa.array(addresses, pa.binary(20)),
        pa.array(addresses, pa.binary()),
        pa.array(topics, pa.binary(32)),
        pa.array(["0x" + each.hex() for each in topics]),
    ):
        assert read("maker", values) == expected


@examples(
    ids=some.lists(some.integers(0, LARGEST) | some.integers(0, 300), min_size=1, max_size=20)
)
def test_ids(read: Read, ids: list[int]) -> None:
    expected = [str(each) for each in ids]
    for values in (
        pa.array(expected),
        pa.array(["000" + each for each in expected]),
        pa.array([hex(each) for each in ids]),
        pa.array([each.to_bytes(32, "big") for each in ids], pa.binary(32)),
        pa.array([each % 10**76 for each in ids]) if max(ids) < 1 << 63 else None,
    ):
        if values is not None:
            assert read("token_id", values) == expected
    little = pa.array([each.to_bytes(32, "little") for each in ids], pa.binary(32))
    assert read("token_id", little, is_little=True) == expected


@examples(
    numbers=some.lists(
        some.integers(0, LARGEST_64) | some.integers(0, 127), min_size=1, max_size=20
    )
)
def test_amounts(read: Read, numbers: list[int]) -> None:
    for values in (
        pa.array(numbers, pa.uint64()),
        pa.array([str(each) for each in numbers]),
        pa.array([hex(each) for each in numbers]),
        pa.array([Decimal(each) for each in numbers], pa.decimal128(38, 0)),
        pa.array([Decimal(each) for each in numbers], pa.decimal256(70, 0)),
        pa.array([each.to_bytes(32, "big") for each in numbers], pa.binary(32)),
    ):
        assert read("fee", values) == numbers
    if max(numbers) < 128:
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32()):
            assert read("fee", pa.array(numbers, kind)) == numbers


@examples(times=some.lists(some.integers(1_600_000_000, LARGEST_32), min_size=1, max_size=20))
def test_times(read: Read, times: list[int]) -> None:
    for values in (
        pa.array(times, pa.int64()),
        pa.array([each * 1000 for each in times]),
        pa.array([each * 1_000_000 for each in times]),
        pa.array([each * 1_000_000_000 for each in times]),
        pa.array([str(each) for each in times]),
        pa.array([each * 1000 for each in times], pa.timestamp("ms", "UTC")),
        pa.array([each * 1_000_000 for each in times], pa.timestamp("us")),
        pa.array([each * 1_000_000_000 for each in times], pa.timestamp("ns", "Europe/Berlin")),
        pa.array(times, pa.int64()).cast(pa.timestamp("s", "UTC")).cast(pa.string()),
    ):
        assert read("timestamp", values) == times


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        (
            "tx_hash",
            ["", "0x", "0x12", "0x" + "g" * 64, "0x" + "1" * 65, None, "a" * 32 + "\n"],
            [None] * 7,
        ),
        ("maker", ["0x" + "1" * 39, "0x" + "1" * 64, "x" * 40], [None] * 3),
        ("token_id", ["", "-1", "1.0", "1e3", str(LARGEST + 1), "0x", " 1"], [None] * 7),
        (
            "fee",
            ["", "-1", "1.5", str(LARGEST_64 + 1), hex(LARGEST_64 + 1), "+1", "1_000"],
            [None] * 7,
        ),
        ("fee", [-1, None, 5], [None, None, 5]),
        ("timestamp", ["", "soon", "-5"], [None] * 3),
        ("timestamp", [1_700_000_000_500, -1], [None, None]),
        ("log_index", [1 << 32, 7], [None, 7]),
        (
            "side",
            ["BUY", "sell", "0", "1", "2", "", None],
            ["BUY", "SELL", "BUY", "SELL", None, None, None],
        ),
        ("side", [True, False], ["SELL", "BUY"]),
        ("side", [0, 1, 2], ["BUY", "SELL", None]),
        (
            "builder",
            ["0x" + "0" * 64, "", None, "0x" + "a" * 64, "x"],
            ["", "", "", "0x" + "a" * 64, None],
        ),
        ("data", ["0x12", "", None, "0x" + "g" * 320], [None] * 4),
    ],
)
def test_what_is_none_is_null(read: Read, field: str, values: Sequence, expected: list) -> None:
    assert read(field, pa.array(values)) == expected


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", ["Float64", "Float32", "Decimal(38, 6)", "Map(String, String)"])
def test_no_field_is_read_from_such_a_column(field: str, kind: str) -> None:
    with pytest.raises(WrongType):
        spelled(field, "x", kind)


# ---------- layouts, places, names


def columns_of(name: str) -> dict[str, str]:
    layout = next(each for each in known_layouts() if each.name == name)
    kinds = {"data": "String", "timestamp": "Int64", "side": "String"}
    return {
        names[0]: f"Nullable({kinds.get(field, 'String')})"
        for field, names in layout.columns.items()
    }


@pytest.mark.parametrize("name", [each.name for each in known_layouts()])
def test_a_layout_is_known_by_its_columns_in_any_case(name: str) -> None:
    columns = columns_of(name)
    assert choose(columns).layout.name == name
    camel = {each.title().replace("_", ""): kind for each, kind in columns.items()}
    assert choose(camel | {"event_month": "String"}).layout.name == name
    for missing in columns:
        left = {each: kind for each, kind in columns.items() if each != missing}
        try:
            assert choose(left).layout.name != name
        except ArchiveError as error:
            assert "which lacks" in str(error)


def test_topics_may_be_a_list() -> None:
    columns = columns_of("logs")
    listed = {each: kind for each, kind in columns.items() if not each.startswith("topic")}
    found = choose(listed | {"topics": "Array(Nullable(String))"})
    assert found.fields["topic2"].sql == "archive.`topics`[3]"


def test_braces_are_expanded_here() -> None:
    names = [each.name for each in places_of("https://h/{a,b}/{08..10}.parquet")]
    assert names[:3] == [f"https://h/a/{number}.parquet" for number in ("08", "09", "10")]
    assert len(names) == 6
    assert [each.address for each in places_of("s3://bucket/{1,2}/*.parquet")] == [
        "s3://bucket/1/*.parquet",
        "s3://bucket/2/*.parquet",
    ]


@examples(text=some.text(max_size=30))
def test_what_is_quoted_stays_one_text(client: Client, text: str) -> None:
    text = text.replace("\0", "").encode("utf-8", "ignore").decode()
    assert client.query(f"select {literal(text)} as x").result_rows == [(text,)]
    if text:
        assert client.query(f"select 1 as {quoted(text)}").column_names == (text,)


def test_secrets_are_hidden() -> None:
    place = Place("url", "https://me:pa55@h/x.parquet?X-Sig=abc%2Fdef&k=v")
    keys = Keys("AKIA1", "s3cr3t/+")
    said = f"in file/uri {place.address}: bad; s3('x', 'AKIA1', 's3cr3t/+'), X-Sig=abc%2Fdef&k=v"
    assert place.name == "https://h/x.parquet"
    assert (
        place.hidden(said, keys)
        == "in file/uri https://h/x.parquet: bad; s3('x', '***', '***'), ***"
    )
    assert place.table() == "url('https://me:pa55@h/x.parquet?X-Sig=abc%2Fdef&k=v', 'Parquet')"
    assert Place("s3", "s3://b/x").table() == "s3('s3://b/x', NOSIGN, 'Parquet')"
    assert (
        Place("s3", "s3://b/x").table(keys=keys) == "s3('s3://b/x', 'AKIA1', 's3cr3t/+', 'Parquet')"
    )
