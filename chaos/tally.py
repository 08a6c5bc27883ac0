"""What happened in a run, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What happened in a run.

    Attributes:
        kills: by victim.
        by_place: kills by seam, or `random time`.
        pauses: runs that were stopped for longer than their lock lives, by seam or `random time`.
        paused_ended: how those ended when they went on, by exit code.
        clocks: runs with a clock that was ahead or behind when they started, or right; and jumps forward and back.
        faults: what the proxy did to requests, by kind.
        missed: kills and pauses by seam that was not reached in time; it came then, wherever the pipeline was.
        lost_folders: kills after which dlt's working folder was gone.
        restarts: runs that ended when the database went away or the lock was lost, and were started again.
        reorgs: reorganisations of the simulated chain.
        tracebacks: runs that showed one to their user.
        lies: what `status` said and was not so.
    """

    kills: Counter[str] = field(default_factory=Counter)
    by_place: Counter[str] = field(default_factory=Counter)
    pauses: Counter[str] = field(default_factory=Counter)
    paused_ended: Counter[int] = field(default_factory=Counter)
    clocks: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    lost_folders: int = 0
    restarts: int = 0
    reorgs: int = 0
    tracebacks: int = 0
    lies: list[str] = field(default_factory=list)
