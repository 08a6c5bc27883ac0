"""The benchmark: every part runs, at sizes at which its figures mean nothing, and what it prints is what was promised."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from worlds import PATIENCE_S

from bench.figures import Figure, Goal, Part, percentile, ratios, shown
from bench.fills import fills
from bench.others import FIELDS, transform
from bench.pages import FillPages, serving
from bench.report import closing_lines, markdown
from bench.stages import timed
from ingest.contracts import EXCHANGES, V1, V1_HORIZON, V2
from ingest.events import Event, span
from ingest.http import HttpClient
from ingest.progress import Progress
from ingest.records import fill_keys
from ingest.sources.goldsky.reader import Archive, archive_pages, decode_fills
from pipeline.settings import Settings

PROJECT = Path(__file__).resolve().parent.parent
PROMISED = {
    "end-to-end": {"end_to_end_vs_limit", "vs_dict_path", "vs_poly_data_style"},
    "parquet": {"parquet_vs_alone", "parquet_pipeline_peak_mb"},
    "wire": {"wire_efficiency_200ms_16"},
    "stored": {"live_p95_s", "live_p99_s", "cycle_2m_vs_1m", "candles_p95_ms"},
    "markets": {"markets_first_load_per_s", "markets_refresh_per_s"},
    "keys": {"order_fills_one_token_ms", "ohlcv_1m_one_token_ms"},
    "large": {"large_pipeline_peak_mb", "large_clickhouse_peak_mb"},
}
TINY = {
    "end-to-end": ["--rows", "3000", "--few", "2000"],
    "parquet": ["--archived", "3000"],
    "wire": ["--latencies", "50", "--workers", "2", "--pages", "1"],
    "stored": [
        *("--stored", "2000,4000", "--cycles", "1", "--questions", "2"),
        *("--live", "1", "--poll", "0.5", "--confirmations", "0"),
    ],
    "markets": ["--markets", "200", "--events", "20"],
    "keys": ["--keyed", "3000"],
    "large": ["--large", "3000"],
}


# The benchmark on copies of the models of the test session: dbt takes 20 s of processor time in each part.
COPYING = """
import json, os, sys
sys.path += [os.getcwd(), "tests"]
from worlds import copy_databases
import bench.place
from bench.__main__ import main
from pipeline.settings import Settings

template, prepare = Settings(_env_file=None, **json.loads(sys.argv.pop(1))), bench.place.prepare

def copied(run):
    copy_databases(run, template)
    prepare(run)

