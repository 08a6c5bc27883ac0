"""`python -m chaos`: kills, pauses, wrong clocks and a bad network from the command line.

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
from collections import Counter
from pathlib import Path

import click

from chaos.harness import DATABASE, Harness
from chaos.processes import Broken
from chaos.run import run
from chaos.schedule import schedule
from chaos.tally import Tally
from chaos.verdict import examine, hidden, summary
from sandbox.reconcile import Check

# What happens if the command line names no number of anything.
A_FEW = {"pipeline": 6, "database": 2, "both": 1, "pauses": 2, "clocks": 2, "faults": 8}


@click.command(context_settings={"max_content_width": 120})
@click.option(
    "--seed",
    type=int,
    help="Decides what happens and the simulated Polymarket; default: a random one.",
)
@click.option("--pipeline-kills", "pipeline", type=int, help="Deaths of the pipeline.")
@click.option("--database-kills", "database", type=int, help="Deaths of the database.")
@click.option("--both-kills", "both", type=int, help="Deaths of both at once.")
@click.option("--pauses", type=int, help="Runs stopped for longer than their lock lives.")
@click.option("--clock", "clocks", type=int, help="Runs with a wrong clock, or one that jumps.")
@click.option("--proxy", "faults", type=int, help="Requests to ClickHouse that are disturbed.")
@click.option("--matches", default=1000, show_default=True, help="Matches before it starts.")
@click.option("--minutes", default=45.0, show_default=True, help="Nothing begins after this time.")
def main(seed: int | None, matches: int, minutes: float, **numbers: int | None) -> None:
    """Kill, stop and mislead the pipeline and its ClickHouse while they load a simulated Polymarket, and compare with its
    truth. Of what has no number nothing happens; without any number, a few of each.
    """
    seed = random.randrange(1 << 31) if seed is None else seed
    print(f"seed {seed}", flush=True)
    started = time.monotonic()
    given = {name: number for name, number in numbers.items() if number is not None}
    events = schedule(seed, **(given or A_FEW))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))

    def on_event(done: int) -> None:
        line = f"{done}/{len(events)}  {events[done - 1]}"
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    harness = Harness(seed, folder, matches=matches)
    try:
        with harness:
            run(harness, events, on_event=on_event, deadline=started + minutes * 60)
            checks = examine(harness.client(), DATABASE, harness.world)
            findings = hidden(harness.read_settings())
        result = summary(seed, harness.tally, harness.world, checks, findings)
        _print_table(checks)
        _print_happened(harness.tally)
        for finding in [*harness.tally.lies, *findings]:
            print(finding)
    except Broken as broken:
        print(broken, file=sys.stderr)
        result = {"seed": seed, "passed": False, "broken": str(broken).splitlines()[0]}
        result |= vars(harness.tally)
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


def _print_happened(tally: Tally) -> None:
    """What happened, by kind, as a table in Markdown."""
    happened: dict[str, Counter] = {
        "kills of": tally.kills,
        "pauses at": tally.pauses,
        "clock": tally.clocks,
        "proxy": tally.faults,
    }
    print("| what happened | times |\n|---|---:|")
    for what, counts in happened.items():
        for kind, times in sorted(counts.items()):
            print(f"| {what} {kind} | {times} |")


if __name__ == "__main__":
    main()
