"""Archives of a world as Parquet files behind a plain web server, as public data sets offer them.

`/<kind>/<layout>/<number>.parquet`: the fills of a world in one layout, cut by time into files. A kind is a way of writing
and serving them, `plain` or a fault. The server knows HEAD and ranges, but for the kind that has none.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.contracts import V1, Fill, data_of, log_of, topics_of
from sandbox.world import World

ROW_GROUP = 200
LAYOUTS = ("logs", "decoded_v1", "decoded_v2", "entities")


def unhex(text: str) -> bytes:
    """The bytes of 0x and hex digits."""
    return bytes.fromhex(text.removeprefix("0x"))


def logs(world: World) -> pa.Table:
    """Every log of the exchanges, of other events too, as text."""
    events = list(world.chain.logs(0, world.chain.head))
    rows = [log_of(event, "0x", with_timestamp=True) for event in events]
    return pa.table(
        {
            "address": [row["address"] for row in rows],
            "topics": [row["topics"] for row in rows],
            "data": [row["data"] for row in rows],
            "block_number": pa.array([event.block_number for event in events], pa.int64()),
            "block_timestamp": pa.array([int(row["blockTimestamp"], 16) for row in rows]),
            "transaction_hash": [row["transactionHash"] for row in rows],
            "log_index": pa.array([event.log_index for event in events], pa.int32()),
        }
    )


def binary_logs(world: World) -> pa.Table:
    """The same as bytes, with a column for each topic and times of milliseconds."""
    fills = _fills(world)
    topics = [[unhex(topic) for topic in topics_of(fill)] for fill in fills]
    columns = {
        f"topic{at}": pa.array([each[at] for each in topics], pa.binary(32)) for at in range(4)
    }
    return pa.table(
        {
            "address": pa.array([unhex(fill.exchange) for fill in fills], pa.binary(20)),
            **columns,
            "data": pa.array([unhex(data_of(fill)) for fill in fills], pa.binary()),
            "block_number": pa.array([fill.block_number for fill in fills], pa.uint64()),
            "timestamp": pa.array(
                [fill.timestamp * 1000 for fill in fills], pa.timestamp("ms", "UTC")
            ),
            "tx_hash": pa.array([unhex(fill.tx_hash) for fill in fills], pa.binary(32)),
            "log_index": pa.array([fill.log_index for fill in fills], pa.uint32()),
        }
    )


def decoded_v1(world: World) -> pa.Table:
    """V1 fills with their place, in upper case without 0x, amounts as decimals."""
    fills = [fill for fill in _fills(world) if fill.version == V1]

    def bare(texts: Sequence[str]) -> list[str]:
        return [text.removeprefix("0x").upper() for text in texts]

    return pa.table(
        {
            "block_number": pa.array([fill.block_number for fill in fills], pa.int64()),
            "log_index": [str(fill.log_index) for fill in fills],
            "block_timestamp": pa.array([fill.timestamp for fill in fills], pa.int32()),
            "transaction_hash": bare([fill.tx_hash for fill in fills]),
            "contract_address": bare([fill.exchange for fill in fills]),
            "order_hash": bare([fill.order_hash for fill in fills]),
            "maker": bare([fill.maker for fill in fills]),
            "taker": bare([fill.taker for fill in fills]),
            "maker_asset_id": [word(int(fill.maker_asset_id)) for fill in fills],
            "taker_asset_id": [word(int(fill.taker_asset_id)) for fill in fills],
            "maker_amount_filled": _decimals([fill.maker_amount for fill in fills]),
            "taker_amount_filled": _decimals([fill.taker_amount for fill in fills]),
            "fee": _decimals([fill.fee for fill in fills]),
        }
    )


def decoded_v2(world: World) -> pa.Table:
    """V2 and V3 fills; token ids and amounts as decimal text, times of microseconds."""
    fills = [fill for fill in _fills(world) if fill.version != V1]
    return pa.table(
        {
            "blockNumber": pa.array([fill.block_number for fill in fills], pa.int64()),
            "logIndex": pa.array([fill.log_index for fill in fills], pa.int16()),
            "timestamp": pa.array(
                [fill.timestamp * 1_000_000 for fill in fills], pa.timestamp("us")
            ),
            "transactionHash": [fill.tx_hash for fill in fills],
            "exchange": [fill.exchange for fill in fills],
            "orderHash": [fill.order_hash for fill in fills],
            "maker": [fill.maker for fill in fills],
            "taker": [fill.taker for fill in fills],
            "side": pa.array([0 if fill.side == "BUY" else 1 for fill in fills], pa.int8()),
            "tokenId": [fill.token_id for fill in fills],
            "makerAmountFilled": [str(fill.maker_amount) for fill in fills],
            "takerAmountFilled": [str(fill.taker_amount) for fill in fills],
            "fee": [str(fill.fee) for fill in fills],
            "builder": [fill.builder for fill in fills],
        }
    )


def entities(world: World) -> pa.Table:
    """V1 fills as the subgraph has them: of two with one id the later."""
    fills = sorted(
        {fill.archive_id: fill for fill in world.archive_fills()}.values(),
        key=lambda fill: (fill.timestamp, fill.archive_id),
    )
    return pa.table(
        {
            "id": [fill.archive_id for fill in fills],
            "transactionHash": [fill.tx_hash for fill in fills],
            "timestamp": [str(fill.timestamp) for fill in fills],
            "orderHash": [fill.order_hash for fill in fills],
            "maker": [fill.maker for fill in fills],
            "taker": [fill.taker for fill in fills],
            "makerAssetId": [fill.maker_asset_id for fill in fills],
            "takerAssetId": [fill.taker_asset_id for fill in fills],
            "makerAmountFilled": pa.array([fill.maker_amount for fill in fills], pa.int64()),
            "takerAmountFilled": pa.array([fill.taker_amount for fill in fills], pa.uint64()),
            "fee": pa.array([fill.fee for fill in fills], pa.int64()),
        }
    )


TABLES: dict[str, Callable[[World], pa.Table]] = {
    "logs": logs,
    "binary_logs": binary_logs,
    "decoded_v1": decoded_v1,
    "decoded_v2": decoded_v2,
    "entities": entities,
}
# Kinds that change a table before it is written.
CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "plain": lambda table: table,
    "no-ranges": lambda table: table,
    "cut": lambda table: table,
    "broken-pages": lambda table: table,
    "duplicates": lambda table: pa.concat_tables([table, table.slice(0, len(table) // 2)]),
    "wrong-type": lambda table: _with(table, "fee", table["fee"].cast(pa.float64())),
    "missing-column": lambda table: table.drop_columns(["maker"]),
    "bad-rows": lambda table: _with(table, "maker", _spoiled(table["maker"])),
}


def word(number: int) -> bytes:
    """A number as 32 bytes, the highest first."""
    return number.to_bytes(32, "big")


def written(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression="zstd")
    return sink.getvalue()


def broken(body: bytes) -> bytes:
    """A Parquet file whose footer is as it was, and whose pages are not."""
    footer = 8 + int.from_bytes(body[-8:-4], "little")
    return body[:4] + b"\xff" * (len(body) - footer - 4) + body[-footer:]


def files_of(table: pa.Table, count: int) -> list[pa.Table]:
    """A table cut into so many parts."""
    size = -(-len(table) // count)
    return [table.slice(at * size, size) for at in range(count)]


def parquet_app(world: World, count: int = 3) -> Starlette:
    """The server; each layout has `count` files, numbered from 0."""

    @cache
    def content(kind: str, layout: str, number: int) -> bytes:
        with world.lock:
            table = TABLES[layout](world)
        body = written(CHANGES[kind](files_of(table, count)[number]))
        if kind == "broken-pages":
            return broken(body)
        return body[: len(body) * 2 // 3] if kind == "cut" else body

    async def respond(request: Request) -> Response:
        path = request.path_params
        kind, layout, name = path["kind"], path["layout"], path["name"]
        number = name.removesuffix(".parquet")
        if (
            kind not in CHANGES
            or layout not in TABLES
            or not number.isdigit()
            or int(number) >= count
        ):
            return Response("no such file", 404)
        return ranged(request, content(kind, layout, int(number)), has_ranges=kind != "no-ranges")

    return Starlette(routes=[Route("/{kind}/{layout}/{name}", respond, methods=["GET", "HEAD"])])


def ranged(request: Request, body: bytes, *, has_ranges: bool) -> Response:
    """A file, or the range of it that a request asks for (RFC 9110, section 14)."""
    headers = {"Accept-Ranges": "bytes"} if has_ranges else {}
    asked = request.headers.get("range", "")
    if not has_ranges or not asked.startswith("bytes="):
        return Response(body, headers=headers, media_type="application/octet-stream")
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start = int(first) if first else len(body) - int(last)
    end = min(int(last) if first and last else len(body) - 1, len(body) - 1)
    headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
    return Response(body[start : end + 1], 206, headers, "application/octet-stream")


def _fills(world: World) -> list[Fill]:
    return [event for event in world.chain.logs(0, world.chain.head) if isinstance(event, Fill)]


def _decimals(numbers: Sequence[int]) -> pa.Array:
    return pa.array(numbers, pa.int64()).cast(pa.decimal128(38, 0))


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def _spoiled(column: pa.ChunkedArray) -> pa.Array:
    """The column with its first value missing, and its second no address."""
    values = column.to_pylist()
    return pa.array([None, "0xnobody", *values[2:]], column.type)
