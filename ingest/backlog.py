"""Which slice is read next: bookkeeping by a clock, no I/O and no threads.

A slice that could not be read goes to the end, and its source pauses, longer with every failure in a row, because what
stopped one slice usually stops them all. Whatever fails too often is given up for this run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ingest.sources.slices import Slice

TRIES = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


@dataclass
class _Pause:
    """Failures in a row of a source, and the clock's time until which it is left alone."""

    failures: int = 0
    until: float = 0.0


class Backlog:
    """Slices to read, oldest request first.

    Args:
        tries: failures of one slice, or of a source in a row, after which it is given up; None: never.
        clock: seconds that only grow, replaceable for tests.
    """

    def __init__(
        self, tries: int | None = TRIES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tries, self._clock = tries, clock
        self._waiting: deque[Slice] = deque()
        self._taken: set[Slice] = set()
        self._failures: dict[Slice, int] = {}
        self._pauses: dict[str, _Pause] = {}

    @property
    def reading(self) -> int:
        """Slices that were taken and are neither done nor put back."""
        return len(self._taken)

    def want(self, slices: Iterable[Slice]) -> None:
        """Slices to be read are these, in this order; one that was taken stays taken."""
        wanted = dict.fromkeys(slices)
        kept = [part for part in self._waiting if part in wanted]
        known = self._taken.union(kept)
        self._waiting = deque([*kept, *(part for part in wanted if part not in known)])

    def take(self) -> Slice | None:
        """The next slice whose source may be read now, if there is one."""
        part = next((part for part in self._waiting if self._may_read(part)), None)
        if part is not None:
            self._waiting.remove(part)
            self._taken.add(part)
        return part

    def done(self, part: Slice) -> None:
        """A slice was read to its end."""
        self._taken.discard(part)
        self._failures.pop(part, None)
        self._pauses.pop(part.source, None)

    def failed(self, part: Slice) -> None:
        """A slice could not be read."""
        self._taken.discard(part)
        self._waiting.append(part)
        self._failures[part] = self._failures.get(part, 0) + 1
        pause = self._pauses.setdefault(part.source, _Pause())
        if self._clock() < pause.until:
            return  # it was on its way when the source went down
        pause.failures += 1
        seconds = FIRST_PAUSE_S * 2 ** min(pause.failures - 1, 10)
        pause.until = self._clock() + min(seconds, LONGEST_PAUSE_S)

    def put_back(self) -> None:
        """Forget all slices, those that were taken too; who wants them still says so again."""
        self._waiting.clear()
        self._taken.clear()

    @property
    def has_hope(self) -> bool:
        """Whether a slice is being read, or waits and is not given up."""
        return bool(self._taken) or any(not self._given_up(part) for part in self._waiting)

    @property
    def may_take(self) -> bool:
        """Whether `take` would give a slice now."""
        return any(self._may_read(part) for part in self._waiting)

    def _may_read(self, part: Slice) -> bool:
        pause = self._pauses.get(part.source)
        return not self._given_up(part) and (pause is None or self._clock() >= pause.until)

    def _given_up(self, part: Slice) -> bool:
        if self._tries is None:
            return False
        pause = self._pauses.get(part.source, _Pause())
        return max(self._failures.get(part, 0), pause.failures) >= self._tries
