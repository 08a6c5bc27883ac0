"""`python -m chaos`: a run of crashes from the command line.

Prints its seed first, and last one JSON object; exit code 1 on any difference from the truth, or when a process did
what it never should.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from chaos.harness import DATABASE, Harness
from chaos.processes import Broken
from chaos.schedule import schedule
from chaos.verdict import examine, summary
from sandbox.reconcile import Check


@click.command(context_settings={"max_content_width": 120})
@click.option(
    "--seed",
    type=int,
    help="Decides the kills and the simulated Polymarket; default: a random one.",
)
@click.option("--pipeline-kills", default=6, show_default=True, help="Deaths of the pipeline.")
@click.option("--database-kills", default=2, show_default=True, help="Deaths of the database.")
@click.option("--both-kills", default=1, show_default=True, help="Deaths of both at once.")
@click.option("--matches", default=1000, show_default=True, help="Matches before it starts.")
@click.option("--minutes", default=45.0, show_default=True, help="No kill is made after this time.")
def main(
    seed: int | None,
    pipeline_kills: int,
    database_kills: int,
    both_kills: int,
    matches: int,
    minutes: float,
) -> None:
    """Kill the pipeline and its ClickHouse while they load a simulated Polymarket, and compare with its truth."""
    seed = random.randrange(1 << 31) if seed is None else seed
    print(f"seed {seed}", flush=True)
    started = time.monotonic()
    kills = schedule(seed, pipeline=pipeline_kills, database=database_kills, both=both_kills)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))

    def on_kill(done: int) -> None:
        last = kills[done - 1]
        line = f"{done}/{len(kills)}  {last.victim}: {last.where}"
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    try:
        with Harness(seed, folder, matches=matches) as harness:
            harness.run(kills, on_kill=on_kill, deadline=started + minutes * 60)
            checks = examine(harness.client(), DATABASE, harness.world)
            result = summary(seed, harness.tally, harness.world, checks)
        _print_table(checks)
    except Broken as broken:
        print(broken, file=sys.stderr)
        result = {"seed": seed, "passed": False, "broken": str(broken).splitlines()[0]}
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        raise
    if result["passed"]:
        shutil.rmtree(folder)
    else:
        print(f"Everything is left in {folder}", file=sys.stderr)
    print(json.dumps(result | {"seconds": round(time.monotonic() - started)}))
    sys.exit(0 if result["passed"] else 1)


def _print_table(checks: list[Check]) -> None:
    """The comparison as a table in Markdown."""
    print(
        "| table | produced | count() | uniqExact() | lost | doubled |\n|---|---:|---:|---:|---:|---:|"
    )
    for check in checks:
        counts = (
            check.expected,
            check.actual,
            check.actual - check.doubled,
            check.lost,
            check.doubled,
        )
        print(f"| {check.name} | {' | '.join(f'{count:,}' for count in counts)} |")
    for check in checks:
        for difference in check.differences:
            print(f"{check.name}: {difference}")


if __name__ == "__main__":
    main()
