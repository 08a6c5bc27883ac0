"""A long backfill: what memory it takes, and whether its rate holds."""

from __future__ import annotations

from bench.child import in_child
from bench.figures import Goal, Part
from bench.fills import FILLS_PER_HOUR, fills
from bench.loads import through_the_product
from bench.machine import cpu_seconds, peak_mb
from bench.pages import archive, serving
from bench.place import prepared

PIECE = 1_000_000
MEMORY_GB = 4.0


def measure(rows: int) -> Part:
    """Backfill `rows` fills, in whole pieces of at most a million, into empty tables.

    Raises:
        RuntimeError: not all of them came out.
    """
    piece = min(rows, PIECE)
    copies = max(rows // piece, 1)
    count = copies * piece
    part = Part(
        "A long backfill",
        f"{count:,} V1 fills by `backfill` with default settings, from pages in memory ({copies} copies of {piece:,} fills,"
        f" one before the other, each in transactions of its own); embedded ClickHouse with {MEMORY_GB:g} GB. One run.",
    )
    with (
        prepared(MEMORY_GB) as place,
        serving(archive, piece, FILLS_PER_HOUR, copies) as upstream,
    ):
        place.run.settings.goldsky_url = upstream.url
        times = fills(piece, per_hour=FILLS_PER_HOUR).column("timestamp")
        first, last = (int(times[at].as_py().timestamp()) for at in (0, -1))
        start = first - (copies - 1) * (last - first + 1)
        before = cpu_seconds(place.clickhouse_pid)
        clock = in_child(through_the_product, place.run.settings, start)
        clickhouse_cpu_s = cpu_seconds(place.clickhouse_pid) - before
        found = place.run.client.command(f"select count() from {place.database}.order_fills")
        if found != count:
            raise RuntimeError(f"{found} of {count} fills came out")
        part.add("large_rows_per_s", "rows/s", [count / clock.seconds], "fills to candles")
        part.add("large_pipeline_peak_mb", "MB", [clock.peak_mb], goal=Goal(1000, True))
        part.add(
            "large_clickhouse_peak_mb", "MB", [peak_mb(place.clickhouse_pid)], goal=Goal(4000, True)
        )
        million = count / 1e6
        part.add("large_pipeline_cpu_s_per_million_rows", "s", [clock.cpu_s / million])
        part.add("large_clickhouse_cpu_s_per_million_rows", "s", [clickhouse_cpu_s / million])
    return part
