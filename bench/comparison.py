"""End to end against ClickHouse alone, rows as dictionaries, and a CSV loop: in turns, so that their ratios can be trusted.

The machine may be shared: only what ran next to each other is divided by each other.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from bench.child import Clock, in_child
from bench.figures import Goal, Part, ratios, shown
from bench.fills import FILLS_PER_HOUR, fills
from bench.loads import clickhouse_alone, through_the_product, write_loads
from bench.machine import cpu_seconds, peak_mb
from bench.others import dictionaries_through_dlt, loop_with_csv
from bench.pages import Upstream, archive, serving
from bench.place import Place, prepared
from bench.stages import STAGES

SLOW_S = 0.2
SLOW_WORKERS = 16
SLOW_RUNS = 2


def measure(rows: int, few: int, runs: int) -> Part:
    """The four paths over the same fills.

    Args:
        rows: fills that our path and ClickHouse alone load in each run.
        few: fills for the paths of others; a quarter of them where each request waits.
        runs: turns.
    """
    part = Part(
        "End to end",
        f"{rows:,} V1 fills of the archive ({FILLS_PER_HOUR:,} an hour) by `backfill` through dlt into raw, fills, trades"
        " and candles, with default settings; against the same rows as Parquet by `insert select from file()` in loads of"
        f" the same size, settled by the same SQL. The paths of others get {few:,} fills and make no candles: rows as"
        " dictionaries through dlt's extract, normalize and load (into a table of text, by our HTTP destination, because"
        " the stock one needs the native protocol), and a loop that appends to a CSV file and derives trades with polars."
        f" {runs} turns; every path in a process of its own over empty tables. Pages come from memory without the public"
        " endpoint's rate limit, and without latency unless said otherwise.",
    )
    with prepared() as place, serving(archive, rows, FILLS_PER_HOUR) as upstream:
        place.run.settings.goldsky_url = upstream.url
        table = fills(rows, per_hour=FILLS_PER_HOUR)
        start = int(table.column("timestamp")[0].as_py().timestamp())
        files = place.files / "parquet"
        write_loads(table, files, place.run.settings.backfill_package_rows)
        turns = _Turns(place, upstream)
        settings = place.run.settings
        for _ in range(runs):
            turns.ours("ours", rows, through_the_product, settings, start)
            turns.ours("limit", rows, clickhouse_alone, settings, files)
            turns.take("dicts", few, dictionaries_through_dlt, settings, start, few)
            turns.take("csv", few, loop_with_csv, upstream.url, place.folder, start, few)
        upstream.set_latency(SLOW_S)
        slow = settings.model_copy(update={"backfill_workers": SLOW_WORKERS})
        fewest = max(few // 4, 1)
        for _ in range(min(runs, SLOW_RUNS)):
            turns.ours("ours slow", rows, through_the_product, slow, start)
            turns.take("csv slow", fewest, loop_with_csv, upstream.url, place.folder, start, fewest)
    _figures(part, turns, rows)
    return part


class _Turns:
    """Runs paths and keeps what they took, by name."""

    def __init__(self, place: Place, upstream: Upstream) -> None:
        self._place, self._upstream = place, upstream
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.clocks: dict[str, list[Clock]] = defaultdict(list)

    def take(self, name: str, rows: int, path: Callable[..., Clock], *arguments: Any) -> Clock:
        """Run a path over empty tables in a process of its own."""
        self._place.empty()
        clock = in_child(path, *arguments)
        rows = int(clock.more.get("rows", rows))
        self.rates[name].append(rows / clock.seconds)
        self.clocks[name].append(clock)
        return clock

    def ours(self, name: str, rows: int, path: Callable[..., Clock], *arguments: Any) -> None:
        """The same, with what ClickHouse and the pages took.

        Raises:
            RuntimeError: not every fill is in trades' and candles' source, or there are no candles.
        """
        pid = self._place.clickhouse_pid
        cpu_s, pages_s = cpu_seconds(pid), self._upstream.stats()["cpu_s"]
        clock = self.take(name, rows, path, *arguments)
        clock.more["clickhouse_cpu_s"] = cpu_seconds(pid) - cpu_s
        clock.more["clickhouse_peak_mb"] = peak_mb(pid)
        clock.more["pages_cpu_s"] = self._upstream.stats()["cpu_s"] - pages_s
        database = self._place.database
        found, candles = self._place.run.client.query(
            f"select (select count() from {database}.order_fills), (select count() from {database}.ohlcv_1m)"
        ).result_rows[0]
        if found != rows or not candles:
            raise RuntimeError(f"{name}: {found} of {rows} fills and {candles} candles came out")

    def ratios(self, above: str, below: str) -> list[float]:
        """Rates divided by those of the same turn."""
        return ratios(self.rates[above], self.rates[below])


def _figures(part: Part, turns: _Turns, rows: int) -> None:
    rates, clocks = turns.rates, turns.clocks
    million = rows / 1e6
    part.add("end_to_end_rows_per_s", "rows/s", rates["ours"], "fills to candles")
    part.add("limit_rows_per_s", "rows/s", rates["limit"], "ClickHouse alone, to candles")
    part.add(
        "dict_path_rows_per_s", "rows/s", rates["dicts"], "rows as dictionaries, to a raw table"
    )
    part.add("poly_data_style_rows_per_s", "rows/s", rates["csv"], "CSV loop and polars, to trades")
    part.add("end_to_end_vs_limit", "ratio", turns.ratios("ours", "limit"), goal=Goal(0.5))
    part.add("vs_dict_path", "ratio", turns.ratios("ours", "dicts"), goal=Goal(10))
    part.add("vs_poly_data_style", "ratio", turns.ratios("ours", "csv"), "no latency", Goal(20))
    most = "what ClickHouse alone reaches: nothing that ends in these tables can be faster"
    part.add("limit_vs_dict_path", "ratio", turns.ratios("limit", "dicts"), most)
    part.add("limit_vs_poly_data_style", "ratio", turns.ratios("limit", "csv"), most)
    slow = f"{SLOW_S * 1000:.0f}ms"
    note = f"with {slow} a request; ours with {SLOW_WORKERS} workers"
    part.add(f"end_to_end_{slow}_rows_per_s", "rows/s", rates["ours slow"], note)
    part.add(f"vs_poly_data_style_{slow}", "ratio", turns.ratios("ours slow", "csv slow"), note)
    for name, path in (("end_to_end", "ours"), ("limit", "limit")):
        for process, key in (("pipeline", None), ("clickhouse", "clickhouse_cpu_s")):
            cpu = [(x.more[key] if key else x.cpu_s) / million for x in clocks[path]]
            part.add(f"{name}_{process}_cpu_s_per_million_rows", "s", cpu)
    part.add(
        "pages_cpu_s_per_million_rows",
        "s",
        [x.more["pages_cpu_s"] / million for x in clocks["ours"]],
    )
    part.add("pipeline_peak_mb", "MB", [x.peak_mb for x in clocks["ours"]], "resident memory")
    part.add("clickhouse_peak_mb", "MB", [x.more["clickhouse_peak_mb"] for x in clocks["ours"]])
    part.tables["Where the time of a run goes (main thread, medians)"] = [
        ("stage", "seconds", "share"),
        *_shares(clocks["ours"], list(STAGES)),
    ]
    threads = [x.cpu_s - x.more["main_cpu_s"] for x in clocks["ours"]]
    main = [x.more["main_cpu_s"] for x in clocks["ours"]]
    part.tables["CPU of the pipeline's process"] = [
        ("threads", "seconds"),
        ("main: dlt, Parquet, SQL", shown(statistics.median(main))),
        ("others: fetching and decoding, load jobs", shown(statistics.median(threads))),
    ]
    part.tables["Where the time of ClickHouse alone goes (medians)"] = [
        ("statement", "seconds", "share"),
        *_shares(clocks["limit"], [x for x in clocks["limit"][0].more if not x.startswith(("clickhouse", "pages"))]),
    ]  # fmt: skip


def _shares(clocks: list[Clock], names: list[str]) -> list[tuple[str, str, str]]:
    """Seconds by name, and their share of the whole."""
    whole = statistics.median(clock.seconds for clock in clocks)
    seconds = {name: statistics.median(clock.more[name] for clock in clocks) for name in names}
    rows = [(name, shown(value), f"{value / whole:.0%}") for name, value in seconds.items()]
    return [*rows, ("all", shown(whole), "100%")]
