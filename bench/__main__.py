"""`python -m bench`: runs the parts, writes BENCHMARKS.md and prints one line per figure."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench import catalogue, comparison, keys, large, parquet, stored, wire
from bench.figures import Part
from bench.live import Cadence
from bench.machine import describe
from bench.report import closing_lines, markdown


def _numbers(kind: Callable[[str], Any]) -> Callable[..., list[Any]]:
    def parse(context: click.Context, parameter: click.Parameter, value: str) -> list[Any]:
        try:
            numbers = [kind(each) for each in value.split(",")]
        except ValueError:
            numbers = [0]
        if min(numbers) <= 0:
            raise click.BadParameter(f"{value!r} is not numbers above 0 by comma")
        return numbers

    return parse


def _without_out(arguments: list[str]) -> list[str]:
    """The arguments that say what was measured: where the report went is no part of that."""
    at = arguments.index("--out") if "--out" in arguments else len(arguments)
    return arguments[:at] + arguments[at + 2 :]


ONE = click.IntRange(1)


@click.command(context_settings={"show_default": True})
@click.option(
    "--only",
    type=click.Choice(["end-to-end", "parquet", "wire", "stored", "markets", "keys", "large"]),
    multiple=True,
    help="Parts to run; default: all.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="BENCHMARKS.md", help="File to write."
)
@click.option("--runs", type=ONE, default=5, help="Turns of the short runs.")
@click.option(
    "--rows", type=ONE, default=250_000, help="end-to-end: fills of each run (2000000: an hour)."
)
@click.option("--few", type=ONE, default=50_000, help="end-to-end: fills for the paths of others.")
@click.option(
    "--archived", type=ONE, default=500_000, help="parquet: fills in the archive (20000000)."
)
@click.option(
    "--latencies",
    default="50,200,500",
    callback=_numbers(int),
    help="wire: ms added to each request.",
)
@click.option(
    "--workers",
    default="1,32",
    callback=_numbers(int),
    help="wire: fetching threads (16 at 200 ms are added).",
)
@click.option("--pages", type=ONE, default=25, help="wire: pages in each slice.")
@click.option(
    "--stored",
    "sizes",
    default="1000000,20000000",
    callback=_numbers(int),
    help="stored: fills at which cycles are timed; multiples of the first.",
)
@click.option("--cycles", type=ONE, default=10, help="stored: cycles at each size.")
@click.option("--questions", type=ONE, default=20, help="stored: times that each query is asked.")
@click.option(
    "--live",
    "live_s",
    type=click.IntRange(0),
    default=60,
    help="stored: seconds of blocks for the live latency; 0: leave it out.",
)
@click.option(
    "--poll",
    "poll_s",
    type=float,
    default=Cadence.poll_s,
    help="stored: POLL_INTERVAL_S of the live loop.",
)
@click.option(
    "--confirmations",
    type=click.IntRange(0),
    default=Cadence.confirmations,
    help="stored: POLYGON_CONFIRMATIONS of it.",
)
@click.option("--keyed", type=ONE, default=500_000, help="keys: fills in each variant of a table.")
@click.option("--large", "large_rows", type=ONE, default=1_000_000, help="large: fills (20000000).")
@click.option("--markets", type=ONE, default=20_000, help="markets: how many (200000).")
@click.option("--events", type=ONE, default=2_000, help="markets: events (20000).")
def main(
    only: tuple[str, ...],
    out: Path,
    runs: int,
    rows: int,
    few: int,
    archived: int,
    latencies: list[int],
    workers: list[int],
    pages: int,
    sizes: list[int],
    cycles: int,
    questions: int,
    live_s: int,
    poll_s: float,
    confirmations: int,
    keyed: int,
    large_rows: int,
    markets: int,
    events: int,
) -> None:
    """Measure how fast the pipeline is. The defaults take about ten minutes on two processors."""
    parts: dict[str, Callable[[], list[Part]]] = {
        "end-to-end": lambda: [comparison.measure(rows, few, runs)],
        "parquet": lambda: [parquet.measure(archived, min(runs, 3))],
        "wire": lambda: [wire.measure([each / 1000 for each in latencies], workers, pages, runs)],
        "stored": lambda: stored.measure(
            sizes, cycles, questions, live_s, Cadence(poll_s, confirmations)
        ),
        "markets": lambda: [catalogue.measure(markets, events, min(runs, 3))],
        "keys": lambda: [keys.measure(keyed)],
        "large": lambda: [large.measure(large_rows)],
    }
    started, found = time.monotonic(), []
    for name, measure in parts.items():
        if not only or name in only:
            since = time.monotonic()
            found += measure()
            click.echo(f"{name}: measured in {time.monotonic() - since:.0f} s", err=True)
            # After every part: should a later one fail, this one was not for nothing.
            text = markdown(
                found,
                machine=describe(),
                date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
                command=shlex.join(["python", "-m", "bench", *_without_out(sys.argv[1:])]),
                seconds=time.monotonic() - started,
            )
            out.write_text(text)
    click.echo("\n".join(closing_lines(found)))


if __name__ == "__main__":
    main()
