"""`python -m chaos.providers`: the chain source against thousands of providers drawn by a seed.

Prints its seed first, every story that went wrong, and last one JSON object; exit code 1 if any did.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from collections import Counter

import click

from chaos.stories import run_story
from sandbox.farm import Farm


@click.command(context_settings={"max_content_width": 120})
@click.option("--count", default=2000, show_default=True, help="How many sets of providers.")
@click.option("--seed", type=int, help="Seed of the first one; default: a random one.")
@click.option("--minutes", default=60.0, show_default=True, help="No story begins after this time.")
@click.option("--named", is_flag=True, help="Print the stories that end with a named error too.")
@click.option("--direct", is_flag=True, help="Without sockets, which takes a third of the time.")
def main(count: int, seed: int | None, minutes: float, named: bool, direct: bool) -> None:
    """Load the chain from providers with any mix of limits, refusals and states, and compare with the truth."""
    logging.disable(logging.WARNING)
    first = random.randrange(1 << 31) if seed is None else seed
    print(f"seed {first}", flush=True)
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    requests = failed = 0
    with Farm() as farm:
        for number in range(first, first + count):
            if time.monotonic() - started > minutes * 60:
                break
            story = run_story(number, farm, direct=direct)
            requests += story.requests
            failed += story.failed
            outcomes[story.outcome if not story.failed else "FAILED"] += 1
            if story.failed or (named and story.outcome == "named"):
                print(story, flush=True)
        mistakes = [repr(error) for error in farm.errors]
    result = {
        "stories": sum(outcomes.values()),
        **outcomes,
        "requests": requests,
        "seconds": round(time.monotonic() - started),
        "mistakes of the sandbox": mistakes[:5],
    }
    print(json.dumps(result))
    sys.exit(1 if failed or mistakes else 0)


if __name__ == "__main__":
    main()
