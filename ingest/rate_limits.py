"""Rate limits of an upstream, shared by all clients of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Of every rate limit, what reads in the background leave to those that are in a hurry.
BACKGROUND_SHARE = 0.75


@dataclass(frozen=True)
class RateLimit:
    """At most `requests` in any `seconds` to paths that start with one of `paths`."""

    requests: int
    paths: tuple[str, ...] = ("/",)
    seconds: float = 10.0


class RateLimiter:
    """Sliding-window limits, shared by threads: `wait` returns when a request may be sent."""

    def __init__(
        self,
        limits: Sequence[RateLimit],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._windows: list[tuple[RateLimit, deque[float]]] = [(limit, deque()) for limit in limits]
        self._lock = threading.Lock()
        self._clock, self._sleep = clock, sleep

    def wait(self, path: str, share: float = 1.0) -> None:
        """Block until a request to `path` keeps this share of every limit, and count it."""
        while pause := self._reserve(path, share):
            self._sleep(pause)

    def _reserve(self, path: str, share: float) -> float:
        """Count a request to `path` and return 0, or the seconds after which to try again."""
        with self._lock:
            now = self._clock()
            windows = [(lim, sent) for lim, sent in self._windows if path.startswith(lim.paths)]
            pause = 0.0
            for limit, sent in windows:
                while sent and sent[0] <= now - limit.seconds:
                    sent.popleft()
                if len(sent) >= max(1, limit.requests * share):
                    pause = max(pause, sent[0] + limit.seconds - now)
            if not pause:
                for _, sent in windows:
                    sent.append(now)
            return pause
