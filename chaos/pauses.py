"""A pause: a run is stopped for longer than its lock lives, a successor takes over, and the first goes on beside it.

As a closed laptop, a stopped container or a long stall: SIGSTOP at a seam or at a random time, and SIGCONT when the
successor has worked for a cycle. To ClickHouse a holder that was silent for `LOCK_TTL_S` is dead, whether its process
lives or not, so the two need not be on two machines.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from chaos.harness import LOCK_HELD, REACH_TIMEOUT_S, RECOVER_TIMEOUT_S, Harness
from chaos.processes import Broken, Pipeline, wait_until
from chaos.schedule import Pause

LOCK_TTL_S = 5  # the shortest there is
SILENT_S = LOCK_TTL_S + 0.2
HELD_S = 2.5  # the successor at most, whose own lock must live
BACKFILLED = timedelta(hours=1)
# On a busy machine a heartbeat may come later than that.
MAY_LOSE = {"may_lose_lock": True}


def make(harness: Harness, pause: Pause) -> None:
    """Stop a run, have another take over, let the first go on, and end both.

    Raises:
        Broken: a process did what it never should.
    """
    first = _start_first(harness, pause)
    _wait_until_stopped(harness, pause, first)
    stopped_at = time.monotonic()
    if pause.reorg:
        harness.reorg(pause.reorg)
    second = _start_successor(harness, pause, stopped_at)
    harness.tally.pauses[pause.where] += 1
    if pause.alone:
        second.stop()
    first.go_on()
    if second.stopped:
        wait_until(lambda: not first.alive or first.stopped, HELD_S)
        second.go_on()
    if first.stopped:
        second = harness.wait_for_cycles(second, 1, lambda: _loop(harness, pause), **MAY_LOSE)
    first.go_on()
    if not wait_until(lambda: not first.alive, RECOVER_TIMEOUT_S):
        raise Broken(f"a run went on beside its successor: {first.said()}")
    _note_end(harness, first)
    if not pause.alone:
        second = harness.wait_for_cycles(second, 1, lambda: _loop(harness, pause), **MAY_LOSE)
        second.stop()
    harness.look_for_tracebacks(second)


def _start_first(harness: Harness, pause: Pause) -> Pipeline:
    verb = [pause.verb]
    if pause.verb == "backfill":
        start = datetime.fromtimestamp(harness.world.now, UTC) - BACKFILLED
        verb += ["--again", "--from", start.isoformat()]
    options = []
    if pause.seam:
        options = ["--seam", pause.seam, "--nth", str(pause.nth), "--act", "stop"]
        options += ["--delay-ms", str(pause.delay_ms)]
    if pause.again:
        options += ["--again", pause.again]
    return harness.start_at_the_head(
        *verb, options=options, folder=pause.folder, lock_ttl_s=LOCK_TTL_S, backfill_slice_s=900
    )


def _wait_until_stopped(harness: Harness, pause: Pause, first: Pipeline) -> None:
    """Wait until it has stopped itself; if it never gets there, stop it from here and say so."""
    if pause.seam:
        wait_until(lambda: first.stopped or not first.alive, REACH_TIMEOUT_S)
        if first.stopped or not first.alive:
            return
        harness.tally.missed[pause.seam] += 1
    else:
        harness.wait_for_a_request(first)
        time.sleep(pause.delay_ms / 1000)
    first.halt()
    wait_until(lambda: first.stopped or not first.alive, REACH_TIMEOUT_S)


def _start_successor(harness: Harness, pause: Pause, stopped_at: float) -> Pipeline:
    """A successor that has worked for a cycle and, if it is to be held somewhere, has got there."""
    options = ["--not-before", str(stopped_at + SILENT_S)]
    if pause.meeting:
        options += ["--seam", pause.meeting, "--nth", str(pause.meeting_nth), "--act", "stop"]
        options += ["--after-cycles", "1"]
    second = harness.start_at_the_head(
        "loop", options=options, folder=pause.successors_folder, lock_ttl_s=LOCK_TTL_S
    )
    wait_until(
        lambda: second.stopped or not second.alive or harness.has_finished_a_cycle(second),
        REACH_TIMEOUT_S,
    )
    if not second.stopped:
        cycles = 0 if harness.has_finished_a_cycle(second) else 1
        second = harness.wait_for_cycles(second, cycles, lambda: _loop(harness, pause), **MAY_LOSE)
        if pause.meeting:
            wait_until(lambda: second.stopped or not second.alive, REACH_TIMEOUT_S)
        if pause.meeting and not second.stopped:
            harness.tally.missed[pause.meeting] += 1
    return second


def _loop(harness: Harness, pause: Pause) -> Pipeline:
    return harness.start_at_the_head("loop", folder=pause.successors_folder, lock_ttl_s=LOCK_TTL_S)


def _note_end(harness: Harness, first: Pipeline) -> None:
    """Count how a run ended that was stopped.

    Raises:
        Broken: not as it may: done, failed, or with the lock lost.
    """
    harness.look_for_tracebacks(first)
    if first.exit_code not in (0, 1, LOCK_HELD):
        raise Broken(f"exit code {first.exit_code} after a pause: {first.said()}")
    harness.tally.paused_ended[first.exit_code] += 1
