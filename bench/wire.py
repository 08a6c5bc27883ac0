"""How near fetching comes to what the wire allows: workers × page size ÷ latency.

Only the fetching side of a backfill (`FetchPool` with `ArchiveReader`) runs, and its pages are thrown away: what loading
costs is measured end to end. Every slice ends with two empty pages and a question for the newest fill, which the ideal
does not have.
"""

from __future__ import annotations

import time

from bench.child import Clock, in_child
from bench.figures import Goal, Part, shown
from bench.pages import archive, serving
from ingest.contracts import V1_HORIZON
from ingest.http import HttpClient
from ingest.queue.backlog import Backlog
from ingest.queue.fetching import FetchPool
from ingest.queue.slices import Slice
from ingest.sources.goldsky.slices import ArchiveReader

PAGE = 1000
QUOTED = (0.2, 16)  # seconds, workers
SLICE_S = 3600


def measure(latencies: list[float], workers: list[int], pages_per_slice: int, runs: int) -> Part:
    """Rows a second for each latency (seconds) and number of workers.

    Args:
        pages_per_slice: full pages in each slice; every worker reads one slice.
        runs: of the cell that is quoted; the others run once.
    """
    part = Part(
        "The wire",
        f"Pages of {PAGE} fills with latency added to each request, by the fetching threads of `backfill` alone (decoded,"
        f" then thrown away); each worker reads one slice of {pages_per_slice} pages, which takes {pages_per_slice + 3}"
        " requests. Ideal: workers × page size ÷ latency, so pages per slice bound the efficiency to"
        f" {pages_per_slice / (pages_per_slice + 3):.0%}.",
    )
    per_slice = pages_per_slice * PAGE
    table: list[tuple[object, ...]] = [("latency", "workers", "rows/s", "ideal", "efficiency")]
    quoted: list[float] = []
    rates: list[float] = []
    with serving(archive, max(*workers, QUOTED[1]) * per_slice, per_slice) as upstream:
        cells = [(latency, number) for latency in latencies for number in workers]
        for latency, number in [*cells, *[QUOTED] * runs]:
            upstream.set_latency(latency)
            clock = in_child(fetch, upstream.url, number)
            rate, ideal = clock.more["rows"] / clock.seconds, number * PAGE / latency
            if len(table) <= len(cells):
                row = (
                    f"{latency * 1000:.0f} ms",
                    number,
                    shown(rate),
                    shown(ideal),
                    f"{rate / ideal:.0%}",
                )
                table.append(row)
            else:
                quoted.append(rate / ideal)
                rates.append(rate)
    part.add("wire_efficiency_200ms_16", "ratio", quoted, goal=Goal(0.8))
    part.add("wire_200ms_16_rows_per_s", "rows/s", rates)
    part.tables["By latency and workers, one run each"] = table
    return part


def fetch(url: str, workers: int) -> Clock:
    """Read the last `workers` slices of the archive, one by each thread."""
    end = V1_HORIZON + 1
    slices = [Slice("goldsky", end - (n + 1) * SLICE_S, end - n * SLICE_S) for n in range(workers)]

    def readers() -> dict[str, ArchiveReader]:
        return {"goldsky": ArchiveReader(HttpClient("goldsky"), url, V1_HORIZON, PAGE)}

    clock, rows = Clock(), 0
    with FetchPool(readers, workers, Backlog(tries=3)) as pool:
        pool.want(slices)
        left = len(slices)
        while left:
            page = pool.take(time.monotonic() + 60)
            if page is None:
                raise RuntimeError(f"nothing came for a minute: {pool.take_failures()}")
            rows += page.rows
            left -= page.is_last
        clock.stop()
    if not rows:
        raise RuntimeError("the slices held nothing")
    clock.more["rows"] = rows
    return clock
