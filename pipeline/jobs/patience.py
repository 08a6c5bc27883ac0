"""How long to leave alone what failed: pauses that grow while it stays down, per source, and start over when it is back.

Pure bookkeeping by a clock; the cycle asks it which sources to read and tells it how that went.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LONGEST_BACKOFF_S = 60.0
LONGEST_PAUSE_S = 300.0
# While an upstream is down the others wait for each try of it, so tries may take a quarter of the time at most.
REST_PER_TRY = 3


def backoff(interval_s: float, failures: int) -> float:
    """Pause in seconds after `failures` failures in a row: doubles from the usual interval up to a minute."""
    return min(interval_s * 2 ** min(failures - 1, 10), max(LONGEST_BACKOFF_S, interval_s))


@dataclass(frozen=True)
class _Down:
    """A source that is down: failures in a row, and the clock's time from which it may be tried again."""

    failures: int
    until: float


class Patience:
    """Which sources are down, and when each of them may be tried again.

    Args:
        interval_s: pause after a first failure, seconds.
        clock: seconds that only grow, replaceable for tests.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._down: dict[str, _Down] = {}

    def may_try(self, source: str) -> bool:
        """True unless the source is in a pause after a failure."""
        return source not in self._down or self._clock() >= self._down[source].until

    def failed(self, source: str, wasted_s: float) -> bool:
        """Note that a try failed, and took `wasted_s` seconds that brought nothing; True if the source was up until then.

        The pause doubles with each failure up to a minute. A try that wasted much time is followed by three times as
        long a pause, up to five minutes.
        """
        failures = self._down[source].failures + 1 if source in self._down else 1
        pause = max(backoff(self._interval_s, failures), REST_PER_TRY * wasted_s)
        pause = min(pause, max(LONGEST_PAUSE_S, self._interval_s))
        self._down[source] = _Down(failures, self._clock() + pause)
        return failures == 1

    def succeeded(self, source: str) -> bool:
        """Note that a try went well; True if the source was down until then."""
        return self._down.pop(source, None) is not None
