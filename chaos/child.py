"""The pipeline as a process that dies at a seam: `python -m chaos.child --seam NAME --nth N -- loop`.

Everything after `--` is what `run_pipeline.py` takes. It kills itself, the database process, or both, at the seam;
without a seam it is `run_pipeline.py`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from chaos.seams import SEAMS, arm


def main(arguments: list[str]) -> None:
    """Arm the seam that is named, and run the pipeline."""
    parser = argparse.ArgumentParser(prog="chaos.child", description=__doc__)
    parser.add_argument("--seam", choices=sorted(SEAMS), help="Where to kill.")
    parser.add_argument("--nth", type=int, default=1, help="At which call.")
    parser.add_argument("--delay-ms", type=float, default=0, help="How long after it began.")
    parser.add_argument("--database-pid", type=int, help="A process to kill there.")
    parser.add_argument("--survive", action="store_true", help="Do not kill this process.")
    parser.add_argument("verb", nargs=argparse.REMAINDER, help="-- what run_pipeline.py takes")
    options = parser.parse_args(arguments)

    def strike() -> None:
        if options.database_pid:
            os.kill(options.database_pid, signal.SIGKILL)
        if not options.survive:
            os.kill(os.getpid(), signal.SIGKILL)

    if options.seam:
        arm(SEAMS[options.seam], options.nth, options.delay_ms / 1000, strike)
    from pipeline.cli import main as run_pipeline

    sys.argv = ["run_pipeline.py", *[word for word in options.verb if word != "--"]]
    run_pipeline()


if __name__ == "__main__":
    main(sys.argv[1:])
