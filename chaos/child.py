"""The pipeline as a process to which something happens at a seam:
`python -m chaos.child --seam NAME --nth N --act kill -- loop`.

Everything after `--` is what `run_pipeline.py` takes. At the seam the process kills itself, its database or both, stops
itself as a closed laptop would, or finds its clock put forward or back. Without any option it is `run_pipeline.py`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from chaos.cycles import BEGINS, DONE, always_read, cycles_of
from chaos.seams import PLACES, arm
from ingest.events import Event, Moment, Stage, listen
from pipeline.settings import Settings

STDERR = 2  # `sys.stderr` may be another's for a moment


def main(arguments: list[str]) -> None:
    """Arm the seam that is named, and run the pipeline."""
    parser = argparse.ArgumentParser(prog="chaos.child", description=__doc__)
    parser.add_argument("--seam", choices=sorted(PLACES), help="Where it happens.")
    parser.add_argument("--nth", type=int, default=1, help="At which call.")
    parser.add_argument("--delay-ms", type=float, default=0, help="How long after it began.")
    parser.add_argument("--after-cycles", type=int, default=0, help="Calls count from then on.")
    parser.add_argument("--act", choices=("kill", "stop", "jump"), default="kill", help="What.")
    parser.add_argument(
        "--again", choices=sorted(PLACES), help="stop: once more, at its next call."
    )
    parser.add_argument("--database-pid", type=int, help="kill: a process to kill, too.")
    parser.add_argument("--survive", action="store_true", help="kill: not this process.")
    parser.add_argument("--clock-s", type=float, default=0, help="How far its clock is ahead.")
    parser.add_argument("--jump-s", type=float, default=0, help="jump: how far it is put forward.")
    parser.add_argument("--jump-after-ms", type=float, help="jump at this time instead of a seam.")
    parser.add_argument("--not-before", type=float, default=0, help="Start then (monotonic).")
    parser.add_argument("verb", nargs=argparse.REMAINDER, help="-- what run_pipeline.py takes")
    options = parser.parse_args(arguments)

    strike = _strike(options)
    from pipeline.verbs.cli import main as run_pipeline

    cycles = _Cycles()
    if options.seam:
        arm(
            PLACES[options.seam],
            options.nth,
            options.delay_ms / 1000,
            strike,
            counts=lambda: cycles.done >= options.after_cycles,
        )
    if options.jump_after_ms is not None:
        timer = threading.Timer(options.jump_after_ms / 1000, strike)
        timer.daemon = True
        timer.start()
    time.sleep(max(0.0, options.not_before - time.monotonic()))
    sys.argv = ["run_pipeline.py", *[word for word in options.verb if word != "--"]]
    run_pipeline()


def _strike(options: argparse.Namespace) -> Callable[[], None]:
    """What happens at the seam."""
    if options.act == "jump" or options.clock_s:
        clock = _wrong_clock(options.clock_s)
    if options.act == "jump":
        return lambda: clock.shift(timedelta(seconds=options.jump_s))
    if options.act == "stop":
        return _stops(options.again)

    def kill() -> None:
        if options.database_pid:
            os.kill(options.database_pid, signal.SIGKILL)
        if not options.survive:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def _stops(again: str | None) -> Callable[[], None]:
    """Stop this process, and let it stop once more where it gets to after that."""
    strikes = 0

    def stop() -> None:
        nonlocal strikes
        strikes += 1
        os.kill(os.getpid(), signal.SIGSTOP)

    if again:
        arm(PLACES[again], 1, 0, stop, counts=lambda: strikes > 0)
    return stop


def _wrong_clock(ahead_s: float) -> Any:
    """Put this process's clock so many seconds ahead; the time that `time.monotonic` tells is left alone."""
    # Only the developers have it; a kill does not need it.
    import time_machine

    moment = datetime.now(UTC) + timedelta(seconds=ahead_s)
    return time_machine.travel(moment, tick=True).start()


class _Cycles:
    """Says in the log when runs of jobs begin and go well, and counts cycles: runs of each source that went well."""

    def __init__(self) -> None:
        self._runs: Counter[str] = Counter()
        listen(self._note, strict=True)

    @property
    def done(self) -> int:
        """Cycles that are finished."""
        return cycles_of(self._runs, always_read(Settings()))

    def _note(self, moment: Moment) -> None:
        if moment.event is not Event.JOB_RUN:
            return
        job = moment.facts["job"]
        if moment.stage is Stage.BEGINS:
            os.write(STDERR, BEGINS.format(job).encode())
        elif moment.stage is Stage.ENDS and not moment.facts["failure"]:
            self._runs[job] += 1
            os.write(STDERR, DONE.format(job).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
