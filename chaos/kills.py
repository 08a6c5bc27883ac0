"""A kill: the pipeline, its database or both die by SIGKILL, at a seam or at a random time, and are started again."""

from __future__ import annotations

import shutil
import time

from chaos.harness import DATABASE, REACH_TIMEOUT_S, RECOVER_TIMEOUT_S, Harness
from chaos.processes import POLL_S, Broken, Pipeline, wait_until
from chaos.schedule import HOME, Kill
from chaos.seams import SEAMS

LONGEST_OUTAGE_S = 1.0
KILLED = -9  # exit code


def make(harness: Harness, kill: Kill) -> None:
    """Start a pipeline, make the kill, and start again what has to be.

    Raises:
        Broken: a process did what it never should.
    """
    if kill.seam and SEAMS[kill.seam].rebuilds:
        # A version of the models that is not built yet, as after an update.
        harness.client().command(f"truncate table {DATABASE}_raw.model_deployments")
    pipeline = _start(harness, kill)
    if kill.seam:
        _wait_for_seam(harness, kill, pipeline)
    else:
        harness.wait_for_a_request(pipeline)
        time.sleep(kill.delay_ms / 1000)
        _strike(harness, kill, pipeline)
    harness.tally.kills[kill.victim] += 1
    harness.tally.by_place[kill.where] += 1
    harness.tally.lost_folders += kill.loses_folder
    if kill.victim != "pipeline":
        time.sleep(harness.rng.uniform(0, LONGEST_OUTAGE_S))
        harness.database.start()
    if kill.victim == "database":
        pipeline = harness.wait_for_cycles(pipeline, 1, lambda: harness.start("loop"))
        pipeline.stop()
    harness.look_for_tracebacks(pipeline)
    if kill.victim != "database" and pipeline.exit_code != KILLED:
        raise Broken(f"exit code {pipeline.exit_code}, no kill at {kill.where}: {pipeline.said()}")
    if kill.loses_folder:
        shutil.rmtree(harness.folder / HOME, ignore_errors=True)


def _start(harness: Harness, kill: Kill) -> Pipeline:
    options = []
    if kill.seam:
        options = ["--seam", kill.seam, "--nth", str(kill.nth), "--delay-ms", str(kill.delay_ms)]
    if kill.seam and kill.victim != "pipeline":
        options += ["--database-pid", str(harness.database.pid)]
    if kill.victim == "database":
        options.append("--survive")
    return harness.start(SEAMS[kill.seam].verb if kill.seam else "loop", options=options)


def _wait_for_seam(harness: Harness, kill: Kill, pipeline: Pipeline) -> None:
    """Wait until the child has killed; if it never gets there, kill from here and say so."""
    deadline = time.monotonic() + REACH_TIMEOUT_S
    while pipeline.alive and harness.database.alive:
        if time.monotonic() > deadline:
            harness.tally.missed[kill.seam] += 1
            _strike(harness, kill, pipeline)
            return
        time.sleep(POLL_S)
    if kill.victim != "database":
        if not wait_until(lambda: not pipeline.alive, RECOVER_TIMEOUT_S):
            raise Broken("the pipeline outlived its own kill")
    elif harness.database.alive:
        raise Broken(f"the pipeline ended before {kill.seam}: {pipeline.said()}")


def _strike(harness: Harness, kill: Kill, pipeline: Pipeline) -> None:
    if kill.victim != "pipeline":
        harness.database.kill()
    if kill.victim != "database":
        pipeline.kill()