bench.place.prepare = copied
main()
"""


@pytest.mark.parametrize("part", TINY)
def test_a_part_prints_its_figures_and_writes_them_down(
    part: str, tmp_path: Path, template: Settings
) -> None:
    out = tmp_path / "BENCHMARKS.md"
    names = ("clickhouse_host", "clickhouse_port", "clickhouse_password", "clickhouse_database")
    models = template.model_dump(include=set(names)) | {
        "clickhouse_password": template.clickhouse_password.get_secret_value()
    }
    command = [sys.executable, "-c", COPYING, json.dumps(models), *("--only", part)]
    done = subprocess.run(
        [*command, "--runs", "1", "--out", str(out), *TINY[part]],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = dict(line.split(": ") for line in done.stdout.splitlines())
    promised = {name.replace("2m_vs_1m", "0.004m_vs_0.002m") for name in PROMISED[part]}
    assert promised <= set(figures)
    assert all(float(value) for name, value in figures.items() if "cpu" not in name)
    text = out.read_text()
    assert all(f"`{name}`" in text for name in figures)
    assert f"--only {part}" in text


def test_options_that_make_no_sense_are_refused_in_a_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--stored", "1,x"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "'1,x' is not numbers above 0" in done.stderr


def test_stages_are_timed_in_whatever_thread_they_are() -> None:
    def settle() -> None:
        with suppress(ZeroDivisionError), span(Event.SETTLED):
            time.sleep(0.02)
            raise ZeroDivisionError

    with timed() as seconds:
        for _ in range(2):
            thread = threading.Thread(target=settle)
            thread.start()
            thread.join()
    settle()
    assert 0.04 <= seconds.pop("settle") < 10
    assert set(seconds.values()) == {0.0}


# ---------- pages


def pages_of(count: int, copies: int = 1) -> FillPages:
    return FillPages(fills(count, per_hour=200), copies)  # many fills in one second, and hours


def read_all(url: str, page_size: int) -> pa.Table:
    archive = Archive(HttpClient("goldsky"), url, page_size)
    cursor = {"timestamp": 0, "id": None}
    read = []
    for rows in archive_pages(archive, cursor, V1_HORIZON + 1, V1_HORIZON, Progress()):
        tables, dead = decode_fills(rows)
        assert not dead
        read += tables
    return pa.concat_tables(read)


def test_pages_hold_every_fill_once_in_order() -> None:
    with serving(pages_of, 3000) as upstream:
        assert read_all(upstream.url, 7).equals(fills(3000, per_hour=200))
        assert upstream.stats()["requests"] >= 3000 / 7


def test_copies_of_an_archive_are_fills_of_their_own() -> None:
    with serving(pages_of, 300, 4) as upstream:
        read = read_all(upstream.url, 7)
    assert len(set(fill_keys(read))) == len(read) == 4 * 300
    same = ["order_hash", "maker", "maker_asset_id", "maker_amount", "taker_amount"]
    for copy in range(4):
        assert (
            read.slice(copy * 300, 300).select(same).equals(fills(300, per_hour=200).select(same))
        )


def test_pages_end_where_they_are_told_to() -> None:
    wanted = fills(500, per_hour=200).column("timestamp").cast(pa.int64())
    end = wanted[250].as_py()
    with serving(pages_of, 500) as upstream:
        archive = Archive(HttpClient("goldsky"), upstream.url, 1000)
        rows = archive.page(wanted[100].as_py(), None, end)
    inside = [t for t in wanted.to_pylist() if wanted[100].as_py() < t < end]
    assert [int(row["timestamp"]) for row in rows] == inside


# ---------- fills


@pytest.mark.parametrize("version", [V1, V2])
def test_fills_are_like_those_of_the_exchange(version: str) -> None:
    rows = fills(20_000, version=version)
    taker_legs = pc.is_in(rows.column("taker"), pa.array([*EXCHANGES]))
    makers_per_taker = 20_000 / pc.sum(taker_legs).as_py() - 1
    assert 2.0 < makers_per_taker < 2.4
    assert pc.count_distinct(rows.column("order_hash")).as_py() == 20_000
    assert rows.equals(fills(20_000, version=version))
    assert set(rows.column("contract_version").to_pylist()) == {version}
    times = rows.column("timestamp").cast(pa.int64())
    assert pc.max(times).as_py() <= V1_HORIZON


def test_the_csv_loop_makes_trades_of_taker_legs(tmp_path: Path) -> None:
    exchange = next(iter(EXCHANGES))
    buy = ["a_b", "0xa", "1700000000", "0xb", "0xm", exchange, "0", "77", "400000", "1000000", "0"]
    maker = [*buy[:5], "0xother", *buy[6:]]
    fill_csv, trades_csv = tmp_path / "fills.csv", tmp_path / "trades.csv"
    fill_csv.write_text("\n".join(",".join(row) for row in (FIELDS, buy, maker)) + "\n")
    assert transform(fill_csv, trades_csv) == 1
    assert ",77,0xm," in trades_csv.read_text()
    assert ",BUY,0.4,0.4,1.0,0xa" in trades_csv.read_text()


# ---------- figures and report


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([4, 1, 3, 2], percent) for percent in (1, 50, 75, 95, 100)] == [
        1,
        2,
        3,
        4,
        4,
    ]
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_ratios_are_those_of_one_turn() -> None:
    assert ratios([10, 40], [5, 10]) == [2, 4]
    with pytest.raises(ValueError):
        ratios([1], [1, 2])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.04567, "0.0457"), (1.234, "1.23"), (56.78, "56.8"), (1234567.8, "1 234 568")],
)
def test_numbers_have_three_digits_that_mean_something(value: float, text: str) -> None:
    assert shown(value) == text


def test_the_report_has_median_spread_and_runs() -> None:
    part = Part("Speed", "How.", tables={"More": [("a", "b"), (1, 2)]})
    part.add("rate", "rows/s", [300.0, 100.0, 200.0], "of fills")
    part.add("once", "s", [1.5], goal=Goal(1, at_most=True))
    part.add("ratio", "ratio", [0.6], goal=Goal(0.5))
    text = markdown([part], machine="m", date="d", command="c", seconds=61)
    assert "| `rate` | 200 | 100 … 300 | rows/s | 3 | of fills |" in text
    assert "| `once` | 1.50 |  | s | 1 |  |" in text
    assert "More:\n\n| a | b |\n| --- | --- |\n| 1 | 2 |" in text
    assert "- command: `c`, 61 s" in text
    assert "| `once` | 1.50 s | ≤ 1 | no: 150% of it |\n| `ratio` | 0.600 | ≥ 0.5 | yes |" in text
    assert closing_lines([part]) == ["rate: 200", "once: 1.5", "ratio: 0.6"]


def test_a_figure_without_a_value_is_a_defect() -> None:
    with pytest.raises(ValueError, match="nothing was not measured"):
        Part("", "").add("nothing", "s", [])
    assert Figure("x", "s", (3, 1, 2)).median == 2
