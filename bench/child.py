"""Runs what is measured in a process of its own, so that its memory and CPU are its own."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from bench.machine import cpu_seconds, peak_mb

_LONGEST_S = 3600


@dataclass
class Clock:
    """Starts when it is made.

    Attributes:
        since: when that was, by time.perf_counter.
        seconds, cpu_s: from then to `stop`, of this process.
        peak_mb: largest memory of this process so far.
        more: further values by name.
    """

    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    more: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.since, self._cpu_since = time.perf_counter(), cpu_seconds()

    def stop(self) -> Clock:
        """Take the time."""
        self.seconds = time.perf_counter() - self.since
        self.cpu_s = cpu_seconds() - self._cpu_since
        self.peak_mb = peak_mb()
        return self


def in_child(function: Callable[..., Clock], *arguments: Any) -> Clock:
    """What `function(*arguments)` returns, called in a new process; says on stderr how long it took.

    Raises:
        RuntimeError: it failed; the process has printed why.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_LONGEST_S):
            raise RuntimeError(f"{function.__name__} took more than {_LONGEST_S} s")
        clock = ours.recv()
        print(f"  {function.__name__}: {clock.seconds:.1f} s", file=sys.stderr, flush=True)
        return clock
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed; its traceback is above") from None
    finally:
        process.join(10)
        process.kill()


def _main(pipe: Connection, function: Callable[..., Clock], arguments: tuple[Any, ...]) -> None:
    pipe.send(function(*arguments))
