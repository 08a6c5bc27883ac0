"""Which slice is read next: bookkeeping by a clock, no I/O and no threads.

A slice that could not be read goes to the end, and its source pauses, longer with every failure in a row, because what
stopped one slice usually stops them all. Whatever fails too often is given up for this run.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ingest.queue.slices import Slice

TRIES = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


@dataclass
class _Pause:
    """Failures in a row of a source, and the clock's time until which it is left alone."""

    failures: int = 0
    until: float = 0.0


class Backlog:
    """Slices to read: of the source of which fewest are being read, oldest request first.

    Args:
        tries: failures of one slice, or of a source in a row, after which it is given up; None: never.
        clock: seconds that only grow, replaceable for tests.
    """

    def __init__(
        self, tries: int | None = TRIES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tries, self._clock = math.inf if tries is None else tries, clock
        self._waiting: dict[str, deque[Slice]] = {}
        self._taken: set[Slice] = set()
        self._failures: Counter[Slice] = Counter()
        self._pauses: dict[str, _Pause] = {}

    @property
    def reading(self) -> int:
        """Slices that were taken and are neither done nor put back."""
        return len(self._taken)

    def want(self, slices: Iterable[Slice]) -> None:
        """The slices to be read are these; those that wait keep their places, one that was taken stays taken."""
        wanted = dict.fromkeys(slices)
        waiting = [part for queue in self._waiting.values() for part in queue]
        self._waiting = {}
        for part in dict.fromkeys([*(part for part in waiting if part in wanted), *wanted]):
            if part not in self._taken:
                self._wait(part)

    def take(self) -> Slice | None:
        """The next slice whose source may be read now, if there is one."""
        sources = list(filter(self._may_read, self._waiting))
        if not sources:
            return None
        reading = Counter(part.source for part in self._taken)
        part = self._waiting[min(sources, key=reading.__getitem__)].popleft()
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
        self._failures[part] += 1
        self._wait(part)
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
        return bool(self._taken) or any(
            queue and not self._is_given_up(source) for source, queue in self._waiting.items()
        )

    @property
    def may_take(self) -> bool:
        """Whether `take` would give a slice now."""
        return any(map(self._may_read, self._waiting))

    def _wait(self, part: Slice) -> None:
        """Put a slice at the end, unless it is given up."""
        if self._failures[part] < self._tries:
            self._waiting.setdefault(part.source, deque()).append(part)

    def _may_read(self, source: str) -> bool:
        pause = self._pauses.get(source, _Pause())
        is_due = self._clock() >= pause.until and not self._is_given_up(source)
        return is_due and bool(self._waiting[source])

    def _is_given_up(self, source: str) -> bool:
        return self._pauses.get(source, _Pause()).failures >= self._tries
