"""What depends on how much is stored: a cycle with the same new work, what users ask, and how late a candle is.

History is made inside ClickHouse: one piece is loaded and settled, and then copied with its trades and candles, each copy
moved into the past by whole days, as if it had been loaded. New work comes from the sandbox, by the product's own cycle.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta

from bench.catalogue import land_markets
from bench.figures import Goal, Part, percentile, shown
from bench.fills import FILLS_PER_HOUR, fills
from bench.live import Cadence, live
from bench.loads import land_and_settle
from bench.place import Place, prepared
from bench.queries import queries
from bench.stages import timed
from ingest.contracts import V2
from pipeline.jobs.cycle import run_cycle
from sandbox.server import SandboxServer
from sandbox.world import World

BLOCKS_PER_CYCLE = 5
MATCHES_PER_BLOCK = 8.0
# Copied as they are made: from raw the materialized view writes order_fills itself.
_COPIED = (
    "order_filled", "trades_store", "trades_by_token_store", "fills_by_wallet_store", "transaction_times_store",
    "ohlcv_1m_store", "ohlcv_1h_store", "ohlcv_1d_store",
)  # fmt: skip


def measure(
    sizes: list[int], cycles: int, questions: int, live_s: float, cadence: Cadence
) -> list[Part]:
    """Cycles at each size, then queries and, for `live_s` seconds, the loop at the largest.

    Args:
        sizes: stored fills, ascending; the first is loaded, and copied to make the others.
    """
    piece = sizes[0]
    growth = Part(
        "Growth",
        f"Cycles of the chain alone, each with the same new work ({BLOCKS_PER_CYCLE} blocks of the sandbox, about"
        f" {MATCHES_PER_BLOCK:g} matches each, settled as always), at growing numbers of stored fills;"
        f" {cycles} cycles at each size. The history is {piece:,} fills, copied and moved by whole days, and ends now.",
    )
    now = datetime.now(UTC)
    world = World.generate(
        3, now=now, markets=200, matches=500, v1_days=0, v2_days=0.05, matches_per_block=MATCHES_PER_BLOCK
    )  # fmt: skip
    with (
        SandboxServer(world) as upstream,
        prepared(
            sources="polygon",
            polygon_rpc_url=upstream.urls.polygon_url,
            polygon_confirmations=0,
            polygon_stale_after_s=10**9,
        ) as place,
    ):
        found: dict[int, tuple[list[float], list[float]]] = {}
        _land_piece(place, piece, int(now.timestamp()))
        _cycle(place)  # what the sandbox has from before
        stored = piece
        for size in sizes:
            while stored < size:
                _copy(place, now, piece, stored // piece)
                stored += piece
            found[stored] = _cycles(place, world, cycles)
        _growth_figures(growth, found)
        parts = [growth, queries(place, stored, questions)]
        if live_s:
            parts.append(live(place, upstream, stored, live_s, cadence))
    return parts


def _land_piece(place: Place, piece: int, end: int) -> None:
    """Markets of all tokens, and fills before `end` (unix seconds), landed and settled."""
    land_markets(place.run)
    land_and_settle(place.run, fills(piece, end=end, version=V2), place.files)


def _copy(place: Place, now: datetime, piece: int, copies: int) -> None:
    """What the first piece holds once more, `copies` times as many days further back as it touches."""
    settings = place.run.settings
    first = now - timedelta(hours=piece / FILLS_PER_HOUR)
    days = copies * ((now.date() - first.date()).days + 1)
    whole = f"between toDateTime('{first:%Y-%m-%d}', 'UTC') and toDateTime({int(now.timestamp())}, 'UTC')"
    for table in _COPIED:
        database = (
            settings.raw_database if table == "order_filled" else settings.clickhouse_database
        )
        times = place.run.client.query(
            "select name, is_in_sorting_key from system.columns where database = {database:String}"
            " and table = {table:String} and startsWith(type, 'DateTime(')",
            parameters={"database": database, "table": table},
        ).result_rows
        [key] = [name for name, is_key in times if is_key]
        moved = ", ".join(f"piece.{name} - interval {days} day as {name}" for name, _ in times)
        place.run.client.command(
            f"insert into {database}.{table} select * replace ({moved}) from {database}.{table} as piece"
            f" where piece.{key} {whole}"
        )


def _cycles(place: Place, world: World, cycles: int) -> tuple[list[float], list[float]]:
    """Seconds of each cycle, and of settling in it, each after new blocks; the first one is left out."""
    wholes, settles = [], []
    for _ in range(cycles + 1):
        world.advance(BLOCKS_PER_CYCLE)
        with timed() as seconds:
            since = time.perf_counter()
            _cycle(place)
            wholes.append(time.perf_counter() - since)
        settles.append(seconds["settle"])
    return wholes[1:], settles[1:]


def _cycle(place: Place) -> None:
    """One cycle of the product; everything that it reads from must work."""
    with place.run.lock.held("bench"):
        run_cycle(place.run).raise_failures()


def _growth_figures(part: Part, found: dict[int, tuple[list[float], list[float]]]) -> None:
    small, large = min(found), max(found)
    name = f"cycle_{large / 1e6:g}m_vs_{small / 1e6:g}m"
    note = f"median cycle at {large:,} stored fills over that at {small:,}"
    value = statistics.median(found[large][0]) / statistics.median(found[small][0])
    part.add(name, "ratio", [value], note, Goal(1.3, True))
    rows: list[tuple[object, ...]] = [("stored fills", "cycle, s", "p95, s", "of it settling, s")]
    for size, (wholes, settles) in sorted(found.items()):
        middle = (shown(statistics.median(each)) for each in (wholes, settles))
        cycle, settling = middle
        rows.append((f"{size:,}", cycle, shown(percentile(wholes, 95)), settling))
    part.tables["By number of stored fills"] = rows
    part.add("cycle_s", "s", found[large][0], f"at {large:,} stored fills")
