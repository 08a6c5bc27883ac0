"""A wrong clock: a run whose machine is seconds to hours ahead or behind, or whose clock jumps while it works.

ClickHouse's clock is right, and so is that of the run after it. `status` must not call a source fresh that nobody has
read since, however far in the future the last reading says it was.
"""

from __future__ import annotations

import time

from chaos.harness import Harness
from chaos.schedule import WrongClock
from pipeline.verbs.status import read_status
from pipeline.warehouse.run import open_run

CYCLES = 2
SOON_STALE_S = 1.5
# What reading the status may take, on a busy machine.
PATIENCE_S = 60.0


def make(harness: Harness, clock: WrongClock) -> None:
    """Run some cycles with a wrong clock, and one with the right one.

    Raises:
        Broken: a process did what it never should.
    """
    pipeline = harness.start_at_the_head("loop", options=_options(clock))
    pipeline = harness.wait_for_cycles(pipeline, CYCLES, lambda: harness.start_at_the_head("loop"))
    if clock.jump_s and not clock.seam:
        time.sleep(clock.delay_ms / 1000)
        pipeline = harness.wait_for_cycles(
            pipeline, CYCLES, lambda: harness.start_at_the_head("loop")
        )
    pipeline.stop()
    harness.look_for_tracebacks(pipeline)
    _count(harness, clock)
    time.sleep(SOON_STALE_S + 0.5)
    _ask_status(harness, f"after {clock}", fresh=False)
    started = time.monotonic()
    pipeline = harness.once()
    harness.look_for_tracebacks(pipeline)
    _ask_status(harness, f"read after {clock}", fresh=True, since=started)


def _options(clock: WrongClock) -> list[str]:
    options = ["--clock-s", str(clock.ahead_s)]
    if clock.jump_s:
        options += ["--act", "jump", "--jump-s", str(clock.jump_s)]
        if clock.seam:
            options += ["--seam", clock.seam, "--nth", str(clock.nth)]
            options += ["--delay-ms", str(clock.delay_ms % 100)]
        else:
            options += ["--jump-after-ms", str(clock.delay_ms)]
    return options


def _count(harness: Harness, clock: WrongClock) -> None:
    harness.tally.clocks[_side(clock.ahead_s, "ahead", "behind")] += 1
    if clock.jump_s:
        harness.tally.clocks[_side(clock.jump_s, "put forward", "put back")] += 1


def _side(seconds: float, forward: str, back: str) -> str:
    return forward if seconds > 0 else back if seconds < 0 else "right"


def _ask_status(harness: Harness, when: str, *, fresh: bool, since: float = 0.0) -> None:
    """Note it if `status` says of Gamma what is not so.

    Args:
        fresh: whether it was read just now, or not for SOON_STALE_S seconds.
        since: moment (of the monotonic clock) after which it was read.
    """
    limit_s = PATIENCE_S + time.monotonic() - since if fresh else SOON_STALE_S
    with open_run(harness.read_settings(gamma_max_lag_s=limit_s)) as run:
        [gamma] = [each for each in read_status(run).sources if each.source == "gamma"]
    if fresh == gamma.is_stale:
        said = f"{gamma.state}, {gamma.lag_s} s"
        harness.tally.lies.append(f"status says of gamma: {said}, {when}")
