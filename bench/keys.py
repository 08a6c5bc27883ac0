"""What the sorting keys and partitions of the tables that are read most cost, and what they bring, against others.

Each variant is a copy of the table under another key. The reads are those that decided: a minute of everything, as a settle
reads it; one token; one wallet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.figures import Part, percentile, shown
from bench.fills import fills
from bench.loads import land_and_settle
from bench.place import Place, prepared
from ingest.contracts import V2

DAYS = 90
END = 1_790_000_000  # unix seconds; the piece ends then
READS = 30


@dataclass(frozen=True)
class Variant:
    """A way to lay a table out; the first of each table is the one in use."""

    order_by: str
    partition_by: str
    granularity: int = 8192


FILL = "tx_hash, log_index, order_hash"
MONTHS, DAYS_OF = "toYYYYMM({})", "toYYYYMMDD({})"
TABLES = {
    "order_fills_store": [
        Variant(f"filled_at, {FILL}", MONTHS.format("filled_at")),
        Variant(f"token_id, filled_at, {FILL}", MONTHS.format("filled_at")),
        Variant(f"filled_at, {FILL}", "tuple()"),
        Variant(f"filled_at, {FILL}", DAYS_OF.format("filled_at")),
    ],
    "ohlcv_1m_store": [
        Variant("token_id, bucket_at", MONTHS.format("bucket_at"), 1024),
        Variant("token_id, bucket_at", MONTHS.format("bucket_at"), 8192),
        Variant("bucket_at, token_id", MONTHS.format("bucket_at"), 1024),
        Variant("token_id, bucket_at", "tuple()", 1024),
    ],
}
QUESTIONS = {
    "order_fills_store": {
        "minute": "filled_at between toDateTime({at}, 'UTC') and toDateTime({at} + 59, 'UTC')",
        "token": "token_id = '{token}'",
        "wallet": "maker = '{wallet}'",
    },
    "ohlcv_1m_store": {
        "minute": "bucket_at = toStartOfMinute(toDateTime({at}, 'UTC'))",
        "token": "token_id = '{token}'",
    },
}


def measure(rows: int) -> Part:
    """Load `rows` fills of three months once, and copy the tables into each variant."""
    part = Part(
        "Keys",
        f"{rows:,} V2 fills of {DAYS} days. Each table is copied, by `insert select`, into variants of itself (the first is"
        f" the one in use); reads are `sum(cityHash64(*))` with `final`, {READS} times each with other values, median;"
        " query condition cache off.",
    )
    with prepared() as place:
        _land(place, rows)
        drawn = place.run.client.query(
            f"select toUnixTimestamp(filled_at), token_id, maker from {place.database}.order_fills_store"
            f" order by cityHash64(tx_hash) limit {READS}"
        ).result_rows
        for table, variants in TABLES.items():
            questions = QUESTIONS[table]
            found = [_try(place, table, variant, questions, drawn) for variant in variants]
            for name, value in found[0].items():
                unit = name.rpartition("_")[2].replace("mb", "MB")
                part.add(f"{table.removesuffix('_store')}_{name}", unit, [value])
            header = ("order by", "partition by", "granule", *found[0])
            part.tables[f"`{table}`"] = [
                header,
                *(
                    (f"`{x.order_by}`", f"`{x.partition_by}`", x.granularity, *map(shown, values.values()))
                    for x, values in zip(variants, found, strict=True)
                ),
            ]  # fmt: skip
    return part


def _land(place: Place, rows: int) -> None:
    table = fills(rows, end=END, per_hour=max(rows // (24 * DAYS), 1), version=V2)
    land_and_settle(place.run, table, place.files)


def _try(
    place: Place, table: str, variant: Variant, questions: dict[str, str], drawn: list[tuple]
) -> dict[str, float]:
    """Seconds to fill the variant, its size, and milliseconds of each read."""
    client, database = place.run.client, place.database
    name = f"{database}.{table}_variant"
    client.command(f"drop table if exists {name} sync")
    client.command(
        f"create table {name} as {database}.{table} engine = ReplacingMergeTree(version, is_deleted)"
        f" partition by {variant.partition_by} order by ({variant.order_by})"
        f" settings index_granularity = {variant.granularity}"
    )
    since = time.perf_counter()
    client.command(
        f"insert into {name} select * from {database}.{table}",
        settings={"max_partitions_per_insert_block": 0},
    )
    found = {"insert_s": time.perf_counter() - since}
    client.command(f"optimize table {name} final")
    size = client.command(
        f"select sum(bytes_on_disk) from system.parts where active and concat(database, '.', table) = '{name}'"
    )
    found["size_mb"] = int(size) / 1e6
    for question, condition in questions.items():
        times = []
        for at, token, wallet in drawn:
            since = time.perf_counter()
            client.command(
                f"select sum(cityHash64(*)) from {name} final"
                f" where {condition.format(at=at, token=token, wallet=wallet)}",
                settings={"use_query_condition_cache": 0},
            )
            times.append((time.perf_counter() - since) * 1000)
        found[f"one_{question}_ms"] = percentile(times, 50)
    client.command(f"drop table {name} sync")
    return found
